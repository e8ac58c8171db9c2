"""Experimental batches (donors, plates)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray


def find_batches(adata: AnnData, batch_key: str | None) -> tuple[NDArray[np.int64] | None, list[str]]:
    """(n_obs,) number of the batch of each cell, and their names; None and [""] without a key or with one batch."""
    if batch_key is None:
        return None, [""]
    if not isinstance(batch_key, str):
        msg = f"batch_key must be the name of one column of adata.obs, got {batch_key!r}."
        if isinstance(batch_key, (list, tuple)) and batch_key:
            columns = " + '-' + ".join(f"adata.obs[{name!r}].astype(str)" for name in batch_key)
            msg += f" To join columns: `adata.obs['batch'] = {columns}`."
        raise TypeError(msg)
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
    return (None, [""]) if len(names) == 1 else (np.asarray(index, dtype=np.int64), [str(name) for name in names])
