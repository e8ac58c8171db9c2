"""Neighbors in equal numbers from each experimental batch: BBKNN (Polanski et al. 2020)."""

import numpy as np
from numpy.typing import NDArray

from .search import Neighbors, is_exact, nearest


def find_neighbors_across(
    x: NDArray[np.floating],
    batch_index: NDArray[np.int64],
    n_neighbors: int,
    *,
    metric: str,
    random_state: int,
    exact: bool | None = None,
) -> Neighbors:
    """Find the nearest neighbors of each row of ``x`` (n_cells, d), equally many from every batch.

    ``batch_index`` (n_cells,) numbers the batches from 0. The number from each batch is rounded up, so that a cell may
    get a few more neighbors than ``n_neighbors``. A batch with fewer cells gives all that it has.
    """
    n_batches = int(batch_index.max()) + 1
    n_from_each = -(-(n_neighbors - 1) // n_batches)
    indices, distances = [np.arange(len(x))[:, None]], [np.zeros((len(x), 1))]  # each cell itself
    for batch in range(n_batches):
        members = np.flatnonzero(batch_index == batch)
        k = min(n_from_each, len(members) - 1)  # a cell cannot be a neighbor of its own
        found = _others_among(x, members, k, metric, random_state, exact=is_exact(len(x), exact=exact))
        indices.append(found[0])
        distances.append(found[1])
    return Neighbors.from_search(np.hstack(indices), np.hstack(distances))


def subtract_batch_offsets(found: Neighbors, batch_index: NDArray[np.int64]) -> Neighbors:
    """Subtract from each distance that to the cell's nearest neighbor in the same batch, and sort rows again.

    Cells of other batches are farther away whatever their type. UMAP's weights depend on how much farther a neighbor is
    than the nearest one, which this counts within each batch.
    """
    distances = found.distances.copy()
    neighbor_batch = batch_index[found.indices[:, 1:]]
    for batch in range(int(batch_index.max()) + 1):
        inside = neighbor_batch == batch
        offset = np.where(inside, distances[:, 1:], np.inf).min(axis=1, keepdims=True)
        distances[:, 1:] -= np.where(inside & np.isfinite(offset), offset, 0)
    return Neighbors.from_search(found.indices, distances)


def _others_among(
    x: NDArray[np.floating], members: NDArray[np.int64], k: int, metric: str, random_state: int, *, exact: bool
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Find for each row of ``x`` the ``k`` nearest other cells among ``members``; two arrays of (n_cells, k)."""
    if exact:
        found, distances = nearest(x[members], x, k + 1, metric)
    else:
        from pynndescent import NNDescent

        index = NNDescent(x[members], n_neighbors=max(k + 1, 15), metric=metric, random_state=random_state)
        found, distances = index.query(x, k + 1)
    indices = members[found]
    dropped = indices == np.arange(len(x))[:, None]  # the cell itself, in its own batch
    dropped[~dropped.any(axis=1), -1] = True  # of other batches, the farthest of the k + 1
    return indices[~dropped].reshape(len(x), k), distances[~dropped].reshape(len(x), k)
