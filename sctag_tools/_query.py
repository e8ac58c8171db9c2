"""Reading new cells as the training cells were read: genes by name, counts by the same rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from . import _logging as logg
from ._adata import representation_of
from ._blocks import columns_and_totals
from ._counts import find_counts
from ._errors import AdvisedError

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from ._trained import Trained

_FEWEST = 0.5  # of the model's genes
_SAME_SHARE = 1.5  # up to this factor a part of all counts is taken for the same


@dataclass(frozen=True)
class Query:
    """New cells, genes in the order of the model."""

    counts: sparse.csr_matrix  # (n_cells, n_genes) raw counts, zero in genes that were not measured
    totals: NDArray[np.float64]  # (n_cells,)
    known: NDArray[np.bool_]  # (n_genes,) measured
    batches: NDArray[np.int64]  # (n_cells,) number of the training batch, -1 for another
    position: NDArray[np.float32] | None  # (n_cells, n_components), if neighbours are not sought among the genes
    source: str  # where the counts were found


def prepare_query(
    adata: AnnData, trained: Trained, *, layer: str | None, use_rep: str | None, check_values: bool
) -> Query:
    """The cells of ``adata`` as ``trained`` reads them; raises before anything is computed."""
    if adata.n_obs < 1:
        msg = "The query holds no cells."
        raise ValueError(msg)
    trained_on = trained.run["params"].get("counts")
    if layer is None and trained_on in adata.layers:
        layer = trained_on
    matrix, source = find_counts(adata, layer, check_values=check_values)
    columns = _columns(adata, trained.genes)
    known = columns >= 0
    chosen, totals = columns_and_totals(matrix, columns[known])
    of_model = _in_order(chosen, known)
    return Query(
        counts=of_model,
        totals=_totals(totals, of_model, float(trained.fitted.gene_shares[known].sum())),
        known=known,
        batches=_batch_numbers(adata, trained),
        position=_position(adata, trained, use_rep),
        source=source,
    )


def _columns(adata: AnnData, genes: list[str]) -> NDArray[np.int64]:
    """Column of each gene of the model in ``adata``, -1 for one that is missing."""
    if not adata.var_names.is_unique:
        msg = "Genes are matched by name, but some names of adata.var_names occur twice; call "
        msg += "`adata.var_names_make_unique()` first."
        raise ValueError(msg)
    if len(set(genes)) < len(genes):
        msg = "Genes are matched by name, but the model was trained on names that occur twice; train it anew after "
        msg += "`adata.var_names_make_unique()`."
        raise ValueError(msg)
    columns: NDArray[np.int64] = np.asarray(pd.Index(adata.var_names).get_indexer(genes), dtype=np.int64)
    missing = int((columns < 0).sum())
    if len(genes) - missing < _FEWEST * len(genes):
        raise _too_few_genes(adata, genes, columns)
    if missing:
        logg.warn(f"{missing} of the model's {len(genes)} genes are not in the query; they are treated as hidden.")
    return columns


def _too_few_genes(adata: AnnData, genes: list[str], columns: NDArray[np.int64]) -> AdvisedError:
    """The error for a query with few of the model's genes, with what its names tell about the reason."""
    found = int((columns >= 0).sum())
    problem = f"Only {found} of the model's {len(genes)} genes are in the query, too few to place its cells."
    if int(adata.obs_names.isin(genes).sum()) > found:
        problem = f"{problem} Its rows are named like the model's genes:"
        return AdvisedError(problem, "turn it, `adata.T`.", "turn a table with `--transpose`.")
    others = adata.var_names[~adata.var_names.isin(genes)]
    if len(others):  # names that both have would show no difference
        problem = f"{problem} Only the model has names like {genes[columns.argmin()]!r}, only the query {others[0]!r}."
    return AdvisedError(problem, "A query keeps all its genes, do not choose highly variable ones in it.")


def _in_order(chosen: sparse.csr_matrix, known: NDArray[np.bool_]) -> sparse.csr_matrix:
    """Columns of the known genes in their places among all of the model."""
    places = np.flatnonzero(known)
    return sparse.csr_matrix((chosen.data, places[chosen.indices], chosen.indptr), shape=(chosen.shape[0], len(known)))


def _totals(totals: NDArray[np.float64], of_model: sparse.csr_matrix, share: float) -> NDArray[np.float64]:
    """Total count of each cell, brought to the genes that the training totals were over.

    A file that was cut to some genes has totals that mean something else than those of the reference.
    """
    in_model = np.asarray(of_model.sum(axis=1, dtype=np.float64)).ravel()
    empty = np.flatnonzero(in_model <= 0)
    if len(empty):
        msg = (
            f"{len(empty)} cells have no counts in the genes of the model (the first is row {empty[0]}); leave them "
            "out of the query."
        )
        raise ValueError(msg)
    found = float(in_model.sum() / totals.sum())
    if max(found / share, share / found) <= _SAME_SHARE:
        return totals
    logg.warn(
        f"The genes of the model hold {found:.0%} of the query's counts and {share:.0%} of the reference's; totals are "
        "taken from these genes alone. Was one of the two cut to some genes?"
    )
    return in_model / share


def _batch_numbers(adata: AnnData, trained: Trained) -> NDArray[np.int64]:
    if trained.batch_key is None or trained.batch_key not in adata.obs:
        return np.full(adata.n_obs, -1, dtype=np.int64)
    names = adata.obs[trained.batch_key].astype(str).to_numpy()
    return np.asarray(pd.Index(trained.batches).get_indexer(names), dtype=np.int64)


def _position(adata: AnnData, trained: Trained, use_rep: str | None) -> NDArray[np.float32] | None:
    if trained.use_rep is None:
        if use_rep is not None:
            msg = f"use_rep={use_rep!r} is not needed: the reference's neighbours are found from its genes."
            raise ValueError(msg)
        return None
    name = trained.use_rep if use_rep is None else use_rep
    if name not in adata.obsm:
        msg = (
            f"The reference's graph was built on {trained.use_rep!r}, and adata.obsm has no {name!r}: put the query "
            f"into the same space first (with the model that made it), and name it with `use_rep=`."
        )
        raise KeyError(msg)
    width = trained.fitted.reference.position.shape[1]
    x = representation_of(adata, name)
    if x.shape[1] < width:
        msg = f"adata.obsm[{name!r}] must hold {width} columns, those of the reference's {trained.use_rep!r}."
        raise ValueError(msg)
    return np.ascontiguousarray(x[:, :width], dtype=np.float32)
