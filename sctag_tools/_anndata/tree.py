"""The tree that a run has kept, with cells in the order of the AnnData."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .._keys import MODEL, ResultKeys, is_cut

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from ..cluster.hierarchy import Hierarchy


def read_tree(adata: AnnData, key: str) -> Hierarchy:
    """The tree of the run ``key``; KeyError where there is no such result, ValueError where it has no (fitting) tree.

    Cells are found by their names if the model of the run is there, too; else their order must be that of the run.
    """
    from ..cluster.hierarchy import Hierarchy

    ResultKeys(key).require_result(adata)
    entry = adata.uns[key]
    if "tree" not in entry:
        raise ValueError(_no_tree(key, entry))
    try:
        tree = Hierarchy.from_arrays(entry["tree"])
    except ValueError as error:
        msg = f"adata.uns[{key!r}]['tree'] is damaged ({error}); run `sctag.tl.sctag(adata)` again."
        raise ValueError(msg) from error
    if len(tree.leaf) != adata.n_obs:
        msg = (
            f"The run {key!r} clustered {len(tree.leaf)} cells, and adata has {adata.n_obs}. Cut it in the object "
            "of the run and subset afterwards, or run `sctag.tl.sctag` on these cells."
        )
        raise ValueError(msg)
    rows = _rows(adata, entry)
    return tree if rows is None else replace(tree, leaf=tree.leaf[rows], consensus_leaf=tree.consensus_leaf[rows])


def read_clusters(adata: AnnData, key: str) -> tuple[Hierarchy, NDArray[np.int64], list[str]]:
    """The tree behind a run or a cut, the cluster of each leaf, and the names of the clusters."""
    run = run_of(adata, key)
    tree = read_tree(adata, run)
    of_run = clusters_of_leaves(adata, run, tree)  # which tells whether the cells are in the order of the tree
    return tree, *(of_run if run == key else clusters_of_leaves(adata, key, tree))


def run_of(adata: AnnData, key: str) -> str:
    """The run that the result ``key`` is a cut of, else itself; KeyError if either is not there."""
    entry = adata.uns.get(key)
    run = str(entry["params"]["cut_of"]) if is_cut(entry) else key
    ResultKeys(run).require_result(adata)
    return run


def resolution_of(adata: AnnData, key: str) -> float:
    """That of the result ``key``: a cut may have one of its own, else it is that of its run."""
    of_run = adata.uns[run_of(adata, key)]["params"]["resolution"]
    return float(adata.uns[key]["params"].get("resolution", of_run))


def clusters_of_leaves(adata: AnnData, key: str, tree: Hierarchy) -> tuple[NDArray[np.int64], list[str]]:
    """(n_leaves,) cluster of each leaf in ``obs[key]``, 0 where there is no cell, and the names of the clusters.

    KeyError if the column is missing; ValueError if its clusters are not made of leaves or, of a run, not those of the
    tree and of the soft assignment.
    """
    keys = ResultKeys(key)
    for part, name in (("obs", keys.clusters), ("obsm", keys.proba)):
        if name not in getattr(adata, part):
            msg = f"adata.{part}[{name!r}] is missing; it belongs to the result {key!r}."
            raise KeyError(msg)
    column, proba = adata.obs[key].astype("category"), adata.obsm[keys.proba]
    codes = column.cat.codes.to_numpy().astype(np.int64)
    of_leaf = np.zeros(tree.n_leaves, dtype=np.int64)
    of_leaf[tree.leaf] = codes
    n_clusters = len(column.cat.categories)
    holds = (codes >= 0).all() and (of_leaf[tree.leaf] == codes).all() and proba.shape[1] == n_clusters
    if "history" in adata.uns[key]:  # of a run, not of a cut
        in_both = np.unique(np.stack([codes, tree.cut(n_clusters)[tree.leaf]]), axis=1)
        holds = holds and (proba.argmax(axis=1) == codes).all() and in_both.shape[1] == n_clusters
    if not holds:
        msg = (
            f"adata.obs[{key!r}] no longer holds the clusters of the run, in their order: cells were reordered, or "
            "clusters edited. `rename_categories` would do no harm; run `sctag.tl.sctag(adata)` again."
        )
        if is_cut(adata.uns[key]):
            run = adata.uns[key]["params"]["cut_of"]
            msg = f"adata.obs[{key!r}] is no cut of the present clusters of {run!r}; call `sctag.tl.cut` again."
        raise ValueError(msg)
    return of_leaf, column.cat.categories.astype(str).tolist()


def _rows(adata: AnnData, entry: Any) -> NDArray[np.int64] | None:
    """(n_obs,) number of each cell in the run, None where that is its number in ``adata`` or cannot be known."""
    try:
        names = pd.Index(json.loads(str(entry[MODEL]["record"]))["obs_names"])
    except (KeyError, TypeError, ValueError):
        return None
    if not names.is_unique or names.equals(adata.obs_names):
        return None
    rows = names.get_indexer(adata.obs_names)
    return rows if np.array_equal(np.sort(rows), np.arange(adata.n_obs)) else None


def _no_tree(key: str, entry: Any) -> str:
    if "mapped_to" in entry:
        return f"The result {key!r} was mapped from a reference, which alone has the tree. Cut it there."
    if "sub_of" in entry["params"]:
        return (
            f"The result {key!r} was made by `sctag.tl.subcluster`, which keeps no tree. For other parts of these "
            "cells call it again with `resolution=` or `n_clusters=`."
        )
    preset = entry["params"].get("preset", "default")
    if preset != "default":
        return (
            f"The result {key!r} is of preset={preset!r}, which makes no tree. Run `sctag.tl.sctag` without `preset`."
        )
    return f"The result {key!r} was made before runs kept their tree; run `sctag.tl.sctag(adata)` again."
