"""``sctag.pl.embedding``: scanpy's scatter plot, by default of the UMAP of the latent."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from .. import _logging as logg
from .._adata import require_result, writing
from .._threads import kept_thread_counts

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
    """Scatter plot of cells, by default the UMAP of the scTAG latent coloured by its clusters.

    Parameters
    ----------
    adata
        Annotated data with a result of :func:`sctag_tools.tl.sctag`.
    basis
        Key in ``adata.obsm``, with or without ``X_``. By default the UMAP of the latent: computed from
        ``obsm["X_{key}"]`` once, with the run's seed, and kept as ``obsm["X_{key}_umap"]``.
    key
        Name of the result (``key_added`` of the run); needed unless both basis and color are given.
    color
        Columns of ``obs`` or genes; by default the clusters.
    **kwargs
        Passed to :func:`scanpy.pl.embedding`.

    Returns
    -------
    What :func:`scanpy.pl.embedding` returns: ``None`` when shown, axes with ``show=False``, the figure with
    ``return_fig=True``. May write:

    `adata.obsm['X_sctag_umap' | 'X_{key}_umap']` : :class:`numpy.ndarray` (float32)
        (n_obs, 2), if ``basis`` is not given and it was absent.

    Raises
    ------
    KeyError
        If there is no result of this name.

    Examples
    --------
    >>> import sctag_tools as sctag
    >>> adata = sctag.datasets.pbmc68k_reduced()
    >>> sctag.pp.build_graph(adata)
    >>> sctag.tl.sctag(adata, n_clusters=8, pretrain_epochs=5, cluster_epochs=2, progress_bar=False)
    >>> ax = sctag.pl.embedding(adata, basis="pca", show=False)
    """
    import scanpy as sc

    if basis is None or color is None:
        require_result(adata, key)
    if basis is None:
        basis = f"{key}_umap"  # the axes are named like this
        if f"X_{basis}" not in adata.obsm:
            with writing():
                adata.obsm[f"X_{basis}"] = _umap(adata, key)
    plot = getattr(sc.pl, "embedding", None) or sc.pl.legacy.embedding  # scanpy 2 moves it
    return plot(adata, basis, color=key if color is None else color, **kwargs)


def _umap(adata: AnnData, key: str) -> Any:
    """UMAP (n_obs, 2) of the latent, computed on a temporary so that the user's own graph and UMAP stay."""
    import scanpy as sc
    from anndata import AnnData

    from ..pp import build_graph

    start = logg.info(f"computing the UMAP of 'X_{key}'")
    work = AnnData(obs=adata.obs[[]], obsm={"latent": adata.obsm[f"X_{key}"]})
    seed = int(adata.uns[key]["params"].get("random_state", 0))  # a mapped result has none
    build_graph(work, min(15, work.n_obs), use_rep="latent", random_state=seed)
    with kept_thread_counts(), warnings.catch_warnings():
        # a latent in separate islands is no cause for concern, UMAP lays out each of them
        warnings.filterwarnings("ignore", "Graph is not fully connected")
        sc.tl.umap(work, neighbors_key="sctag_neighbors", random_state=seed)
    logg.info("    finished", time=start, deep=f"added\n    'X_{key}_umap', UMAP of the latent (adata.obsm)")
    return work.obsm["X_umap"]
