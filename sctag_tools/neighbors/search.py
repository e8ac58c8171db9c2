"""Nearest neighbors as plain arrays: exact for small data, approximate for large data."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

# The exact search takes time in n^2, but the approximate one compiles for half a minute on its first call. Up to this
# size the exact search is the faster one (docs/benchmarks/neighbors.py times both).
MAX_EXACT_CELLS = 50_000


@dataclass(frozen=True)
class Neighbors:
    """The neighbors of each cell, nearest first; each cell is its own first neighbor, at distance 0.

    ``indices`` is (n_cells, n_neighbors) int64, ``distances`` (n_cells, n_neighbors) float32.
    """

    indices: NDArray[np.int64]
    distances: NDArray[np.float32]

    @classmethod
    def from_search(cls, indices: NDArray[np.int64], distances: NDArray[np.floating]) -> Self:
        """Sort each row by distance, with the cell itself in front.

        Among duplicated cells a search may list the cell itself late, or not at all; then the farthest neighbor is
        dropped for it. Ties are sorted by index, so that the order of the search does not matter.
        """
        cells = np.arange(len(indices))[:, None]
        is_self = indices == cells
        order = np.lexsort((indices, distances, ~is_self), axis=1)
        indices = np.take_along_axis(indices, order, axis=1)
        distances = np.take_along_axis(distances, order, axis=1)
        absent = ~is_self.any(axis=1)
        indices[absent, 1:], distances[absent, 1:] = indices[absent, :-1], distances[absent, :-1]
        indices[:, 0], distances[:, 0] = cells.ravel(), 0.0
        return cls(indices.astype(np.int64), distances.astype(np.float32))

    def to_csr(self, *, include_self: bool = True) -> sparse.csr_matrix:
        """(n_cells, n_cells) distances; zeros, such as those of duplicated cells, are stored entries."""
        first = 0 if include_self else 1
        indices, distances = self.indices[:, first:], self.distances[:, first:]
        n, k = indices.shape
        return sparse.csr_matrix((distances.ravel(), indices.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n))


def find_neighbors(
    x: NDArray[np.floating], n_neighbors: int, *, metric: str, random_state: int, exact: bool | None = None
) -> Neighbors:
    """Find the ``n_neighbors`` nearest cells of each row of ``x`` (n_cells, d); each cell counts as one of its own.

    By default the search is exact up to ``MAX_EXACT_CELLS`` cells.
    """
    if is_exact(len(x), exact=exact):
        return Neighbors.from_search(*nearest(x, x, n_neighbors, metric))
    return Neighbors.from_search(*_approximate(x, n_neighbors, metric, random_state))


def is_exact(n_cells: int, *, exact: bool | None) -> bool:
    """Whether to search exactly, where None leaves it to the number of cells."""
    return n_cells <= MAX_EXACT_CELLS if exact is None else exact


def nearest(
    x: NDArray[np.floating], queries: NDArray[np.floating], k: int, metric: str
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Find the ``k`` rows of ``x`` nearest to each query, by comparing all pairs.

    Returns their indices and distances, (n_queries, k) each, nearest first.
    """
    from sklearn.neighbors import NearestNeighbors

    is_angular = metric in {"cosine", "correlation"}
    if is_angular:
        # Among vectors of length one the squared Euclidean distance is twice the cosine distance, and the Euclidean
        # search is ten times faster.
        x, queries = _unit_rows(x, queries, center=metric == "correlation")
    search = NearestNeighbors(n_neighbors=k, metric="euclidean" if is_angular else metric, algorithm="brute")
    distances, indices = search.fit(x).kneighbors(queries)
    return indices, distances**2 / 2 if is_angular else distances


def _unit_rows(*parts: NDArray[np.floating], center: bool) -> list[NDArray[np.floating]]:
    """Scale rows to length one.

    Rows of zeros have no direction. They get an extra dimension of their own, at a right angle to all other rows.
    """
    scaled: list[NDArray[np.floating]] = []
    without_direction: list[NDArray[np.bool_]] = []
    for rows in parts:
        centers = rows.mean(axis=1, keepdims=True) if center else 0
        norm = np.linalg.norm(rows - centers, axis=1, keepdims=True)
        without_direction.append(norm == 0)
        scaled.append((rows - centers) / np.where(norm > 0, norm, 1))
    if not any(rows.any() for rows in without_direction):
        return scaled
    return [np.hstack([rows, extra.astype(rows.dtype)]) for rows, extra in zip(scaled, without_direction, strict=True)]


def _approximate(
    x: NDArray[np.floating], k: int, metric: str, random_state: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    # pynndescent's transformer would be shorter, but from 0.7 on it returns a csr_array, which scanpy does not accept.
    from pynndescent import NNDescent

    index = NNDescent(x, n_neighbors=k, metric=metric, random_state=random_state)
    indices, distances = (np.array(part) for part in index.neighbor_graph)
    incomplete = np.flatnonzero((indices < 0).any(axis=1))  # rows for which it found too few
    if len(incomplete):
        indices[incomplete], distances[incomplete] = nearest(x, x[incomplete], k, metric)
    return indices, distances
