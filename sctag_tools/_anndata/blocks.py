"""Matrices in memory, on disk or in dask, read a block of rows at a time. A matrix in memory is one block."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

# log1p of anything countable stays below this (log2 of a million is 20); corrected counts of whole cells exceed it.
MAX_LOG = 20.0
_MAX_BLOCK_ENTRIES = 1 << 26  # zeros included


def is_in_memory(matrix: Any) -> bool:
    """Whether a matrix is an array or a sparse matrix, rather than one on disk or in dask."""
    from anndata.abc import CSCDataset, CSRDataset

    elsewhere = type(matrix).__module__.partition(".")[0] in {"h5py", "zarr", "dask"}
    return not (elsewhere or isinstance(matrix, (CSRDataset, CSCDataset)))


def row_blocks(matrix: Any) -> Iterator[Any]:
    """The rows in order, as arrays or sparse matrices in memory; ValueError for what is damaged or masked."""
    for block in _row_blocks(matrix):
        check_structure(block)
        yield block


def check_structure(block: Any) -> None:
    """Raise ValueError for a sparse matrix with impossible indices, which would end the interpreter, or a mask."""
    if isinstance(block, np.ma.MaskedArray):
        msg = "A matrix of adata is a masked array, whose mask would be lost; fill it first: `matrix.filled(0)`."
        raise ValueError(msg)
    if not sparse.issparse(block):
        return
    try:
        block.check_format(full_check=True)
    except ValueError as error:
        msg = f"A sparse matrix of adata is damaged ({error}); read or make it again."
        raise ValueError(msg) from error


def _row_blocks(matrix: Any) -> Iterator[Any]:
    from anndata.abc import CSCDataset

    if is_in_memory(matrix):
        yield matrix
    elif isinstance(matrix, CSCDataset):  # its rows lie scattered over the whole file
        yield matrix.to_memory()
    else:
        n_rows, n_columns = matrix.shape
        step = max(1, _MAX_BLOCK_ENTRIES // max(1, n_columns))
        for start in range(0, n_rows, step):
            block = matrix[start : start + step]
            yield block.compute() if hasattr(block, "compute") else block


def whole(matrix: Any) -> Any:
    """All of a matrix, in memory."""
    blocks = list(row_blocks(matrix))
    if len(blocks) == 1:
        return blocks[0]
    return sparse.vstack(blocks, format="csr") if sparse.issparse(blocks[0]) else np.concatenate(blocks)


def columns_and_totals(matrix: Any, columns: NDArray[np.integer]) -> tuple[sparse.csr_matrix, NDArray[np.float64]]:
    """These columns, (n_obs, n_columns) CSR float32, and the sum of each row over all columns."""
    chosen, totals = [], []
    for block in row_blocks(matrix):
        rows = sparse.csr_matrix(block, dtype=np.float32)
        chosen.append(rows[:, columns])
        totals.append(np.asarray(rows.sum(axis=1, dtype=np.float64)).ravel())
    return chosen[0] if len(chosen) == 1 else sparse.vstack(chosen, format="csr"), np.concatenate(totals)


def place_columns(x: sparse.csr_matrix, columns: NDArray[np.integer], n_columns: int) -> sparse.csr_matrix:
    """The columns of ``x`` in these places of a matrix of ``n_columns``."""
    return sparse.csr_matrix((x.data, columns[x.indices], x.indptr), shape=(x.shape[0], n_columns))


@dataclass(frozen=True)
class Values:
    """Properties of the stored values of a matrix; implicit zeros do not matter."""

    finite: bool
    least: float
    largest: float
    whole: bool

    @classmethod
    def from_matrix(cls, matrix: Any) -> Self:
        """Read all of the matrix."""
        finite, least, largest, whole = True, 0.0, 0.0, True
        for block in row_blocks(matrix):
            stored = np.ravel(block.data if sparse.issparse(block) else np.asarray(block))
            if stored.dtype.kind not in "bui":
                finite = finite and bool(np.isfinite(stored).all())
                whole = whole and finite and bool((stored == np.floor(stored)).all())
            least, largest = min(least, float(stored.min(initial=0))), max(largest, float(stored.max(initial=0)))
        return cls(finite, least, largest, whole)

    @property
    def are_counts(self) -> bool:
        """Whether all are non-negative integers, whatever the dtype."""
        return self.whole and self.least >= 0

    @property
    def are_unlogged(self) -> bool:
        """Whether they are raw or corrected counts: neither logged nor scaled."""
        return self.are_counts or (self.finite and self.least >= 0 and self.largest >= MAX_LOG)
