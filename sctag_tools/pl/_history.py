"""``sctag.pl.history``: the training curves of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .._keys import ResultKeys
from ._axes import show_or_return

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LABELS = {  # of the vertical axes, by entry of the history
    "loss": "weighted sum of the terms",
    "multinomial": "negative log likelihood of the\ncounts (nats per count)",
    "zinb": "negative log likelihood of the\ncounts (nats per entry)",
    "graph": "cross-entropy of the\ngraph (nats per cell)",
    "cluster": "divergence from the\ntarget (nats per cell)",
}


def history(
    adata: AnnData, *, key: str = "sctag", show: bool | None = None, return_fig: bool = False
) -> list[Axes] | Figure | None:
    """Draw the loss and each of its terms at every training step.

    A dashed line separates pretraining from self-training.

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
        If the run had no training step, or the result was mapped from a reference.

    Examples
    --------
    >>> import sctag_tools as sctag
    >>> adata = sctag.datasets.pbmc68k_reduced()
    >>> sctag.pp.build_graph(adata)
    >>> sctag.tl.sctag(adata, n_clusters=8, pretrain_epochs=5, cluster_epochs=2, progress_bar=False)
    >>> axes = sctag.pl.history(adata, show=False)
    """
    import matplotlib.pyplot as plt

    ResultKeys(key).require_run(adata)
    curves = adata.uns[key]["history"]
    n_steps = len(curves["loss"])
    if not n_steps:
        msg = f"The run {key!r} has no training steps to show."
        raise ValueError(msg)
    names = [name for name in _LABELS if name in curves and np.isfinite(curves[name]).any()]
    n_pretraining = int(np.isnan(curves["cluster"]).sum())
    figure, axes = plt.subplots(1, len(names), figsize=(3.2 * len(names), 2.8), layout="constrained", squeeze=False)
    for ax, name in zip(axes[0], names, strict=True):
        ax.plot(np.arange(1, n_steps + 1), curves[name], linewidth=1)
        if 0 < n_pretraining < n_steps:
            ax.axvline(n_pretraining + 0.5, color="0.6", linewidth=1, linestyle="--", label="self-training begins")
        ax.set(xlabel="training step", ylabel=_LABELS[name], title=name)
    if 0 < n_pretraining < n_steps:
        axes[0, 0].legend(frameon=False, fontsize="small")
    return show_or_return(figure, axes[0], show=show, return_fig=return_fig)
