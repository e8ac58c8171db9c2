"""Names and colors of clusters, which go along where clusters do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
    pairs = np.unique(np.stack([proba.argmax(axis=1), codes]), axis=1)
    is_one_to_one = pairs.shape[1] == len({*pairs[0]}) == len({*pairs[1]})
    if (codes < 0).any() or not is_one_to_one:
        return None
    if len(names) == n_clusters and (pairs[0] == pairs[1]).all():  # also of clusters whose cells are gone
        return [str(name) for name in names]
    found = [str(number) for number in range(n_clusters)]  # which those keep whose names are gone
    for number, code in pairs.T:
        found[number] = str(names[code])
    return found if len({*found}) == n_clusters else None


def colors_by_name(adata: Any, key: str) -> dict[str, str]:
    """The color of each cluster in ``obs[key]``; none where they do not fit, or ``adata`` is no AnnData."""
    colors = getattr(adata, "uns", {}).get(ResultKeys(key).colors, ())
    column = adata.obs.get(key) if len(colors) else None
    if column is None or not hasattr(column, "cat") or len(colors) != len(column.cat.categories):
        return {}
    return dict(zip(column.cat.categories.astype(str), map(str, colors), strict=True))


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
