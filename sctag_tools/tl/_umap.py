"""``sctag.tl.umap``: two dimensions of the latent, for plots."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from .. import _logging as logg
from .._anndata.access import require_writable, silent_writing, working_copy
from .._checks import checked_seed
from .._keys import GRAPH_KEY, ResultKeys
from .._threads import keep_thread_counts
from ..pp import build_graph

if TYPE_CHECKING:
    from anndata import AnnData


def umap(adata: AnnData, *, key: str = "sctag", random_state: int | None = None, copy: bool = False) -> AnnData | None:
    """Compute the UMAP of the scTAG latent (McInnes et al. 2018).

    It is computed as :func:`scanpy.tl.umap` does on the 15 nearest neighbors of each cell in the latent. The graph that
    the encoder used, and a UMAP of your own in ``obsm["X_umap"]``, stay as they are. A later run or mapping under the
    same name removes this UMAP.

    Parameters
    ----------
    adata
        Annotated data with a result of :func:`sctag_tools.tl.sctag`, :func:`sctag_tools.tl.map_query` or
        :func:`sctag_tools.tl.subcluster`.
    key
        Name of the result.
    random_state
        Seed of the layout. By default that of the run, or 0 for mapped cells.
    copy
        Return a changed copy instead of writing to ``adata``.

    Returns
    -------
    ``None``, or the copy if ``copy=True``. Writes:

    `adata.obsm['X_sctag_umap' | 'X_{key}_umap']` : :class:`numpy.ndarray` (float32)
        (n_obs, 2), the position of each cell; NaN for cells without a latent (:func:`sctag_tools.tl.subcluster`).

    Raises
    ------
    KeyError
        If there is no result of this name.
    ValueError
        If there are fewer than 2 cells, or ``random_state`` is no seed.
    NotImplementedError
        For a copy or a view of backed data, which cannot hold results.

    Examples
    --------
    >>> import sctag_tools as sctag
    >>> adata = sctag.datasets.pbmc68k_reduced()
    >>> sctag.pp.build_graph(adata)
    >>> sctag.tl.sctag(adata, n_clusters=8, pretrain_epochs=5, cluster_epochs=2, progress_bar=False)
    >>> sctag.tl.umap(adata)
    >>> adata.obsm["X_sctag_umap"].shape
    (700, 2)
    """
    import scanpy as sc
    from anndata import AnnData

    require_writable(adata, "sctag.tl.umap", copy=copy)
    keys = ResultKeys(key)
    keys.require_result(adata)
    if random_state is None:
        random_state = adata.uns[key]["params"].get("random_state", 0)  # mapped cells have none
    seed = checked_seed(random_state)
    adata = working_copy(adata, copy=copy)

    start = logg.info(f"computing the UMAP of {keys.latent!r}")
    latent = adata.obsm[keys.latent]
    placed = np.isfinite(latent).all(axis=1)  # only some cells have one after `tl.subcluster`
    work = AnnData(shape=(int(placed.sum()), 0), obsm={"latent": latent[placed]})
    with sc.settings.verbosity.override(0), keep_thread_counts(), warnings.catch_warnings():
        # umap lays out every component of a graph, so separate ones need no warning
        warnings.filterwarnings("ignore", "Graph is not fully connected")
        build_graph(work, min(15, work.n_obs), use_rep="latent", random_state=seed)
        sc.tl.umap(work, neighbors_key=GRAPH_KEY, random_state=seed)
    with silent_writing():
        adata.obsm[keys.umap] = np.full((adata.n_obs, 2), np.nan, dtype=np.float32)
        adata.obsm[keys.umap][placed] = work.obsm["X_umap"]
    logg.info("    finished", time=start, deep=f"added\n    {keys.umap!r}, UMAP of the latent (adata.obsm)")
    return adata if copy else None
