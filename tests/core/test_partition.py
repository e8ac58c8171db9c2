"""Starting partition and number of clusters on latents whose clusters are known."""

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from sctag_tools._core.partition import centroids_of, choose_n_clusters, kmeans


def blobs(n_blobs, *, n=100, n_latent=8, distance=12.0, seed=0):
    rng = np.random.default_rng(seed)
    centres = distance * np.eye(n_latent)[:n_blobs]
    labels = np.repeat(np.arange(n_blobs), n)
    return (centres[labels] + rng.normal(size=(len(labels), n_latent))).astype(np.float32), labels


def test_kmeans_finds_blobs_and_repeats_itself():
    latent, labels = blobs(5)
    found = kmeans(latent, 5, random_state=3)
    assert adjusted_rand_score(labels, found) == 1
    np.testing.assert_array_equal(found, kmeans(latent, 5, random_state=3))


def test_fewer_distinct_cells_than_clusters_is_no_error():
    assert len(np.unique(kmeans(np.repeat(np.eye(2, dtype=np.float32), 4, axis=0), 5, random_state=0))) == 2


def test_centroids_and_spread_by_hand():
    latent = np.array([[0.0, 0.0], [2.0, 0.0], [10.0, 10.0]], dtype=np.float32)
    centroids, spread = centroids_of(latent, np.array([4, 4, 7]))
    np.testing.assert_allclose(centroids, [[1, 0], [10, 10]])
    assert spread == pytest.approx(np.sqrt(2 / 6))


@pytest.mark.parametrize("n_blobs", [1, 2, 4, 7])
def test_number_of_blobs_is_found(n_blobs):
    latent, _ = blobs(n_blobs)
    found, curve = choose_n_clusters(latent, random_state=0)
    assert found == n_blobs
    best = np.nanmin([curve["bic_full"], curve["bic_diag"]], axis=0)
    assert curve["n_clusters"][best.argmin()] == n_blobs
    assert len({len(values) for values in curve.values()}) == 1


@pytest.mark.parametrize("latent", [np.zeros((50, 4), np.float32), np.eye(2, 4, dtype=np.float32)])
def test_nothing_to_tell_apart_is_one_cluster(latent):
    assert choose_n_clusters(latent, random_state=0)[0] == 1
