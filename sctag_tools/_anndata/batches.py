"""Experimental batches (donors, plates): a number for each cell, and their names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray


def batch_index(adata: AnnData, batch_key: str | None) -> NDArray[np.int64] | None:
    """(n_obs,) number of the batch of each cell; None without a key or with a single batch."""
    if batch_key is None:
        return None
    if batch_key not in adata.obs:
        msg = f"batch_key={batch_key!r} is no column of adata.obs; there are {list(adata.obs)}."
        raise KeyError(msg)
    column = adata.obs[batch_key]
    if column.isna().any():
        msg = f"adata.obs[{batch_key!r}] lacks the batch of {int(column.isna().sum())} cells."
        raise ValueError(msg)
    names, index = np.unique(column.astype(str).to_numpy(), return_inverse=True)
    if 1 < len(names) == len(index):
        msg = f"batch_key={batch_key!r}: every cell has a batch of its own in this column; name the column of donors "
        msg += "or plates."
        raise ValueError(msg)
    return None if len(names) == 1 else np.asarray(index, dtype=np.int64)


def batch_categories(adata: AnnData, batch_key: str) -> list[str]:
    """Name of each batch, in the order of :func:`batch_index`."""
    return [str(name) for name in np.unique(adata.obs[batch_key].astype(str).to_numpy())]
