"""``sctag.tl.cut``: another clustering of a run, from its tree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .. import _logging as logg
from .._anndata.access import require_writable, working_copy
from .._anndata.clusters import inherited_colors
from .._anndata.tree import clusters_of_leaves, read_tree
from .._checks import check_integer, check_name, check_number
from .._keys import ResultKeys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from ..cluster.hierarchy import Hierarchy


def cut(
    adata: AnnData,
    n_clusters: int | None = None,
    *,
    resolution: float | None = None,
    min_cells: int = 1,
    merge: Sequence[Sequence[str]] | None = None,
    key: str = "sctag",
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Cluster the cells of a run more finely or more coarsely, without training.

    The clusters of a run are a cut of a tree of cells (evidence accumulation, Fred & Jain 2005), which the run keeps.
    This function cuts it elsewhere. A cluster that stays as it is keeps its name and color. Parts of ``"3"`` are
    ``"3,0"``, ``"3,1"``, ... by falling size, and clusters ``"1"`` and ``"5"`` together are ``"1+5"``. Names that you
    gave with ``rename_categories`` are used in the same way. With none of ``n_clusters``, ``resolution`` and ``merge``
    the clusters are those of the run, less those that ``min_cells`` merges.

    Parameters
    ----------
    adata
        Annotated data with a result of :func:`sctag_tools.tl.sctag`, all of its cells.
    n_clusters
        Number of clusters before small ones are merged. Supported splits are made first.
    resolution
        Make the splits that are supported at this resolution, as a run of :func:`sctag_tools.tl.sctag` with it would.
        At the resolution of the run this gives its own clusters, if their number was chosen.
    min_cells
        Merge each cluster of fewer cells into its sibling in the tree, the smallest first. If the sibling was split,
        too, it is merged into the part that the partitions of cells keep it together with most often.
    merge
        Clusters of ``key`` to join, by name: ``[("1", "5")]``, or ``[("1", "5"), ("0", "2", "3")]``.
    key
        Name of the result.
    key_added
        Name of the new clusters, by default ``"{key}_cut"``. An earlier cut of this name is replaced.
    copy
        Return a changed copy instead of writing to ``adata``.

    Returns
    -------
    ``None``, or the copy if ``copy=True``. Writes:

    `adata.obs['sctag_cut' | key_added]` : :class:`pandas.Series` (categorical of strings)
        (n_obs,), the clusters, in the order of the old ones.
    `adata.obs['sctag_cut_confidence' | '{key_added}_confidence']` : :class:`pandas.Series` (float32)
        (n_obs,), as :func:`sctag_tools.tl.sctag` estimates it, for these clusters.
    `adata.obsm['sctag_cut_proba' | '{key_added}_proba']` : :class:`numpy.ndarray` (float32)
        (n_obs, n_clusters), soft assignment, rows sum to one. Clusters that are joined add up. Parts share the column
        of their cluster by the Student-t similarity to their mean latents (DEC, Xie et al. 2016), so that a cell near
        another part may have its largest value there.
    `adata.uns['sctag_cut' | key_added]` : :class:`dict`
        ``params`` (``cut_of``, ``n_clusters`` found, ``min_cells``, and what was given: ``n_clusters_asked``,
        ``resolution`` or ``merge``), and ``cluster_confidence`` as :func:`sctag_tools.tl.sctag` writes it.

    If ``uns["{key}_colors"]`` exists, writes ``uns["{key_added}_colors"]``, too: the largest part, or the largest of
    clusters that are joined, passes its color on, and the others get colors of scanpy's palettes that are not yet used.

    Raises
    ------
    KeyError
        If there is no result of this name.
    ValueError
        If the result has no tree (published presets, mapped cells, earlier versions), its cells or clusters have
        changed, an option is out of range, more than one of ``n_clusters``, ``resolution`` and ``merge`` is given,
        ``merge`` names no cluster or one twice, or ``key_added`` is the name of something else than a cut.
    TypeError
        If an option has the wrong type.
    NotImplementedError
        For a copy or a view of backed data, which cannot hold results.

    Examples
    --------
    >>> import sctag_tools as sctag
    >>> adata = sctag.datasets.pbmc68k_reduced()
    >>> sctag.pp.build_graph(adata)
    >>> sctag.tl.sctag(adata, n_clusters=8, pretrain_epochs=5, cluster_epochs=2, progress_bar=False)
    >>> sctag.tl.cut(adata, n_clusters=12, key_added="finer")
    >>> adata.obs["finer"].nunique()
    12
    >>> sctag.tl.cut(adata, merge=[("1", "5")])
    >>> list(adata.obs["sctag_cut"].cat.categories)
    ['0', '1+5', '2', '3', '4', '6', '7']
    """
    require_writable(adata, "sctag.tl.cut", copy=copy)
    check_name("key", key)
    keys, found = ResultKeys(key), ResultKeys(f"{key}_cut" if key_added is None else key_added)
    check_name("key_added", found.key)
    params = {"cut_of": key, **_checked(n_clusters, resolution, min_cells, merge)}
    found.require_free_for_cut(adata)
    tree = read_tree(adata, key)
    of_leaf, names = clusters_of_leaves(adata, key, tree)
    labels = _labels(tree, of_leaf, names, n_clusters, resolution, merge)
    adata, start = working_copy(adata, copy=copy), logg.info(f"cutting the tree of {key!r}")

    from ..cluster.confidence import cell_confidence, cluster_confidence
    from ..cluster.pieces import Pieces

    pieces = Pieces.from_labels(of_leaf, tree.merge_small(labels, min_cells), tree.n_cells[: tree.n_leaves])
    categories, piece = pieces.names(names), pieces.of_leaf[tree.leaf]
    clusters, proba = pieces.new[piece], pieces.assignment(piece, adata.obsm[keys.proba], adata.obsm[keys.latent])
    replicates = tree.replicates(len(categories))
    record = {
        "params": {**params, "n_clusters": len(categories)},
        "cluster_confidence": cluster_confidence(clusters, replicates),
    }
    found.write_derived(
        adata,
        pd.Categorical.from_codes(clusters, categories=categories),
        cell_confidence(clusters, proba, replicates),
        {found.proba: proba},
        record,
        inherited_colors(adata.uns.get(keys.colors), pieces.heirs(), len(names)),
    )
    logg.info(
        f"    finished: {len(categories)} clusters",
        time=start,
        deep=f"added\n    {found.clusters!r}, clusters (adata.obs, categorical)\n"
        f"    {found.proba!r}, soft assignment (adata.obsm)\n    {found.confidence!r} (adata.obs)\n"
        f"    {found.key!r}, parameters (adata.uns)",
    )
    return adata if copy else None


def _checked(
    n_clusters: int | None, resolution: float | None, min_cells: int, merge: Sequence[Sequence[str]] | None
) -> dict[str, Any]:
    """What the record keeps of these options."""
    given = {"n_clusters": n_clusters, "resolution": resolution, "merge": merge}
    chosen = [name for name, value in given.items() if value is not None]
    if len(chosen) > 1:
        msg = f"Give one of n_clusters, resolution and merge, not {' and '.join(chosen)}."
        raise ValueError(msg)
    check_integer("min_cells", min_cells, low=1)
    params: dict[str, Any] = {"min_cells": int(min_cells)}
    if n_clusters is not None:
        check_integer("n_clusters", n_clusters, low=1)
        params["n_clusters_asked"] = int(n_clusters)
    if resolution is not None:
        check_number("resolution", resolution, low=1e-3, high=1e3)
        params["resolution"] = float(resolution)
    if merge is not None:
        groups = [None if isinstance(group, str) else list(group) for group in merge]
        if not all(group and all(isinstance(name, str) for name in group) for group in groups):
            msg = f"merge must be groups of names, as in [('1', '5')], got {merge!r}."
            raise TypeError(msg)
        params["merge"] = ["+".join(group) for group in groups if group]
    return params


def _labels(
    tree: Hierarchy,
    of_leaf: NDArray[np.int64],
    names: list[str],
    n_clusters: int | None,
    resolution: float | None,
    merge: Sequence[Sequence[str]] | None,
) -> NDArray[np.int64]:
    """(n_leaves,) labels before small clusters are merged; ValueError for what the tree or the clusters do not hold."""
    if n_clusters is not None:
        if n_clusters > tree.max_clusters:
            msg = f"n_clusters must be at most {tree.max_clusters}, the leaves of the tree, got {n_clusters}."
            raise ValueError(msg)
        return tree.cut(n_clusters)
    if resolution is not None:
        return tree.cut_supported(resolution)
    named = [name for group in merge or () for name in group]
    unknown = sorted(set(named) - set(names))
    if unknown or len(set(named)) < len(named):
        problem = f"names {unknown}, which are no clusters" if unknown else "names a cluster twice"
        msg = f"merge {problem}; there are {names}."
        raise ValueError(msg)
    labels = of_leaf.copy()
    for group in merge or ():
        numbers = [names.index(name) for name in group]
        labels[np.isin(labels, numbers)] = numbers[0]
    return labels
