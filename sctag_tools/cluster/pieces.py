"""New clusters that are made of whole old ones and of parts of them: names, soft assignment, and who inherits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from .consensus import cluster_centroids


@dataclass(frozen=True)
class Pieces:
    """The cells that an old and a new cluster share, sorted by old cluster and falling size."""

    old: NDArray[np.int64]  # (n_pieces,)
    new: NDArray[np.int64]  # (n_pieces,) numbered in the order of their first pieces
    part: NDArray[np.int64]  # (n_pieces,) number of the part of the old cluster; -1: all of it
    n_cells: NDArray[np.int64]  # (n_pieces,)
    of_leaf: NDArray[np.int64]  # (n_leaves,) 0 for leaves without cells

    @classmethod
    def from_labels(cls, old: NDArray[np.int64], new: NDArray[np.int64], n_cells: NDArray[np.int64]) -> Self:
        """From the old and the new cluster of each leaf, and its number of cells, (n_leaves,) each."""
        filled = n_cells > 0
        pairs, piece = np.unique(np.stack([old, new])[:, filled], axis=1, return_inverse=True)
        sizes = np.bincount(piece.ravel(), n_cells[filled]).astype(np.int64)
        order = np.lexsort((-sizes, pairs[0]))
        (old_of, new_of), sizes = pairs[:, order], sizes[order]
        of_leaf = np.zeros(len(old), dtype=np.int64)
        of_leaf[filled] = np.argsort(order)[piece.ravel()]
        part = np.arange(len(old_of)) - np.searchsorted(old_of, old_of)
        part[np.bincount(old_of)[old_of] == 1] = -1
        _, first, number = np.unique(new_of, return_index=True, return_inverse=True)
        return cls(old_of, np.argsort(np.argsort(first))[number], part, sizes, of_leaf)

    @property
    def n_new(self) -> int:
        """Number of new clusters."""
        return int(self.new.max()) + 1

    def names(self, old_names: Sequence[str]) -> list[str]:
        """Of the new clusters: "3" if it stays, "3,0" for a part of it, "1+5" for what is joined."""
        parts = [
            old_names[old] if part < 0 else f"{old_names[old]},{part}"
            for old, part in zip(self.old, self.part, strict=True)
        ]
        return ["+".join(parts[i] for i in np.flatnonzero(self.new == new)) for new in range(self.n_new)]

    def heirs(self) -> list[int]:
        """The old cluster that each new one goes on with: of its pieces that are largest parts, the largest; or -1."""
        found = [-1] * self.n_new
        for i in np.argsort(-self.n_cells, kind="stable"):
            if self.part[i] <= 0 and found[self.new[i]] < 0:
                found[self.new[i]] = int(self.old[i])
        return found

    def assignment(
        self, piece: NDArray[np.int64], proba: NDArray[np.float32], latent: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """(n_cells, n_new) soft assignment, from that to the old clusters ``proba`` and the ``piece`` of each cell.

        Parts share the column of the cluster that they are parts of by the Student-t similarity of a cell to their
        means in the ``latent``, in units of the standard deviation within pieces (:mod:`..nn.self_training`).
        """
        found = np.zeros((len(proba), self.n_new), dtype=np.float32)
        if (self.part >= 0).any():
            means, scale = cluster_centroids(latent, piece)
        for old in np.unique(self.old):
            mine = np.flatnonzero(self.old == old)
            shares = np.ones((len(proba), 1), dtype=np.float32)
            if len(mine) > 1:
                similarity = 1 / (1 + cdist(latent / scale, means[mine] / scale, "sqeuclidean"))
                shares = (similarity / similarity.sum(axis=1, keepdims=True)).astype(np.float32)
            for new, share in zip(self.new[mine], shares.T, strict=True):
                found[:, new] += proba[:, old] * share
        return found
