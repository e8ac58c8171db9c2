"""The number of clusters that is chosen, on latents where it is known."""

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from sctag_tools.cluster import partitions
from sctag_tools.cluster.n_clusters import run_split_tests


@pytest.fixture
def chosen(tree_of):
    """The tests of the splits of a latent, whose tree is made once for all resolutions."""

    def run(latent, *resolutions):
        tree = tree_of(latent)
        return [run_split_tests(tree, [latent], each, np.random.default_rng(0)) for each in resolutions or (1.0,)]

    return run


@pytest.mark.parametrize("n_clusters", [1, 2, 4, 8])
def test_number_of_gaussians_is_found(gaussians, chosen, n_clusters):
    (found,) = chosen(gaussians(n_clusters)[0])
    curve = found.curve()
    assert found.n_clusters == n_clusters == 1 + curve["supported"].sum()
    assert len(curve["n_clusters"]) == len(curve["coassociation"]) == len(curve["separation"])
    np.testing.assert_array_equal(curve["n_clusters"][:3], [2, 3, 4])


def test_supported_splits_open_first(gaussians, tree_of):
    """A rare group far away comes before an arbitrary cut of a big one."""
    latent = np.concatenate([gaussians(2, n=300, distance=8.0)[0], gaussians(1, n=12, distance=0.0, seed=1)[0] + 30])
    tree = tree_of(latent)
    found = run_split_tests(tree, [latent], 1.0, np.random.default_rng(0))
    assert found.n_clusters == 3
    assert found.supported.tolist() == sorted(found.supported, reverse=True)
    labels = tree.cut(3, found.supported_nodes)
    assert adjusted_rand_score(np.repeat([0, 1, 2], [300, 300, 12]), labels) == 1


def test_finer_partitions_find_the_same_number(gaussians, chosen, monkeypatch):
    """The share of partitions that keep two halves together falls with their number of clusters, the ratio does not."""
    latent = np.concatenate([gaussians(6)[0], np.random.default_rng(1).normal(size=(200, 8)).astype(np.float32) - 20])
    numbers = []
    for max_k in (15, 60):
        monkeypatch.setattr(partitions, "_MAX_K", max_k)
        numbers.append(chosen(latent)[0].n_clusters)
    assert numbers == [7, 7]


def test_a_lengthy_cloud_is_one_cluster(chosen):
    latent = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32) * np.float32([6, 2, 1, 1, 1, 1, 1, 1])
    (found,) = chosen(latent)
    assert found.coassociation[0] < 0.5, "the partitions alone would cut it"
    assert found.n_clusters == 1


def test_resolution_moves_the_number_one_way(gaussians, chosen):
    latent = np.concatenate([gaussians(4, distance=7.0)[0], gaussians(4, distance=3.5, seed=1)[0] + 20])
    numbers = [found.n_clusters for found in chosen(latent, 0.1, 0.5, 1.0, 3.0)]
    assert numbers == sorted(numbers)
    assert numbers[0] < numbers[-1]


@pytest.mark.parametrize("latent", [np.zeros((50, 4), np.float32), np.eye(2, 4, dtype=np.float32)])
def test_nothing_to_tell_apart_is_one_cluster(chosen, latent):
    assert chosen(latent)[0].n_clusters == 1


@pytest.mark.parametrize("n", [200, 600])
def test_one_gaussian_is_seldom_cut(chosen, n):
    """The level of the test is 5 % over all splits of a run, also where many cells make a deep tree."""
    clouds = np.random.default_rng(3).normal(size=(8, n, 8)).astype(np.float32)
    assert sum(chosen(cloud)[0].n_clusters > 1 for cloud in clouds) <= 1
