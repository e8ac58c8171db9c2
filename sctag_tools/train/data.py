"""The cells as training draws them: tensors on the training device where they fit, minibatch by minibatch."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from ..nn.minibatch import ALL_ROWS, Minibatch, RowShare
from ..nn.tag import normalize_adjacency
from .features import features_of
from .preprocessing import size_factors

_ROWS_AT_ONCE = 4096


class TrainingData:
    """Features, size factors and batches of the cells, and the normalized graph.

    ``log_size`` (n_cells,) are log size factors, float32; ``batch_index`` (n_cells,) experimental batches, int64;
    ``adjacency`` (n_cells, n_cells) the normalized graph, CSR, in host memory; ``totals`` (n_cells,) the total counts
    as given, ``gene_sums`` (n_genes,) and ``cell_sums`` (n_cells,) sums of the counts; ``log_mean_counts`` (n_genes,)
    of a cell of size factor one.
    """

    def __init__(
        self,
        counts: sparse.csr_matrix,
        totals: NDArray[np.floating],
        connectivities: sparse.csr_matrix,
        n_hops: int,
        batch_index: NDArray[np.int64] | None = None,
        device: torch.device | None = None,
    ) -> None:
        """Prepare on the CPU, hop features on ``device``."""
        device = torch.device("cpu") if device is None else device
        self.totals = totals
        log_size = np.log(size_factors(totals))
        mean = np.asarray(counts.T @ np.exp(-log_size)).ravel() / len(log_size)  # of each gene at size factor one
        self.log_mean_counts = torch.from_numpy(np.log(np.maximum(mean, 1e-6)).astype(np.float32))
        self.gene_sums = np.asarray(counts.sum(axis=0, dtype=np.float64)).ravel()
        self.cell_sums = np.asarray(counts.sum(axis=1, dtype=np.float32)).ravel()
        self.adjacency = normalize_adjacency(connectivities)
        self.features = features_of(counts, totals, self.adjacency, n_hops, batch_index, device)
        batches = np.zeros(len(totals), np.int64) if batch_index is None else batch_index
        self.log_size = torch.from_numpy(log_size).to(self.device)
        self.batch_index = torch.from_numpy(batches).to(self.device)
        self.n_batches = int(batches.max()) + 1

    def __len__(self) -> int:
        return len(self.totals)

    @property
    def device(self) -> torch.device:
        """Where row numbers are wanted."""
        return self.features.device

    def hop_blocks(self, rows: Tensor | None = None) -> Iterator[Tensor]:
        """Hop features of these cells, by default of all, in blocks of a few thousand."""
        rows = torch.arange(len(self), device=self.device) if rows is None else rows
        return (self.features.hops(block) for block in torch.split(rows, _ROWS_AT_ONCE))

    def minibatches(self, batch_size: int, rng: np.random.Generator, *, paired: bool) -> Iterator[Tensor]:
        """Endless minibatches of row indices, each epoch without replacement, on the device of the data.

        ``paired``: half a minibatch is drawn, the other half are graph neighbors of these cells.
        """
        size = self._n_drawn(batch_size, paired=paired)
        while True:
            order = rng.permutation(len(self))
            rows = torch.from_numpy(order).to(self.device)
            if paired:
                beside = torch.from_numpy(sample_neighbors(self.adjacency, order, rng)).to(self.device)
            for start in range(0, len(order) - size + 1, size):
                cells = slice(start, start + size)
                yield torch.cat([rows[cells], beside[cells]]) if paired else rows[cells]

    def steps_per_epoch(self, batch_size: int, *, paired: bool) -> int:
        """Minibatches until each cell was drawn once (but for a remainder smaller than a minibatch)."""
        return len(self) // self._n_drawn(batch_size, paired=paired)

    def _n_drawn(self, batch_size: int, *, paired: bool) -> int:
        return min(max(batch_size // 2, 1) if paired else batch_size, len(self))

    def minibatch(
        self,
        rows: Tensor,
        device: torch.device,
        cluster_targets: Tensor | None = None,
        *,
        with_edges: bool = True,
        share: RowShare = ALL_ROWS,
    ) -> Minibatch:
        """These rows, or a ``share`` of them, on ``device``; ``cluster_targets`` is (n_cells, K)."""
        edge_targets, same_cell = None, None
        if with_edges:
            cells = rows.cpu().numpy()
            edge_targets = torch.from_numpy(subgraph_targets(self.adjacency, cells)).to(device)
            same_cell = torch.from_numpy(cells[:, None] == cells[None, :]).to(device)
        mine = share.take(rows)
        return Minibatch(
            hops=self.features.hops(mine).to(device),
            counts=self.features.counts(mine).to(device),
            log_size=self.log_size[mine].to(device),
            batch_index=self.batch_index[mine].to(device),
            n_rows=len(rows),
            share=share,
            edge_targets=edge_targets,
            same_cell=same_cell,
            cluster_targets=None if cluster_targets is None else cluster_targets[mine.to(device)],
        )


def sample_neighbors(
    adjacency: sparse.csr_matrix, rows: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """One neighbor for each of ``rows``, with probability in proportion to its edge; an isolated cell gets itself."""
    starts, ends = adjacency.indptr[rows].astype(np.int64), adjacency.indptr[rows + 1].astype(np.int64)
    chosen = rows.copy()
    for position in np.flatnonzero(ends > starts):
        edges = slice(starts[position], ends[position])
        cumulated = np.cumsum(adjacency.data[edges])
        drawn = np.searchsorted(cumulated[:-1], rng.random() * cumulated[-1], side="right")
        chosen[position] = adjacency.indices[edges][drawn]
    return chosen


def subgraph_targets(adjacency: sparse.csr_matrix, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """What the graph decoder is to rebuild: edges among ``rows``, each row scaled to sum to one (or zero)."""
    targets: NDArray[np.float32] = adjacency[rows][:, rows].toarray()
    totals = targets.sum(axis=1, keepdims=True)
    np.divide(targets, totals, out=targets, where=totals > 0)
    return targets
