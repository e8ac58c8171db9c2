"""``sctag.pp.build_graph``: the kNN graph of cells in scanpy's neighbours layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from scipy import sparse

from .. import _logging as logg
from .._adata import (
    batch_numbers,
    checked_mask,
    representation_of,
    require_anndata,
    require_place,
    working_copy,
    writing,
)
from .._blocks import Values, columns_and_totals, is_in_memory
from .._checks import check_choice, check_flag, check_integer, check_name, seed_of
from .._core.neighbors import Neighbors, find_neighbors, find_neighbors_across, join_pieces, levelled
from .._threads import kept_thread_counts
from .._types import Metric

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

_MAX_PCS = 50
_FUNCTION = "sctag.pp.build_graph"


def build_graph(
    adata: AnnData,
    n_neighbors: int = 15,
    *,
    n_pcs: int | None = None,
    use_rep: str | None = None,
    metric: Metric = "euclidean",
    exact: bool | None = None,
    batch_key: str | None = None,
    random_state: int | None = 0,
    key_added: str | None = "sctag_neighbors",
    copy: bool = False,
) -> AnnData | None:
    """Build the k-nearest-neighbour graph of cells that the scTAG encoder convolves over.

    The graph has scanpy's layout under its own key, so every scanpy function that takes ``neighbors_key`` runs on it
    (:func:`scanpy.tl.leiden`, :func:`scanpy.tl.umap`, :func:`scanpy.tl.diffmap`, :func:`scanpy.tl.paga`), and a graph
    made by :func:`scanpy.pp.neighbors` serves :func:`sctag_tools.tl.sctag` as well.

    Parameters
    ----------
    adata
        Annotated data, cells in rows. X may be dense or sparse.
    n_neighbors
        Neighbours of a cell, itself included, as scanpy counts them: 15 means 14 others. Lowered, with a warning, when
        there are fewer cells.
    n_pcs
        Use the first so many columns of the representation; by default at most 50 of ``X_pca``, all of ``use_rep``.
    use_rep
        Key in ``adata.obsm``, or ``"X"``. By default ``X_pca``; if that is missing, PCA is run on the highly variable
        genes (all genes if none are marked) and stored. Where X holds counts, raw or corrected, they are normalised to
        10,000 a cell and log1p-transformed for it on a temporary.
    metric
        ``"euclidean"``, ``"cosine"``, ``"correlation"`` or ``"manhattan"``.
    exact
        Whether to compare all pairs of cells, or search approximately with pynndescent (McInnes 2018). By default
        exact up to 50,000 cells, where it is faster on two cores. Neither keeps an n x n array.
    batch_key
        Column of ``adata.obs`` with the experimental batch. The representation is then centred in each batch, and
        every batch gives each cell equally many neighbours, rounded up (BBKNN, Polanski et al. 2020).
    random_state
        Seed of PCA and of the approximate search; None draws one, which the record holds.
    key_added
        Name under ``adata.uns``; ``None`` writes to scanpy's own ``neighbors``.
    copy
        Return a changed copy instead of writing to ``adata``.

    Returns
    -------
    ``None``, or the copy if ``copy=True``. Writes:

    `adata.obsp['sctag_neighbors_distances' | key_added]` : :class:`scipy.sparse.csr_matrix` (float32)
        (n_obs, n_obs); distances to the ``n_neighbors - 1`` nearest others of each row, not symmetric. Where the graph
        would be in pieces, single cells have their farthest neighbour replaced by the nearest cell of another piece,
        since :func:`scanpy.tl.paga` fails on groups without any edge between them.
    `adata.obsp['sctag_neighbors_connectivities' | key_added]` : :class:`scipy.sparse.csr_matrix` (float32)
        (n_obs, n_obs); UMAP's fuzzy weights in (0, 1], symmetric, no diagonal (McInnes et al. 2018).
    `adata.uns['sctag_neighbors' | key_added]` : :class:`dict`
        Names of the two matrices, and ``params``.
    `adata.obsm['X_pca']`, `adata.varm['PCs']`, `adata.uns['pca']`
        Only when there was no ``X_pca`` and ``use_rep`` was not given; as :func:`scanpy.pp.pca` writes them.

    Raises
    ------
    KeyError
        If there is no such batch column.
    ValueError
        If there are fewer than 2 cells, or an argument or the representation cannot be used.
    NotImplementedError
        For a copy or a view of backed data, which cannot hold results.

    Examples
    --------
    >>> import scanpy as sc, sctag_tools as sctag
    >>> adata = sctag.datasets.pbmc68k_reduced()
    >>> sctag.pp.build_graph(adata)
    >>> adata.obsp["sctag_neighbors_distances"].shape
    (700, 700)
    """
    require_anndata(adata, _FUNCTION)
    check_choice("metric", metric, get_args(Metric))
    random_state = seed_of(random_state)
    check_flag("copy", copy)
    require_place(adata, copy=copy)
    if exact is not None:
        check_flag("exact", exact)
    if n_pcs is not None:
        check_integer("n_pcs", n_pcs, low=1)
    if key_added is not None:
        check_name("key_added", key_added)
        _require_graph_or_nothing(adata, key_added)
    n_neighbors = _usable_n_neighbors(n_neighbors, adata.n_obs)
    batches = batch_numbers(adata, batch_key)
    adata = working_copy(adata, copy=copy)

    start = logg.info("building the cell graph")
    with kept_thread_counts():
        pca = _missing_pca(adata, use_rep, n_pcs, random_state)
        x, params = _representation(adata if pca is None else pca, use_rep, n_pcs)
        search: dict[str, Any] = {"metric": metric, "random_state": random_state, "exact": exact}
        if batches is None:
            found = find_neighbors(x, n_neighbors, **search)
        else:
            x = _centred(x, batches)
            found = find_neighbors_across(x, batches, n_neighbors, **search)
            params["batch_key"] = batch_key
        found = join_pieces(found, x, metric=metric)
        weighted = found if batches is None else levelled(found, batches)
        graph = _connect(weighted, metric=metric, random_state=random_state, key_added=key_added)
    key = "neighbors" if key_added is None else key_added

    names = graph.uns[key]
    with writing():
        if pca is not None:
            adata.obsm["X_pca"], adata.varm["PCs"] = pca.obsm["X_pca"], pca.varm["PCs"]
            adata.uns["pca"] = pca.uns["pca"]
        adata.obsp[names["distances_key"]] = _distances(found)
        adata.obsp[names["connectivities_key"]] = graph.obsp[names["connectivities_key"]]
        adata.uns[key] = {**names, "params": {**names["params"], **params}}
    logg.info(
        "    finished",
        time=start,
        deep=f"added\n    {key!r}, the graph's parameters (adata.uns)\n"
        f"    {names['distances_key']!r}, {names['connectivities_key']!r} (adata.obsp)",
    )
    return adata if copy else None


def _require_graph_or_nothing(adata: AnnData, key: str) -> None:
    entry = adata.uns.get(key, {})
    if key in adata.uns and not (isinstance(entry, Mapping) and "connectivities_key" in entry):
        msg = f"adata.uns[{key!r}] holds something else than a graph; choose another name with `key_added=`."
        raise ValueError(msg)


def _usable_n_neighbors(n_neighbors: int, n_obs: int) -> int:
    check_integer("n_neighbors", n_neighbors, low=2)
    if n_obs < 2:
        msg = f"A graph needs at least 2 cells, adata has {n_obs}."
        raise ValueError(msg)
    if n_neighbors <= n_obs:
        return n_neighbors
    lowered = 1 + n_obs // 2  # scanpy's rule
    msg = f"n_neighbors={n_neighbors} exceeds the {n_obs} cells; using {lowered}."
    logg.warn(msg)
    return lowered


def _missing_pca(adata: AnnData, use_rep: str | None, n_pcs: int | None, random_state: int) -> AnnData | None:
    """An AnnData with ``X_pca`` of these cells where it is needed and absent, else None."""
    if use_rep not in (None, "X_pca") or "X_pca" in adata.obsm:
        return None
    import scanpy as sc
    from anndata import AnnData

    if adata.X is None:
        msg = "adata.X is empty and there is no adata.obsm['X_pca']; name a representation with `use_rep=`."
        raise ValueError(msg)
    values = Values.of(adata.X)
    if not values.finite:
        msg = "adata.X holds NaN or infinite values; mend it, or name a representation with `use_rep=`."
        raise ValueError(msg)
    genes = np.arange(adata.n_vars)
    if "highly_variable" in adata.var:
        genes = genes[checked_mask(adata.var["highly_variable"].to_numpy(), "highly_variable", adata.n_vars)]
    n_comps = min(max(n_pcs or 0, _MAX_PCS), adata.n_obs - 1, len(genes) - 1)
    if n_comps < 1:
        msg = f"PCA needs at least 2 genes, got {len(genes)}; name a representation with `use_rep=`."
        raise ValueError(msg)
    unlogged = values.are_counts or ("log1p" not in adata.uns and values.are_unlogged)
    x = _log_normalised(adata.X, genes) if unlogged else _expression(adata.X, genes)
    work = AnnData(x, obs=adata.obs[[]], var=adata.var)
    logg.info(f"    computing X_pca with {n_comps} components on {len(genes)} genes")
    sc.pp.pca(work, n_comps=n_comps, random_state=random_state)
    return work


def _log_normalised(matrix: Any, genes: NDArray[np.integer]) -> sparse.csr_matrix:
    """(n_obs, n_vars) log1p of counts at 10,000 a cell; of other genes than these there is nothing."""
    x, totals = columns_and_totals(matrix, genes)
    x.data /= np.repeat(totals / 1e4, np.diff(x.indptr)).astype(np.float32)
    return _widened(x.log1p(), genes, matrix.shape[1])


def _expression(matrix: Any, genes: NDArray[np.integer]) -> Any:
    """The (n_obs, n_vars) matrix as scanpy's PCA takes it; on disk or in dask, these genes of it alone."""
    if not is_in_memory(matrix):
        return _widened(columns_and_totals(matrix, genes)[0], genes, matrix.shape[1])
    return sparse.csr_matrix(matrix) if sparse.issparse(matrix) else matrix  # scanpy does not take sparse arrays


def _widened(x: sparse.csr_matrix, columns: NDArray[np.integer], n_columns: int) -> sparse.csr_matrix:
    return sparse.csr_matrix((x.data, columns[x.indices], x.indptr), shape=(x.shape[0], n_columns))


def _representation(
    adata: AnnData, use_rep: str | None, n_pcs: int | None
) -> tuple[NDArray[np.floating], dict[str, Any]]:
    """The array to measure distances in, and the parameters that let scanpy find it again."""
    key = "X_pca" if use_rep is None else use_rep
    if key != "X" and key not in adata.obsm:
        msg = f"use_rep={key!r} is not in adata.obsm; there are {list(adata.obsm)}. Compute it first, or use 'X'."
        raise ValueError(msg)
    x = representation_of(adata, key)
    width = n_pcs or (min(_MAX_PCS, x.shape[1]) if use_rep is None else x.shape[1])
    if width > x.shape[1]:
        msg = f"n_pcs={n_pcs} exceeds the {x.shape[1]} columns of {key!r}."
        raise ValueError(msg)
    params: dict[str, Any] = {"use_rep": key}
    if width != x.shape[1]:
        params["n_pcs"] = int(width)
    return np.ascontiguousarray(x[:, :width], dtype=np.float32), params


def _centred(x: NDArray[np.floating], batches: NDArray[np.int64]) -> NDArray[np.floating]:
    """Rows less the mean of their batch."""
    means = np.stack([x[batches == batch].mean(axis=0) for batch in range(int(batches.max()) + 1)])
    return np.asarray(x - means[batches], dtype=np.float32)


class _Found:
    """Hands neighbours that were found already to scanpy, which takes any sklearn-like transformer."""

    def __init__(self, found: Neighbors) -> None:
        self.found = found

    def get_params(self) -> dict[str, int]:
        return {"n_neighbors": self.found.indices.shape[1]}

    def fit_transform(self, _x: object) -> sparse.csr_matrix:
        return _to_csr(self.found.indices, self.found.distances)


def _connect(found: Neighbors, *, metric: str, random_state: int, key_added: str | None) -> AnnData:
    """Scanpy's neighbours entries for these neighbours, on an AnnData that holds nothing else."""
    import scanpy as sc
    from anndata import AnnData

    n = len(found.indices)
    graph = AnnData(shape=(n, 0), obsm={"X_pca": np.zeros((n, 1), dtype=np.float32)})
    verbosity = sc.settings.verbosity
    sc.settings.verbosity = 0  # its report would name slots of the temporary
    try:
        sc.pp.neighbors(
            graph, use_rep="X_pca", transformer=_Found(found), metric=metric, random_state=random_state,
            key_added=key_added,
        )  # fmt: skip
    finally:
        sc.settings.verbosity = verbosity
    return graph


def _distances(found: Neighbors) -> sparse.csr_matrix:
    """(n, n) distances without the cells themselves, ``n_neighbors - 1`` entries a row."""
    return _to_csr(found.indices[:, 1:], found.distances[:, 1:])


def _to_csr(indices: NDArray[np.int64], distances: NDArray[np.float32]) -> sparse.csr_matrix:
    n, k = indices.shape
    return sparse.csr_matrix((distances.ravel(), indices.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n))
