"""The tree of a run above some clusters: the splits that part them, and the next ones within them."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from .hierarchy import Hierarchy, leaves_below

_MIN_STEP = 0.02  # from a split to the next one below it


@dataclass(frozen=True)
class ContractedTree:
    """What is left of a tree if splits that part no clusters are passed over.

    An entry is a split, or an end: a cluster, or a part of one. Entries come after their parents, and all below the
    first side of a split before its second side.
    """

    node: NDArray[np.int64]  # (n_entries,) in the whole tree
    parent: NDArray[np.int64]  # (n_entries,) entry above, -1 for the first
    cluster: NDArray[np.int64]  # (n_entries,) that it is, or is a part of; -1 for a split of clusters
    is_whole: NDArray[np.bool_]  # (n_clusters,) whether all cells of a cluster are there

    @classmethod
    def from_clusters(cls, tree: Hierarchy, of_leaf: NDArray[np.int64], n_clusters: int, n_below: int = 0) -> Self:
        """Contract ``tree`` to the clusters ``of_leaf`` (n_leaves,), with the next ``n_below`` splits within them.

        A cluster that was joined from several parts of the tree is where its largest part is; the others are left out.
        """
        tops = _largest_parts(tree, of_leaf, n_clusters)
        within = _within(tree, tops)
        filled = tree.n_cells > 0
        parts = filled[tree.children[:, 0]] & filled[tree.children[:, 1]]
        order = [node for node in tree.split_order if within[node] >= 0 and parts[node - tree.n_leaves]]
        reaches = _has_below(tree, [*tops[tops >= 0], *order[:n_below]])
        entries: list[tuple[int, int, int]] = []
        stack = [(len(reaches) - 1, -1)]
        while stack:
            node, parent = stack.pop()
            below = _followed(tree, node, reaches, is_within=bool(within[node] >= 0), opened=order[:n_below])
            if len(below) != 1:
                entries.append((node, parent, int(within[node])))
                parent = len(entries) - 1
            stack += [(child, parent) for child in reversed(below)]
        node_of, parent_of, cluster_of = np.array(entries, dtype=np.int64).reshape(-1, 3).T
        sizes = np.bincount(of_leaf, tree.n_cells[: tree.n_leaves], minlength=n_clusters)
        return cls(node_of, parent_of, cluster_of, is_whole=(tops >= 0) & (tree.n_cells[tops] == sizes))

    @property
    def is_split(self) -> NDArray[np.bool_]:
        """(n_entries,) whether an entry has two sides."""
        return np.isin(np.arange(len(self.node)), self.parent)

    def ends(self, cluster: int) -> NDArray[np.int64]:
        """Entries of the ends of one cluster."""
        return np.flatnonzero(~self.is_split & (self.cluster == cluster))

    def rows(self) -> NDArray[np.float64]:
        """(n_entries,) ends are numbered from 0, and a split lies in the middle of its two sides."""
        is_split = self.is_split
        rows = np.where(is_split, 0.0, np.cumsum(~is_split) - 1.0)
        for entry in range(len(rows) - 1, 0, -1):  # from the ends upward
            if self.parent[entry] >= 0:
                rows[self.parent[entry]] += rows[entry] / 2
        return rows

    def depths(self, measure: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n_entries,) the ``measure`` of a split, in [0, 1], or a little more than that above it; 1 or more for ends.

        ``measure`` (n_leaves - 1,) need not grow from the root to the leaves. All ends are equally deep.
        """
        is_split, first = self.is_split, len(measure) + 1
        depths = np.zeros(len(self.node))
        for entry in np.flatnonzero(is_split):
            value = np.nan_to_num(measure[self.node[entry] - first], nan=0.0)
            above = self.parent[entry]
            least = depths[above] + _MIN_STEP if above >= 0 else 0.0
            depths[entry] = max(least, min(max(value, 0.0), 1 - _MIN_STEP))
        depths[~is_split] = max(1.0, depths.max() + _MIN_STEP)
        return depths


def _largest_parts(tree: Hierarchy, of_leaf: NDArray[np.int64], n_clusters: int) -> NDArray[np.int64]:
    """(n_clusters,) the node with most cells of those below which all are of the cluster, -1 if it has no cells.

    The highest of equal ones; it is the part that :meth:`.hierarchy.Hierarchy.siblings` looks from.
    """
    below = leaves_below(tree.children) & (tree.n_cells[: tree.n_leaves] > 0)
    holds = np.stack([below[:, of_leaf == cluster].any(axis=1) for cluster in range(n_clusters)], axis=1)
    is_pure = holds & (holds.sum(axis=1, keepdims=True) == 1)
    numbers = np.arange(len(holds))
    tops = [np.lexsort((numbers, tree.n_cells * mine))[-1] if mine.any() else -1 for mine in is_pure.T]
    return np.array(tops, dtype=np.int64)


def _within(tree: Hierarchy, tops: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n_nodes,) the cluster whose top is this node or above it, -1 if there is none."""
    within = np.full(len(tree.n_cells), -1)
    for cluster in np.flatnonzero(tops >= 0):
        within[tops[cluster]] = cluster
    for i in range(len(tree.children) - 1, -1, -1):  # parents come after their children
        if within[tree.n_leaves + i] >= 0:
            within[tree.children[i]] = within[tree.n_leaves + i]
    return within


def _has_below(tree: Hierarchy, nodes: Collection[int]) -> NDArray[np.bool_]:
    """(n_nodes,) whether one of ``nodes`` is this node or below it."""
    found = np.isin(np.arange(len(tree.n_cells)), list(nodes))
    for i, pair in enumerate(tree.children):
        found[tree.n_leaves + i] |= found[pair].any()
    return found


def _followed(
    tree: Hierarchy, node: int, reaches: NDArray[np.bool_], *, is_within: bool, opened: Collection[int]
) -> list[int]:
    """Children of a node to go on with: those that hold a cluster or, within one, both of a split that is shown."""
    if node < tree.n_leaves:
        return []
    children = [int(child) for child in tree.children[node - tree.n_leaves]]
    if is_within and node in opened:
        return children
    return [child for child in children if reaches[child]]
