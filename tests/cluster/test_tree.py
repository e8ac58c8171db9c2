"""Partitions, their tree and the number of clusters, on latents whose clusters are known."""

import numpy as np
import pytest
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform
from sklearn.metrics import adjusted_rand_score

from sctag_tools._core.confidence import agreement
from sctag_tools._core.consensus import (
    MergeTree,
    _average_linkage,
    evidence,
    partitions,
    replicates,
)


def blobs(n_blobs, *, n=100, n_latent=8, distance=12.0, seed=0):
    rng = np.random.default_rng(seed)
    centres = distance * np.eye(n_latent)[:n_blobs]
    labels = np.repeat(np.arange(n_blobs), n)
    return (centres[labels] + rng.normal(size=(len(labels), n_latent))).astype(np.float32), labels


def tree_of(*latents, seed=0):
    rng = np.random.default_rng(seed)
    return MergeTree.of(partitions(latents, rng), rng)


def chosen(*latents, resolution=1.0):
    found = evidence(tree_of(*latents), latents, resolution, np.random.default_rng(0))
    return found.n_clusters, found.curve()


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
    tree = MergeTree.of(labels, np.random.default_rng(0))
    assert tree.n_groups == 4  # the first two cells are never apart
    assert tree.coassociation[0] == pytest.approx(2 / 3)
    below = {tuple(np.flatnonzero(tree.members(tree.n_groups + i))) for i in range(3)}
    assert {(2, 3), (0, 1, 2, 3, 4)} <= below or {(3, 4), (0, 1, 2, 3, 4)} <= below
    left, right = (tree.members(int(child)) for child in tree.children[-1])
    together = np.mean([labels[:, i] == labels[:, j] for i in np.flatnonzero(left) for j in np.flatnonzero(right)])
    assert tree.coassociation[-1] == pytest.approx(together)


def test_blobs_are_found_when_their_number_is_given():
    latent, labels = blobs(5)
    tree = tree_of(latent)
    assert adjusted_rand_score(labels, tree.cut(5)) == 1
    assert [len(np.unique(tree.cut(k))) for k in (1, 2, 4, 9)] == [1, 2, 4, 9]


def test_cuts_are_nested():
    tree = tree_of(blobs(6, distance=4.0)[0])
    for k in range(2, 20):
        coarse, fine = tree.cut(k - 1), tree.cut(k)
        assert len(np.unique(np.stack([coarse, fine]), axis=1).T) == k


def test_a_second_latent_tells_apart_what_the_first_cannot():
    first, labels = blobs(4)
    joined = np.where(labels == 3, 2, labels)
    mixed, _ = blobs(4)
    mixed[labels == 3] = mixed[labels == 2]
    assert adjusted_rand_score(labels, tree_of(mixed, first).cut(4)) == 1
    assert adjusted_rand_score(joined, tree_of(mixed).cut(3)) == 1


def test_the_same_draws_give_the_same_tree():
    latent, _ = blobs(4, distance=3.0)
    np.testing.assert_array_equal(tree_of(latent).cut(7), tree_of(latent).cut(7))
    assert (tree_of(latent).cut(7) != tree_of(latent, seed=1).cut(7)).any()


@pytest.mark.parametrize("n_blobs", [1, 2, 4, 8])
def test_number_of_blobs_is_found(n_blobs):
    found, curve = chosen(blobs(n_blobs)[0])
    assert found == n_blobs == 1 + curve["supported"].sum()
    assert len(curve["n_clusters"]) == len(curve["coassociation"]) == len(curve["separation"])
    np.testing.assert_array_equal(curve["n_clusters"][:3], [2, 3, 4])


def test_supported_splits_open_first():
    """A rare blob far away comes before an arbitrary cut of a big one."""
    latent = np.concatenate([blobs(2, n=400, distance=8.0)[0], blobs(1, n=12, distance=0.0, seed=1)[0] + 30])
    tree = tree_of(latent)
    found = evidence(tree, [latent], 1.0, np.random.default_rng(0))
    assert found.n_clusters == 3
    assert found.supported.tolist() == sorted(found.supported, reverse=True)
    labels = tree.cut(3, found.supported_nodes)
    assert adjusted_rand_score(np.repeat([0, 1, 2], [400, 400, 12]), labels) == 1


def test_a_lengthy_cloud_is_one_cluster():
    latent = np.random.default_rng(0).normal(size=(800, 8)).astype(np.float32) * np.float32([6, 2, 1, 1, 1, 1, 1, 1])
    assert chosen(latent)[0] == 1


def test_resolution_moves_the_number_one_way():
    latent = np.concatenate([blobs(4, distance=7.0)[0], blobs(4, distance=3.5, seed=1)[0] + 20])
    numbers = [chosen(latent, resolution=resolution)[0] for resolution in (0.1, 0.5, 1.0, 3.0)]
    assert numbers == sorted(numbers)
    assert numbers[0] < numbers[-1]


@pytest.mark.parametrize("latent", [np.zeros((50, 4), np.float32), np.eye(2, 4, dtype=np.float32)])
def test_nothing_to_tell_apart_is_one_cluster(latent):
    assert chosen(latent)[0] == 1


def test_replicates_agree_where_clusters_are_clear():
    latent, labels = blobs(4)
    latent[:5] = (latent[:100].mean(axis=0) + latent[100:200].mean(axis=0)) / 2
    rng = np.random.default_rng(0)
    found = partitions([latent], rng)
    tree = MergeTree.of(found, rng)
    smaller = replicates(found, tree, 4, 1, rng)
    assert all(len(np.unique(cut)) == 4 for cut in smaller.alike)
    assert all(len(np.unique(cut)) == 6 for cut in smaller.finer)
    kept = agreement(tree.cut(4), smaller.finer)
    assert kept[200:].min() == 1
    assert len(labels) == len(kept)
    assert kept.min() >= 0
