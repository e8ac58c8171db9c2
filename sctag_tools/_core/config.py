"""The options of a run, checked once, for the numerics and for the record."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import get_args

import numpy as np

from .._checks import check_choice, check_integer, check_number
from .._types import Likelihood

MOST_CLUSTERS = 300


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of the model and its training; :func:`sctag_tools.tl.sctag` documents each."""

    n_networks: int = 3
    n_hops: int = 1
    n_hidden: int = 128
    n_latent: int = 15
    likelihood: Likelihood = "multinomial"
    mask_rate: float = 0.8
    count_weight: float = 1.0
    graph_weight: float = 0.0
    cluster_weight: float = 1.0
    learning_rate: float = 2e-3
    batch_size: int = 256
    pretrain_epochs: int | None = None
    cluster_epochs: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):  # numpy's numbers are welcome, but JSON cannot hold them
            value = getattr(self, field.name)
            if isinstance(value, np.generic):
                object.__setattr__(self, field.name, value.item())
        check_integer("n_hops", self.n_hops, low=0)
        check_choice("likelihood", self.likelihood, get_args(Likelihood))
        for name in ("n_networks", "n_hidden", "n_latent"):
            check_integer(name, getattr(self, name), low=1)
        check_integer("batch_size", self.batch_size, low=2)
        for name in ("pretrain_epochs", "cluster_epochs"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), low=0)
        check_number("mask_rate", self.mask_rate, low=0.0, high=0.99)
        for name in ("count_weight", "graph_weight", "cluster_weight"):
            check_number(name, getattr(self, name), low=0.0)
        check_number("learning_rate", self.learning_rate, low=1e-8, high=1.0)
