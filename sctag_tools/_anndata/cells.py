"""Cells found by their names among those of a run, and what they take over from their neighbors there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Sequence

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


def read_annotations(reference: Any, columns: Sequence[str], obs_names: Sequence[str]) -> list[pd.Series]:
    """These columns of a reference, rows in the order of ``obs_names``, the cells of its model."""
    if not hasattr(reference, "obs_names"):
        msg = (
            "obs= carries columns of the reference's obs over, so the reference must be an AnnData, not a model alone."
        )
        raise ValueError(msg)
    absent = [name for name in columns if name not in reference.obs]
    if absent:
        msg = f"obs={absent} are no columns of the reference's obs; there are {list(reference.obs)}."
        raise KeyError(msg)
    names, of_model = reference.obs_names.astype(str), pd.Index(obs_names)
    rows = np.arange(len(names)) if names.equals(of_model) else _rows(names, of_model)
    return [reference.obs[name].iloc[rows] for name in columns]


def annotate(columns: Sequence[pd.Series], neighbors: NDArray[np.int64]) -> dict[str, Any]:
    """Columns for new cells, from what their ``neighbors`` (n_obs, k) have in columns of the reference."""
    found: dict[str, Any] = {}
    for column in columns:
        if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
            found[column.name] = mean(column, neighbors)
        else:
            found[column.name], found[agreement_of(column.name)] = vote(column, neighbors)
    return found


def agreement_of(column: str) -> str:
    """Name of the column with the share of neighbors that agree."""
    return f"{column}_agreement"


def vote(column: pd.Series, neighbors: NDArray[np.int64]) -> tuple[pd.Categorical, NDArray[np.float32]]:
    """The most frequent value among the neighbors (n_cells, k) of each cell, and its share of them, (n_cells,).

    Neighbors without a value agree with none. A cell none of whose neighbors has one gets none.
    """
    column = column.astype("category")
    codes = column.cat.codes.to_numpy()[neighbors]
    counts = np.stack([((codes == code[:, None]) & (codes >= 0)).sum(axis=1) for code in codes.T], axis=1)
    most = counts.max(axis=1)
    last = len(column.cat.categories)
    winner = np.where(counts == most[:, None], codes, last).min(axis=1)  # of equals, the first category
    share = (most / neighbors.shape[1]).astype(np.float32)
    names = column.cat.categories.astype(str)
    return pd.Categorical.from_codes(
        np.where(most > 0, winner, -1), categories=names, ordered=column.cat.ordered
    ), share


def mean(column: pd.Series, neighbors: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n_cells,) mean over the neighbors that have a value."""
    values = column.to_numpy(dtype=np.float64, na_value=np.nan)[neighbors]
    has_value = np.isfinite(values)
    sums = np.where(has_value, values, 0).sum(axis=1)
    return np.where(has_value.any(axis=1), sums / np.maximum(has_value.sum(axis=1), 1), np.nan)


def _rows(names: pd.Index, of_model: pd.Index) -> NDArray[np.int64]:
    rows = names.get_indexer(of_model) if names.is_unique else np.array([-1])
    if (rows < 0).any():
        msg = "The reference no longer holds all cells of its run under their names, so nothing can be carried over."
        raise ValueError(msg)
    return np.asarray(rows, dtype=np.int64)
