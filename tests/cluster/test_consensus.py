"""One clustering of all latents, and where the clusters of each lie."""

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score
from threadpoolctl import threadpool_info, threadpool_limits

from sctag_tools.cluster import consensus
from sctag_tools.cluster.consensus import cluster_centroids, consensus_clustering


def test_centroids_and_scale_by_hand():
    latent = np.array([[0.0, 0.0], [2.0, 0.0], [10.0, 10.0]], dtype=np.float32)
    centroids, scale = cluster_centroids(latent, np.array([4, 4, 7]))
    np.testing.assert_allclose(centroids, [[1, 0], [10, 10]])
    assert scale == pytest.approx(np.sqrt(2 / 6))


@pytest.mark.parametrize("n_clusters", [None, 3])
def test_clusters_are_chosen_or_given(gaussians, monkeypatch, n_clusters):
    """The partitions are drawn by a single thread, or their last bits would differ from run to run."""
    draw, threads = consensus.draw_partitions, []

    def watched(*args):
        threads.extend(library["num_threads"] for library in threadpool_info() if library["user_api"] == "openmp")
        return draw(*args)

    monkeypatch.setattr(consensus, "draw_partitions", watched)
    latent, labels = gaussians(4)
    with threadpool_limits(2):
        found = consensus_clustering([latent, latent[:, ::-1] * 3], n_clusters, 1.0, np.random.default_rng(0))
    assert (found.curve is None) == (n_clusters is not None)
    assert len(np.unique(found.labels)) == (n_clusters or 4)
    assert (adjusted_rand_score(labels, found.labels) == 1) == (n_clusters is None)
    assert found.replicates.finer.shape == (21, len(labels))
    assert set(threads) == {1}
