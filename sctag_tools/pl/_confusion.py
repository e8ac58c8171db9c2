"""``sctag.pl.confusion``: two groupings of the cells against each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from .._anndata.access import require_anndata
from .._checks import check_choice
from ..metrics import ari, nmi
from ._axes import axes_to_draw_on, readable_on, root_figure, show_or_return_axes
from ._categories import categories_of, cells_in_both

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

_CELL = 0.36  # inches
_FONT_SIZES = (8.0, 7.0, 6.0, 5.0)  # of counts, the largest that fits


def confusion(
    adata: AnnData,
    other: str,
    *,
    key: str = "sctag",
    normalize: Literal["rows", "columns"] | None = "rows",
    cmap: str = "Blues",
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | Figure | None:
    """Draw how many cells each cluster shares with each group of another column, such as an annotation.

    Rows keep the order of their categories, as far as possible, and columns follow them, so that most cells lie near
    the diagonal: clusters and groups are paired one to one such that the pairs hold most cells (the assignment of
    :func:`sctag_tools.metrics.accuracy`). Each one without a counterpart stands beside the pair that it shares most
    cells with. The title has the ARI and the NMI of the two columns. Cells without a value in one of them are left
    out, and the title says how many.

    Parameters
    ----------
    adata
        Annotated data; no run of :func:`sctag_tools.tl.sctag` is needed.
    other
        Column of ``obs`` for the columns of the plot.
    key
        Column of ``obs`` for its rows.
    normalize
        What colors show: the share of the cells of a row or of a column, or with ``None`` the number of cells. The text
        is the number of cells in any case. It is left out where it does not fit.
    cmap
        Color map.
    ax
        Axes to draw on.
    show
        Show the figure; by default ``sc.settings.autoshow``. Given axes are never shown.
    return_fig
        Return the figure.

    Returns
    -------
    The figure with ``return_fig=True``, the axes with ``show=False``, else ``None``.

    Raises
    ------
    KeyError
        If one of the columns does not exist.
    ValueError
        If one of them holds numbers with fractions, no cell has a value in both, or ``normalize`` is none of the
        choices.

    Examples
    --------
    >>> import sctag_tools as sctag
    >>> adata = sctag.datasets.pbmc68k_reduced()
    >>> sctag.pp.build_graph(adata)
    >>> sctag.tl.sctag(adata, n_clusters=8, pretrain_epochs=5, cluster_epochs=2, progress_bar=False)
    >>> ax = sctag.pl.confusion(adata, "bulk_labels", show=False)
    """
    require_anndata(adata, "sctag.pl.confusion")
    if normalize is not None:
        check_choice("normalize", normalize, ("rows", "columns"))
    clusters, groups = categories_of(adata, key, "key"), categories_of(adata, other, "other")
    counts = cells_in_both(clusters, groups)
    counts = counts.loc[counts.any(axis=1), counts.any(axis=0)]
    if counts.empty:
        msg = f"No cell has a value in both adata.obs[{key!r}] and adata.obs[{other!r}]."
        raise ValueError(msg)
    rows, columns = heavy_diagonal(counts.to_numpy())
    counts = counts.iloc[rows, columns]

    is_given = ax is not None
    longest = max(len(str(name)) for name in counts.columns)
    size = _CELL * counts.shape[1] + 3, max(_CELL * counts.shape[0], 2) + 1.2 + 0.07 * longest
    ax = axes_to_draw_on(ax, size)
    _draw(ax, counts, normalize, cmap)
    ax.set(xlabel=other, ylabel=key)
    in_both = (clusters.notna() & groups.notna()).to_numpy()
    pair = groups[in_both], clusters[in_both]
    title = f"ARI {ari(*pair):.2f}, NMI {nmi(*pair):.2f}"
    if left_out := int((~in_both).sum()):
        title += f"\n{left_out:,} cell{'s' if left_out > 1 else ''} without a value left out"
    ax.set_title(title, fontsize="medium")
    _write_counts(ax, counts.to_numpy())
    return show_or_return_axes(ax, is_given=is_given, show=show, return_fig=return_fig)


def heavy_diagonal(counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Orders of the rows and of the columns of a table of ``counts`` that put most of them near its diagonal."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(counts, maximize=True)  # rows are sorted
    paired = counts[rows, columns]
    # What has no counterpart is paired with what is left: such a pair says nothing.
    fits = (paired > 0) & ((paired == counts.max(axis=1)[rows]) | (paired == counts.max(axis=0)[columns]))
    if fits.any():
        rows, columns = rows[fits], columns[fits]
    return _beside_pairs(counts[:, columns], rows), _beside_pairs(counts[rows].T, columns)


def _beside_pairs(counts: NDArray[np.int64], paired: NDArray[np.int64]) -> NDArray[np.int64]:
    """Order of all rows: each of the ``paired`` ones, then those that share most cells with its column.

    ``counts`` (n_rows, n_pairs) has only the columns of the pairs; rows that share no cell with them come last.
    """
    pair = np.where(counts.any(axis=1), counts.argmax(axis=1), counts.shape[1])
    pair[paired] = np.arange(len(paired))
    is_left_over = ~np.isin(np.arange(len(counts)), paired)
    return np.lexsort((-counts.max(axis=1), is_left_over, pair))


def _draw(ax: Axes, counts: pd.DataFrame, normalize: str | None, cmap: str) -> None:
    """The heat map, the names of its rows and columns, and the color bar."""
    values = counts.to_numpy(dtype=float)
    if normalize is not None:
        values /= values.sum(axis=1 if normalize == "rows" else 0, keepdims=True)
    image = ax.imshow(values, cmap=cmap, vmin=0, vmax=1 if normalize else None, aspect="auto", interpolation="nearest")
    ax.set_xticks(range(counts.shape[1]), [str(name) for name in counts.columns])
    ax.set_yticks(range(counts.shape[0]), [str(name) for name in counts.index])
    if max(len(str(name)) for name in counts.columns) > 3:
        ax.tick_params(axis="x", labelrotation=90)
    ax.tick_params(length=0)
    label = {"rows": "share of the cells of a row", "columns": "share of the cells of a column", None: "cells"}
    bar = root_figure(ax).colorbar(image, ax=ax, fraction=0.08, pad=0.03, aspect=25)
    bar.set_label(label[normalize])
    bar.outline.set_visible(False)


def _write_counts(ax: Axes, counts: NDArray[np.int64]) -> None:
    """The number of cells in each field that holds some, in the largest type that fits all of them."""
    root_figure(ax).draw_without_rendering()  # a layout engine decides how large the fields are
    width, height = ax.get_window_extent().width / counts.shape[1], ax.get_window_extent().height / counts.shape[0]
    sample = ax.text(0, 0, f"{counts.max():,}")
    for size in _FONT_SIZES:
        sample.set_fontsize(size)
        box = sample.get_window_extent()
        if box.width < 0.95 * width and box.height < 0.95 * height:
            break
    else:
        size = None
    sample.remove()
    if size is None:
        return
    image = ax.images[0]
    values = np.asarray(image.get_array())
    for (row, column), count in np.ndenumerate(counts):
        if count:
            color = readable_on(image.cmap(image.norm(values[row, column])))
            ax.text(column, row, f"{count:,}", ha="center", va="center", fontsize=size, color=color)
