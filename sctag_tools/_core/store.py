"""A trained model as plain arrays and JSON, and both in a folder that can be read without trusting it.

The arrays are in safetensors, everything else in JSON: neither can hold code. Hashes tell a damaged file; every
length, type and range is checked before a network is built, so that nothing larger than the file is allocated.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, NoReturn, get_args

import numpy as np

from .._types import Metric
from .config import Config
from .fitted import Fitted, Reference
from .inputs import Scaling
from .latent import JointLatent

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Arrays = dict[str, NDArray[Any]]

FORMAT = 1
ARRAYS, RECORD = "model.safetensors", "model.json"
_PARTS: dict[str, type[Scaling | JointLatent | Reference]] = {
    "scaling": Scaling,
    "joint": JointLatent,
    "reference": Reference,
}
_WHOLE_NUMBERS = {"columns", "reference.batches"}
_MAY_BE_INFINITE = "scaling.spread"
_LEVELS = 20  # of JSON in JSON; a model has five


def pack(fitted: Fitted) -> tuple[Arrays, dict[str, Any]]:
    """Arrays by name, and what JSON can hold."""
    arrays: Arrays = {f"weights.{name}": array for name, array in fitted.weights.items()}
    for part, kind in _PARTS.items():
        held = getattr(fitted, part)
        arrays |= {f"{part}.{field.name}": getattr(held, field.name) for field in fields(kind)}
    arrays |= {"spreads": fitted.spreads, "columns": fitted.columns, "gene_shares": fitted.gene_shares}
    if fitted.loadings is not None:
        arrays["loadings"] = fitted.loadings
    record = {"config": asdict(fitted.config), "gain": fitted.gain}
    return arrays, {**record, "n_neighbors": fitted.n_neighbors, "metric": fitted.metric}


def unpack(arrays: Arrays, record: dict[str, Any]) -> Fitted:
    """The inverse of :func:`pack`; raises ValueError for anything that it could not have made."""
    config = _config_of(record)
    for name, array in arrays.items():
        _check_array(name, array)
    try:
        parts: dict[str, Any] = {
            part: kind(**{field.name: arrays[f"{part}.{field.name}"] for field in fields(kind)})
            for part, kind in _PARTS.items()
        }
        weights = {name.removeprefix("weights."): arrays[name] for name in arrays if name.startswith("weights.")}
        parts |= {name: arrays[name] for name in ("spreads", "columns", "gene_shares")}
    except KeyError as error:
        refuse(f"the array {error} is missing")
    fitted = Fitted(
        config=config,
        weights=weights,
        loadings=arrays.get("loadings"),
        gain=float(_number(record, "gain", low=0.0)),
        n_neighbors=int(_number(record, "n_neighbors", low=1)),
        metric=_one_of(record, "metric", get_args(Metric)),
        **parts,
    )
    _check_shapes(fitted)
    return fitted


def write(folder: Path, arrays: Arrays, record: dict[str, Any]) -> None:
    """Both files, each complete before it takes its name; the folder is made if it is missing.

    Should the second not be renamed, :func:`read` refuses the pair.
    """
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    unfinished = {name: folder / f".{name}.{os.getpid()}" for name in (ARRAYS, RECORD)}
    try:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, unfinished[ARRAYS])
        content = {"format": FORMAT, "arrays_sha256": _hash_of(unfinished[ARRAYS]), "model": record}
        content["sha256"] = _hash_of_record(content)
        unfinished[RECORD].write_text(json.dumps(content), encoding="utf-8")
        unfinished[ARRAYS].chmod(unfinished[RECORD].stat().st_mode)  # safetensors lets nobody else read its file
        for name, path in unfinished.items():
            path.replace(folder / name)
    finally:
        for path in unfinished.values():
            path.unlink(missing_ok=True)


def read(folder: Path) -> tuple[Arrays, dict[str, Any]]:
    """Arrays and record of a folder.

    Raises FileNotFoundError where there is no model, ValueError for one that is damaged or of a newer format.
    """
    if folder.is_file():
        msg = f"{folder} is a file, not the folder of a model; of a clustered AnnData, read it and pass that."
        raise FileNotFoundError(msg)
    for name in (RECORD, ARRAYS):
        if not (folder / name).is_file():
            msg = f"There is no model in {folder}: it has no {name}. `ScTAG.save` makes such a folder."
            raise FileNotFoundError(msg)
    content = parse_record((folder / RECORD).read_bytes())
    if content["arrays_sha256"] != _hash_of(folder / ARRAYS):
        refuse(f"{ARRAYS} is not the file that was saved")
    return parse_arrays(folder / ARRAYS), content["model"]


def parse_record(raw: bytes) -> dict[str, Any]:
    """The content of the JSON file, whose format and hash are right."""
    try:
        content = json.loads(raw.decode())  # of bytes it would guess the encoding
    except (ValueError, RecursionError) as error:
        refuse(f"{RECORD} is no JSON ({error})")
    if not _within(_LEVELS, content):  # or hashing or naming it could end in a RecursionError
        refuse(f"{RECORD} is nested too deeply")
    if not isinstance(content, dict) or type(content.get("format")) is not int or content["format"] < 1:
        refuse(f"{RECORD} has no format number")
    if content["format"] > FORMAT:
        msg = f"The model was saved by a newer version (format {content['format']}, this one reads {FORMAT}); update "
        msg += "sctag-tools."
        raise ValueError(msg)
    if content.get("sha256") != _hash_of_record(content):
        refuse(f"{RECORD} is not as it was saved")
    if not isinstance(content.get("model"), dict) or not isinstance(content.get("arrays_sha256"), str):
        refuse(f"{RECORD} lacks its parts")
    return content


def parse_arrays(path: Path) -> Arrays:
    """The arrays of a safetensors file, whose header is checked by the library that reads it."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    except (SafetensorError, ValueError, TypeError, AttributeError, KeyError) as error:
        refuse(f"{ARRAYS} cannot be read ({error})")


def _within(levels: int, value: Any) -> bool:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_within(levels - 1, part) for part in parts if isinstance(part, (dict, list)))


def _hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash_of_record(content: dict[str, Any]) -> str:
    hashed = {name: value for name, value in content.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()


def refuse(why: str) -> NoReturn:
    msg = f"The model is damaged: {why}. Save it anew from the AnnData that it was trained on."
    raise ValueError(msg)


def _config_of(record: dict[str, Any]) -> Config:
    options = record.get("config")
    if not isinstance(options, dict) or options.keys() != {field.name for field in fields(Config)}:
        refuse("its options are not those of this version")
    try:
        return Config(**options)
    except (TypeError, ValueError) as error:
        refuse(str(error))


def _number(record: dict[str, Any], name: str, *, low: float) -> float:
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value < 1e9:
        refuse(f"{name} is {value!r}")
    return value


def _one_of(record: dict[str, Any], name: str, allowed: tuple[str, ...]) -> str:
    value = record.get(name)
    if not isinstance(value, str) or value not in allowed:
        refuse(f"{name} is {value!r}")
    return value


def names_in(record: dict[str, Any], part: str, length: int) -> list[str]:
    """The ``length`` names that ``part`` of a record lists."""
    names = record.get(part)
    if not isinstance(names, list) or len(names) != length or not all(isinstance(name, str) for name in names):
        refuse(f"its {part} are not {length} names")
    return names


def _check_array(name: str, array: Any) -> None:
    wanted = np.int64 if name in _WHOLE_NUMBERS else np.float32
    if not isinstance(array, np.ndarray) or array.dtype != wanted:
        refuse(f"the array {name!r} is not of type {wanted.__name__}")
    if np.isnan(array).any() or (name != _MAY_BE_INFINITE and not np.isfinite(array).all()):
        refuse(f"the array {name!r} holds impossible values")


def _check_shapes(fitted: Fitted) -> None:
    """Lengths that agree with each other; the networks come last, when their sizes are known to be those of arrays."""
    config, reference, joint = fitted.config, fitted.reference, fitted.joint
    n_genes, n_cells = fitted.scaling.spread.size, reference.confidence.size
    n_networks, n_hidden, n_latent = config.n_networks, config.n_hidden, config.n_latent
    n_clusters, n_batches = fitted.columns.size, len(np.atleast_1d(fitted.scaling.means)) - 1
    n_components = reference.position.shape[-1] if reference.position.ndim else 0
    wanted: dict[str, tuple[Any, tuple[int, ...]]] = {
        "scaling.means": (fitted.scaling.means, (n_batches + 1, n_genes)),
        "scaling.spread": (fitted.scaling.spread, (n_genes,)),
        "gene_shares": (fitted.gene_shares, (n_genes,)),
        "spreads": (fitted.spreads, (n_networks,)),
        "columns": (fitted.columns, (n_clusters,)),
        "joint.means": (joint.means, (n_networks, n_latent)),
        "joint.scales": (joint.scales, (n_networks,)),
        "joint.loadings": (joint.loadings, (n_networks * n_latent, n_latent)),
        "reference.position": (reference.position, (n_cells, n_components)),
        "reference.context": (reference.context, (n_cells, n_networks, n_hidden)),
        "reference.latents": (reference.latents, (n_cells, n_networks, n_latent)),
        "reference.latent": (reference.latent, (n_cells, n_latent)),
        "reference.proba": (reference.proba, (n_cells, n_clusters)),
        "reference.confidence": (reference.confidence, (n_cells,)),
        "reference.depth": (reference.depth, (n_cells,)),
        "reference.unexplained": (reference.unexplained, (n_cells,)),
        "reference.batches": (reference.batches, (n_cells,)),
    }
    if fitted.loadings is not None:
        wanted["loadings"] = (fitted.loadings, (n_genes, n_components))
    for name, (array, shape) in wanted.items():
        if array.shape != shape:
            refuse(f"the array {name!r} has shape {array.shape}, not {shape}")
    if not (n_genes and n_batches >= 1 and n_cells >= fitted.n_neighbors and n_clusters and n_components):
        refuse("an array is too short")
    if (reference.batches < 0).any() or (reference.batches >= n_batches).any():
        refuse("a batch number is out of range")
    if not (reference.unexplained >= 0).any():
        refuse("no cell is left to hold new ones against")
    _check_networks(fitted)


def _check_networks(fitted: Fitted) -> None:
    import torch

    # As many networks and hops as there are arrays: a number alone must not make anything large.
    n_hops = sum(name.startswith("networks.0.encoder.hidden.lins.") for name in fitted.weights) - 1
    if fitted.config.n_hops != n_hops or "networks.0.centroids" not in fitted.weights:
        refuse("the weights are not those of its options")
    try:
        state = fitted.networks().state_dict()
    except (RuntimeError, TypeError, OverflowError, ValueError) as error:
        refuse(f"the weights are not those of its options ({str(error).splitlines()[0]})")
    if any(array.dtype != torch.float32 for array in state.values()):
        refuse("the weights are not of type float32")
    columns, n_centroids = fitted.columns, len(fitted.weights["networks.0.centroids"])
    if (columns < 0).any() or (columns >= n_centroids).any() or len(np.unique(columns)) != len(columns):
        refuse("its clusters are numbered wrongly")
