"""``sctag.pl.history``: the training curves of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .._adata import require_run

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LABELS = {
    "loss": "weighted sum",
    "multinomial": "multinomial (nats per count)",
    "zinb": "ZINB (nats per entry)",
    "graph": "graph (nats per cell)",
    "cluster": "KL(P || Q) (nats per cell)",
}


def history(
    adata: AnnData, *, key: str = "sctag", show: bool | None = None, return_fig: bool = False
) -> list[Axes] | Figure | None:
    """Training curves: each term of the loss at every step, pretraining and clustering told apart.

    Parameters
    ----------
    adata
        Annotated data with a result of :func:`sctag_tools.tl.sctag`.
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
        If it was run without any training step, or mapped to a reference.

    Examples
    --------
    >>> import sctag_tools as sctag
    >>> adata = sctag.datasets.pbmc68k_reduced()
    >>> sctag.pp.build_graph(adata)
    >>> sctag.tl.sctag(adata, n_clusters=8, pretrain_epochs=5, cluster_epochs=2, progress_bar=False)
    >>> axes = sctag.pl.history(adata, show=False)
    """
    import matplotlib.pyplot as plt
    from scanpy import settings

    require_run(adata, key)
    curves = adata.uns[key]["history"]
    if not len(curves["loss"]):
        msg = f"The run {key!r} has no training steps to show."
        raise ValueError(msg)
    names = [name for name in _LABELS if name in curves and np.isfinite(curves[name]).any()]
    first_clustering = int(np.isnan(curves["cluster"]).sum())
    figure, axes = plt.subplots(1, len(names), figsize=(3.2 * len(names), 2.8), layout="constrained", squeeze=False)
    for ax, name in zip(axes[0], names, strict=True):
        ax.plot(np.arange(1, len(curves[name]) + 1), curves[name], linewidth=1)
        if 0 < first_clustering < len(curves[name]):
            ax.axvline(first_clustering + 0.5, color="0.6", linewidth=1, linestyle="--")
        ax.set(xlabel="step", ylabel=_LABELS[name], title=name)
    if return_fig:
        return figure
    if show is False or (show is None and not settings.autoshow):
        return list(axes[0])
    plt.show()
    return None
