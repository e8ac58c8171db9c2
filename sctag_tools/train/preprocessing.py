"""From raw counts to what the networks read: size factors and scaled log-expression."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

_TARGET_SUM = 1e4
_MAX_Z_SCORE = 10.0
_MIN_STD = 1e-6
_COLUMNS_AT_ONCE = 256
_ROWS_AT_ONCE = 4096


def size_factors(totals: NDArray[np.floating]) -> NDArray[np.float32]:
    """Total count of each cell over that of the median cell; (n_cells,) totals are over all genes, and positive."""
    return np.asarray(totals / np.median(totals), dtype=np.float32)


@dataclass(frozen=True)
class GeneScaler:
    """Mean and standard deviation of each gene in the training cells; brings any cell to the networks' scale."""

    means: NDArray[np.float32]  # (n_batches + 1, n_genes); the last row is over all cells, for unknown batches
    std: NDArray[np.float32]  # (n_genes,) within batches, infinite for a constant gene

    @classmethod
    def fit(cls, x: NDArray[np.float32], batch_index: NDArray[np.int64] | None = None) -> Self:
        """From log-expression (n_cells, n_genes) and the batch (n_cells,) of each cell."""
        members = [slice(None)] if batch_index is None else [batch_index == one for one in np.unique(batch_index)]
        means = np.stack([x[rows].mean(axis=0, dtype=np.float64) for rows in (*members, slice(None))])
        means = means.astype(np.float32)
        std = np.empty(x.shape[1], dtype=np.float32)
        for columns in _column_chunks(x):  # numpy's std makes a copy in float64
            std[columns] = (x[:, columns] - _cell_means(means[:, columns], batch_index)).std(axis=0, dtype=np.float64)
        return cls(means, np.where(std > _MIN_STD, std, np.float32(np.inf)))

    @classmethod
    def fit_sparse(cls, x: sparse.csr_matrix, batch_index: NDArray[np.int64] | None = None) -> Self:
        """The same from sparse log-expression, up to rounding."""
        members = [slice(None)] if batch_index is None else [batch_index == one for one in np.unique(batch_index)]
        sums, squares, sizes = [], [], []
        for rows in members:
            part = x[rows].astype(np.float64)
            sums.append(np.asarray(part.sum(axis=0)).ravel())
            squares.append(np.asarray(part.multiply(part).sum(axis=0)).ravel())
            sizes.append(part.shape[0])
        means = np.stack(sums) / np.array(sizes)[:, None]
        within = np.stack(squares).sum(axis=0) - (np.array(sizes)[:, None] * means**2).sum(axis=0)
        std = np.sqrt(np.maximum(within, 0) / x.shape[0]).astype(np.float32)
        overall = np.stack(sums).sum(axis=0) / x.shape[0]
        return cls(np.vstack([means, overall]).astype(np.float32), np.where(std > _MIN_STD, std, np.float32(np.inf)))

    def transform_sparse(
        self, x: sparse.csr_matrix, batch_index: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.float32], sparse.csr_matrix]:
        """What :meth:`transform` gives, in two parts that add up to it.

        (n_batches, n_genes) for counts of zero in each batch, and (n_cells, n_genes) what the others have above that,
        written over ``x``.
        """
        of_zero = np.clip(-self.means[:-1] / self.std, -_MAX_Z_SCORE, _MAX_Z_SCORE)
        for start in range(0, x.shape[0], _ROWS_AT_ONCE):
            stored = slice(x.indptr[start], x.indptr[min(start + _ROWS_AT_ONCE, x.shape[0])])
            genes, of_row = x.indices[stored], np.diff(x.indptr[start : start + _ROWS_AT_ONCE + 1])
            batches = np.zeros(len(of_row), np.int64) if batch_index is None else batch_index[start:][: len(of_row)]
            batch = np.repeat(batches, of_row)
            z = (x.data[stored] - self.means[batch, genes]) / self.std[genes]
            x.data[stored] = np.clip(z, -_MAX_Z_SCORE, _MAX_Z_SCORE) - of_zero[batch, genes]
        return of_zero, x

    def transform(self, x: NDArray[np.float32], batch_index: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Scale log-expression in place: zero mean in each batch, unit variance, clipped at +-10 (as sc.pp.scale).

        Batch -1 is an unknown one. A constant gene becomes zero.
        """
        for columns in _column_chunks(x):
            x[:, columns] -= _cell_means(self.means[:, columns], batch_index)
            x[:, columns] /= self.std[columns]
        return np.clip(x, -_MAX_Z_SCORE, _MAX_Z_SCORE, out=x)


def log_expression(counts: sparse.csr_matrix, totals: NDArray[np.floating]) -> NDArray[np.float32]:
    """log1p of counts per 10,000, dense float32.

    ``counts`` is (n_cells, n_genes) CSR of the chosen genes, ``totals`` (n_cells,) of all genes.
    """
    x: NDArray[np.float32] = counts.toarray().astype(np.float32, copy=False)
    with np.errstate(invalid="ignore", over="ignore"):  # unchecked counts may hold anything; the loss will tell
        x *= (_TARGET_SUM / totals).astype(np.float32)[:, None]
    return np.log1p(x, out=x)


def sparse_log_expression(counts: sparse.csr_matrix, totals: NDArray[np.floating]) -> sparse.csr_matrix:
    """The same, sparse."""
    x = sparse.csr_matrix(counts, dtype=np.float32, copy=True)
    with np.errstate(invalid="ignore", over="ignore"):
        x.data *= np.repeat((_TARGET_SUM / totals).astype(np.float32), np.diff(x.indptr))
        np.log1p(x.data, out=x.data)
    return x


def canonical_order(counts: sparse.csr_matrix, totals: NDArray[np.floating]) -> NDArray[np.int64]:
    """An order of the cells that depends on their counts alone, (n_cells,) row indices.

    Training in this order makes a run independent of the order of the rows. Cells are sorted by their total, then by a
    fixed random projection of their counts; only cells with equal counts are tied.
    """
    counts = counts.sorted_indices()
    projection = counts @ np.random.default_rng(0).normal(size=counts.shape[1])
    return np.lexsort((projection, totals)).astype(np.int64)


def _column_chunks(x: NDArray[np.float32]) -> Iterator[slice]:
    return (slice(start, start + _COLUMNS_AT_ONCE) for start in range(0, x.shape[1], _COLUMNS_AT_ONCE))


def _cell_means(means: NDArray[np.float32], batch_index: NDArray[np.int64] | None) -> NDArray[np.float32]:
    return means[-1] if batch_index is None else means[batch_index]
