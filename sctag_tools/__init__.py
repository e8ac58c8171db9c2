"""Clustering of single cells with topology-adaptive graph convolutions: ``import sctag_tools as sctag``."""

import os
from typing import Any

from . import datasets, get, metrics, pl, pp, tl
from ._model import ScTAG
from .io.read import read

# Threads of OpenMP (numba's, torch's) that spin while they wait make a run many times slower beside a busy program. The
# policy is read when the first library loads OpenMP, often scanpy's numba long before a run; a user's setting stands.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__all__ = ["ScTAG", "datasets", "get", "metrics", "pl", "pp", "read", "tl"]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("sctag-tools")
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
