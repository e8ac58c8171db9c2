"""Reading an AnnData: which counts, which genes, and what cannot be used; the same rules for every function."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy import sparse

from . import _logging as logg
from ._errors import AdvisedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray


class Default(Enum):
    """Stands for an argument that was not given where None has a meaning of its own."""

    token = 0

    def __repr__(self) -> str:
        return "default"


DEFAULT: Final = Default.token

# log1p of anything countable stays below this (log2 of a million is 20); corrected counts of whole cells exceed it.
_LOG_CEILING = 20.0
_MANY_GENES = 5_000
_KEEP_COUNTS = "adata.layers['counts'] = adata.X.copy()"


def require_in_memory(adata: AnnData, function: str) -> None:
    """Raise NotImplementedError for backed or dask-backed data, naming the call that helps."""
    if adata.isbacked:
        msg = f"{function} reads cells in memory; call `adata = adata.to_memory()` first."
        raise NotImplementedError(msg)
    if any(type(matrix).__module__.startswith("dask") for matrix in (adata.X, *adata.layers.values())):
        msg = f"{function} does not read dask arrays yet; call `adata = adata.to_memory()` first."
        raise NotImplementedError(msg)


def require_anndata(adata: object, function: str) -> None:
    """Raise TypeError unless ``adata`` is an AnnData."""
    from anndata import AnnData

    if not isinstance(adata, AnnData):
        msg = f"{function} needs an AnnData, got {type(adata).__name__}; a MuData's modality is `mdata['rna']`."
        raise TypeError(msg)


def working_copy(adata: AnnData, *, copy: bool) -> AnnData:
    """The object that results are written to: a copy, or ``adata`` itself (said if it is a view)."""
    if copy:
        return adata.copy()
    if adata.is_view:
        msg = "Received a view of an AnnData; it becomes an actual copy when the results are written."
        logg.warn(msg)
    return adata


@contextmanager
def writing() -> Iterator[None]:
    """Silence anndata's warning that a view becomes a copy: :func:`working_copy` has said so."""
    from anndata import ImplicitModificationWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImplicitModificationWarning)
        yield


def select_genes(adata: AnnData, mask_var: NDArray[np.bool_] | str | Default | None) -> tuple[NDArray[np.bool_], str]:
    """Boolean mask over ``var_names`` and its name for the record, after scanpy's ``mask_var``."""
    if mask_var is DEFAULT:
        if "highly_variable" not in adata.var:
            if adata.n_vars > _MANY_GENES:
                msg = (
                    f"All {adata.n_vars} genes are used, which is slow and noisy; "
                    "run `sc.pp.highly_variable_genes(adata, n_top_genes=2000)` first, or pass `mask_var=None`."
                )
                logg.warn(msg)
            return np.ones(adata.n_vars, dtype=bool), "all"
        mask_var = "highly_variable"
    if mask_var is None:
        return np.ones(adata.n_vars, dtype=bool), "all"
    if isinstance(mask_var, str):
        if mask_var not in adata.var:
            msg = f"mask_var={mask_var!r} is no column of adata.var; there are {list(adata.var.columns)}."
            raise ValueError(msg)
        mask, name = adata.var[mask_var].to_numpy(), mask_var
    else:
        mask, name = np.asarray(mask_var), "array"
    return checked_mask(mask, name, adata.n_vars), name


def checked_mask(mask: NDArray[np.bool_], name: str, n_vars: int) -> NDArray[np.bool_]:
    """The mask; ValueError unless it is boolean, of this length, and selects something."""
    if mask.dtype != bool:
        msg = f"The gene mask {name!r} must be boolean, got {mask.dtype}."
        raise ValueError(msg)
    if mask.shape != (n_vars,):
        msg = f"The gene mask has shape {mask.shape}, but adata has {n_vars} genes."
        raise ValueError(msg)
    if not mask.any():
        msg = f"The gene mask {name!r} selects no gene."
        raise ValueError(msg)
    return mask


def values(matrix: Any) -> NDArray[np.floating]:
    """The stored values of a dense or sparse matrix as a flat array; implicit zeros are left out."""
    return np.ravel(matrix.data if sparse.issparse(matrix) else np.asarray(matrix))


def holds_counts(matrix: Any) -> bool:
    """Whether all values are non-negative integers, whatever the dtype."""
    stored = values(matrix)
    if stored.dtype.kind in "bui":
        return stored.dtype.kind != "i" or not (stored < 0).any()
    return bool(np.isfinite(stored).all() and (stored >= 0).all() and (stored == np.floor(stored)).all())


def are_unlogged(matrix: Any) -> bool:
    """Whether the values are counts as they were read, or corrected ones: not logged, not scaled."""
    if holds_counts(matrix):
        return True
    stored = values(matrix)
    return bool(np.isfinite(stored).all() and (stored >= 0).all() and stored.max(initial=0) >= _LOG_CEILING)


def find_counts(adata: AnnData, layer: str | None, *, check_values: bool) -> tuple[sparse.csr_matrix, str]:
    """Raw counts as (n_obs, n_vars) CSR float32, and where they were found ("X" or the layer's name).

    The given layer; else X if it holds counts; else ``layers["counts"]`` if there is one; else X, whose fractions may
    be corrected counts. Raises ValueError for anything that no count likelihood can be fitted to.
    """
    matrix, name = _choose_matrix(adata, layer)
    if check_values:
        _check_counts(adata, matrix, name)
    if name != (layer or "X"):
        logg.info(f"    using the raw counts in adata.layers[{name!r}], since adata.X holds none")
    return sparse.csr_matrix(matrix, dtype=np.float32), name


def _choose_matrix(adata: AnnData, layer: str | None) -> tuple[object, str]:
    if layer is not None:
        if layer not in adata.layers:
            msg = f"layer={layer!r} is not in adata.layers; there are {list(adata.layers)}."
            raise KeyError(msg)
        return adata.layers[layer], layer
    if "counts" in adata.layers and (adata.X is None or not holds_counts(adata.X)):
        return adata.layers["counts"], "counts"
    if adata.X is None:
        msg = "adata.X is empty; name the layer that holds raw counts: `layer=...`."
        raise ValueError(msg)
    return adata.X, "X"


def _check_counts(adata: AnnData, matrix: object, name: str) -> None:
    where = "adata.X" if name == "X" else f"adata.layers[{name!r}]"
    stored = values(matrix)
    if not np.isfinite(stored).all():
        raise _no_counts(adata, f"{where} holds NaN or infinite values, raw counts are needed.")
    if (stored < 0).any():
        raise _no_counts(adata, f"{where} holds negative values, raw counts are needed.")
    if holds_counts(matrix):
        return
    is_logged = name == "X" and "log1p" in adata.uns
    if is_logged or not are_unlogged(matrix):
        raise _no_counts(adata, f"{where} looks log-normalised, raw counts are needed.", may_skip=True)
    msg = f"{where} holds non-integer values; they are taken as corrected counts (SoupX, CellBender, RSEM)."
    logg.warn(msg)


def _no_counts(adata: AnnData, problem: str, *, may_skip: bool = False) -> AdvisedError:
    """The error for values that no count likelihood can be fitted to, with the way to where the counts are."""
    if adata.raw is not None and holds_counts(adata.raw.X):
        problem = f"{problem} adata.raw holds counts of the same cells:"
        call = "adata.raw.to_adata()"
        command = f"in Python, `{call}.write_h5ad('counts.h5ad')` writes a file of them."
        return _advised(problem, f"`adata = {call}` takes them.", command, may_skip=may_skip)
    advice = f"Keep the raw counts before normalising, `{_KEEP_COUNTS}`, or name their layer with"
    return _advised(problem, f"{advice} `layer=`.", f"{advice} `--layer`.", may_skip=may_skip)


def _advised(problem: str, python: str, command: str, *, may_skip: bool) -> AdvisedError:
    if may_skip:
        python += " `check_values=False` skips this check."
        command += " `--no-check-values` skips this check."
    return AdvisedError(problem, python, command)


def representation_of(adata: AnnData, name: str) -> NDArray[np.floating]:
    """``adata.X`` or an entry of ``adata.obsm``, dense (n_obs, d); ValueError unless all of it is finite."""
    stored = adata.X if name == "X" else adata.obsm[name]
    x = stored.toarray() if sparse.issparse(stored) else np.asarray(stored)
    if x.ndim != 2 or not np.isfinite(x).all():
        msg = f"{name!r} holds NaN or infinite values; recompute it, or name another representation with `use_rep=`."
        raise ValueError(msg)
    return x


def is_result(entry: object) -> bool:
    """Whether an entry of ``adata.uns`` is what a run, or a mapping, leaves there."""
    return isinstance(entry, Mapping) and "params" in entry and not {"history", "mapped_to"}.isdisjoint(entry)


def no_result(adata: AnnData, key: str) -> KeyError:
    """The error for a result that is not there, with those that are."""
    held = [name for name in adata.uns if is_result(adata.uns[name])]
    advice = f"There are {held}; name one with `key=`" if held else "Run `sctag.tl.sctag(adata)` first"
    return KeyError(f"There is no scTAG result {key!r} in adata. {advice}.")


def require_result(adata: AnnData, key: str) -> None:
    """Raise KeyError unless a result of this name is in ``adata``."""
    if key not in adata.uns or f"X_{key}" not in adata.obsm:
        raise no_result(adata, key)


def require_run(adata: AnnData, key: str) -> None:
    """The same, and ValueError if the result came from a reference, not from a run on these cells."""
    require_result(adata, key)
    if "history" not in adata.uns[key]:
        msg = f"The result {key!r} was mapped to a reference; how that was trained is to be seen in the reference."
        raise ValueError(msg)


def require_own_key(adata: AnnData, key: str) -> None:
    """Raise ValueError if results named ``key`` would overwrite something that is no scTAG result."""
    entry = adata.uns.get(key)
    if entry is not None:
        foreign = not is_result(entry)
    else:
        columns = (key, f"{key}_confidence")
        foreign = (f"X_{key}" in adata.obsm) != (f"{key}_proba" in adata.obsm) or (
            f"X_{key}" not in adata.obsm and any(column in adata.obs for column in columns)
        )
    if foreign:
        msg = f"adata holds something else under {key!r}; choose another name with `key_added=`."
        raise ValueError(msg)


def batch_numbers(adata: AnnData, batch_key: str | None) -> NDArray[np.int64] | None:
    """(n_obs,) number of each cell's batch, or None without a key or with one batch alone."""
    if batch_key is None:
        return None
    if batch_key not in adata.obs:
        msg = f"batch_key={batch_key!r} is no column of adata.obs; there are {list(adata.obs)}."
        raise KeyError(msg)
    column = adata.obs[batch_key]
    if column.isna().any():
        msg = f"adata.obs[{batch_key!r}] lacks the batch of {int(column.isna().sum())} cells."
        raise ValueError(msg)
    names, numbers = np.unique(column.astype(str).to_numpy(), return_inverse=True)
    if 1 < len(names) == len(numbers):
        msg = f"batch_key={batch_key!r}: every cell is a batch of its own there; name the column of donors, or plates."
        raise ValueError(msg)
    return None if len(names) == 1 else np.asarray(numbers, dtype=np.int64)


def batch_names(adata: AnnData, batch_key: str) -> list[str]:
    """Name of each batch, in the order of :func:`batch_numbers`."""
    return [str(name) for name in np.unique(adata.obs[batch_key].astype(str).to_numpy())]


def clusters_of(proba: NDArray[np.floating]) -> pd.Categorical:
    """The clusters that a soft assignment (n_obs, n_clusters) prefers, named ``"0"``, ``"1"``, ..."""
    import pandas as pd

    return pd.Categorical.from_codes(proba.argmax(axis=1), categories=[str(i) for i in range(proba.shape[1])])


def forget_earlier(adata: AnnData, key: str, n_clusters: int) -> None:
    """Remove what was made of an earlier result of this name: UMAP, novelty, denoised expression, too few colours."""
    if len(adata.uns.get(f"{key}_colors", ())) != n_clusters:
        adata.uns.pop(f"{key}_colors", None)
    adata.obsm.pop(f"X_{key}_umap", None)
    if f"{key}_novelty" in adata.obs:
        del adata.obs[f"{key}_novelty"]
    for layer in (f"{key}_denoised", f"{key}_denoised_dropout"):
        adata.layers.pop(layer, None)
