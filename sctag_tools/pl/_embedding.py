"""``sctag.pl.embedding``: scanpy's scatter plot, by default of the UMAP of the latent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._keys import ResultKeys
from ..tl._umap import umap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData


def embedding(
    adata: AnnData,
    basis: str | None = None,
    *,
    key: str = "sctag",
    color: str | Sequence[str] | None = None,
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
    **kwargs
        Passed to :func:`scanpy.pl.embedding`.

    Returns
    -------
    What :func:`scanpy.pl.embedding` returns: ``None`` when shown, axes with ``show=False``, the figure with
    ``return_fig=True``. May write:

    `adata.obsm['X_sctag_umap' | 'X_{key}_umap']` : :class:`numpy.ndarray` (float32)
        (n_obs, 2), if ``basis`` is not given and it was missing.

    Raises
    ------
    KeyError
        If there is no result of this name, or no such basis.

    Examples
    --------
    >>> import sctag_tools as sctag
    >>> adata = sctag.datasets.pbmc68k_reduced()
    >>> sctag.pp.build_graph(adata)
    >>> sctag.tl.sctag(adata, n_clusters=8, pretrain_epochs=5, cluster_epochs=2, progress_bar=False)
    >>> ax = sctag.pl.embedding(adata, basis="pca", show=False)
    """
    import scanpy as sc

    keys = ResultKeys(key)
    if basis is None or color is None:
        keys.require_result(adata)
    if basis is None:
        basis = keys.umap.removeprefix("X_")  # scanpy names the axes like this
        if keys.umap not in adata.obsm:
            umap(adata, key=key)
    plot = getattr(sc.pl, "embedding", None) or sc.pl.legacy.embedding  # scanpy 2 moves it
    return plot(adata, basis, color=keys.clusters if color is None else color, **kwargs)
