"""One clustering from many: partitions of several latents, what they agree on as a tree, and where to cut it.

Evidence accumulation (Fred & Jain 2005): how often two cells share a cluster over many k-means partitions is a better
measure of their kinship than any single partition. The partitions differ in the network that gave the latent, in the
number of clusters, in their random start and in a left-out fifth. Cells are first gathered into a few hundred groups,
so that time and memory grow with the number of cells, not with its square.
"""

from __future__ import annotations

import heapq
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .config import MOST_CLUSTERS
from .separation import separation, standard_error

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from numpy.typing import NDArray
    from sklearn.cluster import KMeans

_PARTITIONS = 300
_FEWEST, _MOST = 2, 30  # clusters of a partition, drawn log-uniformly
_KEPT = 0.8  # share of the groups that a partition sees
_GROUPS = MOST_CLUSTERS  # a cluster is made of whole groups
_SKETCH = 40  # dimensions of the random projection in which groups of like cells are found
_SIZE_POWER = 0.1
_REPLICATES = 21
_REPLICATE_PARTITIONS = 6
_REPLICATE_FINENESS = 1.5  # of the finer cut: there a part that straddles two clusters is doubt, a small one is not
_TESTED = 60  # splits from the top of the tree that are considered
_SEPARATED = 3.5  # halves of one Gaussian are up to 3.2 apart, down to a twentieth; partitions disagree on less


def partitions(latents: Sequence[NDArray[np.float32]], rng: np.random.Generator) -> NDArray[np.int32]:
    """Labels (n_partitions, n_cells) of k-means on each latent (n_cells, n_latent), the networks in turn."""
    per_latent = -(-_PARTITIONS // len(latents))
    return np.concatenate([_partitions_of(latent, per_latent, rng) for latent in latents])


def _partitions_of(latent: NDArray[np.float32], n: int, rng: np.random.Generator) -> NDArray[np.int32]:
    """K-means on the centres of small groups, weighted by their sizes: hundreds of runs for the price of a few."""
    group = _small_groups(latent, rng)
    sizes = np.bincount(group)
    centres = np.stack([np.bincount(group, column) / sizes for column in latent.T.astype(np.float64)], axis=1)
    wanted = np.exp(rng.uniform(np.log(_FEWEST), np.log(_MOST + 1), n)).astype(int)
    labels = np.empty((n, len(latent)), dtype=np.int32)
    for row, n_clusters in enumerate(wanted):
        kept = np.flatnonzero(rng.random(len(sizes)) < _KEPT)
        if not len(kept):
            kept = np.arange(len(sizes))
        model = _kmeans(centres[kept], min(n_clusters, len(kept)), rng, sizes[kept])
        labels[row] = model.predict(centres)[group]
    return labels


def _small_groups(x: NDArray[np.floating], rng: np.random.Generator) -> NDArray[np.int64]:
    """(n,) group of each row, at most _GROUPS of rows that lie together."""
    x = np.ascontiguousarray(x, dtype=np.float32)
    labels = _kmeans(x, min(_GROUPS, len(x)), rng, None, max_iter=20).labels_
    return np.unique(labels, return_inverse=True)[1]


def _kmeans(
    x: NDArray[np.floating],
    n: int,
    rng: np.random.Generator,
    weights: NDArray[np.integer] | None,
    max_iter: int = 300,
) -> KMeans:
    from sklearn.cluster import KMeans

    with _duplicates_allowed():
        model = KMeans(n, n_init=1, max_iter=max_iter, random_state=int(rng.integers(2**31)))
        return model.fit(x, sample_weight=weights)


@contextmanager
def _duplicates_allowed() -> Iterator[None]:
    """Fewer distinct cells than clusters are no cause for sklearn's warning."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


@dataclass(frozen=True)
class MergeTree:
    """Groups of cells joined two at a time, those that most partitions keep together first.

    Node ``i`` is a group for ``i < n_groups``, else it joins ``children[i - n_groups]``.
    """

    group: NDArray[np.int64]  # (n_cells,) group of each cell
    children: NDArray[np.int64]  # (n_groups - 1, 2)
    coassociation: NDArray[np.float64]  # (n_groups - 1,) share of partitions that keep the two together, cell by cell

    @classmethod
    def of(cls, labels: NDArray[np.int32], rng: np.random.Generator) -> MergeTree:
        """The tree of partitions (n_partitions, n_cells), by average linkage over cells."""
        sketch = np.zeros((labels.shape[1], _SKETCH), dtype=np.float32)
        for row in labels:
            sketch += rng.normal(size=(row.max() + 1, _SKETCH)).astype(np.float32)[row]
        return cls.of_groups(labels, _small_groups(sketch, rng))

    @classmethod
    def of_groups(cls, labels: NDArray[np.int32], group: NDArray[np.int64]) -> MergeTree:
        """The tree above these groups (n_cells,)."""
        sizes = np.bincount(group).astype(np.float64)
        together = np.zeros((len(sizes), len(sizes)))
        for row in labels:
            n_clusters = int(row.max()) + 1
            shared = np.bincount(group * n_clusters + row, minlength=len(sizes) * n_clusters)
            share = shared.reshape(len(sizes), n_clusters) / sizes[:, None]
            together += share @ share.T
        children, coassociation = _average_linkage(together / len(labels), sizes)
        return cls(group, children, coassociation)

    @property
    def n_groups(self) -> int:
        """Number of leaves."""
        return len(self.children) + 1

    def members(self, node: int) -> NDArray[np.bool_]:
        """(n_cells,) whether each cell lies below ``node``."""
        leaves, stack = np.zeros(self.n_groups, dtype=bool), [node]
        while stack:
            node = stack.pop()
            if node < self.n_groups:
                leaves[node] = True
            else:
                stack.extend(self.children[node - self.n_groups])
        return leaves[self.group]

    def sizes(self) -> NDArray[np.int64]:
        """Cells below each node."""
        sizes = [*np.bincount(self.group, minlength=self.n_groups)]
        for left, right in self.children:
            sizes.append(sizes[left] + sizes[right])
        return np.array(sizes, dtype=np.int64)

    def splits(self, supported: Collection[int] = ()) -> list[int]:
        """Inner nodes in the order in which growing numbers of clusters open them.

        Those of ``supported`` come first, and those above them. Among equals the next is the one whose halves fewest
        partitions keep together, with some favour (a tenth root) for the size of the smaller half, or the way to it:
        a node opens before those below it.
        """
        sizes = self.sizes()
        smaller = sizes[self.children].min(axis=1)
        worth = (1 - self.coassociation) * smaller**_SIZE_POWER
        worth += (worth.max(initial=0) + 1) * np.isin(np.arange(len(worth)) + self.n_groups, list(supported))
        for i, pair in enumerate(self.children):
            below = pair[pair >= self.n_groups] - self.n_groups
            worth[i] = max(worth[i], *worth[below]) if len(below) else worth[i]
        order: list[int] = []
        queue = [(-worth[-1], 2 * self.n_groups - 2)] if self.n_groups > 1 else []
        while queue:
            _, node = heapq.heappop(queue)
            order.append(node)
            for child in self.children[node - self.n_groups]:
                if child >= self.n_groups:
                    heapq.heappush(queue, (-worth[child - self.n_groups], int(child)))
        return order

    def cut(self, n_clusters: int, supported: Collection[int] = ()) -> NDArray[np.int64]:
        """Labels (n_cells,) of ``n_clusters`` clusters, fewer where there are fewer groups."""
        return self._labels(set(self.splits(supported)[: n_clusters - 1]))

    def _labels(self, opened: set[int]) -> NDArray[np.int64]:
        root = 2 * self.n_groups - 2
        labels, stack, n = np.empty(self.n_groups, dtype=np.int64), [(root, 0)], 1
        while stack:
            node, label = stack.pop()
            if node < self.n_groups:
                labels[node] = label
                continue
            left, right = self.children[node - self.n_groups]
            other = label
            if node in opened:
                other, n = n, n + 1
            stack += [(int(left), label), (int(right), other)]
        return labels[self.group]


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


@dataclass(frozen=True)
class Evidence:
    """What speaks for the splits near the top of a tree."""

    nodes: list[int]  # in the order in which growing numbers of clusters open them
    coassociation: NDArray[np.float64]  # (n_nodes,) share of partitions that keep the halves together
    separation: NDArray[np.float64]  # (n_nodes,) distance of the halves, less two standard errors
    supported: NDArray[np.bool_]  # (n_nodes,) the split counts, or lies above one that does

    @property
    def supported_nodes(self) -> list[int]:
        """The nodes of the splits that count, and those above them."""
        return [node for node, counts in zip(self.nodes, self.supported, strict=True) if counts]

    @property
    def n_clusters(self) -> int:
        """One more than the supported splits."""
        return 1 + int(self.supported.sum())

    def curve(self) -> dict[str, NDArray[np.float64]]:
        """The same for 2, 3, ... clusters, with the ``least_separation`` of a split that counts."""
        return {
            "n_clusters": np.arange(2.0, len(self.nodes) + 2),
            "coassociation": self.coassociation,
            "separation": self.separation,
            "supported": self.supported.astype(np.float64),
            "least_separation": np.array(_SEPARATED),
        }


def evidence(
    tree: MergeTree, latents: Sequence[NDArray[np.float32]], resolution: float, rng: np.random.Generator
) -> Evidence:
    """Which splits of cells the partitions and the latents support.

    A split counts if fewer than ``resolution / (1 + resolution)`` of the partitions keep its halves together (at 1: if
    most partitions tell them apart), and if the halves are further apart than those of one Gaussian cut in two, by
    more than two standard errors (:func:`.separation.separation`, mean over the latents). A split above one that
    counts does too.
    """
    limit = resolution / (1 + resolution)
    tested = tree.splits()[:_TESTED]
    agreed = {node: float(tree.coassociation[node - tree.n_groups]) for node in tested}
    apart = {node: _separation_of(tree, node, latents, rng) for node in tested}
    counts = {node: agreed[node] < limit and apart[node] > _SEPARATED for node in tested}
    for node in sorted(tested):  # children come before their parents
        counts[node] |= any(counts.get(int(child), False) for child in tree.children[node - tree.n_groups])
    supported = {node for node, found in counts.items() if found}
    order = [node for node in tree.splits(supported) if node in counts]
    kept_together, distances = (np.array([values[node] for node in order]) for values in (agreed, apart))
    return Evidence(order, kept_together, distances, np.array([node in supported for node in order], dtype=bool))


def _separation_of(
    tree: MergeTree, node: int, latents: Sequence[NDArray[np.float32]], rng: np.random.Generator
) -> float:
    """Lower end of the distance between the halves of a split."""
    left, right = (tree.members(int(child)) for child in tree.children[node - tree.n_groups])
    distance = float(np.mean([separation(latent[left], latent[right], rng) for latent in latents]))
    return distance - 2 * standard_error(distance, int(left.sum()), int(right.sum()))


@dataclass(frozen=True)
class Replicates:
    """Smaller clusterings of the same partitions, cut twice."""

    alike: NDArray[np.int64]  # (n_replicates, n_cells), into as many clusters
    finer: NDArray[np.int64]  # (n_replicates, n_cells), into half as many again


def replicates(
    labels: NDArray[np.int32], tree: MergeTree, n_clusters: int, n_latents: int, rng: np.random.Generator
) -> Replicates:
    """Clusterings from a few partitions of one latent each, to hold one of ``n_clusters`` clusters against."""
    of_latent = np.array_split(np.arange(len(labels)), n_latents)
    alike, finer = [], []
    for replicate in range(_REPLICATES):
        rows = of_latent[replicate % n_latents]
        few = rng.choice(rows, min(_REPLICATE_PARTITIONS, len(rows)), replace=False)
        smaller = MergeTree.of_groups(labels[few], tree.group)
        alike.append(smaller.cut(n_clusters))
        finer.append(smaller.cut(round(_REPLICATE_FINENESS * n_clusters)))
    return Replicates(np.array(alike), np.array(finer))
