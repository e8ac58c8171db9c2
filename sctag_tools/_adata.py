"""Reading an AnnData: which genes, which names, and what cannot be used; the same rules for every function."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy import sparse

from . import _logging as logg
from ._blocks import is_in_memory, whole

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

_MANY_GENES = 5_000


def require_in_memory(adata: AnnData, function: str) -> None:
    """Raise NotImplementedError for data on disk or in dask, naming the call that helps."""
    if not all(matrix is None or is_in_memory(matrix) for matrix in (adata.X, *adata.layers.values())):
        msg = f"{function} reads all cells in memory; call `adata = adata.to_memory()` first."
        raise NotImplementedError(msg)


def require_place(adata: AnnData, *, copy: bool) -> None:
    """Raise NotImplementedError where anndata could not take results: on copies and views of backed data."""
    if adata.isbacked and (copy or adata.is_view):
        what = "A copy" if copy else "A view"
        msg = f"{what} of a backed AnnData cannot hold results; call `adata = adata.to_memory()` first."
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


def representation_of(adata: AnnData, name: str) -> NDArray[np.floating]:
    """``adata.X`` or an entry of ``adata.obsm``, dense (n_obs, d); ValueError unless all of it is finite."""
    stored = whole(adata.X) if name == "X" else adata.obsm[name]
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
