"""Hop features and counts of all cells: dense in memory, or made from sparse matrices for rows that are asked for.

Dense rows are drawn by index alone. They take 9 bytes a gene and cell at one hop. Sparse rows take longer in each step,
and memory in proportion to the counts that are not zero.
"""

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from ..nn.tag import hop_features
from .preprocessing import GeneScaler, log_expression, sparse_log_expression

_MAX_DENSE_BYTES = 1 << 28  # some 14,000 cells of 2,000 genes; above, making the dense rows takes as long
_MAX_GPU_SHARE = 0.6  # of the free memory of a GPU; the rest is for networks, gradients and activations
_COUNT_DTYPES = (torch.uint8, torch.int16, torch.int32)  # smallest first: most sets need a byte a count
_ROWS_AT_ONCE = 4096


class Features(Protocol):
    """What the networks read and what they are to rebuild, by numbers of cells."""

    scaler: GeneScaler  # what the expression was scaled by

    @property
    def device(self) -> torch.device:
        """Where row numbers are wanted, and rows come from."""

    def hops(self, rows: Tensor) -> Tensor:
        """(n_rows, n_hops + 1, n_genes) float32."""

    def counts(self, rows: Tensor) -> Tensor:
        """(n_rows, n_genes) raw counts, float32."""


def features_of(
    counts: sparse.csr_matrix,
    totals: NDArray[np.floating],
    adjacency: sparse.csr_matrix,
    n_hops: int,
    batch_index: NDArray[np.int64] | None,
    device: torch.device,
) -> Features:
    """Dense features, on the GPU if that is the device, where they fit; else sparse ones in host memory."""
    n_bytes = counts.shape[0] * counts.shape[1] * (4 * (n_hops + 1) + 1)
    kind = DenseFeatures if n_bytes <= _max_dense_bytes(device) else SparseFeatures
    return kind(counts, totals, adjacency, n_hops, batch_index, device)


def _max_dense_bytes(device: torch.device) -> float:
    if device.type != "cuda":
        return _MAX_DENSE_BYTES
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch keeps it for us
    return _MAX_GPU_SHARE * (torch.cuda.mem_get_info(device)[0] + cached)


class DenseFeatures:
    """Tensors of all cells on the training device; a byte a count where that is exact."""

    def __init__(
        self,
        counts: sparse.csr_matrix,
        totals: NDArray[np.floating],
        adjacency: sparse.csr_matrix,
        n_hops: int,
        batch_index: NDArray[np.int64] | None,
        device: torch.device,
    ) -> None:
        x = log_expression(counts, totals)
        self.scaler = GeneScaler.fit(x, batch_index)
        hops = hop_features(self.scaler.transform(x, batch_index), adjacency, n_hops, device)
        self.all_hops, self.all_counts = hops.to(device), _dense(counts).to(device)

    @property
    def device(self) -> torch.device:
        """The training device."""
        return self.all_hops.device

    def hops(self, rows: Tensor) -> Tensor:
        """(n_rows, n_hops + 1, n_genes) float32."""
        return self.all_hops[rows]

    def counts(self, rows: Tensor) -> Tensor:
        """(n_rows, n_genes) raw counts, float32."""
        return self.all_counts[rows].float()


class SparseFeatures:
    """Sparse matrices in host memory. Scaled expression is a row for zero counts, and what other counts add to it."""

    device = torch.device("cpu")

    def __init__(
        self,
        counts: sparse.csr_matrix,
        totals: NDArray[np.floating],
        adjacency: sparse.csr_matrix,
        n_hops: int,
        batch_index: NDArray[np.int64] | None,
        device: torch.device,
    ) -> None:
        del device  # rows are moved there when they are drawn
        self._counts, self._adjacency, self._n_hops = counts, adjacency, n_hops
        x = sparse_log_expression(counts, totals)
        self.scaler = GeneScaler.fit_sparse(x, batch_index)
        self._of_zero, self._added = self.scaler.transform_sparse(x, batch_index)
        batches = np.zeros(len(totals), dtype=np.int64) if batch_index is None else batch_index
        shape = len(totals), len(self._of_zero)
        ones = np.ones(len(totals), dtype=np.float32)
        self._in_batch = sparse.csr_matrix((ones, batches, np.arange(len(totals) + 1)), shape=shape)

    def hops(self, rows: Tensor) -> Tensor:
        """(n_rows, n_hops + 1, n_genes) float32: a hop is linear, so both parts of the expression take it alone."""
        cells = rows.numpy()
        hops = np.empty((len(cells), self._n_hops + 1, self._counts.shape[1]), dtype=np.float32)
        hops[:, 0] = self._added[cells].toarray() + (self._in_batch[cells] @ self._of_zero)
        weights = self._adjacency[cells]  # of the cells that a hop adds up
        for k in range(1, self._n_hops + 1):
            hops[:, k] = (weights @ self._added).toarray() + (weights @ self._in_batch) @ self._of_zero
            weights = weights @ self._adjacency if k < self._n_hops else weights
        return torch.from_numpy(hops)

    def counts(self, rows: Tensor) -> Tensor:
        """(n_rows, n_genes) raw counts, float32."""
        return torch.from_numpy(self._counts[rows.numpy()].toarray().astype(np.float32, copy=False))


def _dense(counts: sparse.csr_matrix) -> Tensor:
    """The counts as a dense tensor, a byte a count where that is exact, so that rows are drawn by index alone."""
    stored = torch.from_numpy(np.asarray(counts.data))
    dtype = next((one for one in _COUNT_DTYPES if torch.equal(stored.to(one).to(stored.dtype), stored)), torch.float32)
    dense = torch.empty(counts.shape, dtype=dtype)
    for start in range(0, counts.shape[0], _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        dense[rows] = torch.from_numpy(counts[rows].toarray())
    return dense
