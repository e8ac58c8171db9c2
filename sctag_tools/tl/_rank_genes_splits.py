"""``sctag.tl.rank_genes_splits``: the genes that part the two sides of each split."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .. import _logging as logg
from .._anndata.access import require_writable, silent_writing, working_copy
from .._anndata.blocks import columns_and_totals
from .._anndata.counts import check_totals, find_counts
from .._anndata.genes import select_genes
from .._anndata.tree import read_clusters, run_of
from .._checks import check_flag, check_integer, check_name
from .._keys import MODEL, ResultKeys, is_ranking
from .._model import ScTAG

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy import sparse

    from ..cluster.comparisons import Comparison
    from ..cluster.split_genes import GeneDifferences, Sides


def rank_genes_splits(
    adata: AnnData,
    key: str = "sctag",
    *,
    layer: str | None = None,
    mask_var: NDArray[np.bool_] | str | None = None,
    n_genes: int | None = None,
    expected: bool = True,
    check_values: bool = True,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Rank the genes that part the two sides of each split of the tree between clusters.

    Each split is compared from both sides: the groups ``"0+3 vs 1"`` and ``"1 vs 0+3"`` of a ranking rank the genes of
    clusters 0 and 3 together, and those of cluster 1. Every cluster is the whole group of exactly one comparison, with
    the clusters that the tree splits it from (the ``sibling`` of :func:`sctag_tools.get.clusters_df`). Clusters that
    :func:`sctag_tools.tl.cut` joined across the tree are compared with their siblings; splits across them are left out.

    There are no p-values. The clusters were found with these counts, so that a test between them calls far too many
    genes significant (Zhang et al. 2019). Genes are ranked by how large the difference is, not by how certain. Scanpy's
    functions need the fields ``pvals`` and ``pvals_adj``, which hold NaN.

    Parameters
    ----------
    adata
        Annotated data with a result of :func:`sctag_tools.tl.sctag` or :func:`sctag_tools.tl.cut`, all of its cells.
    key
        Name of the result.
    layer
        Layer with the raw counts, found by default as in :func:`sctag_tools.tl.sctag`.
    mask_var
        Genes to rank: a boolean column of ``adata.var`` or an array (n_vars,); all by default. Counts are scaled by the
        depth over all genes in any case.
    n_genes
        Keep the best genes of each comparison only; all by default.
    expected
        Also compare what the model of the run expects, if the run kept it.
    check_values
        Whether to check that the values are raw counts.
    key_added
        Name of the ranking, by default ``"{key}_splits"``. An earlier ranking of this name is replaced.
    copy
        Return a changed copy instead of writing to ``adata``.

    Returns
    -------
    ``None``, or the copy if ``copy=True``. Writes:

    `adata.uns['sctag_splits' | key_added]` : :class:`dict`
        The layout of :func:`scanpy.tl.rank_genes_groups`, for :func:`scanpy.get.rank_genes_groups_df` and scanpy's
        plots. Record arrays (n_genes,) with one field a comparison, the best genes first: ``names``; ``scores``, what
        they are ranked by, ``(2 * auroc - 1) * abs(logfoldchanges)``; ``auroc``, the chance that a cell of the group
        has a larger share of its counts in the gene than a cell of the other side, ties counted half (the U statistic
        of Mann & Whitney 1947); ``logfoldchanges``, log2 of the ratio of the means in counts per 10,000, 0.1 added to
        both; ``logfoldchanges_expected``, the same of the proportions that the decoders expect
        (:func:`sctag_tools.tl.denoise`), NaN for genes that are not in the model, without a model in ``uns``, and with
        ``expected=False``; ``pvals`` and ``pvals_adj``, NaN. Tables (n_vars, n_comparisons): ``pts`` and ``pts_rest``,
        the shares of cells with a count in the group and on the other side. ``comparisons``, a table with one row a
        comparison: ``node`` in the tree, ``clusters`` of the group and ``clusters_reference`` of the other side, joined
        by "+", ``n_cells`` and ``n_cells_reference``. ``params``: ``groupby``, ``reference``, ``method``, ``use_raw``,
        and ``layer`` unless the counts are in X.

    In names of comparisons, sides of more than 12 clusters are shortened, "/" is written as "|", and a name that would
    occur twice is numbered. Scanpy's plots show the genes of each comparison in every cluster. What needs a cluster of
    the name of a group does not work (``values_to_plot``, ``rank_genes_groups_violin``, ``filter_rank_genes_groups``).

    Raises
    ------
    KeyError
        If there is no result of this name, a part of it is missing, or the layer does not exist.
    ValueError
        If the result has no tree (published presets, mapped cells, earlier versions) or a single cluster, its cells or
        clusters have changed, the values are not counts, a cell has none, an option is out of range, or ``key_added``
        is the name of something else than a ranking.
    TypeError
        If an option has the wrong type.
    NotImplementedError
        For a copy or a view of backed data, which cannot hold results.

    Examples
    --------
    >>> import scanpy as sc
    >>> import sctag_tools as sctag
    >>> adata = sctag.datasets.pbmc68k_reduced()
    >>> sctag.pp.build_graph(adata)
    >>> sctag.tl.sctag(adata, n_clusters=8, pretrain_epochs=5, cluster_epochs=2, progress_bar=False)
    >>> sctag.tl.rank_genes_splits(adata)
    >>> table = adata.uns["sctag_splits"]["comparisons"]
    >>> of_cluster = table.index[table["clusters"] == "3"][0]  # cluster 3 against its sibling
    >>> sc.get.rank_genes_groups_df(adata, of_cluster, key="sctag_splits").shape
    (765, 7)
    """
    require_writable(adata, "sctag.tl.rank_genes_splits", copy=copy)
    check_name("key", key)
    key_added = ResultKeys(key).splits if key_added is None else key_added
    check_name("key_added", key_added)
    check_flag("expected", expected)
    if n_genes is not None:
        check_integer("n_genes", n_genes, low=1)
    _require_free(adata, key_added)
    tree, of_leaf, clusters = read_clusters(adata, key)
    from ..cluster.comparisons import compare_sides, name_comparisons
    from ..cluster.split_genes import GeneDifferences, Sides

    comparisons = compare_sides(tree, of_leaf)
    if not comparisons:
        msg = f"{key!r} is a single cluster, which has no other side; make more with `sctag.tl.cut(adata, n_clusters)`."
        raise ValueError(msg)
    genes = np.flatnonzero(select_genes(adata, mask_var)[0])
    start = logg.info(f"ranking the genes of the splits between the clusters of {key!r}")
    matrix, source = find_counts(adata, layer, check_values=check_values)
    counts, totals = columns_and_totals(matrix, genes)
    _check(counts, totals)
    sides = Sides.from_comparisons(comparisons, of_leaf[tree.leaf])
    found = GeneDifferences.from_counts(counts.tocsc(), totals, sides)
    by_model = np.full(found.auroc.shape, np.nan)
    run = run_of(adata, key)
    if expected and MODEL in adata.uns[run]:
        by_model = _expected(ScTAG.from_anndata(adata, run), adata, genes, totals, sides)
    names = name_comparisons(comparisons, clusters)
    record = {
        "params": _params(key, source),
        **_ranked(adata.var_names[genes].astype(str), names, found, by_model, n_genes),
        "comparisons": _table(comparisons, names, clusters, sides),
    }
    adata = working_copy(adata, copy=copy)
    with silent_writing():
        adata.uns[key_added] = record
    logg.info(
        f"    finished: {len(comparisons)} comparisons of {len(genes)} genes",
        time=start,
        deep=f"added\n    {key_added!r}, genes in the layout of sc.tl.rank_genes_groups (adata.uns)",
    )
    return adata if copy else None


def _require_free(adata: AnnData, key_added: str) -> None:
    if key_added in adata.uns and not is_ranking(adata.uns[key_added]):
        msg = f"adata.uns[{key_added!r}] is something else than a ranking; choose another name with `key_added=`."
        raise ValueError(msg)


def _check(counts: sparse.csr_matrix, totals: NDArray[np.float64]) -> None:
    """Raise ValueError for values that no check has seen (``check_values=False``) and cells without counts."""
    if not (counts.data >= 0).all():
        msg = "The counts hold negative values or NaN; name the layer with raw counts: `layer=...`."
        raise ValueError(msg)
    check_totals(totals)


def _params(key: str, source: str) -> dict[str, Any]:
    params = {"groupby": key, "reference": "other side", "method": "auroc and fold change", "use_raw": False}
    return params if source == "X" else {**params, "layer": source}


def _expected(
    model: ScTAG, adata: AnnData, genes: NDArray[np.int64], totals: NDArray[np.float64], sides: Sides
) -> NDArray[np.float64]:
    """(n_comparisons, n_genes) log2 fold change of what the decoders expect, NaN for genes they do not know."""
    from ..cluster.split_genes import TARGET_SUM, log_fold_change
    from ..mapping.reference import ROWS_AT_ONCE

    of_model, columns = _places_of_genes(pd.Index(model.registry.var_names), adata.var_names.astype(str)[genes])
    rows, cells = _rows(adata, model.registry.obs_names), model.reference.cells
    depth = cells.n_counts[rows] / totals * TARGET_SUM  # of the model's genes, in counts per 10,000

    def blocks() -> Iterator[NDArray[np.float64]]:
        for start in range(0, len(rows), ROWS_AT_ONCE):
            part = rows[start : start + ROWS_AT_ONCE]
            proportions = model.reference.expected_proportions(cells.latents[part], cells.batch_index[part], of_model)
            yield proportions * depth[start : start + ROWS_AT_ONCE, None]

    found = np.full((len(sides.group), len(genes)), np.nan)
    found[:, columns] = log_fold_change(*sides.means(blocks()))
    return found


def _places_of_genes(of_model: pd.Index, ranked: pd.Index) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places in the model and among the ranked genes, of those in both whose names occur once."""
    once = (index[~index.duplicated(keep=False)] for index in (of_model, ranked))
    shared = next(once).intersection(next(once), sort=False)
    of_model, ranked = (pd.Series(np.arange(len(index)), index=index).loc[shared] for index in (of_model, ranked))
    return of_model.to_numpy(), ranked.to_numpy()


def _rows(adata: AnnData, obs_names: list[str]) -> NDArray[np.int64]:
    """Row of each cell among those of the run, which ``read_clusters`` has found there by name or else in order."""
    names = pd.Index(obs_names)
    rows = names.get_indexer(adata.obs_names) if names.is_unique else np.empty(0, dtype=np.int64)
    in_order = np.arange(adata.n_obs)
    return rows if np.array_equal(np.sort(rows), in_order) else in_order


def _ranked(
    genes: pd.Index, names: list[str], found: GeneDifferences, by_model: NDArray[np.float64], n_genes: int | None
) -> dict[str, Any]:
    """The record arrays and tables of scanpy's layout."""
    order = np.lexsort((-found.log_fold_change, -found.score))[:, :n_genes]

    def records(values: NDArray[Any], dtype: str) -> np.recarray[Any, Any]:
        ranked = np.take_along_axis(np.broadcast_to(values, found.auroc.shape), order, axis=1)
        table = pd.DataFrame(dict(zip(names, ranked, strict=True)))
        return table.to_records(index=False, column_dtypes=dtype)  # type: ignore[no-any-return]

    def shares(values: NDArray[np.float64]) -> pd.DataFrame:
        return pd.DataFrame(values.T.astype(np.float32), index=genes, columns=names)

    no_p_values = np.array(np.nan)
    return {
        "names": records(genes.to_numpy(dtype=object), "O"),
        "scores": records(found.score, "float32"),
        "logfoldchanges": records(found.log_fold_change, "float32"),
        "pvals": records(no_p_values, "float64"),
        "pvals_adj": records(no_p_values, "float64"),
        "auroc": records(found.auroc, "float32"),
        "logfoldchanges_expected": records(by_model, "float32"),
        "pts": shares(found.detected),
        "pts_rest": shares(found.detected_in_reference),
    }


def _table(comparisons: list[Comparison], names: list[str], clusters: list[str], sides: Sides) -> pd.DataFrame:
    def joined(side: NDArray[np.int64]) -> str:
        return "+".join(clusters[i] for i in side)

    n_cells, n_cells_reference = sides.sizes
    columns = {
        "node": [one.node for one in comparisons],
        "clusters": [joined(one.group) for one in comparisons],
        "clusters_reference": [joined(one.reference) for one in comparisons],
        "n_cells": n_cells,
        "n_cells_reference": n_cells_reference,
    }
    return pd.DataFrame(columns, index=names)
