"""``sctag.pl.clustree``: how the clusters of coarse and fine clusterings hang together."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from .._anndata.access import require_anndata
from .._checks import check_number
from ._axes import axes_to_draw_on, make_room, readable_on, root_figure, show_or_return_axes, text_color
from ._categories import categories_of, cells_in_both, colors_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

_ROW, _STEP, _LETTER = 1.15, 0.5, 0.085  # inches: from row to row, from node to node, of a letter
_N_SWEEPS = 8  # over the rows, in search of an order with few crossings
_AREA, _LEAST_AREA = 1600.0, 36.0  # of a node of all cells, in square points
_WIDTH = 3.5  # of an edge with all cells of a cluster, in points


def clustree(
    adata: AnnData,
    keys: Sequence[str],
    *,
    min_share: float = 0.1,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | Figure | None:
    """Draw how clusters part from one clustering to the next finer one (clustree, Zappia & Oshlack 2018).

    Each clustering is a row of nodes, the coarsest on top, and each node is a cluster, whose area is its number of
    cells. Lines come from the clusters of the row above that its cells are from, in their color; the width is the share
    of the lower cluster's cells. A cluster with several wide lines to it has no counterpart in the row above: cuts of
    one tree (:func:`sctag_tools.tl.cut`) have none of these. Nodes are ordered so that few lines cross.

    Parameters
    ----------
    adata
        Annotated data; no run of :func:`sctag_tools.tl.sctag` is needed.
    keys
        Columns of ``obs`` with clusters, two or more. They are sorted by the number of clusters.
    min_share
        Lines of a smaller share are left out.
    ax
        Axes to draw on. They become narrower, so that the legend fits.
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
        If there are fewer than two columns, one is named twice or holds numbers with fractions, or ``min_share`` is not
        in [0, 1].
    TypeError
        If ``keys`` is a single name, or ``min_share`` is no number.

    Examples
    --------
    >>> import sctag_tools as sctag
    >>> adata = sctag.datasets.pbmc68k_reduced()
    >>> sctag.pp.build_graph(adata)
    >>> sctag.tl.sctag(adata, n_clusters=8, pretrain_epochs=5, cluster_epochs=2, progress_bar=False)
    >>> sctag.tl.cut(adata, n_clusters=12, key_added="finer")
    >>> ax = sctag.pl.clustree(adata, ["sctag", "finer"], show=False)
    """
    require_anndata(adata, "sctag.pl.clustree")
    check_number("min_share", min_share, low=0, high=1)
    if isinstance(keys, str):
        msg = f"keys must be names of several columns, as in ['sctag', 'sctag_cut'], got {keys!r}."
        raise TypeError(msg)
    if len(keys) < 2 or len(set(keys)) < len(keys):
        msg = f"keys must name at least two columns, each once, got {list(keys)}."
        raise ValueError(msg)
    columns = {key: categories_of(adata, key, "keys") for key in keys}
    columns = dict(sorted(columns.items(), key=lambda item: len(item[1].cat.categories)))  # stable
    sizes = [column.value_counts(sort=False) for column in columns.values()]
    shares = [
        cells_in_both(above, below).to_numpy() / n.to_numpy()
        for above, below, n in zip(list(columns.values())[:-1], list(columns.values())[1:], sizes[1:], strict=True)
    ]
    shares = [np.where(share < min_share, 0.0, share) for share in shares]
    orders = arrange(shares)
    x = places(shares, orders, [n.to_numpy(dtype=float) for n in sizes])
    colors = [[colors_of(adata, key)[name] for name in n.index] for key, n in zip(columns, sizes, strict=True)]

    is_given = ax is not None
    longest = max((len(word) for n in sizes for name in n.index for word in name.split()), default=1)
    step = max(_STEP, min(_LETTER * longest, 1.0))
    inches = max(3.0, step * len(sizes[-1]))
    ax = axes_to_draw_on(ax, (inches, _ROW * len(sizes) + 0.3))
    _draw_lines(ax, x, shares, colors)
    for row, n in enumerate(sizes):
        _draw_nodes(ax, x[row], row, n, colors[row], adata.n_obs)
    titles = [f"{key}\n{len(n)} cluster{'s' if len(n) > 1 else ''}" for key, n in zip(columns, sizes, strict=True)]
    ax.set_yticks(range(len(sizes)), titles)
    ax.set(xticks=[], xlim=(-0.7, len(sizes[-1]) - 0.3), ylim=(len(sizes) - 0.5, -0.5))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    _draw_legend(ax)
    make_room(ax, is_given=is_given, inches=inches)
    return show_or_return_axes(ax, is_given=is_given, show=show, return_fig=return_fig)


def _draw_lines(
    ax: Axes, x: list[NDArray[np.float64]], shares: list[NDArray[np.float64]], colors: list[list[str]]
) -> None:
    """Curves from the clusters of each row to those of the next, in the color of the upper one."""
    from matplotlib.collections import PathCollection
    from matplotlib.path import Path

    codes = [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4]
    for row, share in enumerate(shares):
        above, below = np.nonzero(share)
        paths = [
            Path([(start, row), (start, row + 0.5), (end, row + 0.5), (end, row + 1)], codes)
            for start, end in zip(x[row][above], x[row + 1][below], strict=True)
        ]
        ax.add_collection(
            PathCollection(
                paths, linewidths=_WIDTH * share[above, below], edgecolors=[colors[row][i] for i in above],
                facecolors="none", alpha=0.6, zorder=1,
            )
        )  # fmt: skip


def _draw_nodes(ax: Axes, x: NDArray[np.float64], row: int, sizes: pd.Series, colors: list[str], n_obs: int) -> None:
    """The clusters of one row with their names: in the node if they fit, else below it with an outline."""
    from matplotlib.patheffects import withStroke

    back = ax.get_facecolor()
    areas = np.maximum(_AREA * sizes.to_numpy() / n_obs, _LEAST_AREA)
    ax.scatter(x, np.full(len(x), row), s=areas, c=colors, edgecolors=back, linewidths=0.8, zorder=2)
    for at, name, area, color in zip(x, sizes.index, areas, colors, strict=True):
        text = ax.annotate(
            name, (at, row), (0, 0), textcoords="offset points", ha="center", va="center", fontsize="small", zorder=3,
            color=readable_on(color),
        )  # fmt: skip
        box = text.get_window_extent()
        if max(box.width, box.height) * 72 / root_figure(ax).dpi > 0.85 * area**0.5:  # the diameter
            lines = textwrap.fill(name, max(map(len, name.split()), default=1), break_long_words=False)
            text.set(text=lines, va="top", linespacing=1.15, color=text_color())
            text.set(y=-(area**0.5) / 2 - 1.5, path_effects=[withStroke(linewidth=2.5, foreground=back)])


def _draw_legend(ax: Axes) -> None:
    """What the width of a line means."""
    from matplotlib.lines import Line2D

    lines: list[Any] = [
        Line2D([], [], color="0.55", linewidth=_WIDTH * share, label=f"{share:.0%}", solid_capstyle="butt")
        for share in (1.0, 0.5, 0.1)
    ]
    ax.legend(
        handles=lines, title="cells of the\nlower cluster", loc="upper left", bbox_to_anchor=(1, 1), frameon=False,
        fontsize="small", title_fontsize="small", alignment="left",
    )  # fmt: skip


def arrange(weights: Sequence[NDArray[np.float64]]) -> list[NDArray[np.int64]]:
    """The order of the nodes of each row, from left to right, with few crossings of lines.

    ``weights[i]`` (n_upper, n_lower) are those of the lines from row i to row i + 1, 0 for no line. Each node goes to
    the mean of its neighbors in the row above, then in the row below, and so on (barycenters, Sugiyama et al. 1981);
    the best of all orders is kept.
    """
    orders = [np.arange(weights[0].shape[0]), *(np.arange(weight.shape[1]) for weight in weights)]
    best, fewest = orders, np.inf
    for sweep in range(_N_SWEEPS):
        down = sweep % 2 == 0
        for row in range(1, len(orders)) if down else range(len(orders) - 2, -1, -1):
            near, weight = (row - 1, weights[row - 1]) if down else (row + 1, weights[row].T)
            orders = [*orders[:row], _sorted_by_mean(orders[row], orders[near], weight), *orders[row + 1 :]]
        crossed = sum(crossings(weight, *orders[i : i + 2]) for i, weight in enumerate(weights))
        if crossed < fewest:
            best, fewest = orders, crossed
    return best


def crossings(weight: NDArray[np.float64], upper: NDArray[np.int64], lower: NDArray[np.int64]) -> float:
    """Sum over all pairs of lines that cross of the product of their weights."""
    ordered = weight[np.ix_(upper, lower)]
    to_the_left = np.cumsum(ordered, axis=1) - ordered  # of the same upper node
    from_further_right = np.cumsum(to_the_left[::-1], axis=0)[::-1] - to_the_left
    return float((ordered * from_further_right).sum())


def places(
    weights: Sequence[NDArray[np.float64]], orders: Sequence[NDArray[np.int64]], sizes: Sequence[NDArray[np.float64]]
) -> list[NDArray[np.float64]]:
    """Horizontal place of each node, in its own numbering: 0, 1, ... in the last row, else above those it leads to.

    Nodes of a row are at least 1 apart, as near to these places as that allows.
    """
    from sklearn.isotonic import isotonic_regression

    found, last = [np.empty(0)] * len(orders), len(orders[-1]) - 1
    found[-1] = np.argsort(orders[-1]).astype(float)
    for row in range(len(orders) - 2, -1, -1):
        cells, steps = weights[row] * sizes[row + 1], np.arange(len(orders[row]))
        total = cells.sum(axis=1)
        wanted = np.where(total > 0, cells @ found[row + 1] / np.where(total > 0, total, 1), last / 2)
        # less their steps, places 1 apart are places in order
        fitted = isotonic_regression(wanted[orders[row]] - steps, y_min=0, y_max=last - steps[-1]) + steps
        found[row] = fitted[np.argsort(orders[row])]
    return found


def _sorted_by_mean(
    order: NDArray[np.int64], near: NDArray[np.int64], weight: NDArray[np.float64]
) -> NDArray[np.int64]:
    """``order`` with each node at the weighted mean rank of its neighbors ``near``; one without stays where it is."""
    total = weight.sum(axis=0)
    scale = len(near) / len(order)
    means = np.argsort(order) * scale
    linked = total > 0
    means[linked] = (np.argsort(near) @ weight)[linked] / total[linked]
    return order[np.argsort(means[order], kind="stable")]
