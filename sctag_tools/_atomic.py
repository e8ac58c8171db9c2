"""Files that take their name when they are complete: whatever happens while they are written, an earlier one stays."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_UNFINISHED = ".unfinished"


def is_unfinished(name: str) -> bool:
    """Whether a file of this name was left by a process that was killed."""
    return name.startswith(".") and _UNFINISHED in name


def unfinished_beside(target: Path) -> Path:
    """A hidden name in the folder of ``target`` that no other process has."""
    return target.with_name(f".{target.stem}.{uuid.uuid4().hex[:8]}{_UNFINISHED}{target.suffix}")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write a file or folder to, which takes its place once the block has ended well.

    A link goes on pointing where it does, and another name of the same file (a hard link) keeps what it had. After an
    error nothing is left; a process that is killed leaves a hidden file.
    """
    target = Path(os.path.realpath(path))
    unfinished = unfinished_beside(target)
    try:
        yield unfinished
        sync(unfinished)
        if target.is_file():
            shutil.copymode(target, unfinished)
        unfinished.replace(target)
        _sync_one(target.parent)  # its entry of the new name
    finally:
        if unfinished.is_dir():
            shutil.rmtree(unfinished, ignore_errors=True)
        else:
            unfinished.unlink(missing_ok=True)


def require_writable_folder(path: Path, option: str) -> None:
    """Raise PermissionError or OSError unless a file can be made beside ``path``."""
    target = Path(os.path.realpath(path))
    if target.is_file() and not os.access(target, os.W_OK):
        msg = f"{option}: {path} may not be written to; choose another name."
        raise PermissionError(msg)
    probe = unfinished_beside(target)
    try:
        probe.touch(exist_ok=False)
    except OSError as error:
        msg = f"{option}: no file can be written in {probe.parent} ({error.strerror}); choose another folder."
        raise type(error)(msg) from error
    probe.unlink()


def sync(path: Path) -> None:
    """Have the system write a file, or all of a folder, to the disk, where it can."""
    for part in [path, *path.rglob("*")] if path.is_dir() else [path]:
        _sync_one(part)


def _sync_one(path: Path) -> None:
    if not (path.is_file() or path.is_dir()):
        return
    with suppress(OSError):  # folders cannot be opened on Windows
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
