"""Latents of several networks on one scale and in one."""

import numpy as np
import pytest

from sctag_tools._core.latent import JointLatent, centroids_of

RNG = np.random.default_rng(0)


def test_centroids_and_spread_by_hand():
    latent = np.array([[0.0, 0.0], [2.0, 0.0], [10.0, 10.0]], dtype=np.float32)
    centroids, spread = centroids_of(latent, np.array([4, 4, 7]))
    np.testing.assert_allclose(centroids, [[1, 0], [10, 10]])
    assert spread == pytest.approx(np.sqrt(2 / 6))


def joint_latent(latents):
    return JointLatent.of(latents).apply(latents)


def test_scale_and_position_are_forgotten():
    latent = RNG.normal(size=(50, 4)).astype(np.float32)
    np.testing.assert_allclose(joint_latent([latent * 9 + 5]), joint_latent([latent]), atol=1e-4)
    assert (joint_latent([np.ones((5, 3), np.float32)]) == 0).all()


def test_other_cells_go_where_the_same_cells_would():
    latents = [RNG.normal(size=(50, 4)).astype(np.float32) for _ in range(2)]
    joint = JointLatent.of(latents)
    np.testing.assert_allclose(joint.apply([z[:7] for z in latents]), joint.apply(latents)[:7], atol=1e-6)


def test_rotated_copies_join_to_what_they_share():
    latent = RNG.normal(size=(80, 5)).astype(np.float32) * np.float32([5, 4, 3, 2, 1])
    turned = latent @ np.linalg.qr(RNG.normal(size=(5, 5)))[0].astype(np.float32) * 3
    joint = joint_latent([latent, turned])
    assert joint.shape == (80, 5)
    assert joint.dtype == np.float32
    distances = [np.linalg.norm(z[:, None] - z[None], axis=2) for z in (joint, latent)]
    ratio = distances[0][np.triu_indices(80, 1)] / distances[1][np.triu_indices(80, 1)]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-3)
    np.testing.assert_allclose(joint_latent([turned, latent]), joint, atol=1e-3)
