"""``sctag.pl.tree``: the clusters of a result as leaves of their tree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .._anndata.access import require_anndata
from .._anndata.tree import read_clusters, resolution_of
from .._checks import check_integer
from ..get._clusters_df import clusters_df
from ._axes import axes_to_draw_on, make_room, show_or_return_axes, text_color
from ._beside import draw_columns, draw_strip, values_of
from ._branch_genes import genes_of_branches, write_genes
from ._categories import colors_of

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from ..cluster.contracted import ContractedTree

_WIDTH, _ROW = 3.6, 0.26  # inches, of the tree and of a row
_WIDTH_OF_GENES, _ROW_OF_GENES = 7.0, 0.32  # the same where genes are written, two lines a row
_QUIET = "0.55"  # reads on light and on dark


def tree(
    adata: AnnData,
    key: str = "sctag",
    *,
    color: str | None = None,
    n_below: int = 0,
    n_genes: int = 0,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | Figure | None:
    """Draw the tree of the clusters, with their cells and confidence.

    A split lies at the share of the partitions that keep its two sides together, relative to cells of one side
    (``relative_coassociation`` of :func:`sctag_tools.get.splits_df`): far to the left if the sides are always apart, at
    1 if they are as close as cells of one side. It is moved a little to the right if it would lie left of a split above
    it. Supported splits are filled dots, the others are hollow. A cluster that was joined from several parts of the
    tree is drawn once, at its largest part, and marked by a star.

    Parameters
    ----------
    adata
        Annotated data with a result of :func:`sctag_tools.tl.sctag` or :func:`sctag_tools.tl.cut`, all of its cells.
    key
        Name of the result.
    color
        Column of ``obs`` or gene to show beside each cluster: the share of each category, or the mean. Genes are taken
        from ``adata.raw`` if it has them, as in scanpy's plots.
    n_below
        Number of splits within clusters to show, too, as thin gray branches: the next ones that
        :func:`sctag_tools.tl.cut` would make.
    n_genes
        Number of genes to write above the branch of each side of a split: those that are higher there than on the other
        side, the best first, from the ranking ``uns["{key}_splits"]`` of :func:`sctag_tools.tl.rank_genes_splits`. A
        branch shows as many as it has room for, and a very short one none. Around a cluster that was joined from
        several parts of the tree, a branch has genes only if its two sides as drawn were compared.
    ax
        Axes to draw on. They become narrower, so that the text beside the tree fits.
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
        If there is no result of this name, a part of it is missing, ``color`` is no column and no gene, or genes are
        wanted and not ranked.
    ValueError
        If the result has no tree (published presets, mapped cells, earlier versions), its cells or clusters have
        changed, the ranking is of other clusters, or ``n_below`` or ``n_genes`` is negative.
    TypeError
        If ``n_below`` or ``n_genes`` is no integer.

    Examples
    --------
    >>> import sctag_tools as sctag
    >>> adata = sctag.datasets.pbmc68k_reduced()
    >>> sctag.pp.build_graph(adata)
    >>> sctag.tl.sctag(adata, n_clusters=8, pretrain_epochs=5, cluster_epochs=2, progress_bar=False)
    >>> ax = sctag.pl.tree(adata, color="bulk_labels", show=False)
    """
    require_anndata(adata, "sctag.pl.tree")
    check_integer("n_below", n_below, low=0)
    check_integer("n_genes", n_genes, low=0)
    found, of_leaf, names = read_clusters(adata, key)
    if color is not None:
        values_of(adata, color)  # raises before anything is drawn
    from ..cluster.contracted import ContractedTree

    shown = ContractedTree.from_clusters(found, of_leaf, len(names), n_below)
    is_supported = shown.is_split.copy()
    is_supported[shown.is_split] = found.supported(resolution_of(adata, key))[
        shown.node[shown.is_split] - found.n_leaves
    ]
    genes = genes_of_branches(adata, key, shown, n_genes)
    table, by_name = clusters_df(adata, key), colors_of(adata, key)

    is_given, n_rows = ax is not None, int((~shown.is_split).sum())
    width, row = (_WIDTH_OF_GENES, _ROW_OF_GENES) if genes else (_WIDTH, _ROW)
    ax, depths = axes_to_draw_on(ax, (width, row * n_rows + 1.3)), shown.depths(found.relative_coassociation)
    _draw_branches(ax, shown, depths, is_supported, [by_name[x] for x in names])
    if genes:
        ax.set_ylim(top=-1)  # for those of the first row
    drawn = np.array([number for number in range(len(names)) if len(shown.ends(number))])
    rows = np.array([shown.rows()[shown.ends(number)].mean() for number in drawn])
    start = draw_columns(ax, rows, _columns(table.iloc[drawn], shown.is_whole[drawn]))
    if color is not None:
        clusters = adata.obs[key].astype("category")
        clusters = clusters.cat.set_categories(clusters.cat.categories[drawn])
        draw_strip(ax, adata, clusters, rows, color, start)
    if not shown.is_whole[drawn].all():
        note = "* joined from several parts of the tree, drawn at the largest"
        ax.set_xlabel(f"{ax.get_xlabel()}\n{note}")
    make_room(ax, is_given=is_given, inches=width)
    write_genes(ax, shown, depths, genes)
    return show_or_return_axes(ax, is_given=is_given, show=show, return_fig=return_fig)


def _columns(table: pd.DataFrame, is_whole: NDArray[np.bool_]) -> dict[str, list[str]]:
    """The text beside each leaf, by title; without confidences that a result does not have."""
    names = [f"{name}" if whole else f"{name} *" for name, whole in zip(table.index, is_whole, strict=True)]
    columns = {"cluster": names, "cells": [f"{n:,}" for n in table["n_cells"]]}
    for title, name in (("of cells", "cell_confidence"), ("of cluster", "cluster_confidence")):
        if name in table:
            columns[f"confidence\n{title}"] = [f"{value:.2f}" for value in table[name]]
    return columns


def _draw_branches(
    ax: Axes, shown: ContractedTree, depths: NDArray[np.float64], is_supported: NDArray[np.bool_], colors: list[str]
) -> None:
    """The tree, with a swatch of color at the end of each cluster, its axis and its legend."""
    rows, ends, front, back = shown.rows(), float(depths.max()), text_color(), ax.get_facecolor()
    style: dict[str, Any]
    for entry, (parent, cluster) in enumerate(zip(shown.parent, shown.cluster, strict=True)):
        is_below = parent >= 0 and shown.cluster[parent] >= 0
        if is_below:
            style = {"color": _QUIET, "linewidth": 0.8, "zorder": 1}
        elif cluster >= 0:
            style = {"color": colors[cluster], "linewidth": 2.5, "zorder": 2}
        else:
            style = {"color": front, "linewidth": 1.2, "zorder": 2}
        start = depths[parent] if parent >= 0 else -0.05
        ax.plot([start, depths[entry]], rows[[entry, entry]], solid_capstyle="butt", **style)
        if shown.is_split[entry]:
            sides = rows[shown.parent == entry]
            if cluster >= 0:
                style = {"color": _QUIET, "linewidth": 0.8, "zorder": 1}
            ax.plot(depths[[entry, entry]], sides, solid_capstyle="projecting", **style)
    for cluster, its_color in enumerate(colors):
        if len(its_ends := shown.ends(cluster)):
            span = rows[its_ends].min() - 0.32, rows[its_ends].max() + 0.32
            ax.plot([ends, ends], span, color=its_color, linewidth=6, solid_capstyle="butt", zorder=3, clip_on=False)
    for supported, label in ((True, "supported split"), (False, "not supported")):
        for within, line_color, size in ((False, front, 30), (True, _QUIET, 12)):
            chosen = shown.is_split & (is_supported == supported) & ((shown.cluster >= 0) == within)
            ax.scatter(
                depths[chosen], rows[chosen], s=size, color=line_color, facecolor=line_color if supported else back,
                zorder=4,
            )  # fmt: skip
        if (shown.is_split & (is_supported == supported)).any():
            ax.scatter([], [], s=30, color=front, facecolor=front if supported else back, label=label)
    ax.set(xlim=(-0.05, ends), ylim=(rows.max() + 0.5, -0.5), yticks=[], xticks=[0, 0.5, 1])
    ax.set_xlabel("partitions that keep the sides\ntogether, relative to one side", fontsize="small")
    ax.tick_params(labelsize="small")
    ax.spines[["left", "right", "top"]].set_visible(False)
    if shown.is_split.any():
        ax.legend(
            loc="lower left", bbox_to_anchor=(0, 1), frameon=False, fontsize="small", handletextpad=0.1,
            borderaxespad=0, borderpad=0.2,
        )  # fmt: skip
