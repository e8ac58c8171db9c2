"""Reading the cells that a model is trained on: counts, genes, graph and batches, checked before the work begins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from scipy import sparse

from . import _logging as logg
from ._adata import batch_names, batch_numbers, representation_of, select_genes
from ._blocks import columns_and_totals
from ._checks import check_integer, check_name, check_number
from ._counts import find_counts
from ._types import Metric

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from ._adata import Default
    from ._core.fitted import Neighborhood

_OF_GENES = {None, "X_pca", "X"}  # representations that new cells can be put into from their counts
_USUAL_NEIGHBORS = 15
_SMALL_BATCH = 10
_LONE_SHARE = 0.01
_OWN_GRAPH = "sctag_neighbors"  # where `pp.build_graph` writes unless it is told otherwise


@dataclass(frozen=True)
class TrainingInputs:
    """Arrays to train on, and the names that go with them."""

    counts: sparse.csr_matrix  # (n_obs, n_genes) of the chosen genes
    totals: NDArray[np.float64]  # (n_obs,) over all genes
    weights: sparse.csr_matrix  # (n_obs, n_obs) connectivities
    batches: NDArray[np.int64] | None  # (n_obs,)
    batch_key: str | None
    batch_names: list[str]
    genes: list[str]
    cells: list[str]
    graph: dict[str, Any]  # the graph's params
    representation: NDArray[np.float32] | None  # (n_obs, d) that the graph was built on, unless made of the genes
    params: dict[str, Any]  # for the record

    @classmethod
    def of(
        cls,
        adata: AnnData,
        *,
        layer: str | None,
        mask_var: NDArray[np.bool_] | str | Default | None,
        neighbors_key: str,
        batch_key: str | None,
        check_values: bool,
    ) -> TrainingInputs:
        """Read from ``adata``, which stays as it is."""
        weights = graph_of(adata, neighbors_key, "connectivities")
        _warn_of_lone_cells(weights, neighbors_key)
        genes, mask_name = select_genes(adata, mask_var)
        batches = batch_numbers(adata, batch_key)
        _warn_of_names(adata)
        matrix, source = find_counts(adata, layer, check_values=check_values)
        counts, totals = columns_and_totals(matrix, np.flatnonzero(genes))
        check_totals(totals)
        _warn_of_unseen(counts)
        graph = dict(adata.uns[neighbors_key].get("params", {}))
        _compare_batch_keys(graph, neighbors_key, None if batches is None else batch_key)
        if batches is not None:
            _warn_of_small(adata.obs[batch_key])
        return cls(
            counts=counts,
            totals=totals,
            weights=weights,
            batches=batches,
            batch_key=batch_key,
            batch_names=[""] if batches is None or batch_key is None else batch_names(adata, batch_key),
            genes=adata.var_names[genes].astype(str).tolist(),
            cells=adata.obs_names.astype(str).tolist(),
            graph=graph,
            representation=_representation(adata, graph),
            params={
                "counts": source,
                "mask_var": mask_name,
                "n_genes": int(genes.sum()),
                "neighbors_key": neighbors_key,
                **({} if batch_key is None else {"batch_key": batch_key}),
            },
        )

    @property
    def use_rep(self) -> str | None:
        """Name of the representation, None where neighbours are found from the genes."""
        return None if self.representation is None else str(self.graph["use_rep"])

    def neighborhood(self) -> Neighborhood:
        """How new cells will find their neighbours: as the graph was built."""
        from ._core.fitted import Neighborhood

        metric = self.graph.get("metric")
        return Neighborhood(
            n_neighbors=max(int(self.graph.get("n_neighbors", _USUAL_NEIGHBORS)) - 1, 1),
            metric=str(metric) if metric in get_args(Metric) else "euclidean",
            position=self.representation,
        )


def check_run_options(
    n_clusters: int | None, n_obs: int, neighbors_key: str, resolution: float, *, most: int | None = None
) -> None:
    """Raise TypeError or ValueError for what no run can take, which tells ``most`` clusters apart."""
    if n_obs < 2:
        msg = f"Clustering needs at least 2 cells, adata has {n_obs}."
        raise ValueError(msg)
    if n_clusters is not None:
        check_integer("n_clusters", n_clusters, low=1)
        if n_clusters > n_obs:
            msg = f"n_clusters={n_clusters} exceeds the {n_obs} cells."
            raise ValueError(msg)
        if most is not None and n_clusters > most:
            msg = f"n_clusters={n_clusters} exceeds the {most} that are told apart; cluster the cells in parts."
            raise ValueError(msg)
    check_name("neighbors_key", neighbors_key)
    check_number("resolution", resolution, low=1e-3, high=1e3)


def graph_of(adata: AnnData, neighbors_key: str, what: str) -> sparse.csr_matrix:
    """The (n_obs, n_obs) connectivities or distances that ``neighbors_key`` names."""
    name = adata.uns.get(neighbors_key, {}).get(f"{what}_key")
    if name not in adata.obsp:
        msg = (
            f"There is no graph adata.uns[{neighbors_key!r}]. Run `sctag.pp.build_graph(adata)` first, or name one "
            "with `neighbors_key=` (scanpy's own is 'neighbors')."
        )
        raise KeyError(msg)
    weights = sparse.csr_matrix(adata.obsp[name])
    if not np.isfinite(weights.data).all() or (weights.data < 0).any():
        msg = f"The graph {neighbors_key!r} has negative or non-finite weights; rebuild it."
        raise ValueError(msg)
    return weights


def _warn_of_lone_cells(weights: sparse.csr_matrix, neighbors_key: str) -> None:
    n_lone = int((np.diff(weights.indptr) == 0).sum())
    if n_lone > _LONE_SHARE * weights.shape[0]:
        logg.warn(
            f"{n_lone} of {weights.shape[0]} cells have no neighbour in the graph {neighbors_key!r}; if it was built "
            "before adata was cut to these cells, build it again."
        )


def _warn_of_names(adata: AnnData) -> None:
    if not adata.var_names.is_unique:
        logg.warn(
            "Some names of adata.var_names occur twice, so that this run cannot place new cells, whose genes are "
            "matched by name; call `adata.var_names_make_unique()` first."
        )


def _warn_of_small(batches: pd.Series) -> None:
    """Warn of batches whose mean, which is taken from each cell, is made of few others."""
    sizes = batches.astype(str).value_counts()
    small = sizes[sizes < _SMALL_BATCH]
    if len(small):
        logg.warn(
            f"{len(small)} batches have fewer than {_SMALL_BATCH} cells ({small.index[0]!r} has {small.iloc[0]}). "
            "Genes are centred within batches, which leaves little of the cells of so small ones: join or drop them."
        )


def _compare_batch_keys(graph: dict[str, Any], neighbors_key: str, batch_key: str | None) -> None:
    """Warn where only one of graph and run knows the batches: the other keeps them apart."""
    of_graph = graph.get("batch_key")
    # Graphs of other tools, and on their representations, may be corrected without saying so.
    silent = of_graph is None and (neighbors_key != _OWN_GRAPH or graph.get("use_rep") not in _OF_GENES)
    if of_graph == batch_key or silent:
        return
    told = {name: "no batch_key" if name is None else f"batch_key={name!r}" for name in (of_graph, batch_key)}
    logg.warn(
        f"The graph was built with {told[of_graph]}, and this run has {told[batch_key]}: batches may stay apart. Give "
        "both calls the same `batch_key=`."
    )


def check_totals(totals: NDArray[np.float64]) -> None:
    """Raise ValueError if a cell's total count (n_obs,) is zero, for it cannot be placed."""
    empty = np.flatnonzero(totals <= 0)
    if len(empty):
        msg = (
            f"{len(empty)} cells have no counts (the first is row {empty[0]}); "
            "run `sc.pp.filter_cells(adata, min_counts=1)` on the raw counts first."
        )
        raise ValueError(msg)


def _warn_of_unseen(counts: sparse.csr_matrix) -> None:
    n_unseen = int((np.asarray(counts.sum(axis=1)).ravel() <= 0).sum())
    if n_unseen:
        logg.warn(f"{n_unseen} cells have no counts in the chosen genes; their place rests on their neighbours alone.")


def _representation(adata: AnnData, graph: dict[str, Any]) -> NDArray[np.float32] | None:
    name = graph.get("use_rep")
    if name in _OF_GENES or name not in adata.obsm:
        return None
    x = representation_of(adata, str(name))
    return np.ascontiguousarray(x[:, : graph.get("n_pcs", x.shape[1])], dtype=np.float32)
