"""Which genes a run uses, after scanpy's ``mask_var``."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final

import numpy as np

from .. import _logging as logg

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

_MANY_GENES = 5_000


class Default(Enum):
    """Stands for an argument that was not given, where None has a meaning of its own."""

    token = 0

    def __repr__(self) -> str:
        return "default"


DEFAULT: Final = Default.token


def select_genes(adata: AnnData, mask_var: NDArray[np.bool_] | str | Default | None) -> tuple[NDArray[np.bool_], str]:
    """Boolean mask (n_vars,) and its name for the record."""
    if mask_var is DEFAULT:
        mask_var = "highly_variable" if "highly_variable" in adata.var else None
        if mask_var is None and adata.n_vars > _MANY_GENES:
            logg.warn(
                f"All {adata.n_vars} genes are used, which is slow and noisy; run "
                "`sc.pp.highly_variable_genes(adata, n_top_genes=2000)` first, or pass `mask_var=None`."
            )
    if mask_var is None:
        return np.ones(adata.n_vars, dtype=bool), "all"
    if isinstance(mask_var, str):
        if mask_var not in adata.var:
            msg = f"mask_var={mask_var!r} is no column of adata.var; there are {list(adata.var.columns)}."
            raise ValueError(msg)
        mask, name = adata.var[mask_var].to_numpy(), mask_var
    else:
        mask, name = np.asarray(mask_var), "array"
    return check_gene_mask(mask, name, adata.n_vars), name


def check_gene_mask(mask: NDArray[np.bool_], name: str, n_vars: int) -> NDArray[np.bool_]:
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
