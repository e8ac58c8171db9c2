"""How sure the cluster of a cell is, and a cluster as a whole, from smaller clusterings of the same partitions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.isotonic import IsotonicRegression

from .tree import CoassociationTree

_N_REPLICATES = 21
_PARTITIONS_PER_REPLICATE = 6
_FINER = 1.5  # of the finer cut: there a part that straddles two clusters is doubt, a small one is not
# Six partitions split and join clusters more often than a whole run does, so strict agreement gets a small weight.
# Without it, cells of clusters that are often split or joined would pass for sure.
_STRICT_WEIGHT = 0.2
_MIN_OVERLAP = 0.75  # of two clusters that are the same one, as Hennig (2007) has it


@dataclass(frozen=True)
class ReplicateClusterings:
    """Clusterings by a few partitions of one network each, cut twice."""

    same_number: NDArray[np.int64]  # (n_replicates, n_cells), into as many clusters
    finer: NDArray[np.int64]  # (n_replicates, n_cells), into half as many again


def draw_replicates(
    labels: NDArray[np.integer], tree: CoassociationTree, n_latents: int, rng: np.random.Generator
) -> list[CoassociationTree]:
    """Trees on the leaves of ``tree``, each of a few of its partitions ``labels`` (n_partitions, n_cells)."""
    of_latent = np.array_split(np.arange(len(labels)), n_latents)
    trees = []
    for replicate in range(_N_REPLICATES):
        rows = of_latent[replicate % n_latents]
        few = rng.choice(rows, min(_PARTITIONS_PER_REPLICATE, len(rows)), replace=False)
        trees.append(CoassociationTree.from_leaves(labels[few], tree.leaf))
    return trees


def cut_replicates(trees: Sequence[CoassociationTree], n_clusters: int) -> ReplicateClusterings:
    """Replicates of a clustering into ``n_clusters``."""
    cuts = [[tree.cut(n) for tree in trees] for n in (n_clusters, round(_FINER * n_clusters))]
    return ReplicateClusterings(*map(np.array, cuts))


def cell_confidence(
    labels: NDArray[np.int64], proba: NDArray[np.float32], replicates: ReplicateClusterings
) -> NDArray[np.float32]:
    """(n_cells,) estimated share of runs that put a cell into the cluster that ``labels`` (n_cells,) has it in.

    The mean of two numbers. How often the cell stays there in the ``replicates`` is a share of runs, but coarse, and
    the same for cells that go together. Its soft assignment ``proba`` (n_cells, n_clusters) orders cells by how close
    they are to another cluster, but is no share of anything, so isotonic regression puts it on the scale of the first.
    Our own.
    """
    stays = (1 - _STRICT_WEIGHT) * agreement(labels, replicates.finer)
    stays += _STRICT_WEIGHT * agreement(labels, replicates.same_number, one_to_one=True)
    closeness = proba[np.arange(len(labels)), labels].astype(np.float64)
    expected = IsotonicRegression(out_of_bounds="clip").fit(closeness, stays).predict(closeness)
    return np.asarray((stays + expected) / 2, dtype=np.float32)


def agreement(labels: NDArray[np.int64], others: NDArray[np.int64], *, one_to_one: bool = False) -> NDArray[np.float64]:
    """(n_cells,) share of other clusterings (n_others, n_cells) that put a cell where ``labels`` (n_cells,) has it.

    A cluster of another clustering stands for the one of ``labels`` that most of its cells are in. If clusters are
    matched ``one_to_one``, so that most cells agree, cells of a cluster that is split or joined have left it in part.
    """
    kept, n_labels = np.zeros(len(labels)), int(labels.max()) + 1
    for other in others:
        n_clusters = int(other.max()) + 1
        shared = np.bincount(other * n_labels + labels, minlength=n_clusters * n_labels).reshape(n_clusters, n_labels)
        partner = shared.argmax(axis=1)
        if one_to_one:
            rows, columns = linear_sum_assignment(shared, maximize=True)
            partner = np.full(n_clusters, -1)
            partner[rows] = columns
        kept += partner[other] == labels
    return kept / len(others)


def cluster_confidence(labels: NDArray[np.int64], replicates: ReplicateClusterings) -> dict[str, NDArray[np.float64]]:
    """How well each cluster of ``labels`` (n_cells,) comes back as a whole, and what else becomes of it.

    ``confidence`` is the mean over the ``replicates`` of its largest Jaccard index (cells in both, over cells in
    either) with a cluster of either cut: the stability of Hennig (2007), with smaller runs in place of his bootstrap.
    The others are shares of the replicates in which no index reaches 0.75: most of its cells lie in one larger cluster
    (``merged``), or in several that are mostly its own (``split``), or neither (``dissolved``). Arrays (n_clusters,).
    """
    outcomes = [_outcomes(labels, *cuts) for cuts in zip(replicates.same_number, replicates.finer, strict=True)]
    names = ("confidence", "merged", "split", "dissolved")
    return dict(zip(names, np.mean(outcomes, axis=0), strict=True))


def _outcomes(labels: NDArray[np.int64], same: NDArray[np.int64], finer: NDArray[np.int64]) -> NDArray[np.float64]:
    """(4, n_clusters) largest Jaccard index, and one of three flags where it is small."""
    (recall, precision, jaccard), (*_, jaccard_finer) = _overlaps(labels, same), _overlaps(labels, finer)
    overlap = np.maximum(jaccard.max(axis=1), jaccard_finer.max(axis=1))
    changed = overlap < _MIN_OVERLAP
    merged = changed & (recall.max(axis=1) >= _MIN_OVERLAP)
    split = changed & ~merged & ((recall * (precision >= _MIN_OVERLAP)).sum(axis=1) >= _MIN_OVERLAP)
    return np.stack([overlap, merged, split, changed & ~merged & ~split])


def _overlaps(labels: NDArray[np.int64], other: NDArray[np.int64]) -> list[NDArray[np.float64]]:
    """Cells that clusters of both have in common, over those of the first, of the other, and of either."""
    n_labels, n_other = int(labels.max()) + 1, int(other.max()) + 1
    shared = np.bincount(labels * n_other + other, minlength=n_labels * n_other).reshape(n_labels, n_other)
    own, its = shared.sum(axis=1, keepdims=True), shared.sum(axis=0, keepdims=True)
    return [shared / np.maximum(total, 1) for total in (own, its, own + its - shared)]
