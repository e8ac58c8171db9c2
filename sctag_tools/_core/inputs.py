"""From raw counts to what the network reads: size factors and scaled log-expression."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse

_TARGET_SUM = 1e4
_CLIP = 10.0
_COLUMNS_AT_ONCE = 256


def size_factors(totals: NDArray[np.floating]) -> NDArray[np.float32]:
    """Each cell's total count over the median cell's; totals are over all genes, (n_cells,), and positive."""
    return np.asarray(totals / np.median(totals), dtype=np.float32)


def scaled_expression(
    counts: sparse.csr_matrix, totals: NDArray[np.floating], batches: NDArray[np.int64] | None = None
) -> NDArray[np.float32]:
    """log1p of counts per 10,000, each gene to zero mean and unit variance, clipped at +-10 (as sc.pp.scale).

    ``counts`` is (n_cells, n_genes) CSR of the chosen genes, ``totals`` (n_cells,) of all genes, ``batches``
    (n_cells,) batch numbers: with them the mean of a gene is zero in each batch. A constant gene becomes zero. Returns
    dense float32 of the same shape.
    """
    x: NDArray[np.float32] = counts.toarray().astype(np.float32, copy=False)
    with np.errstate(invalid="ignore", over="ignore"):  # unchecked counts may hold anything; the loss will tell
        x *= (_TARGET_SUM / totals).astype(np.float32)[:, None]
    np.log1p(x, out=x)
    for batch in [slice(None)] if batches is None else [batches == number for number in np.unique(batches)]:
        x[batch] -= x[batch].mean(axis=0, dtype=np.float64).astype(np.float32)
    for start in range(0, x.shape[1], _COLUMNS_AT_ONCE):  # numpy's std makes a copy in float64
        columns = x[:, start : start + _COLUMNS_AT_ONCE]
        spread = columns.std(axis=0, dtype=np.float64).astype(np.float32)
        columns /= np.where(spread > 1e-6, spread, np.inf)
    np.clip(x, -_CLIP, _CLIP, out=x)
    return x


def canonical_order(counts: sparse.csr_matrix, totals: NDArray[np.floating]) -> NDArray[np.int64]:
    """An order of the cells that depends on their counts alone, (n_cells,) row indices.

    Training in this order makes a run independent of the order that the cells came in. Cells are sorted by their
    total and by a fixed random projection of their counts; only cells with equal counts are tied.
    """
    counts = counts.sorted_indices()
    projection = counts @ np.random.default_rng(0).normal(size=counts.shape[1])
    return np.lexsort((projection, totals)).astype(np.int64)
