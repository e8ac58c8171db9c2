"""``sctag.pl.n_clusters``: why there are so many clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .._adata import require_run

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SHOWN = 40


def n_clusters(
    adata: AnnData, *, key: str = "sctag", show: bool | None = None, return_fig: bool = False
) -> list[Axes] | Figure | None:
    """The evidence for each split of cells, for a run that chose the number of clusters.

    Above: how many of the partitions keep the halves of a split together, and the limit that ``resolution`` sets.
    Below: how far apart the halves are, less two standard errors, and what one cloud cut in two would give at most.
    Splits that count are filled; the number of clusters is theirs plus one. A number that is close to another choice
    shows as points near the limits.

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
        If the number of clusters was given, so that there is no choice to show, or the result was mapped.

    Examples
    --------
    >>> import sctag_tools as sctag
    >>> adata = sctag.datasets.pbmc68k_reduced()
    >>> sctag.pp.build_graph(adata)
    >>> sctag.tl.sctag(adata, n_networks=1, pretrain_epochs=5, cluster_epochs=2, progress_bar=False)
    >>> axes = sctag.pl.n_clusters(adata, show=False)
    """
    import matplotlib.pyplot as plt
    from scanpy import settings

    require_run(adata, key)
    curve = adata.uns[key].get("n_clusters_curve")
    if curve is None:
        msg = f"The number of clusters of {key!r} was given; run `sctag.tl.sctag` without it to have it chosen."
        raise ValueError(msg)
    found, resolution = int(adata.uns[key]["params"]["n_clusters"]), float(adata.uns[key]["params"]["resolution"])
    shown = slice(0, min(max(_SHOWN, found + 5), len(curve["n_clusters"])))
    number, supported = curve["n_clusters"][shown], curve["supported"][shown] > 0
    limits = {"coassociation": resolution / (1 + resolution), "separation": float(curve["least_separation"])}
    labels = {"coassociation": "partitions that keep\nthe halves together", "separation": "distance of\nhalves (d')"}
    figure, axes = plt.subplots(2, 1, figsize=(6, 4.4), layout="constrained", sharex=True)
    for ax, (name, limit) in zip(axes, limits.items(), strict=True):
        values = np.maximum(curve[name][shown], 0)
        ax.scatter(number[supported], values[supported], s=22, color="C0", label="counts, or lies above one that does")
        ax.scatter(number[~supported], values[~supported], s=22, facecolors="none", edgecolors="0.6", label="does not")
        ax.axhline(limit, color="0.3", linewidth=1, linestyle="--")
        ax.axvline(found + 0.5, color="C1", linewidth=1)
        ax.set(ylabel=labels[name])
    axes[0].set(ylim=(0, 1), title=f"{found} clusters")
    axes[1].set(xlabel="clusters after the split", yscale="symlog")
    axes[1].margins(y=0.15)
    axes[0].legend(frameon=False, loc="lower right", fontsize="small")
    if return_fig:
        return figure
    if show is False or (show is None and not settings.autoshow):
        return list(axes)
    plt.show()
    return None
