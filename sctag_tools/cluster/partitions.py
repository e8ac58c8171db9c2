"""Many k-means partitions of the latents, the evidence that the consensus is made from.

The partitions differ in the network that gave the latent, in the number of clusters, in their random start, and in a
fifth of the cells that is left out. Cells are first gathered into a few hundred small groups, so that time and memory
grow with the number of cells, not with its square.
"""

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from ..train.config import MAX_CLUSTERS

_N_PARTITIONS = 300
_MIN_K, _MAX_K = 2, 100  # clusters of a partition, drawn log-uniformly; a label is one byte
_SUBSAMPLE = 0.8  # share of the groups that a partition sees
_N_GROUPS = MAX_CLUSTERS  # a cluster is made of whole groups


def draw_partitions(latents: Sequence[NDArray[np.float32]], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Labels (n_partitions, n_cells) of k-means on each latent (n_cells, n_latent), the networks in turn."""
    per_latent = -(-_N_PARTITIONS // len(latents))
    return np.concatenate([_partitions_of(latent, per_latent, rng) for latent in latents])


def _partitions_of(latent: NDArray[np.float32], n: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """K-means on the centers of small groups, weighted by their sizes: hundreds of runs for the price of a few."""
    group = small_groups(latent, rng)
    sizes = np.bincount(group)
    centers = np.stack([np.bincount(group, column) / sizes for column in latent.T.astype(np.float64)], axis=1)
    # one draw from each of n equal parts of the range, so that runs differ less than with n free draws
    quantiles = (rng.permutation(n) + rng.random(n)) / n
    drawn_k = np.exp(np.log(_MIN_K) + quantiles * np.log((_MAX_K + 1) / _MIN_K)).astype(int)
    labels = np.empty((n, len(latent)), dtype=np.uint8)
    for row, k in enumerate(drawn_k):
        kept = np.flatnonzero(rng.random(len(sizes)) < _SUBSAMPLE)
        if not len(kept):
            kept = np.arange(len(sizes))
        model = _kmeans(centers[kept], min(k, len(kept)), rng, sizes[kept])
        labels[row] = model.predict(centers)[group]
    return labels


def small_groups(x: NDArray[np.floating], rng: np.random.Generator) -> NDArray[np.int64]:
    """(n,) group of each row of ``x``: at most 300 groups of rows that lie together."""
    x = np.ascontiguousarray(x, dtype=np.float32)
    labels = _kmeans(x, min(_N_GROUPS, len(x)), rng, None, max_iter=20).labels_
    return np.unique(labels, return_inverse=True)[1]


def _kmeans(
    x: NDArray[np.floating],
    k: int,
    rng: np.random.Generator,
    sample_weight: NDArray[np.integer] | None,
    max_iter: int = 300,
) -> KMeans:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of fewer distinct cells than clusters
        model = KMeans(k, n_init=1, max_iter=max_iter, random_state=int(rng.integers(2**31)))
        return model.fit(x, sample_weight=sample_weight)
