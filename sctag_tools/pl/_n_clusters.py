"""``sctag.pl.n_clusters``: the evidence for the number of clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .._keys import ResultKeys
from ._axes import show_or_return

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MIN_SPLITS_SHOWN = 40


def n_clusters(
    adata: AnnData, *, key: str = "sctag", show: bool | None = None, return_fig: bool = False
) -> list[Axes] | Figure | None:
    """Draw the evidence for each split of cells, for a run that chose the number of clusters.

    Each point is a split of the tree. The upper plot shows how often the partitions keep its two sides together,
    relative to cells of one side; ``resolution`` sets its limit. The lower plot shows how far apart the sides lie, less
    a margin of error; its limit is what one cloud of cells cut at the same share would give. A split is supported if it
    lies below the upper and above the lower limit, or if a split within one of its sides is supported. The number of
    clusters is that of the supported splits plus one. Points near a limit could have gone the other way.

    Parameters
    ----------
    adata
        Annotated data with a result of :func:`sctag_tools.tl.sctag` for which ``n_clusters`` was not given.
    key
        Name of the result.
    show
        Show the figure; by default ``sc.settings.autoshow``.
    return_fig
        Return the figure.

    Returns
    -------
    The figure with ``return_fig=True``, the axes with ``show=False``, else ``None``.

    Raises
    ------
    KeyError
        If there is no result of this name.
    ValueError
        If ``n_clusters`` was given, so that there is no choice to show, or the result was mapped from a reference.

    Examples
    --------
    >>> import sctag_tools as sctag
    >>> adata = sctag.datasets.pbmc68k_reduced()
    >>> sctag.pp.build_graph(adata)
    >>> sctag.tl.sctag(adata, n_networks=1, pretrain_epochs=5, cluster_epochs=2, progress_bar=False)
    >>> axes = sctag.pl.n_clusters(adata, show=False)
    """
    import matplotlib.pyplot as plt
    from matplotlib.ticker import ScalarFormatter

    ResultKeys(key).require_run(adata)
    curve, params = adata.uns[key].get("n_clusters_curve"), adata.uns[key]["params"]
    if curve is None:
        msg = f"The number of clusters of {key!r} was given; run `sctag.tl.sctag` without it to have it chosen."
        raise ValueError(msg)
    chosen, resolution = int(params["n_clusters"]), float(params["resolution"])
    shown = slice(0, max(MIN_SPLITS_SHOWN, chosen + 5))
    number, supported = curve["n_clusters"][shown], curve["supported"][shown] > 0
    figure, (above, below) = plt.subplots(2, 1, figsize=(6.4, 4.4), layout="constrained", sharex=True)
    # In results of version 0.1 the first limit is missing and the second is the same for all splits.
    limits = curve.get("max_coassociation", resolution / (1 + resolution)), curve["least_separation"]
    sides = ("below", "above")  # of the limit, where supported splits lie
    for ax, name, limit, side in zip((above, below), ("coassociation", "separation"), limits, sides, strict=True):
        values, line = np.maximum(curve[name][shown], 0), np.broadcast_to(limit, curve[name].shape)[shown]
        ax.scatter(number[supported], values[supported], s=22, color="C0", label="supported")
        ax.scatter(
            number[~supported], values[~supported], s=22, facecolors="none", edgecolors="0.55", label="not supported"
        )
        ax.plot(number, line, color="0.55", linewidth=1, linestyle="--", label="limit of support")
        ax.annotate(
            f"must lie\n{side} {line[-1]:.2g}", (1.01, line[-1]), xycoords=ax.get_yaxis_transform(), va="center",
            fontsize="small", annotation_clip=False,
        )  # fmt: skip
        ax.axvline(chosen + 0.5, color="C1", linewidth=1, label=f"number chosen: {chosen}")
    above.set(ylabel="sides kept together\n(1: as cells of one side)", ylim=(0, 1), title=f"{chosen} clusters")
    above.legend(frameon=False, loc="lower right", fontsize="small")
    below.set(ylabel="distance of the sides\n(standard deviations)", yscale="symlog")
    below.yaxis.set_major_formatter(ScalarFormatter())
    below.set_xlabel("clusters after the split")
    below.margins(y=0.15)
    return show_or_return(figure, (above, below), show=show, return_fig=return_fig)
