"""Tiny cells in three groups, and a short run on them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from sctag_tools.neighbors.search import find_neighbors
from sctag_tools.train.config import Config
from sctag_tools.train.fit import fit

N, G = 90, 50
SHORT = {
    "n_clusters": 3, "n_networks": 2, "n_hidden": 16, "n_latent": 5, "graph_weight": 0.1, "batch_size": 32,
    "pretrain_epochs": 3, "cluster_epochs": 2,
}  # fmt: skip


@pytest.fixture(scope="session")
def cells():
    """Counts of 90 cells in 3 groups, their totals, a kNN graph, and the groups."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(3), N // 3)
    profiles = rng.gamma(0.5, 2.0, size=(3, G))
    counts = sparse.csr_matrix(rng.poisson(profiles[groups] * rng.uniform(0.5, 2, size=(N, 1))).astype(np.float32))
    found = find_neighbors(np.log1p(counts.toarray()), 10, metric="euclidean", random_state=0)
    graph = found.to_csr(include_self=False)
    graph.data[:] = 1
    return counts, np.asarray(counts.sum(axis=1)).ravel(), graph.maximum(graph.T).tocsr(), groups


@pytest.fixture(scope="module")
def run(cells):
    """Runs on these cells or others, with options."""

    def short_run(given=cells, *, batch_index=None, **options):
        return fit(*given[:3], Config(**{**SHORT, **options}), batch_index=batch_index)

    return short_run


@pytest.fixture(scope="module")
def result(run):
    """A short run."""
    return run()
