"""``sctag.get.splits_df``: one row a split of the tree."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .._anndata.access import require_anndata
from .._anndata.tree import read_clusters, resolution_of

if TYPE_CHECKING:
    from anndata import AnnData


def splits_df(adata: AnnData, key: str = "sctag") -> pd.DataFrame:
    """List the splits near the top of the tree of a run, with the evidence for each.

    Parameters
    ----------
    adata
        Annotated data with a result of :func:`sctag_tools.tl.sctag` or :func:`sctag_tools.tl.cut`, all of its cells.
    key
        Name of the result.

    Returns
    -------
    One row for each split that was tested, at most 120, in the order in which growing numbers of clusters make them:

    ``node``
        Number in ``adata.uns[key]["tree"]``.
    ``n_cells_left``, ``n_cells_right``
        Cells on the two sides.
    ``coassociation``, ``relative_coassociation``
        Share of the partitions that keep two cells of the two sides together, and the same over that for two cells of
        one side.
    ``dprime``, ``null_dprime``
        Lower bound of the distance of the sides, and what one Gaussian cut in two would give.
    ``supported``
        Whether the split is supported at the resolution of the result, its own or that of the run.
    ``clusters_left``, ``clusters_right``
        Clusters of ``key`` with cells on each side, joined by "+"; the same one on both if the split lies within it.

    Raises
    ------
    KeyError
        If there is no result of this name, or a part of it is missing.
    ValueError
        If the result has no tree (published presets, mapped cells, earlier versions), or its cells or clusters have
        changed.

    Examples
    --------
    >>> import sctag_tools as sctag
    >>> adata = sctag.datasets.pbmc68k_reduced()
    >>> sctag.pp.build_graph(adata)
    >>> sctag.tl.sctag(adata, n_clusters=8, pretrain_epochs=5, cluster_epochs=2, progress_bar=False)
    >>> splits = sctag.get.splits_df(adata)
    >>> int(splits.loc[0, ["n_cells_left", "n_cells_right"]].sum())
    700
    """
    require_anndata(adata, "sctag.get.splits_df")
    tree, of_leaf, names = read_clusters(adata, key)
    order = tree.split_order - tree.n_leaves
    order = order[~np.isnan(tree.dprime[order])]
    below = [["+".join(names[i] for i in np.unique(of_leaf[side])) for side in tree.sides(node)]
             for node in order + tree.n_leaves]  # fmt: skip
    n_cells, clusters = tree.n_cells[tree.children[order]], np.array(below, dtype=object).reshape(-1, 2)
    return pd.DataFrame(
        {
            "node": order + tree.n_leaves,
            "n_cells_left": n_cells[:, 0],
            "n_cells_right": n_cells[:, 1],
            **{name: getattr(tree, name)[order] for name in ("coassociation", "relative_coassociation")},
            **{name: getattr(tree, name)[order] for name in ("dprime", "null_dprime")},
            "supported": tree.supported(resolution_of(adata, key))[order],
            "clusters_left": clusters[:, 0],
            "clusters_right": clusters[:, 1],
        }
    )
