"""New cells, read as the training cells were read: genes by name, counts by the same rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .. import _logging as logg
from .._checks import AdvisedError
from .blocks import columns_and_totals, place_columns
from .counts import find_counts
from .graph import get_representation

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy import sparse

    from ..io.model_format import Registry
    from ..mapping.reference import ReferenceModel

_MIN_GENE_SHARE = 0.5  # of the model's genes
_MAX_SHARE_RATIO = 1.5  # up to this factor, shares of the total counts are taken for equal


@dataclass(frozen=True)
class Query:
    """New cells, genes in the order of the model."""

    counts: sparse.csr_matrix  # (n_cells, n_genes) raw counts, zero in genes that were not measured
    totals: NDArray[np.float64]  # (n_cells,)
    measured: NDArray[np.bool_]  # (n_genes,)
    batch_index: NDArray[np.int64]  # (n_cells,) training batch, -1 for another
    representation: NDArray[np.float32] | None  # (n_cells, n_components), unless neighbors are found from the genes
    source: str  # where the counts were found

    @classmethod
    def from_anndata(
        cls,
        adata: AnnData,
        model: ReferenceModel,
        registry: Registry,
        *,
        layer: str | None,
        use_rep: str | None,
        check_values: bool,
    ) -> Query:
        """The cells of ``adata`` as the model reads them; raises before anything is computed."""
        if adata.n_obs < 1:
            msg = "The query holds no cells."
            raise ValueError(msg)
        trained_on = registry.run["params"].get("counts")
        if layer is None and trained_on in adata.layers:
            layer = trained_on
        matrix, source = find_counts(adata, layer, check_values=check_values)
        columns = _gene_columns(adata, registry.var_names)
        measured = columns >= 0
        chosen, totals = columns_and_totals(matrix, columns[measured])
        counts = place_columns(chosen, np.flatnonzero(measured), len(measured))
        return cls(
            counts=counts,
            totals=_comparable_totals(totals, counts, float(model.gene_proportions[measured].sum())),
            measured=measured,
            batch_index=_batch_index(adata, registry),
            representation=_representation(adata, model, registry, use_rep),
            source=source,
        )


def _gene_columns(adata: AnnData, genes: list[str]) -> NDArray[np.int64]:
    """Column of each gene of the model in ``adata``, -1 for one that is missing."""
    if not adata.var_names.is_unique:
        msg = "Genes are matched by name, but some names in adata.var_names occur twice; call "
        msg += "`adata.var_names_make_unique()` first."
        raise ValueError(msg)
    if len(set(genes)) < len(genes):
        msg = "Genes are matched by name, but the model was trained on names that occur twice; train it again after "
        msg += "`adata.var_names_make_unique()`."
        raise ValueError(msg)
    columns: NDArray[np.int64] = np.asarray(pd.Index(adata.var_names).get_indexer(genes), dtype=np.int64)
    n_missing = int((columns < 0).sum())
    if len(genes) - n_missing < _MIN_GENE_SHARE * len(genes):
        raise _too_few_genes(adata, genes, columns)
    if n_missing:
        logg.warn(f"{n_missing} of the model's {len(genes)} genes are not in the query; they are treated as hidden.")
    return columns


def _too_few_genes(adata: AnnData, genes: list[str], columns: NDArray[np.int64]) -> AdvisedError:
    """The error for a query with few of the model's genes; it says what the names tell about the reason."""
    found = int((columns >= 0).sum())
    problem = f"Only {found} of the model's {len(genes)} genes are in the query, too few to place its cells."
    if int(adata.obs_names.isin(genes).sum()) > found:
        problem = f"{problem} Its rows are named like the model's genes:"
        return AdvisedError(problem, "transpose it, `adata.T`.", "transpose a table with `--transpose`.")
    others = adata.var_names[~adata.var_names.isin(genes)]
    if len(others):  # names that both have would show no difference
        problem = f"{problem} Only the model has names like {genes[columns.argmin()]!r}, only the query {others[0]!r}."
    return AdvisedError(problem, "A query keeps all its genes; do not choose highly variable ones in it.")


def _comparable_totals(
    totals: NDArray[np.float64], counts: sparse.csr_matrix, training_share: float
) -> NDArray[np.float64]:
    """Total count of each cell, over as many genes as the training totals.

    The totals of a file that was subset to some genes mean something else than those of the reference.
    """
    in_model = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    empty = np.flatnonzero(in_model <= 0)
    if len(empty):
        msg = (
            f"{len(empty)} cells have no counts in the genes of the model (the first is row {empty[0]}); leave them "
            "out of the query."
        )
        raise ValueError(msg)
    share = float(in_model.sum() / totals.sum())
    if max(share / training_share, training_share / share) <= _MAX_SHARE_RATIO:
        return totals
    logg.warn(
        f"The genes of the model hold {share:.0%} of the query's counts and {training_share:.0%} of the reference's. "
        "Totals are taken from these genes alone. Was one of the two subset to some genes?"
    )
    return in_model / training_share


def _batch_index(adata: AnnData, registry: Registry) -> NDArray[np.int64]:
    if registry.batch_key is None or registry.batch_key not in adata.obs:
        return np.full(adata.n_obs, -1, dtype=np.int64)
    names = adata.obs[registry.batch_key].astype(str).to_numpy()
    return np.asarray(pd.Index(registry.batch_categories).get_indexer(names), dtype=np.int64)


def _representation(
    adata: AnnData, model: ReferenceModel, registry: Registry, use_rep: str | None
) -> NDArray[np.float32] | None:
    if registry.use_rep is None:
        if use_rep is not None:
            msg = f"use_rep={use_rep!r} is not needed: the reference's neighbors are found from its genes."
            raise ValueError(msg)
        return None
    name = registry.use_rep if use_rep is None else use_rep
    if name not in adata.obsm:
        msg = (
            f"The reference's graph was built on {registry.use_rep!r}, and adata.obsm has no {name!r}. Put the query "
            "into the same space first, with the model that made it, and name it with `use_rep=`."
        )
        raise KeyError(msg)
    width = model.cells.representation.shape[1]
    x = get_representation(adata, name)
    if x.shape[1] < width:
        msg = f"adata.obsm[{name!r}] must hold {width} columns, those of the reference's {registry.use_rep!r}."
        raise ValueError(msg)
    return np.ascontiguousarray(x[:, :width], dtype=np.float32)
