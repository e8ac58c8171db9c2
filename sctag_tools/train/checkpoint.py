"""The state of a training, kept so that a run that was ended can go on."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .._atomic import is_unfinished, replacing
from .config import Config

_FILE = "training.pt"
_WITHOUT_EFFECT = {"accelerator", "devices"}  # of a run that goes on elsewhere
SAVE_EVERY = 100  # steps
_ARE_KEPT: ContextVar[bool] = ContextVar("_ARE_KEPT", default=False)


@dataclass(frozen=True)
class Checkpoint:
    """A folder with the state of one training, which is told by a fingerprint of its data and options."""

    folder: Path
    fingerprint: str

    def save(self, state: dict[str, Any]) -> None:
        """Replace the earlier state, which stays until the new one is complete."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self.folder / _FILE) as unfinished:
            torch.save({"fingerprint": self.fingerprint, **state}, unfinished)

    def load(self) -> dict[str, Any] | None:
        """The state, None if there is none; ValueError if it is of another run, or damaged. No code is executed."""
        path = self.folder / _FILE
        if not path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            fingerprint = state["fingerprint"]
        except Exception as error:
            msg = f"The checkpoint {path} is damaged ({type(error).__name__}); delete it to start anew."
            raise ValueError(msg) from error
        if fingerprint != self.fingerprint:
            msg = (
                f"The checkpoint {path} is of a run on other data, with other options, another seed or other versions. "
                "Name another folder, or delete it to start anew."
            )
            raise ValueError(msg)
        return state


@contextmanager
def keep_checkpoints() -> Iterator[None]:
    """Let no checkpoint be removed in this block: the command writes the result to a file first."""
    token = _ARE_KEPT.set(True)
    try:
        yield
    finally:
        _ARE_KEPT.reset(token)


def remove_checkpoint(folder: Path) -> None:
    """Remove the state and what a killed process left of it, and the folder if nothing else is in it; never raises."""
    if _ARE_KEPT.get():
        return
    with suppress(OSError):
        for path in folder.iterdir():
            if path.name == _FILE or is_unfinished(path.name):
                path.unlink()
        folder.rmdir()  # which fails if anything is left


def fingerprint_of(config: Config, arrays: Mapping[str, NDArray[Any]]) -> str:
    """A hash of the options that decide what is learned, and of the data."""
    options = {name: value for name, value in config.record().items() if name not in _WITHOUT_EFFECT}
    options["versions"] = [version(name) for name in ("sctag-tools", "torch")]  # others may round otherwise
    found = hashlib.sha256(json.dumps(options, sort_keys=True).encode())
    for name, array in arrays.items():
        found.update(name.encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()
