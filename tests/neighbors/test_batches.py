"""Neighbors in equal numbers from each batch."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from sctag_tools.neighbors.batches import find_neighbors_across, subtract_batch_offsets

EUCLIDEAN = {"metric": "euclidean", "random_state": 0}


def test_neighbors_are_the_nearest_of_each_batch():
    rng = np.random.default_rng(0)
    x, batches = rng.normal(size=(60, 4)).astype(np.float32), rng.integers(0, 3, 60)
    found = find_neighbors_across(x, batches, 8, **EUCLIDEAN)
    assert found.indices.shape == (60, 1 + 3 * 3)  # 7 others from three batches, rounded up
    np.testing.assert_array_equal(found.indices[:, 0], np.arange(60))
    assert (np.diff(found.distances, axis=1) >= 0).all()
    for batch in range(3):
        members = np.flatnonzero(batches == batch)
        nearest = members[NearestNeighbors(n_neighbors=4).fit(x[members]).kneighbors(x, return_distance=False)]
        for cell in range(60):
            expected = [other for other in nearest[cell] if other != cell][:3]
            ours = found.indices[cell, 1:]
            assert set(ours[batches[ours] == batch]) == set(expected)


def test_a_small_batch_gives_what_it_has():
    x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    batches = np.repeat([0, 1, 2], [55, 4, 1])
    found = find_neighbors_across(x, batches, 19, **EUCLIDEAN)
    assert found.indices.shape == (60, 1 + 6 + 3)  # a cell alone in its batch has no other there to give
    given = batches[found.indices[:, 1:]]
    assert ((given == 0).sum(axis=1) == 6).all()
    assert ((given == 1).sum(axis=1) == 3).all()


def test_distances_start_at_zero_in_each_batch_once_offsets_are_subtracted():
    x, batches = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32), np.tile([0, 1], 20)
    x[batches == 1] += 50
    found = find_neighbors_across(x, batches, 9, **EUCLIDEAN)
    subtracted = subtract_batch_offsets(found, batches)
    np.testing.assert_array_equal(np.sort(subtracted.indices), np.sort(found.indices))
    np.testing.assert_array_equal(subtracted.indices[:, 0], np.arange(40))
    assert (np.diff(subtracted.distances, axis=1) >= 0).all()  # UMAP takes the first for the nearest
    for batch in (0, 1):
        inside = batches[subtracted.indices[:, 1:]] == batch
        assert np.where(inside, subtracted.distances[:, 1:], np.inf).min(axis=1).max() == 0


@pytest.mark.slow  # compiles pynndescent's query for a minute
def test_approximate_search_finds_them_too():
    rng = np.random.default_rng(0)
    x, batches = rng.normal(size=(300, 5)).astype(np.float32), rng.integers(0, 2, 300)
    one, other = (find_neighbors_across(x, batches, 11, exact=exact, **EUCLIDEAN) for exact in (True, False))
    same = [len(set(a) & set(b)) for a, b in zip(one.indices, other.indices, strict=True)]
    assert np.mean(same) > 0.95 * 11
