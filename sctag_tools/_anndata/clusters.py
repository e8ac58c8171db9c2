"""Names and colors of clusters, which go along where clusters do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .._keys import ResultKeys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData


def cluster_names(adata: AnnData, key: str, n_clusters: int) -> list[str] | None:
    """The name of each cluster of the run in ``obs[key]``; None where the column no longer has the same clusters.

    Categories may have been renamed, or put into another order.
    """
    column, proba = adata.obs.get(key), adata.obsm.get(ResultKeys(key).proba)
    if column is None or proba is None or proba.shape[1] != n_clusters:
        return None
    column = column.astype("category")
    names, codes = column.cat.categories.astype(str).to_numpy(), column.cat.codes.to_numpy()
    if len(names) != n_clusters or (codes < 0).any():
        return None
    pairs = np.unique(np.stack([proba.argmax(axis=1), codes]), axis=1)
    if (pairs[0] == pairs[1]).all():  # also where some cells, and clusters, are gone
        return [str(name) for name in names]
    if pairs.shape[1] == n_clusters == len({*pairs[0]}) == len({*pairs[1]}):
        return [str(name) for name in names[pairs[1]]]
    return None


def inherited_colors(old: Sequence[str] | None, heirs: list[int], n_old: int) -> list[str] | None:
    """A color for each new cluster: that of the old one it goes on with (-1: a new color). None unless all had one."""
    if old is None or len(old) != n_old:
        return None
    from matplotlib.colors import to_hex
    from scanpy.pl import palettes

    used = {to_hex(color) for color in old}
    fresh = [*palettes.default_20, *palettes.default_28, *palettes.default_102]
    unused = iter([color for color in dict.fromkeys(map(to_hex, fresh)) if color not in used])
    return [next(unused, "#808080") if heir < 0 else str(old[heir]) for heir in heirs]
