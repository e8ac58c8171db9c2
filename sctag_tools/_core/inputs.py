"""From raw counts to what the network reads: size factors and scaled log-expression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from scipy import sparse

_TARGET_SUM = 1e4
_CLIP = 10.0
_COLUMNS_AT_ONCE = 256


def size_factors(totals: NDArray[np.floating]) -> NDArray[np.float32]:
    """Each cell's total count over the median cell's; totals are over all genes, (n_cells,), and positive."""
    return np.asarray(totals / np.median(totals), dtype=np.float32)


@dataclass(frozen=True)
class Scaling:
    """Each gene's mean and spread among the training cells: what brings any cell to the scale that networks read."""

    means: NDArray[np.float32]  # (n_batches + 1, n_genes); the last row is of all cells, for those of unknown batch
    spread: NDArray[np.float32]  # (n_genes,) standard deviation, infinite for a constant gene

    @classmethod
    def of(cls, x: NDArray[np.float32], batches: NDArray[np.int64] | None = None) -> Scaling:
        """Learnt from log-expression (n_cells, n_genes); ``batches`` are (n_cells,) batch numbers from 0."""
        members = [slice(None)] if batches is None else [batches == number for number in np.unique(batches)]
        means = np.stack([x[rows].mean(axis=0, dtype=np.float64) for rows in (*members, slice(None))])
        means = means.astype(np.float32)
        spread = np.empty(x.shape[1], dtype=np.float32)
        for columns in _column_chunks(x):  # numpy's std makes a copy in float64
            spread[columns] = (x[:, columns] - _of_cells(means[:, columns], batches)).std(axis=0, dtype=np.float64)
        return cls(means, np.where(spread > 1e-6, spread, np.float32(np.inf)))

    def apply(self, x: NDArray[np.float32], batches: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Scale log-expression in place: zero mean in each batch, unit variance, clipped at +-10 (as sc.pp.scale).

        Batch -1 is an unknown one. A constant gene becomes zero.
        """
        for columns in _column_chunks(x):
            x[:, columns] -= _of_cells(self.means[:, columns], batches)
            x[:, columns] /= self.spread[columns]
        return np.clip(x, -_CLIP, _CLIP, out=x)


def log_expression(counts: sparse.csr_matrix, totals: NDArray[np.floating]) -> NDArray[np.float32]:
    """log1p of counts per 10,000, dense float32.

    ``counts`` is (n_cells, n_genes) CSR of the chosen genes, ``totals`` (n_cells,) of all genes.
    """
    x: NDArray[np.float32] = counts.toarray().astype(np.float32, copy=False)
    with np.errstate(invalid="ignore", over="ignore"):  # unchecked counts may hold anything; the loss will tell
        x *= (_TARGET_SUM / totals).astype(np.float32)[:, None]
    return np.log1p(x, out=x)


def _column_chunks(x: NDArray[np.float32]) -> Iterator[slice]:
    return (slice(start, start + _COLUMNS_AT_ONCE) for start in range(0, x.shape[1], _COLUMNS_AT_ONCE))


def _of_cells(means: NDArray[np.float32], batches: NDArray[np.int64] | None) -> NDArray[np.float32]:
    return means[-1] if batches is None else means[batches]


def canonical_order(counts: sparse.csr_matrix, totals: NDArray[np.floating]) -> NDArray[np.int64]:
    """An order of the cells that depends on their counts alone, (n_cells,) row indices.

    Training in this order makes a run independent of the order that the cells came in. Cells are sorted by their
    total and by a fixed random projection of their counts; only cells with equal counts are tied.
    """
    counts = counts.sorted_indices()
    projection = counts @ np.random.default_rng(0).normal(size=counts.shape[1])
    return np.lexsort((projection, totals)).astype(np.int64)
