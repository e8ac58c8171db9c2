"""The genes of each side of a split, written above its branch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .._anndata.tree import read_clusters
from .._keys import ResultKeys, is_ranking

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from ..cluster.comparisons import Comparison
    from ..cluster.contracted import ContractedTree

    _Sides = tuple[tuple[int, ...], tuple[int, ...]]  # clusters of a side and of the other one


def genes_of_branches(adata: AnnData, key: str, shown: ContractedTree, n_genes: int) -> dict[int, list[str]]:
    """The best genes of the entries whose side of a split was compared with the other side as it is drawn.

    KeyError without a ranking of ``key``, ValueError if it is of other clusters. One cluster alone needs none.
    """
    if n_genes == 0 or not (shown.cluster[shown.is_split] < 0).any():
        return {}
    name = ResultKeys(key).splits
    ranking, call = adata.uns.get(name), f"sctag.tl.rank_genes_splits(adata, key={key!r})"
    if not is_ranking(ranking):
        msg = f"n_genes={n_genes} needs the ranking adata.uns[{name!r}], which is not there; run `{call}` first."
        raise KeyError(msg)
    comparisons = _ranked_comparisons(adata, key, ranking["comparisons"])
    if comparisons is None:
        msg = f"The genes in adata.uns[{name!r}] part other clusters than those of {key!r} now; run `{call}` again."
        raise ValueError(msg)
    # By sides alone: clusters that were joined across the tree are compared at one split and may be drawn at another.
    fields = {_sides(one): field for one, field in zip(comparisons, ranking["comparisons"].index, strict=True)}
    found = {entry: fields[sides] for entry, sides in _drawn_sides(shown) if sides in fields}
    return {entry: _higher(ranking, field)[:n_genes] for entry, field in found.items()}


def write_genes(
    ax: Axes, shown: ContractedTree, depths: NDArray[np.float64], genes: Mapping[int, Sequence[str]]
) -> None:
    """Write genes above their branches, as many as have room."""
    if not genes:
        return
    from ._fitted_names import FittedNames

    rows = shown.rows()
    for entry, names in genes.items():
        free = 1.5 if shown.is_split[entry] else 1.0  # rows up to the next branch, at least
        FittedNames(ax, names, (float(depths[shown.parent[entry]]), float(depths[entry])), float(rows[entry]), free)


def _ranked_comparisons(adata: AnnData, key: str, table: Any) -> list[Comparison] | None:
    """The comparisons of the clusters, None if those of the table are others: other splits, names or cells."""
    from ..cluster.comparisons import compare_sides

    tree, of_leaf, names = read_clusters(adata, key)
    sizes = np.bincount(of_leaf, tree.n_cells[: tree.n_leaves], minlength=len(names)).astype(np.int64)
    comparisons = compare_sides(tree, of_leaf)
    expected: dict[str, list[str]] = {
        name: [] for name in ("node", "clusters", "clusters_reference", "n_cells", "n_cells_reference")
    }
    for one in comparisons:
        expected["node"].append(str(one.node))
        for side, of_side in ((one.group, ""), (one.reference, "_reference")):
            expected[f"clusters{of_side}"].append("+".join(names[i] for i in side))
            expected[f"n_cells{of_side}"].append(str(sizes[side].sum()))
    is_same = all(table[name].astype(str).tolist() == values for name, values in expected.items())
    return comparisons if is_same else None


def _drawn_sides(shown: ContractedTree) -> Iterator[tuple[int, _Sides]]:
    """Each entry below a split of clusters, with the clusters of it and of the other side."""
    below = [{int(cluster)} - {-1} for cluster in shown.cluster]
    for entry in range(len(below) - 1, 0, -1):  # from the ends upward
        below[shown.parent[entry]] |= below[entry]
    for parent in np.flatnonzero(shown.is_split & (shown.cluster < 0)):
        sides = [int(entry) for entry in np.flatnonzero(shown.parent == parent)]
        for entry, other in (sides, sides[::-1]):
            yield entry, (tuple(sorted(below[entry])), tuple(sorted(below[other])))


def _sides(one: Comparison) -> _Sides:
    return tuple(one.group.tolist()), tuple(one.reference.tolist())


def _higher(ranking: Mapping[str, Any], field: str) -> list[str]:
    """Genes that are higher in the group than on the other side, the best first."""
    is_higher = np.asarray(ranking["scores"][field]) > 0
    return [str(name) for name in np.asarray(ranking["names"][field])[is_higher]]
