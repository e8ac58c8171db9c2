"""Latents whose clusters are known, and the tree of their partitions."""

from __future__ import annotations

import numpy as np
import pytest

from sctag_tools.cluster import partitions
from sctag_tools.cluster.tree import CoassociationTree


@pytest.fixture(scope="session")
def gaussians():
    """Makes round clusters of unit width, ``distance`` from the origin on axes of their own, and their labels."""

    def make(n_clusters, *, n=60, n_latent=8, distance=12.0, seed=0):
        rng = np.random.default_rng(seed)
        labels = np.repeat(np.arange(n_clusters), n)
        centers = distance * np.eye(n_latent)[:n_clusters]
        return (centers[labels] + rng.normal(size=(len(labels), n_latent))).astype(np.float32), labels

    return make


@pytest.fixture(scope="module", autouse=True)
def _fewer_partitions():
    """A third of the usual number: more than other tests need, fewer than a user waits for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partitions, "_N_PARTITIONS", 100)
        yield


@pytest.fixture(scope="session")
def tree_of():
    """Makes the tree of latents."""

    def make(*latents, seed=0):
        rng = np.random.default_rng(seed)
        return CoassociationTree.from_partitions(partitions.draw_partitions(latents, rng), rng)

    return make
