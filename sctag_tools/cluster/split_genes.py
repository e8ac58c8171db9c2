"""How genes differ between two groups of cells: fold change, share of cells with a count, area under the ROC curve."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from .comparisons import Comparison

TARGET_SUM = 1e4  # counts of a cell that means are in
PSEUDOCOUNT = 0.1  # added to both means of a fold change
_ENTRIES_AT_ONCE = 1 << 23


@dataclass(frozen=True)
class Sides:
    """The cells of both sides of some comparisons."""

    labels: NDArray[np.int64]  # (n_cells,) cluster of each cell
    n_cells: NDArray[np.int64]  # (n_clusters,)
    group: NDArray[np.bool_]  # (n_comparisons, n_clusters)
    reference: NDArray[np.bool_]  # (n_comparisons, n_clusters)

    @classmethod
    def from_comparisons(cls, comparisons: Sequence[Comparison], labels: NDArray[np.int64]) -> Self:
        """From the clusters that are compared, and those of the cells."""
        n_cells = np.bincount(labels)
        sides = np.zeros((2, len(comparisons), len(n_cells)), dtype=bool)
        for i, one in enumerate(comparisons):
            sides[0, i, one.group] = sides[1, i, one.reference] = True
        return cls(labels, n_cells, *sides)

    @property
    def sizes(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(n_comparisons,) cells of each group and of each reference."""
        return self.group @ self.n_cells, self.reference @ self.n_cells

    def means(self, blocks: Iterable[NDArray[np.floating] | sparse.spmatrix]) -> Iterator[NDArray[np.float64]]:
        """(n_comparisons, n_genes) means over the groups, then over the references, from blocks of all rows in turn."""
        shape = len(self.n_cells), len(self.labels)
        of_cluster = sparse.csr_matrix((np.ones(shape[1]), (self.labels, np.arange(shape[1]))), shape=shape)
        sums, start = 0.0, 0
        for block in blocks:
            added = of_cluster[:, start : start + block.shape[0]] @ block
            sums, start = sums + (added.toarray() if sparse.issparse(added) else added), start + block.shape[0]
        for side, size in zip((self.group, self.reference), self.sizes, strict=True):
            yield (side.astype(np.float64) @ sums) / size[:, None]


@dataclass(frozen=True)
class GeneDifferences:
    """Of each gene in each comparison, (n_comparisons, n_genes) each."""

    auroc: NDArray[np.float64]  # chance that a cell of the group has more than one of the reference, ties count half
    log_fold_change: NDArray[np.float64]  # log2
    detected: NDArray[np.float64]  # share of the group's cells that have a count
    detected_in_reference: NDArray[np.float64]

    @property
    def score(self) -> NDArray[np.float64]:
        """Rank-biserial correlation times the size of the fold change, above zero for genes of the group.

        The first factor alone puts abundant genes that differ little to the top (of ribosomes, mostly), the second
        alone genes that few cells have.
        """
        return np.asarray((2 * self.auroc - 1) * np.abs(self.log_fold_change))

    @classmethod
    def from_counts(cls, counts: sparse.csc_matrix, totals: NDArray[np.float64], sides: Sides) -> Self:
        """From non-negative counts (n_cells, n_genes) and the sum of each cell over all genes, (n_cells,)."""
        parts = []
        for start, stop in _column_ranges(counts.indptr):
            x = counts[:, start:stop].astype(np.float64)
            x.sum_duplicates()
            x.data /= totals[x.indices]  # and nothing else: equal shares of different depths stay equal
            x.eliminate_zeros()
            scaled, detected = x * TARGET_SUM, x.astype(bool).astype(np.float64)
            parts.append((area_under_roc(x, sides), log_fold_change(*sides.means([scaled])), *sides.means([detected])))
        return cls(*(np.concatenate(part, axis=1) for part in zip(*parts, strict=True)))


def log_fold_change(of_group: NDArray[np.float64], of_reference: NDArray[np.float64]) -> NDArray[np.float64]:
    """The log2 ratio of means in counts per 10,000, with a pseudocount."""
    return np.asarray(np.log2((of_group + PSEUDOCOUNT) / (of_reference + PSEUDOCOUNT)))


def area_under_roc(x: sparse.csc_matrix, sides: Sides) -> NDArray[np.float64]:
    """(n_comparisons, n_genes) Mann-Whitney U of non-negative values over its largest value.

    Each distinct value of a gene is a step: the cells of the group there win against all of the reference on lower
    steps and against half of those on the same. Zeros, the lowest step, are not stored and are added in the end.
    """
    n_genes = x.shape[1]
    gene = np.repeat(np.arange(n_genes), np.diff(x.indptr))
    order = np.lexsort((x.data, gene))
    values, cluster = x.data[order], sides.labels[x.indices[order]]
    is_first = np.r_[True, (np.diff(values) != 0) | (np.diff(gene) != 0)][: len(values)]
    step, gene_of_step = np.cumsum(is_first) - 1, gene[is_first]
    found = np.empty((len(sides.group), n_genes))
    for i, (n, n_reference) in enumerate(zip(*sides.sizes, strict=True)):
        if i and (sides.group[i] == sides.reference[i - 1]).all() and (sides.reference[i] == sides.group[i - 1]).all():
            found[i] = 1 - found[i - 1]
            continue
        here, of_reference = (
            np.bincount(step, weights=side[i][cluster], minlength=len(gene_of_step))
            for side in (sides.group, sides.reference)
        )
        zeros, zeros_of_reference = (
            size - np.bincount(gene_of_step, weights=some, minlength=n_genes)
            for size, some in ((n, here), (n_reference, of_reference))
        )
        up_to = np.cumsum(of_reference)
        before = (np.cumsum(n_reference - zeros_of_reference) - (n_reference - zeros_of_reference))[gene_of_step]
        beaten = zeros_of_reference[gene_of_step] + up_to - before - of_reference / 2
        wins = np.bincount(gene_of_step, weights=here * beaten, minlength=n_genes) + zeros * zeros_of_reference / 2
        found[i] = wins / (float(n) * n_reference)
    return found


def _column_ranges(indptr: NDArray[np.integer]) -> Iterator[tuple[int, int]]:
    """Ranges of columns with few enough entries to be held several times."""
    start, n_columns = 0, len(indptr) - 1
    while start < n_columns:
        stop = int(np.searchsorted(indptr, indptr[start] + _ENTRIES_AT_ONCE, side="right")) - 1
        stop = min(max(stop, start + 1), n_columns)
        yield start, stop
        start = stop
