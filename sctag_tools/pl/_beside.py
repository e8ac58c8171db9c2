"""What stands to the right of a tree: columns of text, and a strip with one bar a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ._axes import root_figure
from ._categories import MISSING_COLOR, categories_of, cells_in_both, colors_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

_GAP = 10.0  # between columns, in points
_HEIGHT = 0.7  # of a bar, in rows


def draw_columns(ax: Axes, rows: NDArray[np.float64], columns: Mapping[str, Sequence[str]]) -> float:
    """Write columns of text beside the axes, the first one flush left; returns where the last one ends, in points."""
    to_points, start = 72 / root_figure(ax).dpi, _GAP
    for number, (title, texts) in enumerate(columns.items()):
        options: dict[str, Any] = {"textcoords": "offset points", "annotation_clip": False, "fontsize": "small"}
        cells = [
            ax.annotate(text, (1, row), (start, 0), xycoords=ax.get_yaxis_transform(), va="center", **options)
            for text, row in zip(texts, rows, strict=True)
        ]
        cells.append(ax.annotate(title, (1, 1), (start, 4), xycoords="axes fraction", va="bottom", **options))
        width = max(cell.get_window_extent().width for cell in cells) * to_points
        for cell in cells if number else ():  # numbers end below each other
            cell.set(horizontalalignment="right", x=start + width)
            cell.set_multialignment("right")
        start += width + _GAP
    return start


def draw_strip(
    ax: Axes, adata: AnnData, clusters: pd.Series, rows: NDArray[np.float64], color: str, start: float
) -> None:
    """Draw a column of ``obs`` or a gene for each cluster, ``start`` points to the right of the axes."""
    from matplotlib.transforms import ScaledTranslation, blended_transform_factory

    # In inches from the right edge: what grew with the axes would have the layout engine chase its own tail.
    inches = root_figure(ax).dpi_scale_trans + ScaledTranslation(1, 0, ax.transAxes)  # type: ignore[arg-type]
    values = values_of(adata, color)
    is_numeric = pd.api.types.is_numeric_dtype(values)
    bounds = start / 72, 0.0, 0.22 if is_numeric else 1.1, 1.0
    strip = ax.inset_axes(bounds, transform=blended_transform_factory(inches, ax.transAxes))
    strip.set(ylim=ax.get_ylim(), xlim=(0, 1), xticks=[], yticks=[])
    strip.set_title(color, fontsize="small", pad=4, loc="left")
    for spine in strip.spines.values():
        spine.set_visible(False)
    strip.patch.set_visible(False)
    if is_numeric:
        _draw_means(strip, values.groupby(clusters, observed=False).mean().to_numpy(dtype=float), rows, color)
    else:
        colors = {"NA": MISSING_COLOR} | colors_of(adata, color)
        counts = cells_in_both(clusters, values)
        _draw_shares(strip, counts.div(counts.sum(axis=1), axis=0), rows, colors)


def values_of(adata: AnnData, color: str) -> pd.Series:
    """Numbers of each cell, or categories as strings with ``"NA"`` for none; KeyError if there is no such name."""
    if color in adata.obs:
        column = adata.obs[color]
        if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
            return column
        categories = categories_of(adata, color, "color")
        if categories.isna().any():
            names = dict.fromkeys([*categories.cat.categories, "NA"])
            categories = categories.cat.set_categories(list(names)).fillna("NA")
        return categories
    from scanpy import get

    in_raw = adata.raw is not None and color in adata.raw.var_names
    if not in_raw and color not in adata.var_names:
        msg = f"color={color!r} is neither a column of adata.obs nor a gene of adata.var_names."
        raise KeyError(msg)
    return get.obs_df(adata, [color], use_raw=in_raw)[color]


def _draw_shares(strip: Axes, shares: pd.DataFrame, rows: NDArray[np.float64], colors: Mapping[str, str]) -> None:
    """One stacked bar a cluster, and the legend."""
    start = np.zeros(len(shares))
    for name in shares:
        strip.barh(rows, shares[name], left=start, height=_HEIGHT, color=colors[name], label=name)
        start += shares[name].to_numpy()
    strip.legend(loc="upper left", bbox_to_anchor=(1.02, 1), borderaxespad=0, frameon=False, fontsize="small")


def _draw_means(strip: Axes, means: NDArray[np.float64], rows: NDArray[np.float64], name: str) -> None:
    """One colored cell a cluster, and the color bar."""
    import matplotlib as mpl
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    low, high = (np.nanmin(means), np.nanmax(means)) if np.isfinite(means).any() else (0.0, 1.0)
    mapping = ScalarMappable(Normalize(low, high if high > low else low + 1), mpl.colormaps[mpl.rcParams["image.cmap"]])
    colors = [MISSING_COLOR if np.isnan(mean) else mapping.to_rgba(mean) for mean in means]
    strip.barh(rows, 1.0, height=_HEIGHT, color=colors)
    bar = root_figure(strip).colorbar(mapping, cax=strip.inset_axes((1.6, 0.0, 0.45, 1.0)))
    bar.set_label(f"mean of {name}", fontsize="small")
    bar.ax.tick_params(labelsize="small")
    bar.outline.set_visible(False)
