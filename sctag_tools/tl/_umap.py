"""``sctag.tl.umap``: two dimensions of the latent, for plots."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _logging as logg
from .._anndata.access import require_writable, silent_writing, working_copy
from .._checks import checked_seed
from .._keys import GRAPH_KEY, ResultKeys
from .._threads import keep_thread_counts
from ..pp import build_graph

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

_N_NEIGHBORS = 15


def umap(
    adata: AnnData,
    *,
    key: str = "sctag",
    reference: AnnData | None = None,
    reference_key: str | None = None,
    random_state: int | None = None,
    copy: bool = False,
) -> AnnData | None:
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
    reference
        The AnnData that these cells were mapped to (:func:`sctag_tools.tl.map_query`), which has a UMAP of this
        function. The cells are then placed into that UMAP, which does not move, as :meth:`umap.UMAP.transform` does.
    reference_key
        Name of the result in ``reference``; ``key`` by default.
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
        If there is no result of this name, or the reference has no UMAP.
    ValueError
        If there are fewer than 2 cells, the latent of the reference has other dimensions, or ``random_state`` is no
        seed.
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
    require_writable(adata, "sctag.tl.umap", copy=copy)
    keys = ResultKeys(key)
    keys.require_result(adata)
    if random_state is None:
        random_state = adata.uns[key]["params"].get("random_state", 0)  # mapped cells have none
    seed = checked_seed(random_state)
    mapper = None if reference is None else _umap_of(reference, key if reference_key is None else reference_key, seed)
    if mapper is not None and mapper._raw_data.shape[1] != adata.obsm[keys.latent].shape[1]:
        msg = "The latents of adata and reference have different dimensions; map the cells to this reference first."
        raise ValueError(msg)
    adata = working_copy(adata, copy=copy)

    start = logg.info(f"computing the UMAP of {keys.latent!r}")
    latent = adata.obsm[keys.latent]
    placed = np.isfinite(latent).all(axis=1)  # only some cells have one after `tl.subcluster`
    positions = np.full((adata.n_obs, 2), np.nan, dtype=np.float32)
    positions[placed] = _layout(latent[placed], seed) if mapper is None else _transform(mapper, latent[placed])
    with silent_writing():
        adata.obsm[keys.umap] = positions
    logg.info("    finished", time=start, deep=f"added\n    {keys.umap!r}, UMAP of the latent (adata.obsm)")
    return adata if copy else None


def _layout(latent: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    import scanpy as sc
    from anndata import AnnData

    work = AnnData(shape=(len(latent), 0), obsm={"latent": latent})
    with keep_thread_counts(), sc.settings.verbosity.override(0), warnings.catch_warnings():
        # umap lays out every component of a graph, so separate ones need no warning
        warnings.filterwarnings("ignore", "Graph is not fully connected")
        build_graph(work, min(_N_NEIGHBORS, work.n_obs), use_rep="latent", random_state=seed)
        sc.tl.umap(work, neighbors_key=GRAPH_KEY, random_state=seed)
    return np.asarray(work.obsm["X_umap"], dtype=np.float32)


def _umap_of(reference: AnnData, key: str, seed: int) -> Any:
    """A model of the UMAP that ``reference`` has, for new cells."""
    from umap import UMAP

    keys = ResultKeys(key)
    keys.require_result(reference)
    if keys.umap not in reference.obsm:
        msg = f"The reference has no UMAP of the result {key!r}; run `sctag.tl.umap(reference, key={key!r})` first."
        raise KeyError(msg)
    latent, positions = (np.asarray(reference.obsm[name], dtype=np.float32) for name in (keys.latent, keys.umap))
    has_place = np.isfinite(positions).all(axis=1)
    n_neighbors = min(_N_NEIGHBORS, int(has_place.sum()) - 1)
    with keep_thread_counts(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Graph is not fully connected")
        warnings.filterwarnings("ignore", "Spectral initialisation failed")
        # No step of its own: the positions are there already.
        mapper = UMAP(
            n_neighbors, init=positions[has_place], n_epochs=0, random_state=seed, transform_seed=seed, n_jobs=1
        )
        mapper.fit(latent[has_place])
    mapper.embedding_, mapper.n_epochs = positions[has_place], None
    return mapper


def _transform(mapper: Any, latent: NDArray[np.float32]) -> NDArray[np.float32]:
    with keep_thread_counts():
        return np.asarray(mapper.transform(latent), dtype=np.float32)
