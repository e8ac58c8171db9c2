"""Nearest neighbours against brute-force distances."""

import numpy as np
import pytest
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist

from sctag_tools._core.neighbors import Neighbors, find_neighbors, join_pieces, nearest


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
def test_rows_without_a_direction_are_as_far_as_a_right_angle(metric):
    """As scikit-learn has it for zeros under the cosine; the angle to nothing is not defined."""
    points = np.array([[1, 0, -1], [-1, 0, 1], [1, -2, 1], [0, 0, 0]], dtype=np.float32)
    indices, distances = nearest(points[:3], points, 3, metric)
    by_column = np.take_along_axis(distances, indices.argsort(axis=1), axis=1)
    np.testing.assert_allclose(by_column, [[0, 2, 1], [2, 0, 1], [1, 1, 0], [1, 1, 1]], atol=1e-6)


def test_duplicated_cells_keep_themselves_in_front():
    points = np.repeat(np.eye(3, dtype=np.float32), 30, axis=0)
    found = find_neighbors(points, 5, metric="euclidean", random_state=0)
    np.testing.assert_array_equal(found.indices[:, 0], np.arange(90))
    assert all(len(set(row)) == 5 for row in found.indices.tolist())
    assert (found.distances == 0).all()


@pytest.mark.parametrize("n_neighbors", [1, 201])
def test_impossible_numbers_of_neighbors_are_refused(points, n_neighbors):
    with pytest.raises(ValueError, match=r"between 2 and the number of cells \(200\)"):
        find_neighbors(points, n_neighbors, metric="euclidean", random_state=0)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="differ in shape"):
        Neighbors(np.zeros((3, 2), np.int64), np.zeros((3, 1), np.float32))


def pieces(found):
    n, k = found.indices.shape
    graph = sparse.csr_matrix((np.ones(n * k), found.indices.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n))
    return connected_components(graph, directed=False)[0]


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "manhattan"])
def test_pieces_are_joined_by_the_nearest_cells(metric):
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(size=(20, 3)) + 50 * np.eye(3)[i] for i in range(3)]).astype(np.float32)
    found = find_neighbors(points, 5, metric=metric, random_state=0)
    joined = join_pieces(found, points, metric=metric)
    assert (pieces(found), pieces(joined)) == (3, 1)
    changed = np.argwhere(joined.indices != found.indices)
    assert len(changed) == 2  # a tree of three pieces
    for row, column in changed:
        assert column == 4  # the farthest neighbour gave way
        other = joined.indices[row, column]
        distance = cdist(points[[row]], points[[other]], "cityblock" if metric == "manhattan" else metric).item()
        assert joined.distances[row, column] == pytest.approx(distance, rel=1e-4)
        assert row // 20 != other // 20


def test_pieces_of_identical_cells_are_joined_too():
    points = np.zeros((12, 2), np.float32)
    found = Neighbors(np.array([[i // 4 * 4 + (i + j) % 4 for j in range(4)] for i in range(12)]), np.zeros((12, 4)))
    assert (pieces(found), pieces(join_pieces(found, points, metric="euclidean"))) == (3, 1)


def test_a_graph_in_one_piece_is_left_alone(points):
    found = find_neighbors(points, 15, metric="euclidean", random_state=0)
    assert join_pieces(found, points, metric="euclidean") is found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # numba's own, on compilation
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_approximate_neighbors_recall(metric):
    points = np.random.default_rng(0).normal(size=(9_000, 10)).astype(np.float32)
    exact = find_neighbors(points, 15, metric=metric, random_state=0, exact=True)
    found = find_neighbors(points, 15, metric=metric, random_state=0, exact=False)
    np.testing.assert_array_equal(found.indices[:, 0], np.arange(9_000))
    shared = [len(np.intersect1d(a, b)) for a, b in zip(exact.indices, found.indices, strict=True)]
    assert np.mean(shared) / 15 > 0.95
