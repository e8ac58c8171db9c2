"""``sctag.pl.embedding``: scanpy's scatter plot, by default of the UMAP of the latent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._keys import ResultKeys
from ..tl._umap import umap
from ._axes import root_figure, show_or_return, show_or_return_axes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes

_POINTS_SIZE = 120_000  # of all points together, as scanpy has it


def embedding(
    adata: AnnData,
    basis: str | None = None,
    *,
    key: str = "sctag",
    color: str | Sequence[str] | None = None,
    reference: AnnData | None = None,
    reference_key: str | None = None,
    **kwargs: Any,
) -> Any:
    """Draw a scatter plot of cells, by default the UMAP of the scTAG latent colored by its clusters.

    Parameters
    ----------
    adata
        Annotated data with a result of :func:`sctag_tools.tl.sctag` or :func:`sctag_tools.tl.map_query`.
    basis
        Key in ``adata.obsm``, with or without ``X_``. By default the UMAP of the latent, ``obsm["X_{key}_umap"]``. If
        that is missing, :func:`sctag_tools.tl.umap` computes it first.
    key
        Name of the result (``key_added`` of the run). Not used if both ``basis`` and ``color`` are given.
    color
        Columns of ``obs`` or genes; by default the clusters.
    reference
        The AnnData that these cells were mapped to. Its cells are drawn in gray below, in its own UMAP, and these cells
        are placed into that (:func:`sctag_tools.tl.umap`). Not together with ``basis``.
    reference_key
        Name of the result in ``reference``; ``key`` by default.
    **kwargs
        Passed to :func:`scanpy.pl.embedding`.

    Returns
    -------
    What :func:`scanpy.pl.embedding` returns: ``None`` when shown, axes with ``show=False``, the figure with
    ``return_fig=True``. May write:

    `adata.obsm['X_sctag_umap' | 'X_{key}_umap']` : :class:`numpy.ndarray` (float32)
        (n_obs, 2), if ``basis`` is not given and it was missing; anew with ``reference``.

    Raises
    ------
    KeyError
        If there is no result of this name, no such basis, or the reference has no UMAP.
    ValueError
        If ``basis`` and ``reference`` are given.

    Examples
    --------
    >>> import sctag_tools as sctag
    >>> adata = sctag.datasets.pbmc68k_reduced()
    >>> sctag.pp.build_graph(adata)
    >>> sctag.tl.sctag(adata, n_clusters=8, pretrain_epochs=5, cluster_epochs=2, progress_bar=False)
    >>> ax = sctag.pl.embedding(adata, basis="pca", show=False)
    """
    import scanpy as sc

    if basis is not None and reference is not None:
        msg = "basis and reference cannot be given together: cells are drawn in the UMAP of the reference."
        raise ValueError(msg)
    keys = ResultKeys(key)
    if basis is None or color is None:
        keys.require_result(adata)
    if basis is None:
        basis = keys.umap.removeprefix("X_")  # scanpy names the axes like this
        if reference is not None:
            umap(adata, key=key, reference=reference, reference_key=reference_key)
        elif keys.umap not in adata.obsm:
            umap(adata, key=key)
    plot = getattr(sc.pl, "embedding", None) or sc.pl.legacy.embedding  # scanpy 2 moves it
    color = keys.clusters if color is None else color
    if reference is None:
        return plot(adata, basis, color=color, **kwargs)
    show, return_fig = kwargs.pop("show", None), kwargs.pop("return_fig", False)
    below = reference.obsm[ResultKeys(key if reference_key is None else reference_key).umap]
    size = _POINTS_SIZE / (adata.n_obs + len(below))
    axes = plot(adata, basis, color=color, show=False, **{"size": size, **kwargs})
    for ax in axes if isinstance(axes, list) else [axes]:
        ax.scatter(*below.T, s=size, color="0.8", linewidths=0, zorder=0, rasterized=True)
    return _ended(axes, is_given="ax" in kwargs, show=show, return_fig=bool(return_fig))


def _ended(axes: Axes | list[Axes], *, is_given: bool, show: bool | None, return_fig: bool) -> Any:
    """What scanpy's plots return."""
    if isinstance(axes, list):
        return show_or_return(root_figure(axes[0]), axes, show=show, return_fig=return_fig)
    return show_or_return_axes(axes, is_given=is_given, show=show, return_fig=return_fig)
