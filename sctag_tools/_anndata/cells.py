"""Cells of an AnnData among those of a run, by their names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from numpy.typing import NDArray


def rows_in_run(obs_names: pd.Index, of_run: list[str]) -> NDArray[np.int64]:
    """Row of each cell among those that a run was trained on; KeyError for cells that are not, or names that recur."""
    cells, names = pd.Index(of_run), obs_names.astype(str)
    if names.tolist() == of_run:  # also where names occur twice
        return np.arange(len(names))
    for where, index, step in (("the model", cells, "subsetting"), ("adata.obs_names", names, "joining sets")):
        if not index.is_unique:
            msg = f"Cells are matched by name, but some names in {where} occur twice; call this before {step}."
            raise KeyError(msg)
    rows: NDArray[np.int64] = cells.get_indexer(names)
    absent = np.flatnonzero(rows < 0)
    if len(absent):
        msg = (
            f"{len(absent)} cells were not among those that the model was trained on (the first is "
            f"{names[absent[0]]!r}). To have them placed, map them: give the cells to the model, or the model as "
            "`reference` of `sctag.tl.map_query` or `sctag.tl.denoise`."
        )
        raise KeyError(msg)
    return rows
