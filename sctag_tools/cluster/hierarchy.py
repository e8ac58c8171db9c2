"""The tree of a run as it is kept: plain arrays, and the clusterings that they hold."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import pairwise_distances_argmin

from .confidence import ReplicateClusterings, cut_replicates
from .consensus import ConsensusClustering
from .n_clusters import supported_splits
from .tree import CoassociationTree, label_leaves

# How they are kept; the others are float64.
INTEGERS: dict[str, type[np.integer[Any]]] = {
    **dict.fromkeys(("leaf", "consensus_leaf", "children", "split_order", "replicate_children"), np.uint16),
    "n_cells": np.int32,
}


@dataclass(frozen=True)
class Hierarchy:
    """A tree of leaves, each of some cells. Node ``i`` is a leaf for ``i < n_leaves``, the last one is the root.

    Arrays (n_leaves - 1,) have one entry a split: entry ``i`` is about the split of node ``n_leaves + i``.
    """

    leaf: NDArray[np.int64]  # (n_cells,) leaf of each cell; one in its cluster after self-training
    consensus_leaf: NDArray[np.int64]  # (n_cells,) the same before self-training
    children: NDArray[np.int64]  # (n_leaves - 1, 2)
    coassociation: NDArray[np.float64]  # (n_leaves - 1,) share of partitions that keep two cells of the sides together
    relative_coassociation: NDArray[np.float64]  # (n_leaves - 1,) over that of two cells of one side
    dprime: NDArray[np.float64]  # (n_leaves - 1,) lower bound of the distance of the sides; NaN if not tested
    null_dprime: NDArray[np.float64]  # (n_leaves - 1,) that of one Gaussian cut at the same share
    n_cells: NDArray[np.int64]  # (2 n_leaves - 1,) cells below each node, by ``leaf``
    split_order: NDArray[np.int64]  # (n_leaves - 1,) nodes in the order in which growing numbers of clusters split them
    replicate_children: NDArray[np.int64]  # (n_replicates, n_leaves - 1, 2) of trees of a few partitions each
    replicate_coassociation: NDArray[np.float64]  # (n_replicates, n_leaves - 1)

    @classmethod
    def from_consensus(cls, found: ConsensusClustering, labels: NDArray[np.int64], latent: NDArray[np.float32]) -> Self:
        """The tree of what was ``found``, if self-training has moved cells to ``labels`` (n_cells,) of its clusters."""
        tree, tests, small = found.tree, found.tests, found.small_trees
        dprime, null_dprime = np.full((2, len(tree.children)), np.nan)
        tested = np.array(tests.nodes, dtype=np.int64) - tree.n_leaves
        dprime[tested], null_dprime[tested] = tests.dprime, tests.null_dprime
        leaf = nearest_leaves(tree.leaf, found.labels, labels, latent)
        return cls(
            leaf=leaf,
            consensus_leaf=tree.leaf,
            children=tree.children,
            coassociation=tree.coassociation,
            relative_coassociation=tree.relative_coassociation(),
            dprime=dprime,
            null_dprime=null_dprime,
            n_cells=CoassociationTree(leaf, tree.children, tree.coassociation, tree.cohesion).sizes(),
            split_order=np.array(tree.split_order(tests.supported_nodes), dtype=np.int64),
            replicate_children=np.stack([each.children for each in small]),
            replicate_coassociation=np.stack([each.coassociation for each in small]),
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What is kept, in small types."""
        parts = {part.name: getattr(self, part.name) for part in fields(self)}
        return {name: array.astype(INTEGERS.get(name, np.float64)) for name, array in parts.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`arrays`; ValueError for what it could not have made."""
        try:
            parts: dict[str, Any] = {
                part.name: np.asarray(arrays[part.name]).astype(np.int64 if part.name in INTEGERS else np.float64)
                for part in fields(cls)
            }
            n = len(parts["coassociation"])
            shapes = {
                "leaf": (-1,), "consensus_leaf": parts["leaf"].shape, "children": (n, 2), "n_cells": (2 * n + 1,),
                "replicate_children": (n_replicates := len(parts["replicate_children"]), n, 2),
                "replicate_coassociation": (n_replicates, n),
            }  # fmt: skip
            # files of text have no shape of an empty array
            parts = {name: array.reshape(shapes.get(name, (n,))) for name, array in parts.items()}
        except (KeyError, TypeError, ValueError) as error:
            msg = f"the tree has other arrays than this version writes ({error})"
            raise ValueError(msg) from error
        trees = [parts["children"], *parts["replicate_children"]]
        leaves = np.concatenate([parts["leaf"], parts["consensus_leaf"]])
        holds = (
            all(_is_tree(children) for children in trees)
            and np.array_equal(np.sort(parts["split_order"]), np.arange(n) + n + 1)
            and bool(((leaves >= 0) & (leaves <= n)).all())
            and n_replicates > 0
        )
        if not holds:
            msg = "the arrays of the tree do not go together"
            raise ValueError(msg)
        return cls(**parts)

    @property
    def n_leaves(self) -> int:
        """Number of leaves, also of those that lost all cells in self-training."""
        return len(self.children) + 1

    @property
    def max_clusters(self) -> int:
        """Leaves that hold a cell."""
        return int((self.n_cells[: self.n_leaves] > 0).sum())

    def cut(self, n_clusters: int) -> NDArray[np.int64]:
        """(n_leaves,) labels of leaves, ``n_clusters`` of which hold a cell, at most :attr:`max_clusters`."""
        adds_one = (self.n_cells[self.children[self.split_order - self.n_leaves]] > 0).all(axis=1)
        n_splits = int(np.searchsorted(np.cumsum(adds_one), n_clusters - 1)) + 1 if n_clusters > 1 else 0
        return label_leaves(self.children, self.split_order[:n_splits].tolist())

    def supported(self, resolution: float) -> NDArray[np.bool_]:
        """(n_leaves - 1,) which splits are supported (:func:`.n_clusters.supported_splits`)."""
        measures = self.relative_coassociation, self.dprime, self.null_dprime
        return supported_splits(self.children, *measures, resolution)

    def cut_supported(self, resolution: float) -> NDArray[np.int64]:
        """(n_leaves,) labels of leaves, with every supported split made, and no other."""
        nodes = np.flatnonzero(self.supported(resolution)) + self.n_leaves
        return label_leaves(self.children, nodes.tolist())

    def merge_small(self, labels: NDArray[np.int64], min_cells: int) -> NDArray[np.int64]:
        """``labels`` (n_leaves,) with each cluster of fewer cells joined to its sibling, the smallest first.

        If the sibling was split, too, it is joined to the part that the replicates keep it together with most often.
        """
        labels, sizes = labels.copy(), self.n_cells[: self.n_leaves]
        affinity = None
        while True:
            n_cells = np.bincount(labels, sizes)
            found = np.flatnonzero(n_cells)
            smallest = found[n_cells[found].argmin()]
            if n_cells[smallest] >= min_cells or len(found) == 1:
                return labels
            _, siblings = self.siblings(labels, int(smallest))
            if len(siblings) > 1:
                affinity = self._affinity() if affinity is None else affinity
                own = sizes * (labels == smallest)
                means = [own @ affinity @ (sizes * (labels == each)) / n_cells[each] for each in siblings]
                siblings = siblings[[int(np.argmax(means))]]
            labels[labels == smallest] = siblings[0]

    def siblings(self, labels: NDArray[np.int64], label: int) -> tuple[int, NDArray[np.int64]]:
        """The node that splits ``label`` from others, and these others; -1 and none if it is alone.

        Of clusters that were joined, the one that splits the largest part of the tree that is all theirs.
        """
        filled = self.n_cells[: self.n_leaves] > 0
        others = self._below & (filled & (labels != label))
        is_mixed = others.any(axis=1)
        largest = np.lexsort((np.arange(len(is_mixed)), self.n_cells * ~is_mixed))[-1]  # the highest of equal ones
        own = self._below[largest] & filled
        (nodes,) = np.nonzero(self._below[:, own].all(axis=1) & is_mixed)
        if not len(nodes):
            return -1, nodes
        return int(nodes[0]), np.unique(labels[others[nodes[0]]])  # children come before their parents

    def sides(self, node: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """(n_leaves,) which leaves that hold a cell lie below the left child of an inner node, and below the right."""
        left, right = self._below[self.children[node - self.n_leaves]] & (self.n_cells[: self.n_leaves] > 0)
        return left, right

    def replicates(self, n_clusters: int) -> ReplicateClusterings:
        """What the confidence of ``n_clusters`` is measured against."""
        return cut_replicates(self._small_trees(), n_clusters)

    def _small_trees(self) -> list[CoassociationTree]:
        pairs = zip(self.replicate_children, self.replicate_coassociation, strict=True)
        return [CoassociationTree(self.consensus_leaf, *pair, cohesion=np.empty(0)) for pair in pairs]

    @cached_property
    def _below(self) -> NDArray[np.bool_]:
        return leaves_below(self.children)

    def _affinity(self) -> NDArray[np.float64]:
        """(n_leaves, n_leaves) mean over the replicates of the co-association at which two leaves are joined."""
        joined = np.zeros((self.n_leaves, self.n_leaves))
        for children, coassociation in zip(self.replicate_children, self.replicate_coassociation, strict=True):
            below = leaves_below(children)
            for (left, right), share in zip(children, coassociation, strict=True):
                joined[np.ix_(below[left], below[right])] += share
        return joined + joined.T


def leaves_below(children: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(n_nodes, n_leaves) which leaves of a tree lie below each node."""
    n_leaves = len(children) + 1
    below = np.concatenate([np.eye(n_leaves, dtype=bool), np.zeros((n_leaves - 1, n_leaves), dtype=bool)])
    for i, (left, right) in enumerate(children):
        below[n_leaves + i] = below[left] | below[right]
    return below


def nearest_leaves(
    leaf: NDArray[np.int64], before: NDArray[np.int64], after: NDArray[np.int64], latent: NDArray[np.floating]
) -> NDArray[np.int64]:
    """(n_cells,) ``leaf``, or of a cell whose cluster is another one ``after`` self-training the nearest leaf in that.

    Nearest is the one whose cells had the nearest mean latent.
    """
    sizes, found = np.bincount(leaf), leaf.copy()
    means = np.stack([np.bincount(leaf, column) / sizes for column in latent.T.astype(np.float64)], axis=1)
    cluster_of = np.empty(len(sizes), dtype=np.int64)
    cluster_of[leaf] = before
    moved = before != after
    for cluster in np.unique(after[moved]):
        cells, leaves = np.flatnonzero(moved & (after == cluster)), np.flatnonzero(cluster_of == cluster)
        found[cells] = leaves[pairwise_distances_argmin(latent[cells].astype(np.float64), means[leaves])]
    return found


def _is_tree(children: NDArray[np.int64]) -> bool:
    """Whether each node but the root is the child of one later node."""
    n = len(children)
    is_used_once = np.array_equal(np.sort(children, axis=None), np.arange(2 * n))
    return is_used_once and bool((children < np.arange(n)[:, None] + n + 1).all())
