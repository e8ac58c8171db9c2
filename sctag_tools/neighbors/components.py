"""Connect a graph of neighbors that falls into separate components."""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
from scipy.spatial.distance import cdist

from .search import Neighbors, nearest

MIN_NEIGHBORS = 4  # with fewer, a cell would miss the neighbor that it gives up


def connect_components(found: Neighbors, x: NDArray[np.floating], *, metric: str) -> Neighbors:
    """Add single edges between the components of a graph, so that it becomes connected where these suffice.

    scanpy's PAGA fails on groups without any edge between them, as perfectly separated clusters are. Components are
    joined along the minimum spanning tree of their centers in ``x`` (n_cells, d): one cell near the other component
    gives up its farthest neighbor for the nearest cell over there, at its true distance. A connected graph, or one of
    fewer than ``MIN_NEIGHBORS`` neighbors, is returned as it is.
    """
    n_components, component = connected_components(found.to_csr(), directed=False)
    if n_components == 1 or found.indices.shape[1] < MIN_NEIGHBORS:
        return found
    indices, distances = found.indices.copy(), found.distances.copy()
    members = [np.flatnonzero(component == number) for number in range(n_components)]
    centers = np.stack([x[cells].mean(axis=0) for cells in members])
    tree = minimum_spanning_tree(cdist(centers, centers) + 1).tocoo()  # + 1: a distance of zero would be no edge
    used: set[int] = set()  # cells that have given up a neighbor already
    for here, there in zip(tree.row, tree.col, strict=True):
        free = np.array([cell for cell in members[here] if cell not in used], dtype=np.int64)
        if not len(free):
            continue
        cell = int(free[cdist(x[free], centers[there, None]).argmin()])
        target, distance = nearest(x[members[there]], x[[cell]], 1, metric)
        indices[cell, -1], distances[cell, -1] = members[there][target[0, 0]], distance[0, 0]
        used.add(cell)
    return Neighbors(indices, distances)
