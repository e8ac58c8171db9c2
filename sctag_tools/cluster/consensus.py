"""One clustering from the latents of all networks: partitions, their tree, and where to cut it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from .confidence import ReplicateClusterings, cut_replicates, draw_replicates
from .n_clusters import SplitTests, run_split_tests
from .partitions import draw_partitions
from .tree import CoassociationTree

_TINY = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class ConsensusClustering:
    """What the partitions of all latents agree on."""

    labels: NDArray[np.int64]  # (n_cells,)
    tree: CoassociationTree  # that they are a cut of
    tests: SplitTests  # of its splits
    small_trees: list[CoassociationTree]  # each of a few partitions
    replicates: ReplicateClusterings  # cuts of these, which the confidence is measured against
    curve: dict[str, NDArray[np.float64]] | None  # evidence for the number of clusters; None if it was given


def consensus_clustering(
    latents: Sequence[NDArray[np.float32]], n_clusters: int | None, resolution: float, rng: np.random.Generator
) -> ConsensusClustering:
    """Cluster cells by their latents (n_cells, n_latent), into ``n_clusters`` or as many as are supported."""
    # k-means adds up its threads in the order in which they finish; a single one gives equal bits every time.
    with threadpool_limits(1, user_api="openmp"):
        partitions = draw_partitions(latents, rng)
        tree = CoassociationTree.from_partitions(partitions, rng)
    tests = run_split_tests(tree, latents, resolution, rng)
    curve = tests.curve() if n_clusters is None else None
    n_clusters = tests.n_clusters if n_clusters is None else n_clusters
    labels = tree.cut(n_clusters, tests.supported_nodes)
    small_trees = draw_replicates(partitions, tree, len(latents), rng)
    return ConsensusClustering(labels, tree, tests, small_trees, cut_replicates(small_trees, n_clusters), curve)


def cluster_centroids(latent: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[NDArray[np.float32], float]:
    """Mean latent of each label, (n_labels, n_latent), and the standard deviation within labels, per dimension."""
    _, members = np.unique(labels, return_inverse=True)
    centroids = np.stack([latent[members == label].mean(axis=0) for label in range(members.max() + 1)])
    scale = float((latent - centroids[members]).std())
    return centroids, max(scale, _TINY)
