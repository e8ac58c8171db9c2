"""Nearest neighbours as plain arrays, exact while that is the faster way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
from scipy.spatial.distance import cdist

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Brute force grows with n^2 but needs no compilation; up to here it is faster than pynndescent's first call
# (docs/benchmarks/neighbors.py times both).
EXACT_UP_TO = 50_000


@dataclass(frozen=True)
class Neighbors:
    """For each cell itself (column 0, distance 0) and its nearest others, by growing distance.

    ``indices`` is (n_cells, n_neighbors) int64, ``distances`` (n_cells, n_neighbors) float32.
    """

    indices: NDArray[np.int64]
    distances: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.indices.shape != self.distances.shape:
            msg = f"indices {self.indices.shape} and distances {self.distances.shape} differ in shape"
            raise ValueError(msg)


def find_neighbors(
    x: NDArray[np.floating], n_neighbors: int, *, metric: str, random_state: int, exact: bool | None = None
) -> Neighbors:
    """The ``n_neighbors`` nearest cells of each row of ``x``, the cell itself counted as one of them.

    ``exact=None`` decides by size. Raises ValueError for an unknown metric or more neighbours than cells.
    """
    if not 2 <= n_neighbors <= len(x):
        msg = f"n_neighbors must lie between 2 and the number of cells ({len(x)}), got {n_neighbors}"
        raise ValueError(msg)
    if exact is None:
        exact = len(x) <= EXACT_UP_TO
    found = nearest(x, x, n_neighbors, metric) if exact else _approximate(x, n_neighbors, metric, random_state)
    return _self_first(*found)


def find_neighbors_across(
    x: NDArray[np.floating],
    batches: NDArray[np.int64],
    n_neighbors: int,
    *,
    metric: str,
    random_state: int,
    exact: bool | None = None,
) -> Neighbors:
    """The same with equal shares of each cell's neighbours from every batch (BBKNN, Polanski et al. 2020).

    ``batches`` is (n_cells,) batch numbers from 0. Each batch gives the same number of others, rounded up, so that a
    row may hold a few more than asked for; one with too few cells gives as many as each of its own cells can have.
    """
    share = -(-(n_neighbors - 1) // (int(batches.max()) + 1))
    parts = []
    for batch in range(int(batches.max()) + 1):
        members = np.flatnonzero(batches == batch)
        given = min(share, len(members) - 1)
        parts.append(_others_among(x, members, given, metric, random_state, exact=exact))
    indices, distances = (np.concatenate(found, axis=1) for found in zip(*parts, strict=True))
    order = np.lexsort((indices, distances), axis=1)
    cells = np.arange(len(x))[:, None]
    indices = np.concatenate([cells, np.take_along_axis(indices, order, axis=1)], axis=1)
    distances = np.concatenate([np.zeros_like(distances[:, :1]), np.take_along_axis(distances, order, axis=1)], axis=1)
    return Neighbors(indices.astype(np.int64), distances.astype(np.float32))


def levelled(found: Neighbors, batches: NDArray[np.int64]) -> Neighbors:
    """The same neighbours, distances counted from the nearest neighbour of their batch, and rows sorted by them.

    Cells of other batches are further away whatever their type; weights made of these distances do not mind. UMAP takes
    the first distance that is not zero for the least.
    """
    distances = found.distances.copy()
    of_batch = batches[found.indices[:, 1:]]
    for batch in range(int(batches.max()) + 1):
        inside = of_batch == batch
        nearest = np.where(inside, distances[:, 1:], np.inf).min(axis=1, keepdims=True)
        distances[:, 1:] -= np.where(inside & np.isfinite(nearest), nearest, 0)
    return _self_first(found.indices, distances)


def _others_among(
    x: NDArray[np.floating],
    members: NDArray[np.int64],
    k: int,
    metric: str,
    random_state: int,
    *,
    exact: bool | None,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Of each row of ``x`` the ``k`` nearest others among ``members``."""
    if exact or (exact is None and len(x) <= EXACT_UP_TO):
        found, distances = nearest(x[members], x, k + 1, metric)
    else:
        from pynndescent import NNDescent

        index = NNDescent(x[members], n_neighbors=max(k + 1, 15), metric=metric, random_state=random_state)
        found, distances = index.query(x, k + 1)
    indices = members[found]
    itself = indices == np.arange(len(x))[:, None]
    itself[~itself.any(axis=1), -1] = True  # a cell of another batch gives up its farthest
    return indices[~itself].reshape(len(x), k), distances[~itself].reshape(len(x), k)


def nearest(
    x: NDArray[np.floating], queries: NDArray[np.floating], k: int, metric: str
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The ``k`` rows of ``x`` nearest to each query, and their distances, (n_queries, k) each, by growing distance."""
    from sklearn.neighbors import NearestNeighbors

    angular = metric in {"cosine", "correlation"}
    if (
        angular
    ):  # ten times faster as a Euclidean search among unit vectors, whose squared distance is twice the cosine's
        x, queries = _unit_rows(x, queries, centred=metric == "correlation")
    search = NearestNeighbors(n_neighbors=k, metric="euclidean" if angular else metric, algorithm="brute")
    distances, indices = search.fit(x).kneighbors(queries)
    return indices, distances**2 / 2 if angular else distances


def _unit_rows(*parts: NDArray[np.floating], centred: bool) -> list[NDArray[np.floating]]:
    """Rows at length one; those without a direction get one of their own, at a right angle to all others."""
    scaled: list[NDArray[np.floating]] = []
    without: list[NDArray[np.bool_]] = []
    for rows in parts:
        centres = rows.mean(axis=1, keepdims=True) if centred else 0
        norm = np.linalg.norm(rows - centres, axis=1, keepdims=True)
        without.append(norm == 0)
        scaled.append((rows - centres) / np.where(norm > 0, norm, 1))
    if not any(rows.any() for rows in without):
        return scaled
    return [np.hstack([rows, nowhere.astype(rows.dtype)]) for rows, nowhere in zip(scaled, without, strict=True)]


def _approximate(
    x: NDArray[np.floating], k: int, metric: str, random_state: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    # The class, not its sklearn-style transformer: that one returns a csr_array from 0.7 on, which scanpy cannot take.
    from pynndescent import NNDescent

    index = NNDescent(x, n_neighbors=k, metric=metric, random_state=random_state)
    indices, distances = (np.array(part) for part in index.neighbor_graph)
    if (indices < 0).any():  # too few candidates found: take these rows from the exact search
        rows = np.flatnonzero((indices < 0).any(axis=1))
        indices[rows], distances[rows] = nearest(x, x[rows], k, metric)
    return indices, distances


def _self_first(indices: NDArray[np.int64], distances: NDArray[np.floating]) -> Neighbors:
    """Put each cell in front of its own row; among duplicates a search may list it later, or not at all."""
    cells = np.arange(len(indices))[:, None]
    # Sort key: the cell itself first, then by distance, ties by index so that the order of the search is irrelevant.
    is_self = indices == cells
    order = np.lexsort((indices, distances, ~is_self), axis=1)
    indices = np.take_along_axis(indices, order, axis=1)
    distances = np.take_along_axis(distances, order, axis=1)
    absent = ~is_self.any(axis=1)
    indices[absent, 1:], distances[absent, 1:] = indices[absent, :-1], distances[absent, :-1]
    indices[:, 0], distances[:, 0] = cells.ravel(), 0.0
    return Neighbors(indices.astype(np.int64), distances.astype(np.float32))


def join_pieces(found: Neighbors, x: NDArray[np.floating], *, metric: str) -> Neighbors:
    """Neighbours whose graph is in one piece, where single edges can make it so; unchanged if it is already.

    Pieces are joined along the minimum spanning tree of their centres in ``x`` (n_cells, d): in one cell near the
    other piece the farthest neighbour gives way to the nearest cell over there, at its true distance. scanpy's PAGA
    fails on groups without any edge between them, and perfect clusters are such groups. Searches of fewer than four
    neighbours are left alone: there the one that gives way would be missed.
    """
    n, k = found.indices.shape
    edges = sparse.csr_matrix((np.ones(n * k), found.indices.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n))
    n_parts, part = connected_components(edges, directed=False)
    if n_parts == 1 or k < 4:
        return found
    indices, distances = found.indices.copy(), found.distances.copy()
    members = [np.flatnonzero(part == index) for index in range(n_parts)]
    centres = np.stack([x[cells].mean(axis=0) for cells in members])
    tree = minimum_spanning_tree(cdist(centres, centres) + 1).tocoo()  # + 1: a distance of zero would be no edge
    taken: set[int] = set()
    for here, there in zip(tree.row, tree.col, strict=True):
        free = np.array([cell for cell in members[here] if cell not in taken], dtype=np.int64)
        if not len(free):
            continue
        left = int(free[cdist(x[free], centres[there, None]).argmin()])
        place, distance = nearest(x[members[there]], x[[left]], 1, metric)
        indices[left, -1], distances[left, -1] = members[there][place[0, 0]], distance[0, 0]
        taken.add(left)
    return Neighbors(indices, distances)
