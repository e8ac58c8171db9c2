"""Categories of cells and their colors, for plots of more than one column."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from anndata import AnnData

MISSING_COLOR = "lightgray"  # scanpy's


def categories_of(adata: AnnData, name: str, option: str) -> pd.Series:
    """A column of ``obs`` as categories, without those that hold no cell, which are strings.

    KeyError if there is no such column, ValueError if it holds numbers with fractions or no value at all.
    """
    if name not in adata.obs:
        msg = f"{option} names {name!r}, which is no column of adata.obs; there are {list(adata.obs)}."
        raise KeyError(msg)
    column = adata.obs[name]
    if pd.api.types.is_float_dtype(column):
        msg = f"{option} must name a column of categories, and adata.obs[{name!r}] holds numbers ({column.dtype})."
        raise ValueError(msg)
    column = column.astype("category").cat.remove_unused_categories()
    if column.isna().all():
        msg = f"adata.obs[{name!r}], which {option} names, has no value for any cell."
        raise ValueError(msg)
    return column.cat.rename_categories([str(category) for category in column.cat.categories])


def colors_of(adata: AnnData, name: str) -> dict[str, str]:
    """The color of each category of a column: that in ``uns``, else what scanpy's plots would write there."""
    import matplotlib as mpl
    from matplotlib.colors import to_hex
    from scanpy.pl import palettes

    categories = [str(category) for category in adata.obs[name].astype("category").cat.categories]
    colors = list(adata.uns.get(f"{name}_colors", ()))
    if len(colors) < len(categories):
        cycle = mpl.rcParams["axes.prop_cycle"].by_key().get("color", [])
        choices = (cycle, palettes.default_20, palettes.default_28, palettes.default_102)
        colors = next((choice for choice in choices if len(choice) >= len(categories)), ["grey"] * len(categories))
    return {category: to_hex(color) for category, color in zip(categories, colors, strict=False)}


def cells_in_both(one: pd.Series, other: pd.Series) -> pd.DataFrame:
    """Number of cells in each category of two columns; cells without a value in one of them are in none."""
    codes = np.stack([one.cat.codes.to_numpy(), other.cat.codes.to_numpy()]).astype(np.int64)
    counts = np.zeros((len(one.cat.categories), len(other.cat.categories)), dtype=np.int64)
    np.add.at(counts, tuple(codes[:, (codes >= 0).all(axis=0)]), 1)
    return pd.DataFrame(counts, index=list(one.cat.categories), columns=list(other.cat.categories))
