"""The cell graph as training sees it: normalised adjacency, hop features, sampled neighbours, subgraphs of a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from numpy.typing import NDArray


_COLUMNS_AT_ONCE = 256


def normalise_adjacency(weights: sparse.spmatrix | sparse.sparray) -> sparse.csr_matrix:
    r"""Symmetrically normalised adjacency :math:`D^{-1/2} A D^{-1/2}` without self-loops.

    ``weights`` is the (n, n) graph; row i lists the neighbours that cell i gathers from. Degrees are row sums, as
    in PyG's ``gcn_norm`` on a CSR matrix. A cell without neighbours keeps an empty row: its hop features are zero.
    Returns (n, n) CSR, float32.
    """
    adjacency = sparse.csr_matrix(weights, dtype=np.float64, copy=True)
    rows = np.repeat(np.arange(adjacency.shape[0]), np.diff(adjacency.indptr))
    adjacency.data[adjacency.indices == rows] = 0  # setdiag would store entries where there are none
    adjacency.eliminate_zeros()
    adjacency.sort_indices()
    degree = np.asarray(adjacency.sum(axis=1)).ravel()
    scale = np.zeros_like(degree)
    np.divide(1.0, np.sqrt(degree), out=scale, where=degree > 0)
    scaling = sparse.diags(scale)
    return sparse.csr_matrix(scaling @ adjacency @ scaling, dtype=np.float32)


def hop_blocks(features: NDArray[np.float32], adjacency: sparse.csr_matrix, n_hops: int) -> NDArray[np.float32]:
    """The features :math:`A^k X` of hops k = 0..n_hops, of shape (n_cells, n_hops + 1, n_features), float32.

    They are what a TAG layer multiplies with its weights (Du et al. 2017). With fixed inputs they are computed
    once, and training draws plain batches of rows without looking for neighbours (SIGN, Frasca et al. 2020).
    """
    n, width = features.shape
    blocks = np.empty((n, n_hops + 1, width), dtype=np.float32)
    blocks[:, 0] = features
    for k in range(n_hops):
        for start in range(0, width, _COLUMNS_AT_ONCE):  # a second array of this size would double the memory
            columns = slice(start, start + _COLUMNS_AT_ONCE)
            blocks[:, k + 1, columns] = adjacency @ np.ascontiguousarray(blocks[:, k, columns])
    return blocks


def sample_neighbors(
    adjacency: sparse.csr_matrix, rows: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """One neighbour for each of ``rows``, with probability in proportion to its edge; an isolated cell gets itself."""
    starts, ends = adjacency.indptr[rows].astype(np.int64), adjacency.indptr[rows + 1].astype(np.int64)
    chosen = rows.copy()
    for position in np.flatnonzero(ends > starts):
        edges = slice(starts[position], ends[position])
        cumulated = np.cumsum(adjacency.data[edges])
        chosen[position] = adjacency.indices[edges][
            np.searchsorted(cumulated[:-1], rng.random() * cumulated[-1], side="right")
        ]
    return chosen


def subgraph_targets(adjacency: sparse.csr_matrix, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """What the graph decoder is to rebuild: edges among ``rows``, each row scaled to sum to one (or zero)."""
    targets: NDArray[np.float32] = adjacency[rows][:, rows].toarray()
    totals = targets.sum(axis=1, keepdims=True)
    np.divide(targets, totals, out=targets, where=totals > 0)
    return targets


def nearest_entries(distances: sparse.csr_matrix, k: int) -> sparse.csr_matrix:
    """The ``k`` smallest entries of each row of (n, n) distances, none of them on the diagonal.

    scanpy stores one neighbour more for a search that is not exact, or the cell itself, with the same
    ``n_neighbors``.
    """
    n = distances.shape[0]
    rows = np.repeat(np.arange(n), np.diff(distances.indptr))
    others = rows != distances.indices
    rows, columns, values = rows[others], distances.indices[others], distances.data[others]
    order = np.lexsort((columns, values, rows))
    rows, columns, values = rows[order], columns[order], values[order]
    place = np.arange(len(rows)) - np.searchsorted(rows, rows)
    kept = place < k
    return sparse.csr_matrix((values[kept], (rows[kept], columns[kept])), shape=(n, n))
