"""Separate components of a graph are connected by single edges."""

import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist

from sctag_tools.neighbors.components import connect_components
from sctag_tools.neighbors.search import Neighbors, find_neighbors


def n_components(found):
    return connected_components(found.to_csr(), directed=False)[0]


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "manhattan"])
def test_components_are_connected_by_the_nearest_cells(metric):
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(size=(20, 3)) + 50 * np.eye(3)[i] for i in range(3)]).astype(np.float32)
    found = find_neighbors(points, 5, metric=metric, random_state=0)
    connected = connect_components(found, points, metric=metric)
    assert (n_components(found), n_components(connected)) == (3, 1)
    changed = np.argwhere(connected.indices != found.indices)
    assert len(changed) == 2  # a tree of three components
    for row, column in changed:
        assert column == 4  # the farthest neighbor was given up
        other = connected.indices[row, column]
        assert row // 20 != other // 20
        there = points[other // 20 * 20 :][:20]
        distances = cdist(points[[row]], there, "cityblock" if metric == "manhattan" else metric)
        assert connected.distances[row, column] == pytest.approx(distances.min(), rel=1e-4)


def test_components_of_identical_cells_are_connected_too():
    points = np.zeros((12, 2), np.float32)
    found = Neighbors(np.array([[i // 4 * 4 + (i + j) % 4 for j in range(4)] for i in range(12)]), np.zeros((12, 4)))
    assert (n_components(found), n_components(connect_components(found, points, metric="euclidean"))) == (3, 1)


@pytest.mark.parametrize(("n_neighbors", "gap"), [(15, 0), (3, 100)])
def test_a_connected_graph_or_one_of_few_neighbors_stays_as_it_is(n_neighbors, gap):
    points = np.random.default_rng(0).normal(size=(80, 6)).astype(np.float32)
    points[40:] += gap
    found = find_neighbors(points, n_neighbors, metric="euclidean", random_state=0)
    assert (n_components(found) > 1) == (gap > 0)
    assert connect_components(found, points, metric="euclidean") is found
