"""The cells in the form that training draws from: tensors on the training device where they fit, batch by batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from .graph import hop_blocks, normalise_adjacency, sample_neighbors, subgraph_targets
from .inputs import Scaling, log_expression, size_factors
from .model import Batch
from .share import WHOLE, Share

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from scipy import sparse
    from torch import Tensor

_SHARE_OF_MEMORY = 0.6  # of what is free on a GPU; the rest is for the networks, their gradients and activations
_EXACT = (torch.uint8, torch.int16, torch.int32)  # smallest first: most sets need a byte a count
_ROWS_AT_ONCE = 4096


class CellData:
    """Hop features, raw counts, size factors and batch numbers as tensors, and the normalised graph.

    Attributes
    ----------
    blocks
        (n_cells, n_hops + 1, n_genes) hop features, float32.
    counts
        (n_cells, n_genes) raw counts, in the smallest type that holds them exactly.
    log_size, batch_numbers
        (n_cells,) float32 and int64.
    adjacency
        (n_cells, n_cells) normalised graph, CSR, always in host memory.
    scaling
        What the expression was scaled by.
    """

    def __init__(
        self,
        counts: sparse.csr_matrix,
        totals: NDArray[np.floating],
        weights: sparse.csr_matrix,
        n_hops: int,
        batches: NDArray[np.int64] | None = None,
    ) -> None:
        log_size = np.log(size_factors(totals))
        self.log_mean_counts = _log_mean_counts(counts, log_size)
        self.adjacency = normalise_adjacency(weights)
        x = log_expression(counts, totals)
        self.scaling = Scaling.of(x, batches)
        self.blocks = torch.from_numpy(hop_blocks(self.scaling.apply(x, batches), self.adjacency, n_hops))
        self.counts = _dense(counts)
        self.log_size = torch.from_numpy(log_size)
        self.batch_numbers = torch.from_numpy(np.zeros(len(totals), dtype=np.int64) if batches is None else batches)
        self.n_batches = int(self.batch_numbers.max()) + 1

    def __len__(self) -> int:
        return len(self.blocks)

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.blocks.device

    def settle(self, device: torch.device) -> None:
        """Move the tensors to ``device`` for good, unless they would fill it; then batches are moved one by one."""
        names = ("blocks", "counts", "log_size", "batch_numbers")
        if device.type == "cuda":
            wanted = sum(getattr(self, name).nbytes for name in names)
            unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch keeps it for us
            if wanted > _SHARE_OF_MEMORY * (torch.cuda.mem_get_info(device)[0] + unused):
                return
        for name in names:
            setattr(self, name, getattr(self, name).to(device))

    def batches(self, batch_size: int, rng: np.random.Generator, *, paired: bool) -> Iterator[Tensor]:
        """Endless row indices without replacement; ``paired``, half a batch of them and a graph neighbour of each.

        They lie where the data does, moved an epoch at a time.
        """
        size = self._anchors(batch_size, paired=paired)
        while True:
            order = rng.permutation(len(self))
            rows = torch.from_numpy(order).to(self.device)
            if paired:
                beside = torch.from_numpy(sample_neighbors(self.adjacency, order, rng)).to(self.device)
            for start in range(0, len(order) - size + 1, size):
                cells = slice(start, start + size)
                yield torch.cat([rows[cells], beside[cells]]) if paired else rows[cells]

    def steps_per_epoch(self, batch_size: int, *, paired: bool) -> int:
        """Batches until each cell was drawn once (but for a remainder smaller than a batch)."""
        return len(self) // self._anchors(batch_size, paired=paired)

    def _anchors(self, batch_size: int, *, paired: bool) -> int:
        return min(max(batch_size // 2, 1) if paired else batch_size, len(self))

    def batch(
        self,
        rows: Tensor,
        device: torch.device,
        target: Tensor | None = None,
        *,
        with_edges: bool = True,
        share: Share = WHOLE,
    ) -> Batch:
        """These rows, or a ``share`` of them, on ``device``; ``target`` is the (n_cells, K) target distribution."""
        edges, same_cell = None, None
        if with_edges:
            cells = rows.cpu().numpy()
            edges = torch.from_numpy(subgraph_targets(self.adjacency, cells)).to(device)
            same_cell = torch.from_numpy(cells[:, None] == cells[None, :]).to(device)
        mine = share.of(rows)
        return Batch(
            blocks=self.blocks[mine].to(device),
            counts=self.counts[mine].to(device).float(),
            log_size=self.log_size[mine].to(device),
            batch_numbers=self.batch_numbers[mine].to(device),
            n_rows=len(rows),
            share=share,
            edges=edges,
            same_cell=same_cell,
            target=None if target is None else target[mine.to(device)],
        )


def _log_mean_counts(counts: sparse.csr_matrix, log_size: NDArray[np.float32]) -> Tensor:
    """Log of each gene's mean count at size factor one, (n_genes,)."""
    mean = np.asarray(counts.T @ np.exp(-log_size)).ravel() / len(log_size)
    return torch.from_numpy(np.log(np.maximum(mean, 1e-6)).astype(np.float32))


def _dense(counts: sparse.csr_matrix) -> Tensor:
    """The same as a dense tensor, at a byte a count where that is exact: rows are then drawn by index alone."""
    held = torch.from_numpy(np.asarray(counts.data))
    dtype = next((dtype for dtype in _EXACT if torch.equal(held.to(dtype).to(held.dtype), held)), torch.float32)
    dense = torch.empty(counts.shape, dtype=dtype)
    for start in range(0, counts.shape[0], _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        dense[rows] = torch.from_numpy(counts[rows].toarray())
    return dense
