"""The cells in the form that training draws from: hop features, counts and graph, batch by batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .graph import hop_blocks, normalise_adjacency, sample_neighbors, subgraph_targets
from .inputs import scaled_expression, size_factors
from .model import Batch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from scipy import sparse
    from torch import Tensor


class CellData:
    """Hop features (n_cells, n_hops + 1, n_genes), raw counts, size factors, the normalised graph, batch numbers."""

    def __init__(
        self,
        counts: sparse.csr_matrix,
        totals: NDArray[np.floating],
        weights: sparse.csr_matrix,
        n_hops: int,
        batches: NDArray[np.int64] | None = None,
    ) -> None:
        self.counts = counts
        self.batch_numbers = np.zeros(counts.shape[0], dtype=np.int64) if batches is None else batches
        self.log_size = np.log(size_factors(totals))
        self.adjacency = normalise_adjacency(weights)
        self.blocks = hop_blocks(scaled_expression(counts, totals, batches), self.adjacency, n_hops)

    def __len__(self) -> int:
        return len(self.blocks)

    def log_mean_counts(self) -> Tensor:
        """Log of each gene's mean count at size factor one, (n_genes,)."""
        scaling = np.exp(-self.log_size)
        mean = np.asarray(self.counts.T @ scaling).ravel() / len(self)
        return torch.from_numpy(np.log(np.maximum(mean, 1e-6)).astype(np.float32))

    def batches(self, batch_size: int, rng: np.random.Generator, *, paired: bool) -> Iterator[NDArray[np.int64]]:
        """Endless row indices without replacement; ``paired``, half a batch of them and a graph neighbour of each."""
        size = self._anchors(batch_size, paired=paired)
        while True:
            order = rng.permutation(len(self))
            for start in range(0, len(order) - size + 1, size):
                cells = order[start : start + size]
                yield np.concatenate([cells, sample_neighbors(self.adjacency, cells, rng)]) if paired else cells

    def steps_per_epoch(self, batch_size: int, *, paired: bool) -> int:
        """Batches until each cell was drawn once (but for a remainder smaller than a batch)."""
        return len(self) // self._anchors(batch_size, paired=paired)

    def _anchors(self, batch_size: int, *, paired: bool) -> int:
        return min(max(batch_size // 2, 1) if paired else batch_size, len(self))

    def batch(
        self, rows: NDArray[np.int64], device: torch.device, target: Tensor | None = None, *, with_edges: bool = True
    ) -> Batch:
        """These rows as tensors on ``device``; ``target`` is the (n_cells, K) target distribution."""

        def move(array: NDArray[Any]) -> Tensor:
            return torch.from_numpy(array).to(device)

        return Batch(
            blocks=move(self.blocks[rows]),
            counts=move(self.counts[rows].toarray()),
            log_size=move(self.log_size[rows]),
            batch_numbers=move(self.batch_numbers[rows]),
            edges=move(subgraph_targets(self.adjacency, rows)) if with_edges else None,
            same_cell=move(rows[:, None] == rows[None, :]) if with_edges else None,
            target=None if target is None else target[move(rows)],
        )
