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
    """Hop features (n_cells, n_hops + 1, n_genes), raw counts, size factors and the normalised graph."""

    def __init__(
        self, counts: sparse.csr_matrix, totals: NDArray[np.floating], weights: sparse.csr_matrix, n_hops: int
    ) -> None:
        self.counts = counts
        self.log_size = np.log(size_factors(totals))
        self.adjacency = normalise_adjacency(weights)
        self.blocks = hop_blocks(scaled_expression(counts, totals), self.adjacency, n_hops)

    def __len__(self) -> int:
        return len(self.blocks)

    def log_mean_counts(self) -> Tensor:
        """Log of each gene's mean count at size factor one, (n_genes,)."""
        scaling = np.exp(-self.log_size)
        mean = np.asarray(self.counts.T @ scaling).ravel() / len(self)
        return torch.from_numpy(np.log(np.maximum(mean, 1e-6)).astype(np.float32))

    def batches(self, batch_size: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
        """Endless row indices: half a batch of cells without replacement, and a graph neighbour of each."""
        half = min(max(batch_size // 2, 1), len(self))
        while True:
            order = rng.permutation(len(self))
            for start in range(0, len(order) - half + 1, half):
                cells = order[start : start + half]
                yield np.concatenate([cells, sample_neighbors(self.adjacency, cells, rng)])

    def steps_per_epoch(self, batch_size: int) -> int:
        """Batches until each cell was drawn once (but for a remainder smaller than half a batch)."""
        return len(self) // min(max(batch_size // 2, 1), len(self))

    def batch(self, rows: NDArray[np.int64], device: torch.device, target: Tensor | None = None) -> Batch:
        """These rows as tensors on ``device``; ``target`` is the (n_cells, K) target distribution."""

        def move(array: NDArray[Any]) -> Tensor:
            return torch.from_numpy(array).to(device)

        return Batch(
            blocks=move(self.blocks[rows]),
            counts=move(self.counts[rows].toarray()),
            log_size=move(self.log_size[rows]),
            edges=move(subgraph_targets(self.adjacency, rows)),
            same_cell=move(rows[:, None] == rows[None, :]),
            target=None if target is None else target[move(rows)],
        )
