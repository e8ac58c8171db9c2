"""Latents of several networks on one scale and in one."""

import numpy as np

from sctag_tools.nn.joint_latent import JointLatent

RNG = np.random.default_rng(0)


def joint_latent(latents):
    return JointLatent.fit(latents).transform(latents)


def test_scale_and_position_are_forgotten():
    latent = RNG.normal(size=(50, 4)).astype(np.float32)
    np.testing.assert_allclose(joint_latent([latent * 9 + 5]), joint_latent([latent]), atol=1e-4)
    assert (joint_latent([np.ones((5, 3), np.float32)]) == 0).all()


def test_other_cells_go_where_the_same_cells_would():
    latents = [RNG.normal(size=(50, 4)).astype(np.float32) for _ in range(2)]
    joint = JointLatent.fit(latents)
    np.testing.assert_allclose(joint.transform([z[:7] for z in latents]), joint.transform(latents)[:7], atol=1e-6)


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
