"""What the values of single cells look like, so that a set of two kinds is noticed."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from .blocks import MAX_LOG, row_blocks

_NEAR = 0.02  # of a whole number; values that have nothing to do with one are as near in 4 % of the cases
_ROUNDING = 1e-5  # relative, of float32 that was logged
_MORE = 1.5
_LARGEST = 1e6
_ENOUGH = 5  # values of a cell that are not the least one
_NEARLY_ALL = 0.95


@dataclass(frozen=True)
class CellKinds:
    """What the values of each cell look like, where they tell."""

    counts: NDArray[np.bool_]  # (n_obs,) whole numbers
    logged: NDArray[np.bool_]  # (n_obs,) log1p of multiples of one number: counts that were scaled, then logged
    scaled: NDArray[np.bool_]  # (n_obs,) multiples of one fraction: counts that were brought to a total

    @classmethod
    def from_matrix(cls, matrix: Any) -> Self:
        """Read all of the matrix, whose values are finite and not negative."""
        parts = [_kinds(sparse.csr_matrix(block, dtype=np.float64)) for block in row_blocks(matrix)]
        return cls(*(np.concatenate(each) for each in zip(*parts, strict=True)))


def _kinds(rows: sparse.csr_matrix) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    rows.eliminate_zeros()
    is_whole = _share(rows, rows.data == np.floor(rows.data)) == 1
    may_be_logged = _share(rows, rows.data < MAX_LOG) == 1
    logged = may_be_logged & _are_multiples(rows, np.expm1(np.minimum(rows.data, MAX_LOG)))
    return is_whole, logged & ~is_whole, _are_multiples(rows, rows.data) & ~is_whole


def _are_multiples(rows: sparse.csr_matrix, values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether nearly all values of a row are multiples of the least, and enough of them are not the least itself."""
    least = np.full(rows.shape[0], np.inf)
    filled = np.flatnonzero(np.diff(rows.indptr))
    if len(filled):
        least[filled] = np.minimum.reduceat(values, rows.indptr[filled])
    with np.errstate(over="ignore"):
        times = np.minimum(values / np.repeat(least, np.diff(rows.indptr)), _LARGEST)
    near = np.abs(times - np.round(times)) < _NEAR + _ROUNDING * times
    others = _share(rows, times > _MORE) * np.diff(rows.indptr)
    return np.asarray((_share(rows, near) > _NEARLY_ALL) & (others >= _ENOUGH), dtype=bool)


def _share(rows: sparse.csr_matrix, holds: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(n_rows,) share of the stored values of a row for which it holds, 1 for a row without any."""
    of_row = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
    n = np.bincount(of_row, minlength=rows.shape[0])
    return np.where(n == 0, 1.0, np.bincount(of_row, holds, minlength=rows.shape[0]) / np.maximum(n, 1))
