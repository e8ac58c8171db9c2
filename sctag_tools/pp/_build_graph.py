"""``sctag.pp.build_graph``: the kNN graph of cells in scanpy's layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from .. import _logging as logg
from .._anndata.access import require_writable, silent_writing, working_copy
from .._anndata.batches import find_batches
from .._anndata.graph import get_representation
from .._checks import check_choice, check_flag, check_integer, check_name, checked_seed
from .._keys import GRAPH_KEY
from .._options import literal_choices
from .._threads import keep_thread_counts
from .._types import Metric
from ..neighbors.batches import find_neighbors_across, subtract_batch_offsets
from ..neighbors.components import connect_components
from ..neighbors.search import Neighbors, find_neighbors
from ._pca import N_PCS, compute_pca

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy import sparse

# Of the mean of a component, in standard deviations. A random half of 100 cells moves it by .1, one cluster by 1.
_MAX_PCA_SHIFT = 0.25


@literal_choices
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
    key_added: str | None = GRAPH_KEY,
    copy: bool = False,
) -> AnnData | None:
    """Build the k-nearest-neighbor graph of cells that the scTAG encoder convolves over.

    The graph has scanpy's layout under its own key. Every scanpy function that takes ``neighbors_key`` runs on it
    (:func:`scanpy.tl.leiden`, :func:`scanpy.tl.umap`, :func:`scanpy.tl.diffmap`, :func:`scanpy.tl.paga`), and
    :func:`sctag_tools.tl.sctag` runs on a graph of :func:`scanpy.pp.neighbors` as well.

    Parameters
    ----------
    adata
        Annotated data, cells in rows. X may be dense or sparse.
    n_neighbors
        Neighbors of a cell, itself included, as scanpy counts them: 15 means 14 others. If there are fewer cells, it is
        lowered with a warning.
    n_pcs
        Number of columns of the representation to use. By default the first 50 of ``X_pca``, or all of ``use_rep``.
    use_rep
        Key in ``adata.obsm``, or ``"X"``. By default ``X_pca``. If that is missing, PCA is run on the highly variable
        genes (on all genes if none are marked) and stored. If X holds raw or corrected counts, PCA runs on a temporary
        copy of them, normalized to 10,000 a cell and log1p-transformed.
    metric
        Distance between cells.
    exact
        True compares all pairs of cells, False searches approximately with pynndescent (McInnes 2018). By default the
        search is exact up to 50,000 cells, where it is the faster one on two cores. Neither needs memory for all pairs.
    batch_key
        Column of ``adata.obs`` with the experimental batch. The representation is then centered within each batch, and
        every batch gives each cell equally many neighbors, rounded up (BBKNN, Polanski et al. 2020).
    random_state
        Seed of PCA and of the approximate search. None draws one and records it.
    key_added
        Name under ``adata.uns``; ``None`` writes to scanpy's own ``neighbors``.
    copy
        Return a changed copy instead of writing to ``adata``.

    Returns
    -------
    ``None``, or the copy if ``copy=True``. Writes:

    `adata.obsp['sctag_neighbors_distances' | key_added]` : :class:`scipy.sparse.csr_matrix` (float32)
        (n_obs, n_obs); distances to the ``n_neighbors - 1`` nearest others of each row, not symmetric. Where the graph
        would fall into separate components, single cells have their farthest neighbor replaced by the nearest cell of
        another component, because :func:`scanpy.tl.paga` fails on groups without any edge between them.
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
    >>> import sctag_tools as sctag
    >>> adata = sctag.datasets.pbmc68k_reduced()
    >>> sctag.pp.build_graph(adata)
    >>> adata.obsp["sctag_neighbors_distances"].shape
    (700, 700)
    """
    require_writable(adata, "sctag.pp.build_graph", copy=copy)
    random_state = checked_seed(random_state)
    check_choice("metric", metric, get_args(Metric))
    if exact is not None:
        check_flag("exact", exact)
    if n_pcs is not None:
        check_integer("n_pcs", n_pcs, low=1)
    key = _checked_key(adata, key_added)
    n_neighbors = _usable_n_neighbors(n_neighbors, adata.n_obs)
    batch_index, _ = find_batches(adata, batch_key)
    adata = working_copy(adata, copy=copy)

    start = logg.info("building the cell graph")
    with keep_thread_counts():
        needs_pca = use_rep in (None, "X_pca") and "X_pca" not in adata.obsm
        pca = compute_pca(adata, n_pcs, random_state) if needs_pca else None
        x, params = _select_columns(pca if pca is not None else adata, use_rep, n_pcs)
        if params["use_rep"] == "X_pca" and pca is None:
            _warn_of_old_pca(adata, x)
        search: dict[str, Any] = {"metric": metric, "random_state": random_state, "exact": exact}
        if batch_index is None:
            found = weighted = connect_components(find_neighbors(x, n_neighbors, **search), x, metric=metric)
        else:
            means = np.stack([x[batch_index == batch].mean(axis=0) for batch in range(int(batch_index.max()) + 1)])
            x = np.asarray(x - means[batch_index], dtype=np.float32)
            found = find_neighbors_across(x, batch_index, n_neighbors, **search)
            found = connect_components(found, x, metric=metric)
            weighted = subtract_batch_offsets(found, batch_index)
            params["batch_key"] = batch_key
        graph = _scanpy_graph(weighted, metric=metric, random_state=random_state, key_added=key_added)

    names = graph.uns[key]
    with silent_writing():
        if pca is not None:
            adata.obsm["X_pca"], adata.varm["PCs"] = pca.obsm["X_pca"], pca.varm["PCs"]
            adata.uns["pca"] = pca.uns["pca"]
        adata.obsp[names["distances_key"]] = found.to_csr(include_self=False)
        adata.obsp[names["connectivities_key"]] = graph.obsp[names["connectivities_key"]]
        adata.uns[key] = {**names, "params": {**names["params"], **params}}
    logg.info(
        "    finished",
        time=start,
        deep=f"added\n    {key!r}, the graph's parameters (adata.uns)\n"
        f"    {names['distances_key']!r}, {names['connectivities_key']!r} (adata.obsp)",
    )
    return adata if copy else None


def _checked_key(adata: AnnData, key_added: str | None) -> str:
    """The graph's name in ``uns``; ValueError if something else than a graph has it already."""
    if key_added is None:
        return "neighbors"
    check_name("key_added", key_added)
    entry = adata.uns.get(key_added, {})
    if key_added in adata.uns and not (isinstance(entry, Mapping) and "connectivities_key" in entry):
        msg = f"adata.uns[{key_added!r}] holds something else than a graph; choose another name with `key_added=`."
        raise ValueError(msg)
    return key_added


def _usable_n_neighbors(n_neighbors: int, n_obs: int) -> int:
    check_integer("n_neighbors", n_neighbors, low=2)
    if n_obs < 2:
        msg = f"A graph needs at least 2 cells, adata has {n_obs}."
        raise ValueError(msg)
    if n_neighbors <= n_obs:
        return n_neighbors
    lowered = 1 + n_obs // 2  # scanpy's rule
    logg.warn(f"n_neighbors={n_neighbors} exceeds the {n_obs} cells; using {lowered}.")
    return lowered


def _select_columns(
    adata: AnnData, use_rep: str | None, n_pcs: int | None
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """The (n_obs, d) array to measure distances in, and the parameters by which scanpy finds it again."""
    key = "X_pca" if use_rep is None else use_rep
    if key != "X" and key not in adata.obsm:
        msg = f"use_rep={key!r} is not in adata.obsm; there are {list(adata.obsm)}. Compute it first, or use 'X'."
        raise ValueError(msg)
    x = get_representation(adata, key)
    n_columns = x.shape[1]
    n_used = n_pcs or (min(N_PCS, n_columns) if use_rep is None else n_columns)
    if n_used > n_columns:
        msg = f"n_pcs={n_pcs} exceeds the {n_columns} columns of {key!r}."
        raise ValueError(msg)
    params: dict[str, Any] = {"use_rep": key}
    if n_used != n_columns:
        params["n_pcs"] = int(n_used)
    return np.ascontiguousarray(x[:, :n_used], dtype=np.float32), params


def _warn_of_old_pca(adata: AnnData, x: NDArray[np.float32]) -> None:
    """Warn if scanpy's PCA is of other cells: components are centered over the cells that they were computed from."""
    record = adata.uns.get("pca")
    params = record.get("params") if isinstance(record, Mapping) else None
    if not (isinstance(params, Mapping) and params.get("zero_center", False)):
        return
    shift = np.abs(x.mean(axis=0, dtype=np.float64)) / np.maximum(x.std(axis=0, dtype=np.float64), 1e-6)
    if shift.max() > _MAX_PCA_SHIFT:
        logg.warn(
            "adata.obsm['X_pca'] was computed before adata was subset to these cells, so it shows what sets them apart "
            "from cells that are gone. Choose genes and compute it again (`sc.pp.highly_variable_genes(adata)`, "
            "`sc.pp.pca(adata)`); `sctag.tl.subcluster` does all of it for clusters of a result."
        )


class _KnownNeighbors:
    """Passes known neighbors to scanpy, which accepts any transformer with scikit-learn's interface."""

    def __init__(self, found: Neighbors) -> None:
        self.found = found

    def get_params(self) -> dict[str, int]:
        return {"n_neighbors": self.found.indices.shape[1]}

    def fit_transform(self, _x: object) -> sparse.csr_matrix:
        return self.found.to_csr()


def _scanpy_graph(found: Neighbors, *, metric: str, random_state: int, key_added: str | None) -> AnnData:
    """A temporary AnnData with nothing but scanpy's graph of these neighbors."""
    import scanpy as sc
    from anndata import AnnData

    n = len(found.indices)
    graph = AnnData(shape=(n, 0), obsm={"X_pca": np.zeros((n, 1), dtype=np.float32)})
    options: dict[str, Any] = {"metric": metric, "random_state": random_state, "key_added": key_added}
    with sc.settings.verbosity.override(0):  # the user never sees these slots
        sc.pp.neighbors(graph, use_rep="X_pca", transformer=_KnownNeighbors(found), **options)
    return graph
