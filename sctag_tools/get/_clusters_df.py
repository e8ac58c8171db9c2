"""``sctag.get.clusters_df``: one row a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from .._anndata.access import require_anndata
from .._anndata.tree import read_clusters, run_of
from .._keys import ResultKeys, is_ranking

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData

_N_GENES = 5


def clusters_df(adata: AnnData, key: str = "sctag") -> pd.DataFrame:
    """Summarize the clusters of a result in a table.

    Parameters
    ----------
    adata
        Annotated data with a result of :func:`sctag_tools.tl.sctag`, :func:`sctag_tools.tl.map_query` or
        :func:`sctag_tools.tl.cut`.
    key
        Name of the result.

    Returns
    -------
    One row a cluster, in the order of the categories, with the columns

    ``n_cells``, ``share``
        Number of cells, and share of all cells.
    ``cell_confidence``, ``cell_confidence_p10``
        Mean of the confidence of its cells, and the value that a tenth of them lie below.
    ``cluster_confidence``, ``merged``, ``split``, ``dissolved``
        How much of the cluster as a whole comes back, and what becomes of it otherwise (:func:`sctag_tools.tl.sctag`).
    ``sibling``, ``dprime``, ``null_dprime``
        The clusters on the other side of the split that parted this one (if it was joined, its largest part) from
        others, joined by "+"; the lower bound of the distance of the two sides, and what one Gaussian cut in two would
        give. Empty and NaN for a single cluster, NaN for a split that was not tested.

    ``top_genes``
        If :func:`sctag_tools.tl.rank_genes_splits` has ranked them: the five genes that tell the cluster best from its
        sibling, joined by ", ". Empty where the names of the clusters have changed since.

    Mapped cells, published presets and results of earlier versions have only the columns for which they hold numbers.

    Raises
    ------
    KeyError
        If there is no result of this name, or a part of it is missing.
    ValueError
        If the cells or the clusters have changed since the run.

    Examples
    --------
    >>> import sctag_tools as sctag
    >>> adata = sctag.datasets.pbmc68k_reduced()
    >>> sctag.pp.build_graph(adata)
    >>> sctag.tl.sctag(adata, n_clusters=8, pretrain_epochs=5, cluster_epochs=2, progress_bar=False)
    >>> int(sctag.get.clusters_df(adata)["n_cells"].sum())
    700
    """
    require_anndata(adata, "sctag.get.clusters_df")
    keys, has_tree = ResultKeys(key), "tree" in adata.uns[run_of(adata, key)]
    if has_tree:
        tree, of_leaf, names = read_clusters(adata, key)
    cells = adata.obs.groupby(keys.clusters, observed=False)[keys.confidence]
    table = pd.DataFrame(
        {
            "n_cells": cells.size(),
            "share": cells.size() / adata.n_obs,
            "cell_confidence": cells.mean(),
            "cell_confidence_p10": cells.quantile(0.1),
        }
    )
    if whole := adata.uns[key].get("cluster_confidence"):
        table["cluster_confidence"] = whole["confidence"]
        for outcome in ("merged", "split", "dissolved"):
            table[outcome] = whole[outcome]
    if has_tree:
        splits = [tree.siblings(of_leaf, number) for number in range(len(names))]
        table["sibling"] = ["+".join(names[other] for other in others) for _, others in splits]
        for name, values in (("dprime", tree.dprime), ("null_dprime", tree.null_dprime)):
            table[name] = [values[node - tree.n_leaves] if node >= 0 else float("nan") for node, _ in splits]
    if is_ranking(ranking := adata.uns.get(keys.splits)):
        table["top_genes"] = [_top_genes(ranking, str(name)) for name in table.index]
    return table


def _top_genes(ranking: Mapping[str, Any], cluster: str) -> str:
    """The best genes of the comparison whose one side is this cluster."""
    comparisons = ranking["comparisons"]
    groups = comparisons.index[comparisons["clusters"].astype(str) == cluster]
    if not len(groups):
        return ""
    names, scores = (ranking[field][str(groups[0])][:_N_GENES] for field in ("names", "scores"))
    return ", ".join(str(gene) for gene, score in zip(names, scores, strict=True) if score > 0)
