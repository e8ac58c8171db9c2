"""The representation that a graph is built on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from .blocks import whole

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray


def get_representation(adata: AnnData, name: str) -> NDArray[np.floating]:
    """``adata.X`` or an entry of ``adata.obsm``, dense (n_obs, d); ValueError unless all of it is finite."""
    stored = whole(adata.X) if name == "X" else adata.obsm[name]
    x = stored.toarray() if sparse.issparse(stored) else np.asarray(stored)
    if x.ndim != 2 or not np.isfinite(x).all():
        msg = f"{name!r} holds NaN or infinite values; recompute it, or name another representation with `use_rep=`."
        raise ValueError(msg)
    return x
