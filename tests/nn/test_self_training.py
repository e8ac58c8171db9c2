"""Soft assignment, its target and the divergence between them, by hand and against scipy."""

import numpy as np
import pytest
import torch
from scipy import stats

from sctag_tools.nn.self_training import cluster_divergence, soft_assignment, target_distribution


def test_soft_assignment_is_student_t_in_units_of_the_scale():
    latent, centroids = torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 4.0]])
    weights = np.array([1 / (1 + 1), 1 / (1 + 4)])  # squared distances 4 and 16 over scale 2 squared
    np.testing.assert_allclose(soft_assignment(latent, centroids, 2.0)[0], weights / weights.sum(), rtol=1e-6)


def test_target_distribution_sharpens_and_favors_small_clusters():
    q = torch.tensor([[0.6, 0.4], [0.7, 0.3], [0.8, 0.2]], dtype=torch.float64)
    weight = q.numpy() ** 2 / q.numpy().sum(axis=0)
    np.testing.assert_allclose(target_distribution(q), weight / weight.sum(axis=1, keepdims=True))


def test_cluster_divergence_is_kl_of_p_from_q():
    p, q = torch.tensor([[0.9, 0.1], [1.0, 0.0]]), torch.tensor([[0.5, 0.5], [0.25, 0.75]])
    expected = np.mean([stats.entropy([0.9, 0.1], [0.5, 0.5]), np.log(4)])
    assert cluster_divergence(p, q).item() == pytest.approx(expected, rel=1e-6)
