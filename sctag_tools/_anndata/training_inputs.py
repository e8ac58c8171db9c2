"""What a model is trained on, read from an AnnData and checked before the work begins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from scipy import sparse

from .. import _logging as logg
from .._keys import GRAPH_KEY
from .._types import Metric
from .batches import find_batches
from .blocks import columns_and_totals
from .counts import check_totals, find_counts
from .genes import select_genes
from .graph import get_graph, get_representation, n_neighbors_of

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from ..io.model_format import Registry
    from ..mapping.reference import NeighborSettings
    from ..train.config import Config
    from ..train.result import FitResult
    from .genes import Default

_MADE_OF_GENES = {None, "X_pca", "X"}  # representations that new cells can be put into from their counts
_DEFAULT_NEIGHBORS = 15
_OTHER_TYPES = (  # in var["feature_types"]: what counts something else than genes
    "Antibody Capture", "Custom", "CRISPR Guide Capture", "Multiplexing Capture", "Peaks", "ADT", "ATAC", "HTO",
)  # fmt: skip
_MIN_BATCH_CELLS = 10
_MAX_ISOLATED_SHARE = 0.01
_MAX_LOST_SHARE = 0.005


@dataclass(frozen=True)
class TrainingInputs:
    """Arrays to train on, and the names that go with them."""

    counts: sparse.csr_matrix  # (n_obs, n_genes) of the chosen genes
    totals: NDArray[np.float64]  # (n_obs,) over all genes
    connectivities: sparse.csr_matrix  # (n_obs, n_obs)
    batch_index: NDArray[np.int64] | None  # (n_obs,)
    batch_key: str | None
    batch_categories: list[str]
    var_names: list[str]
    obs_names: list[str]
    graph_params: dict[str, Any]
    representation: NDArray[np.float32] | None  # (n_obs, d) that the graph was built on, unless made of the genes
    params: dict[str, Any]  # for the record

    @classmethod
    def from_anndata(
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
        connectivities = get_graph(adata, neighbors_key, "connectivities")
        genes, mask_name = select_genes(adata, mask_var)
        _check_feature_types(adata, genes)
        batches, categories = find_batches(adata, batch_key)
        matrix, source = find_counts(adata, layer, check_values=check_values)
        counts, totals = columns_and_totals(matrix, np.flatnonzero(genes))
        check_totals(totals, adata, source)
        _check_names(adata)
        _warn_of_cells_and_genes(adata, connectivities, neighbors_key, counts)
        graph_params = dict(adata.uns[neighbors_key].get("params", {}))
        _compare_batch_keys(graph_params, neighbors_key, None if batches is None else batch_key)
        if batches is not None:
            _warn_of_small_batches(adata.obs[batch_key])
        return cls(
            counts=counts,
            totals=totals,
            connectivities=connectivities,
            batch_index=batches,
            batch_key=batch_key,
            batch_categories=categories,
            var_names=adata.var_names[genes].astype(str).tolist(),
            obs_names=adata.obs_names.astype(str).tolist(),
            graph_params=graph_params,
            representation=_representation(adata, graph_params),
            params={
                "counts": source,
                "mask_var": mask_name,
                "n_genes": int(genes.sum()),
                "neighbors_key": neighbors_key,
                **({} if batch_key is None else {"batch_key": batch_key}),
            },
        )

    def registry(self, config: Config, result: FitResult) -> Registry:
        """The names, with the record of a run on these inputs."""
        from ..io.model_format import Registry  # loads torch

        params = {"preset": "default", "n_clusters_given": config.n_clusters is not None, **self.params}
        params |= {**config.record(), "n_clusters": result.n_clusters}
        use_rep = None if self.representation is None else str(self.graph_params["use_rep"])
        names = self.var_names, self.obs_names, self.batch_categories
        return Registry(*names, batch_key=self.batch_key, use_rep=use_rep, run=result.record(params))

    def neighbor_settings(self) -> NeighborSettings:
        """How new cells will find their neighbors: as the graph was built."""
        from ..mapping.reference import NeighborSettings

        metric = self.graph_params.get("metric")
        return NeighborSettings(
            n_neighbors=max((n_neighbors_of(self.graph_params) or _DEFAULT_NEIGHBORS) - 1, 1),
            metric=str(metric) if metric in get_args(Metric) else "euclidean",
            representation=self.representation,
        )


def _representation(adata: AnnData, graph_params: dict[str, Any]) -> NDArray[np.float32] | None:
    name = graph_params.get("use_rep")
    if name in _MADE_OF_GENES or name not in adata.obsm:
        return None
    x = get_representation(adata, str(name))
    return np.ascontiguousarray(x[:, : graph_params.get("n_pcs", x.shape[1])], dtype=np.float32)


def _check_feature_types(adata: AnnData, genes: NDArray[np.bool_]) -> None:
    """Antibodies, hashtags and peaks have counts of another kind: ValueError if there are no genes, else a warning."""
    if "feature_types" not in adata.var:
        return
    others = genes & adata.var["feature_types"].astype(str).isin(_OTHER_TYPES).to_numpy()
    if not others.any():
        return
    kinds = sorted(set(adata.var["feature_types"].astype(str)[others]))
    keep = f"adata = adata[:, ~adata.var['feature_types'].isin({kinds})].copy()"
    if others.sum() == genes.sum():
        msg = f"None of the features is a gene ({', '.join(kinds)}); the method needs counts of genes."
        raise ValueError(msg)
    logg.warn(
        f"{int(others.sum())} of {int(genes.sum())} features are no genes ({', '.join(kinds)}), and have counts of "
        f"another kind. To leave them out: `{keep}`."
    )


def _check_names(adata: AnnData) -> None:
    """ValueError for names of cells or genes that no file and no model can hold."""
    for axis, names in (("obs_names", adata.obs_names), ("var_names", adata.var_names)):
        wrong = [place for place, name in enumerate(names) if not isinstance(name, str) or "\0" in name]
        if wrong:
            msg = (
                f"adata.{axis} holds {len(wrong)} names that no file can hold, no text or with a zero byte (the first "
                f"is {names[wrong[0]]!r}, number {wrong[0]}). `adata.{axis} = [str(name).replace('\\0', '') "
                f"for name in adata.{axis}]` mends them."
            )
            raise ValueError(msg)


def _warn_of_cells_and_genes(
    adata: AnnData, connectivities: sparse.csr_matrix, neighbors_key: str, counts: sparse.csr_matrix
) -> None:
    n_isolated, lost = int((np.diff(connectivities.indptr) == 0).sum()), _lost_neighbors(adata, neighbors_key)
    if lost > _MAX_LOST_SHARE:
        logg.warn(
            f"The graph {neighbors_key!r} was built before adata was subset: {lost:.0%} of the neighbors are not among "
            f"these {adata.n_obs} cells. Choose genes, compute the PCA and build the graph again; "
            "`sctag.tl.subcluster` does all of it for clusters of a result."
        )
    elif n_isolated > _MAX_ISOLATED_SHARE * adata.n_obs:
        logg.warn(
            f"{n_isolated} of {adata.n_obs} cells have no neighbor in the graph {neighbors_key!r}. If it was built "
            "before adata was subset to these cells, build it again."
        )
    if not adata.var_names.is_unique:
        logg.warn(
            "Some names in adata.var_names occur twice. New cells cannot be mapped to this run, since their genes are "
            "matched by name; call `adata.var_names_make_unique()` first."
        )
    n_empty = int((np.asarray(counts.sum(axis=1)).ravel() <= 0).sum())
    if n_empty:
        logg.warn(f"{n_empty} cells have no counts in the chosen genes; only their graph neighbors place them.")


def _lost_neighbors(adata: AnnData, neighbors_key: str) -> float:
    """Share of the neighbors that cells had when the graph was built, and that are gone; 0 where it cannot be known."""
    entry = adata.uns[neighbors_key]
    params, distances = entry.get("params", {}), adata.obsp.get(entry.get("distances_key"))
    expected = (n_neighbors_of(params) or 0) - 1
    if distances is None or expected < 1 or "batch_key" in params:
        return 0.0
    found = np.diff(sparse.csr_matrix(distances).indptr)
    # Other tools keep other numbers of neighbors, but no graph of one size has this largest row by chance.
    return 1 - float(found.mean()) / expected if found.max(initial=0) == expected else 0.0


def _warn_of_small_batches(batches: pd.Series) -> None:
    sizes = batches.astype(str).value_counts()
    small = sizes[sizes < _MIN_BATCH_CELLS]
    if len(small):
        logg.warn(
            f"{len(small)} batches have fewer than {_MIN_BATCH_CELLS} cells ({small.index[0]!r} has {small.iloc[0]}). "
            "Genes are centered within batches, which leaves little of so small ones: join or drop them."
        )


def _compare_batch_keys(graph_params: dict[str, Any], neighbors_key: str, batch_key: str | None) -> None:
    """Warn where only one of graph and run knows the batches: the other keeps them apart."""
    of_graph = graph_params.get("batch_key")
    # Graphs of other tools, and on their representations, may be corrected without saying so.
    foreign = neighbors_key != GRAPH_KEY or graph_params.get("use_rep") not in _MADE_OF_GENES
    if of_graph == batch_key or (of_graph is None and foreign):
        return
    graph, run = ("no batch_key" if key is None else f"batch_key={key!r}" for key in (of_graph, batch_key))
    logg.warn(
        f"The graph was built with {graph}, and this run has {run}: batches may stay apart. Give both calls the same "
        "`batch_key=`."
    )
