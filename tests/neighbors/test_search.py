"""The search for nearest neighbors against brute-force distances."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from sctag_tools.neighbors import search
from sctag_tools.neighbors.search import Neighbors, find_neighbors, nearest


@pytest.fixture(scope="module")
def points():
    return np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)


@pytest.mark.parametrize(
    ("metric", "scipy_metric"),
    [("euclidean", "euclidean"), ("cosine", "cosine"), ("manhattan", "cityblock"), ("correlation", "correlation")],
)
def test_exact_neighbors_equal_brute_force(points, metric, scipy_metric):
    found = find_neighbors(points, 10, metric=metric, random_state=0)
    distances = np.sort(cdist(points, points, scipy_metric), axis=1)[:, :10]
    np.testing.assert_allclose(found.distances, distances, atol=2e-3 if metric == "euclidean" else 1e-4)
    np.testing.assert_array_equal(found.indices[:, 0], np.arange(200))
    assert found.indices.dtype == np.int64
    assert found.distances.dtype == np.float32


@pytest.mark.parametrize("metric", ["cosine", "correlation"])
def test_rows_without_a_direction_are_at_a_right_angle(metric):
    """As in scikit-learn for zeros under the cosine; the angle to zero is not defined."""
    points = np.array([[1, 0, -1], [-1, 0, 1], [1, -2, 1], [0, 0, 0]], dtype=np.float32)
    indices, distances = nearest(points[:3], points, 3, metric)
    by_column = np.take_along_axis(distances, indices.argsort(axis=1), axis=1)
    np.testing.assert_allclose(by_column, [[0, 2, 1], [2, 0, 1], [1, 1, 0], [1, 1, 1]], atol=1e-6)


def test_duplicated_cells_are_their_own_first_neighbors():
    points = np.repeat(np.eye(3, dtype=np.float32), 30, axis=0)
    found = find_neighbors(points, 5, metric="euclidean", random_state=0)
    np.testing.assert_array_equal(found.indices[:, 0], np.arange(90))
    assert all(len(set(row)) == 5 for row in found.indices.tolist())
    assert (found.distances == 0).all()


def test_a_cell_that_the_search_did_not_list_takes_the_place_of_its_farthest_neighbor():
    listed = np.array([[2, 1, 3], [3, 0, 1], [2, 1, 0], [3, 2, 1]])  # cell 0 is missing from its own row
    found = Neighbors.from_search(listed, np.array([[0.0, 0, 1], [0, 0, 0], [0, 2, 1], [0, 1, 2]]))
    np.testing.assert_array_equal(found.indices, [[0, 1, 2], [1, 0, 3], [2, 0, 1], [3, 2, 1]])
    np.testing.assert_array_equal(found.distances, [[0, 0, 0], [0, 0, 0], [0, 1, 2], [0, 1, 2]])


def test_csr_keeps_zero_distances_and_leaves_out_the_cell_itself_on_request():
    found = Neighbors(np.array([[0, 2], [1, 0], [2, 0]]), np.array([[0, 0], [0, 3], [0, 0]], np.float32))
    whole, others = found.to_csr(), found.to_csr(include_self=False)
    assert (whole.nnz, others.nnz) == (6, 3)
    np.testing.assert_array_equal(others.indices, [2, 0, 0])
    np.testing.assert_array_equal(others.toarray(), [[0, 0, 0], [3, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(whole.toarray(), others.toarray())


@pytest.mark.parametrize(("exact", "limit"), [(False, 200), (None, 199)])
def test_rows_that_the_approximate_search_leaves_incomplete_are_searched_exactly(points, monkeypatch, exact, limit):
    expected = find_neighbors(points, 4, metric="cosine", random_state=0)
    graph = expected.indices.copy(), expected.distances.copy()
    graph[0][50, 2:], graph[1][50, 2:] = -1, np.inf  # pynndescent's way of saying that it found no more
    monkeypatch.setitem(
        sys.modules, "pynndescent", SimpleNamespace(NNDescent=lambda *_, **__: SimpleNamespace(neighbor_graph=graph))
    )
    monkeypatch.setattr(search, "MAX_EXACT_CELLS", limit)
    found = find_neighbors(points, 4, metric="cosine", random_state=0, exact=exact)
    assert (graph[0] < 0).any()  # so it was the approximate search, on a copy
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_allclose(found.distances, expected.distances, atol=1e-6)


# pynndescent compiles for half a minute on its first call
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:numba")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:pynndescent")
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_approximate_search_finds_the_exact_neighbors(metric):
    rng = np.random.default_rng(0)
    points = (rng.normal(size=(5000, 20)) + 4 * rng.normal(size=(12, 20))[rng.integers(12, size=5000)]).astype("f4")
    points[100:140] = points[100]  # more duplicates than neighbors
    exact, found = (find_neighbors(points, 15, metric=metric, random_state=0, exact=exact) for exact in (True, False))
    np.testing.assert_array_equal(found.indices[:, 0], np.arange(5000))
    np.testing.assert_allclose(found.distances[100:140], 0, atol=1e-3)
    unique = np.setdiff1d(np.arange(5000), np.arange(100, 140))  # which duplicates are listed is arbitrary
    assert np.mean([len(np.intersect1d(exact.indices[i], found.indices[i])) for i in unique]) > 0.95 * 15
