"""What makes tests, and the examples in docstrings, fast and quiet."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import matplotlib as mpl

mpl.use("agg")
os.environ.setdefault("OMP_NUM_THREADS", "2")  # or rounding would depend on the machine

import matplotlib.pyplot as plt
import pytest
import scanpy as sc

from sctag_tools.cluster import partitions
from sctag_tools.train import fit

N_PARTITIONS = 40  # of 300, which take most of the time of a short run


@pytest.fixture(scope="session", autouse=True)
def _few_partitions() -> Iterator[int]:
    usual = partitions._N_PARTITIONS
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partitions, "_N_PARTITIONS", N_PARTITIONS)
        yield usual


@pytest.fixture
def all_partitions(_few_partitions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as users have."""
    monkeypatch.setattr(partitions, "_N_PARTITIONS", _few_partitions)


@pytest.fixture(autouse=True)
def _quiet_scanpy() -> Iterator[None]:
    before = sc.settings.verbosity, sc.settings.logfile, sc.settings.autoshow
    sc.settings.verbosity = 0
    yield
    sc.settings.verbosity, sc.settings.logfile, sc.settings.autoshow = before
    plt.close("all")


@pytest.fixture(scope="session")
def _runs_of_examples() -> dict[Any, Any]:
    return {}


@pytest.fixture(autouse=True)
def _short_examples(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, _runs_of_examples: dict[Any, Any]
) -> None:
    """Examples show a run as users call it; here it has few epochs, and examples with the same cells share it."""
    if not isinstance(request.node, pytest.DoctestItem):
        return
    real_fit = fit.fit

    def short_fit(*, config: Any, counts: Any, **arrays: Any) -> Any:
        wanted = config, counts.shape
        if wanted not in _runs_of_examples:
            short = replace(config, pretrain_epochs=2, cluster_epochs=1)
            _runs_of_examples[wanted] = real_fit(config=short, counts=counts, **arrays)
        return _runs_of_examples[wanted]

    monkeypatch.setattr(fit, "fit", short_fit)
