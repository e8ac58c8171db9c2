"""Which matrix of an AnnData holds raw counts, and whether it does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from scipy import sparse

from .. import _logging as logg
from .._checks import AdvisedError, check_flag
from .blocks import MAX_LOG, Values, columns_and_totals, is_in_memory, row_blocks

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

_MIN_SHARE_OF_LOGGED = 0.05  # of the cells
# What tells the values of a cell:
_NEAR = 0.02  # of a whole number; values that have nothing to do with one are as near in 4 % of the cases
_ROUNDING = 1e-5  # relative, of float32 that was logged
_MORE = 1.5
_LARGEST = 1e6
_MOSTLY = 0.5  # reads that several genes share are halves and thirds among whole counts
_CELLS_AT_ONCE = 4096
_ENOUGH = 5  # values of a cell that are not the least one
_NEARLY_ALL = 0.95


def find_counts(adata: AnnData, layer: str | None, *, check_values: bool) -> tuple[Any, str]:
    """The matrix of raw counts, wherever it lies, and its name ("X" or that of the layer).

    The given layer; else X if it holds counts; else ``layers["counts"]`` if there is one; else X, whose fractions may
    be corrected counts. Raises ValueError for anything that no count likelihood can be fitted to.
    """
    check_flag("check_values", check_values)
    matrix, name = _choose_matrix(adata, layer)
    if check_values:
        _check_counts(adata, matrix, name)
    if name != (layer or "X"):
        logg.info(f"    using the raw counts in adata.layers[{name!r}], since adata.X holds none")
    return matrix, name


def counts_in_memory(
    adata: AnnData, layer: str | None, function: str, *, check_values: bool
) -> tuple[sparse.csr_matrix, str]:
    """The same as CSR float32; NotImplementedError unless it is in memory, ValueError for cells without counts."""
    if not all(matrix is None or is_in_memory(matrix) for matrix in (adata.X, *adata.layers.values())):
        msg = f"{function} reads all cells in memory; call `adata = adata.to_memory()` first."
        raise NotImplementedError(msg)
    matrix, name = find_counts(adata, layer, check_values=check_values)
    counts = sparse.csr_matrix(matrix, dtype=np.float32)
    check_totals(np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel())
    return counts, name


def _choose_matrix(adata: AnnData, layer: str | None) -> tuple[Any, str]:
    if layer is not None:
        if layer not in adata.layers:
            msg = f"layer={layer!r} is not in adata.layers; there are {list(adata.layers)}."
            raise KeyError(msg)
        return adata.layers[layer], layer
    if "counts" in adata.layers and (adata.X is None or not Values.from_matrix(adata.X).are_counts):
        return adata.layers["counts"], "counts"
    if adata.X is None:
        msg = "adata.X is empty; name the layer that holds raw counts: `layer=...`."
        raise ValueError(msg)
    return adata.X, "X"


def _check_counts(adata: AnnData, matrix: object, name: str) -> None:
    where = "adata.X" if name == "X" else f"adata.layers[{name!r}]"
    values = Values.from_matrix(matrix)
    if not values.finite:
        problem = f"{where} holds NaN or infinite values, raw counts are needed."
        if _has_nan(matrix):
            problem += " If data sets with other genes were joined: `anndata.concat(..., fill_value=0)`."
        raise _no_counts(adata, problem)
    if values.least < 0:
        raise _no_counts(adata, f"{where} holds negative values, raw counts are needed.")
    if values.are_counts:
        return
    is_logged = name == "X" and "log1p" in adata.uns
    if is_logged or not values.are_unlogged:
        raise _no_counts(adata, f"{where} looks log-normalized, raw counts are needed.", may_skip=True)
    _check_cells(adata, matrix, where)
    logg.warn(f"{where} holds non-integer values; they are taken as corrected counts (SoupX, CellBender, RSEM).")


def _has_nan(matrix: object) -> bool:
    return any(bool(np.isnan(block.data if sparse.issparse(block) else block).any()) for block in row_blocks(matrix))


def _check_cells(adata: AnnData, matrix: object, where: str) -> None:
    """Refuse what no corrected counts are: cells of two kinds, or cells that were brought to one total."""
    kinds = CellKinds.from_matrix(matrix)
    n_logged, n_counts, n = int(kinds.logged.sum()), int(kinds.counts.sum()), adata.n_obs
    if n_logged > _MIN_SHARE_OF_LOGGED * n:
        problem = (
            f"{n_logged} of {n} cells of {where} look log-normalized and {n_counts} hold counts, as if two data sets "
            "had been joined; raw counts of all cells are needed."
        )
        raise _no_counts(adata, problem, may_skip=True)
    if kinds.scaled.sum() > n / 2:
        problem = (
            f"{where} looks normalized without a logarithm: the values of a cell are multiples of one fraction. Raw "
            "counts are needed."
        )
        raise _no_counts(adata, problem, may_skip=True)


def _no_counts(adata: AnnData, problem: str, *, may_skip: bool = False) -> AdvisedError:
    """The error for values that no count likelihood can be fitted to, with the way to where the counts are."""
    if adata.raw is not None and Values.from_matrix(adata.raw.X).are_counts:
        problem = f"{problem} adata.raw holds counts of the same cells:"
        python = "`adata = adata.raw.to_adata()` takes them."
        command = "in Python, `adata.raw.to_adata().write_h5ad('counts.h5ad')` writes a file of them."
    else:
        keep = "adata.layers['counts'] = adata.X.copy()"
        advice = f"Keep the raw counts before normalizing, `{keep}`, or name their layer with"
        python, command = f"{advice} `layer=`.", f"{advice} `--layer`."
    if may_skip:
        python += " `check_values=False` skips this check."
        command += " `--no-check-values` skips this check."
    return AdvisedError(problem, python, command)


def check_totals(totals: NDArray[np.float64], adata: AnnData | None = None, source: str = "X") -> None:
    """Raise ValueError if the total count (n_obs,) of a cell is zero, for it cannot be clustered.

    If they are from a layer of ``adata``, ``source``, and X holds something for such a cell, the layer lacks cells.
    """
    empty = np.flatnonzero(totals <= 0)
    if len(empty) and adata is not None and source != "X" and adata.X is not None:
        _, in_x = columns_and_totals(adata.X, np.arange(0))
        if (in_x[empty] != 0).any():
            msg = (
                f"adata.layers[{source!r}] holds nothing for {len(empty)} of {len(totals)} cells (the first is row "
                f"{empty[0]}), though adata.X does, as if it had been in one of two joined data sets only. Give both "
                "sets the layer before they are joined."
            )
            raise ValueError(msg)
    if len(empty):
        msg = (
            f"{len(empty)} cells have no counts (the first is row {empty[0]}); "
            "run `sc.pp.filter_cells(adata, min_counts=1)` on the raw counts first."
        )
        raise ValueError(msg)


@dataclass(frozen=True)
class CellKinds:
    """What the values of each cell look like, where they tell."""

    counts: NDArray[np.bool_]  # (n_obs,) whole numbers
    logged: NDArray[np.bool_]  # (n_obs,) log1p of multiples of one number: counts that were scaled, then logged
    scaled: NDArray[np.bool_]  # (n_obs,) multiples of one fraction: counts that were brought to a total

    @classmethod
    def from_matrix(cls, matrix: Any) -> Self:
        """Read all of the matrix, whose values are finite and not negative."""
        parts = [
            _kinds(sparse.csr_matrix(block[start : start + _CELLS_AT_ONCE], dtype=np.float64))
            for block in map(_by_rows, row_blocks(matrix))
            for start in range(0, block.shape[0], _CELLS_AT_ONCE)
        ]
        return cls(*(np.concatenate(each) for each in zip(*parts, strict=True)))


def _by_rows(block: Any) -> Any:
    return sparse.csr_matrix(block) if sparse.issparse(block) else block


def _kinds(rows: sparse.csr_matrix) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    rows.eliminate_zeros()
    whole = _share(rows, rows.data == np.floor(rows.data))
    is_whole = whole == 1
    may_be_logged = _share(rows, rows.data < MAX_LOG) == 1
    logged = may_be_logged & _are_multiples(rows, np.expm1(np.minimum(rows.data, MAX_LOG)))
    return is_whole, logged & ~is_whole, _are_multiples(rows, rows.data) & (whole < _MOSTLY)


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
