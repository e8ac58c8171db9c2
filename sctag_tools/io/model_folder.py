"""A trained model in a folder: arrays in safetensors, the rest in JSON. Neither can hold code.

Hashes tell a damaged file. ``model_format`` then checks what the files hold before a network is built, so that nothing
larger than the files is allocated.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from .._atomic import is_unfinished, replacing, sync
from .model_format import FORMAT, Arrays, check_format, refuse

ARRAYS, RECORD = "model.safetensors", "model.json"
_PENDING = "model.safetensors.new"  # arrays whose record may not have taken its name yet
_MAX_DEPTH = 20  # of JSON in JSON; a model has seven


def check_model_folder(dir_path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """The folder; raises FileExistsError where writing a model could destroy something."""
    folder = Path(dir_path)
    if folder.exists() and not folder.is_dir():
        msg = f"{folder} is a file; name a folder for the model."
        raise FileExistsError(msg)
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    held = {name for name in names if name != _PENDING and not is_unfinished(name)}  # of a process that was killed
    is_model = RECORD in names and not names.isdisjoint({ARRAYS, _PENDING})
    if held and not (overwrite and is_model):
        advice = (
            ", or replace the model in it (`overwrite=True`, on the command line `--overwrite`)." if is_model else "."
        )
        msg = f"{folder} is not empty; name another folder{advice}"
        raise FileExistsError(msg)
    return folder


def write(folder: Path, arrays: Arrays, record: dict[str, Any]) -> None:
    """Write both files; the folder is made if it is missing.

    The arrays wait under a name of their own until the record, which has their hash, has taken its name. :func:`read`
    finds them there, too, so that at every moment the folder holds the earlier model or the new one.
    """
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    pending, is_held, digest = folder / _PENDING, (folder / RECORD).exists(), ""
    if pending.is_file() and _is_needed(pending, _hash_of(pending)):
        pending.replace(folder / ARRAYS)
    try:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, pending)
        digest = _hash_of(pending)
        content = {"format": FORMAT, "arrays_sha256": digest, "model": record}
        content["sha256"] = _hash_of_record(content)
        with replacing(folder / RECORD) as unfinished:
            unfinished.write_text(json.dumps(content), encoding="utf-8")
            pending.chmod((folder / RECORD if is_held else unfinished).stat().st_mode)  # safetensors hides its files
            sync(pending)
        pending.replace(folder / ARRAYS)
    except BaseException:
        if not (digest and _is_needed(pending, digest)):
            pending.unlink(missing_ok=True)
        raise


def _is_needed(pending: Path, digest: str) -> bool:
    """Whether the record beside them goes with these arrays alone: a process ended before they took their name."""
    arrays = pending.with_name(ARRAYS)
    try:
        named = json.loads(pending.with_name(RECORD).read_bytes())["arrays_sha256"]
    except (OSError, ValueError, TypeError, KeyError):
        return False
    return bool(named == digest) and not (arrays.is_file() and _hash_of(arrays) == digest)


def read(folder: Path) -> tuple[Arrays, dict[str, Any]]:
    """Arrays and record; FileNotFoundError where there is no model, ValueError for one that is damaged or newer."""
    from safetensors import SafetensorError, safe_open

    if folder.is_file():
        msg = f"{folder} is a file, not the folder of a model. To use a clustered AnnData, read it and pass that."
        raise FileNotFoundError(msg)
    for name, other in ((RECORD, RECORD), (ARRAYS, _PENDING)):
        if not ((folder / name).is_file() or (folder / other).is_file()):
            msg = f"There is no model in {folder}: it has no {name}. `ScTAG.save` makes such a folder."
            raise FileNotFoundError(msg)
    content = parse_record((folder / RECORD).read_bytes())
    found = [path for path in (folder / ARRAYS, folder / _PENDING) if path.is_file()]
    arrays = next((path for path in found if content.get("arrays_sha256") == _hash_of(path)), None)
    if arrays is None:
        refuse(f"{ARRAYS} is not the file that was saved")
    try:
        with safe_open(arrays, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, content["model"]  # noqa: SIM118 (no dict)
    except (SafetensorError, ValueError, TypeError, AttributeError, KeyError) as error:
        refuse(f"{ARRAYS} cannot be read ({error})")


def parse_record(raw: bytes) -> dict[str, Any]:
    """The content of the JSON file, whose hash is right."""
    try:
        content = json.loads(raw.decode())  # of bytes it would guess the encoding
    except (ValueError, RecursionError) as error:
        refuse(f"{RECORD} is no JSON ({error})")
    if not _within(_MAX_DEPTH, content):  # or hashing or naming it could end in a RecursionError
        refuse(f"{RECORD} is nested too deeply")
    if not isinstance(content, dict):
        refuse(f"{RECORD} is no table")
    check_format(content.get("format"))
    if content.get("sha256") != _hash_of_record(content) or not isinstance(content.get("model"), dict):
        refuse(f"{RECORD} is not as it was saved")
    return content


def _within(depth: int, value: Any) -> bool:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth > 0 and all(_within(depth - 1, part) for part in parts if isinstance(part, (dict, list)))


def _hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash_of_record(content: dict[str, Any]) -> str:
    hashed = {name: value for name, value in content.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()
