"""The co-association tree against scipy's linkage and sums by hand, and cuts of it."""

import numpy as np
import pytest
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform
from sklearn.metrics import adjusted_rand_score

from sctag_tools.cluster.tree import CoassociationTree, _average_linkage


def test_average_linkage_is_scipys_when_groups_are_repeated():
    rng = np.random.default_rng(0)
    points, sizes = rng.normal(size=(12, 3)), rng.integers(1, 6, 12)
    similarity = np.exp(-np.linalg.norm(points[:, None] - points[None], axis=2))
    _, heights = _average_linkage(similarity, sizes.astype(float))
    repeated = np.repeat(np.arange(12), sizes)
    distance = 1 - similarity[repeated][:, repeated]
    np.fill_diagonal(distance, 0)
    theirs = linkage(squareform(distance, checks=False), "average")[:, 2]
    np.testing.assert_allclose(np.sort(1 - heights), np.sort(theirs)[-11:], atol=1e-12)


def test_coassociation_is_that_of_the_cells():
    labels = np.array([[0, 0, 1, 1, 2], [0, 0, 0, 1, 1], [1, 1, 0, 0, 0]], dtype=np.int32)
    tree = CoassociationTree.from_partitions(labels, np.random.default_rng(0))
    assert tree.n_leaves == 4  # the first two cells are never apart
    assert tree.coassociation[0] == pytest.approx(2 / 3)
    below = {tuple(np.flatnonzero(tree.members(tree.n_leaves + i))) for i in range(3)}
    assert {(2, 3), (0, 1, 2, 3, 4)} <= below or {(3, 4), (0, 1, 2, 3, 4)} <= below
    left, right = (tree.members(int(child)) for child in tree.children[-1])
    together = np.mean([labels[:, i] == labels[:, j] for i in np.flatnonzero(left) for j in np.flatnonzero(right)])
    assert tree.coassociation[-1] == pytest.approx(together)


@pytest.mark.parametrize("node", [0, 5, -1])
def test_relative_coassociation_counts_pairs_of_cells(node):
    """Sides against pairs of two cells within a side, the larger side weighing more."""
    rng = np.random.default_rng(2)
    labels = (rng.integers(0, 3, (6, 30)) + 3 * (np.arange(30) // 15 * rng.integers(0, 2, (6, 1)))).astype(np.int32)
    tree = CoassociationTree.from_leaves(labels, np.repeat(np.arange(10), 3))
    together = (labels[:, :, None] == labels[:, None, :]).mean(axis=0)
    sides = [np.flatnonzero(tree.members(int(child))) for child in tree.children[node]]
    within = [(together[np.ix_(side, side)].sum() - len(side)) / (len(side) * (len(side) - 1)) for side in sides]
    expected = together[np.ix_(*sides)].mean() / np.average(within, weights=[len(side) for side in sides])
    assert tree.relative_coassociation()[node] == pytest.approx(expected)


def test_supported_splits_and_those_above_come_first():
    """Of two splits the surer one of larger sides opens first, unless the other is supported."""
    leaf, children = np.repeat(np.arange(4), [100, 100, 50, 3]), np.array([[0, 1], [2, 3], [4, 5]])
    tree = CoassociationTree(leaf, children, np.array([0.2, 0.3, 0.1]), np.ones(4))
    assert tree.split_order() == [6, 4, 5]
    assert tree.split_order({5}) == [6, 5, 4]
    assert sorted(np.bincount(tree.cut(3, {5}))) == [3, 50, 200]


def test_gaussians_are_found_when_their_number_is_given(gaussians, tree_of):
    latent, labels = gaussians(5)
    tree = tree_of(latent)
    assert adjusted_rand_score(labels, tree.cut(5)) == 1
    assert len(np.unique(tree.cut(1))) == 1


def test_cuts_are_nested_and_repeat_themselves(gaussians, tree_of):
    latent, _ = gaussians(6, n=40, distance=4.0)
    tree = tree_of(latent)
    for k in range(2, 20):
        assert len(np.unique(tree.cut(k))) == k
        assert len(np.unique(np.stack([tree.cut(k - 1), tree.cut(k)]), axis=1).T) == k
    np.testing.assert_array_equal(tree_of(latent).cut(15), tree.cut(15))
    assert adjusted_rand_score(tree_of(latent, seed=1).cut(15), tree.cut(15)) < 1


def test_a_second_latent_tells_apart_what_the_first_cannot(gaussians, tree_of):
    first, labels = gaussians(4)
    mixed = first.copy()
    mixed[labels == 3] = mixed[labels == 2]
    assert adjusted_rand_score(labels, tree_of(mixed, first).cut(4)) > 0.9
    assert adjusted_rand_score(labels, tree_of(mixed).cut(4)) < 0.8
