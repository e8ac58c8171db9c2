"""Clustering of single cells with topology-adaptive graph convolutions: ``import sctag_tools as sctag``."""

from . import datasets, metrics, pl, pp, tl
from ._model import ScTAG
from ._read import read

__all__ = ["ScTAG", "datasets", "metrics", "pl", "pp", "read", "tl"]
