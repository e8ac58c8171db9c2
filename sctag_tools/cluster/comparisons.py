"""Which clusters of a tree are compared with which: the two sides of each split, or a cluster and its siblings."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from .hierarchy import Hierarchy

# Names of sides with more clusters are shortened: HDF5 holds 64 kB of names, and no reader more than a line.
_MAX_NAMED = 12
_N_NAMED = 4


@dataclass(frozen=True)
class Comparison:
    """A group of clusters, and those that it is compared with, by their sorted numbers."""

    node: int  # the split that parts them
    group: NDArray[np.int64]
    reference: NDArray[np.int64]

    def reversed(self) -> Self:
        """The same from the other side."""
        return type(self)(self.node, self.reference, self.group)


def compare_sides(tree: Hierarchy, labels: NDArray[np.int64]) -> list[Comparison]:
    """Comparisons of the clusters ``labels`` (n_leaves,): two a split, one from each side; none for a single cluster.

    Splits come in the order in which growing numbers of clusters make them. A split within a cluster is left out, and
    so is one with a part of a cluster on a side and the rest elsewhere, as there are if clusters were joined across the
    tree. Each cluster that no split parts from all others is compared with its siblings instead, so that every cluster
    is the whole group of exactly one comparison.
    """
    filled = tree.n_cells[: tree.n_leaves] > 0
    n_leaves = np.bincount(labels[filled])
    found: list[Comparison] = []
    for node in tree.split_order.tolist():
        (left, n_left), (right, n_right) = (np.unique(labels[side], return_counts=True) for side in tree.sides(node))
        is_whole = (n_left == n_leaves[left]).all() and (n_right == n_leaves[right]).all()
        if is_whole and len(left) and len(right):
            one = Comparison(node, left, right)
            found += [one, one.reversed()]
    alone = {int(one.group[0]) for one in found if len(one.group) == 1}
    for label in np.flatnonzero(n_leaves).tolist():
        node, siblings = tree.siblings(labels, label) if label not in alone else (-1, np.empty(0, dtype=np.int64))
        if node >= 0:
            found.append(Comparison(node, np.array([label]), siblings))
    return found


def name_comparisons(comparisons: Iterable[Comparison], clusters: Sequence[str]) -> list[str]:
    """Names such as "0+3 vs 1", no two alike and without "/", which separates names in files."""
    found: dict[str, None] = {}
    for one in comparisons:
        sides = (_joined([clusters[i] for i in side]) for side in (one.group, one.reference))
        name = free = " vs ".join(sides).replace("/", "|")
        number = 1
        while free in found:
            number += 1
            free = f"{name} ({number})"
        found[free] = None
    return list(found)


def _joined(names: list[str]) -> str:
    if len(names) <= _MAX_NAMED:
        return "+".join(names)
    return f"{'+'.join(names[:_N_NAMED])} and {len(names) - _N_NAMED} more"
