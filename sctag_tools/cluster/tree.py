"""The co-association tree: cells joined in the order in which many partitions keep them together.

Evidence accumulation (Fred & Jain 2005): how often two cells share a cluster over many partitions says more about their
kinship than any single partition.
"""

import heapq
from collections.abc import Collection
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from .partitions import small_groups

_N_SKETCH = 40  # dimensions of the random projection in which leaves are found
_SIZE_POWER = 0.1
_TINY = 1e-9


@dataclass(frozen=True)
class CoassociationTree:
    """Small groups of cells joined two at a time, those that most partitions keep together first.

    Node ``i`` is a leaf for ``i < n_leaves``, else it joins ``children[i - n_leaves]``. The last node is the root.
    """

    leaf: NDArray[np.int64]  # (n_cells,) leaf of each cell
    children: NDArray[np.int64]  # (n_leaves - 1, 2)
    coassociation: NDArray[np.float64]  # (n_leaves - 1,) share of partitions that keep the two together, over cells
    cohesion: NDArray[np.float64]  # (n_leaves,) share of partitions that keep two cells of a leaf together

    @classmethod
    def from_partitions(cls, labels: NDArray[np.integer], rng: np.random.Generator) -> Self:
        """The tree of partitions (n_partitions, n_cells), by average linkage over cells."""
        sketch = np.zeros((labels.shape[1], _N_SKETCH), dtype=np.float32)
        for row in labels:
            sketch += rng.normal(size=(int(row.max()) + 1, _N_SKETCH)).astype(np.float32)[row]
        return cls.from_leaves(labels, small_groups(sketch, rng))

    @classmethod
    def from_leaves(cls, labels: NDArray[np.integer], leaf: NDArray[np.int64]) -> Self:
        """The tree above these leaves (n_cells,)."""
        sizes = np.bincount(leaf).astype(np.float64)
        together = np.zeros((len(sizes), len(sizes)))
        for row in labels:
            k = int(row.max()) + 1
            shared = np.bincount(leaf * k + row, minlength=len(sizes) * k)
            share = shared.reshape(len(sizes), k) / sizes[:, None]
            together += share @ share.T
        together /= len(labels)
        itself = sizes / np.maximum(sizes * (sizes - 1), 1)  # pairs of a cell with itself do not count
        cohesion = together.diagonal() * sizes * itself - itself
        children, coassociation = _average_linkage(together, sizes)
        return cls(leaf, children, coassociation, cohesion)

    @property
    def n_leaves(self) -> int:
        """Number of leaves."""
        return len(self.children) + 1

    def relative_coassociation(self) -> NDArray[np.float64]:
        """(n_leaves - 1,) how often the two sides of a node are kept together, over how often cells of one side are.

        Fine partitions keep few cells together, whatever their kind, so only the ratio tells whether a split is real.
        """
        sizes = self.sizes()
        pairs = [*(self.cohesion * sizes[: self.n_leaves] * (sizes[: self.n_leaves] - 1))]  # that are kept together
        relative = np.empty(len(self.children))
        for i, (left, right) in enumerate(self.children):
            n = sizes[[left, right]]
            within = np.array([pairs[left], pairs[right]]) / np.maximum(n * (n - 1), 1)
            relative[i] = self.coassociation[i] / max(float(within @ n) / n.sum(), _TINY)
            pairs.append(pairs[left] + pairs[right] + 2 * n.prod() * self.coassociation[i])
        return relative

    def members(self, node: int) -> NDArray[np.bool_]:
        """(n_cells,) whether each cell lies below ``node``."""
        leaves, stack = np.zeros(self.n_leaves, dtype=bool), [node]
        while stack:
            node = stack.pop()
            if node < self.n_leaves:
                leaves[node] = True
            else:
                stack.extend(self.children[node - self.n_leaves])
        return leaves[self.leaf]

    def sizes(self) -> NDArray[np.int64]:
        """Cells below each node."""
        sizes = [*np.bincount(self.leaf, minlength=self.n_leaves)]
        for left, right in self.children:
            sizes.append(sizes[left] + sizes[right])
        return np.array(sizes, dtype=np.int64)

    def split_order(self, supported: Collection[int] = ()) -> list[int]:
        """Inner nodes in the order in which growing numbers of clusters split them.

        Nodes of ``supported`` come first, and those above them. Among the rest the next is the one whose sides fewest
        partitions keep together, with some favor (a tenth root) for the size of the smaller side. A node is split
        before those below it.
        """
        smaller = self.sizes()[self.children].min(axis=1)
        priority = (1 - self.coassociation) * smaller**_SIZE_POWER
        first = np.isin(np.arange(len(priority)) + self.n_leaves, list(supported))
        priority += (priority.max(initial=0) + 1) * first
        for i, pair in enumerate(self.children):
            below = pair[pair >= self.n_leaves] - self.n_leaves
            priority[i] = max(priority[i], *priority[below]) if len(below) else priority[i]
        order: list[int] = []
        queue = [(-priority[-1], 2 * self.n_leaves - 2)] if self.n_leaves > 1 else []
        while queue:
            _, node = heapq.heappop(queue)
            order.append(node)
            for child in self.children[node - self.n_leaves]:
                if child >= self.n_leaves:
                    heapq.heappush(queue, (-priority[child - self.n_leaves], int(child)))
        return order

    def cut(self, n_clusters: int, supported: Collection[int] = ()) -> NDArray[np.int64]:
        """Labels (n_cells,) of ``n_clusters`` clusters, fewer where there are fewer leaves."""
        return label_leaves(self.children, self.split_order(supported)[: n_clusters - 1])[self.leaf]


def label_leaves(children: NDArray[np.int64], nodes: Collection[int]) -> NDArray[np.int64]:
    """(n_leaves,) labels from 0 that leaves have if these ``nodes`` are split, and no other."""
    n_leaves, split = len(children) + 1, set(nodes)
    labels, stack, n = np.empty(n_leaves, dtype=np.int64), [(2 * n_leaves - 2, 0)], 1
    while stack:
        node, label = stack.pop()
        if node < n_leaves:
            labels[node] = label
            continue
        left, right = children[node - n_leaves]
        other = label
        if node in split:
            other, n = n, n + 1
        stack += [(int(left), label), (int(right), other)]
    return labels


def _average_linkage(
    similarity: NDArray[np.float64], sizes: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """UPGMA of groups that hold ``sizes`` cells each, which scipy's linkage cannot weigh: children and similarities."""
    similarity, sizes = similarity.copy(), sizes.copy()
    np.fill_diagonal(similarity, -np.inf)
    n = len(sizes)
    node = np.arange(n)
    children, heights = np.empty((n - 1, 2), dtype=np.int64), np.empty(n - 1)
    for step in range(n - 1):
        i, j = divmod(int(similarity.argmax()), n)
        children[step], heights[step] = (node[i], node[j]), similarity[i, j]
        joined = (sizes[i] * similarity[i] + sizes[j] * similarity[j]) / (sizes[i] + sizes[j])
        similarity[i], similarity[:, i] = joined, joined
        similarity[i, i] = similarity[j] = similarity[:, j] = -np.inf
        sizes[i] += sizes[j]
        node[i] = n + step
    return children, heights
