"""Losses against independent references: scipy's negative binomial, and sums written out by hand."""

import itertools

import numpy as np
import pytest
import torch
from scipy import special, stats

from sctag_tools.nn import losses

COUNTS = [0, 1, 2, 7, 8, 9, 50, 1_000, 100_000]
MEANS = np.logspace(-6, 5, 23)
DISPERSIONS = np.logspace(-4, 5, 19)
LOGITS = [-30.0, -5.0, 0.0, 5.0]


@pytest.fixture(scope="module")
def grid():
    """Every combination of counts, means, dispersions and dropout, as four columns."""
    return np.array(list(itertools.product(COUNTS, MEANS, DISPERSIONS, LOGITS))).T


def scipy_mixture(counts, mean, dispersion, logit):
    """ZINB log-likelihood from scipy's own nbinom, parametrized by successes and success probability."""
    nb = stats.nbinom.logpmf(counts, dispersion, dispersion / (dispersion + mean))
    # 1 - p loses digits for tiny means: for zeros the NB has a closed form.
    nb = np.where(counts == 0, -dispersion * np.log1p(mean / dispersion), nb)
    log_dropout, log_kept = special.log_expit(logit), special.log_expit(-logit)
    inflated = np.logaddexp(log_dropout, log_kept + nb)
    # logaddexp cancels where a zero is almost certain; there log(1 - (1 - pi)(1 - NB)) is exact.
    certain = np.log1p(special.expit(-logit) * np.expm1(nb))
    return np.where(counts == 0, np.where(nb > -0.5, certain, inflated), log_kept + nb)


def evaluate(grid, dtype):
    counts, mean, dispersion, logit = (torch.tensor(column, dtype=dtype) for column in grid)
    inputs = [tensor.requires_grad_() for tensor in (mean.log(), dispersion.log(), logit)]
    return losses.zinb_log_likelihood(counts, *inputs), inputs


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-3)])
def test_zinb_equals_scipy_mixture_and_has_gradients_everywhere(grid, dtype, tolerance):
    found, inputs = evaluate(grid, dtype)
    np.testing.assert_allclose(found.detach().double().numpy(), scipy_mixture(*grid), rtol=tolerance)
    found.sum().backward()
    assert all(torch.isfinite(tensor.grad).all() for tensor in inputs)


def test_zinb_equals_arbitrary_precision():
    """scipy itself loses digits at the corners; mpmath does not."""
    mpmath = pytest.importorskip("mpmath")
    mpmath.mp.dps = 40
    corners = np.array(list(itertools.product([0, 1, 100_000], [1e-6, 1.0, 1e5], [1e-4, 1.0, 1e5], [-5.0, 5.0]))).T

    def exact(y, mean, theta, logit):
        y, mean, theta, logit = map(mpmath.mpf, (y, mean, theta, logit))
        dropout = 1 / (1 + mpmath.exp(-logit))
        log_nb = mpmath.loggamma(y + theta) - mpmath.loggamma(theta) - mpmath.loggamma(y + 1)
        log_nb += theta * mpmath.log(theta / (theta + mean)) + y * mpmath.log(mean / (theta + mean))
        kept = (1 - dropout) * mpmath.exp(log_nb)
        return float(mpmath.log(dropout + kept) if y == 0 else mpmath.log(1 - dropout) + log_nb)

    found, _ = evaluate(corners, torch.float64)
    np.testing.assert_allclose(found.detach().numpy(), [exact(*column) for column in corners.T], rtol=1e-8)


def test_zinb_gradient_equals_finite_differences():
    """With one dispersion for each gene, which all cells share."""
    torch.manual_seed(0)
    counts = torch.tensor([[0.0, 1.0, 30.0], [2.0, 0.0, 7.0]], dtype=torch.float64)
    inputs = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 3), (3,), (2, 3))]
    assert torch.autograd.gradcheck(lambda *x: losses.zinb_log_likelihood(counts, *x), inputs)


def test_zinb_probabilities_sum_to_one():
    counts = torch.arange(5_000, dtype=torch.float64)
    parameters = [torch.full((5_000,), value, dtype=torch.float64) for value in (1.5, -0.3, -1.0)]
    assert losses.zinb_log_likelihood(counts, *parameters).exp().sum().item() == pytest.approx(1.0, abs=1e-9)


def test_graph_cross_entropy_by_hand():
    similarity = torch.tensor([[9.0, 1.0, 0.0], [1.0, 9.0, 2.0], [0.0, 2.0, 9.0]])
    targets = torch.tensor([[0.0, 1.0, 0.0], [0.25, 0.0, 0.75], [0.0, 0.0, 0.0]])
    first = -np.log(np.e / (np.e + 1))
    second = -(0.25 * np.log(np.e / (np.e + np.e**2)) + 0.75 * np.log(np.e**2 / (np.e + np.e**2)))
    found = losses.graph_cross_entropy(similarity, targets, torch.eye(3, dtype=torch.bool))
    assert found.item() == pytest.approx((first + second) / 2, rel=1e-6)


def test_graph_without_edges_in_the_batch_costs_nothing():
    similarity = torch.randn(4, 4, requires_grad=True)
    found = losses.graph_cross_entropy(similarity, torch.zeros(4, 4), torch.eye(4, dtype=torch.bool))
    found.backward()
    assert found.item() == 0
    assert torch.isfinite(similarity.grad).all()


def test_multinomial_against_scipy():
    rng = np.random.default_rng(0)
    counts, logits = rng.poisson(2.0, (5, 8)).astype(np.float64), rng.normal(size=(2, 5, 8))
    ours = [losses.multinomial_cross_entropy(torch.tensor(counts), torch.tensor(part)).numpy() for part in logits]
    theirs = [
        -stats.multinomial.logpmf(counts, counts.sum(axis=1), special.softmax(part, axis=1)) / counts.sum(axis=1)
        for part in logits
    ]
    np.testing.assert_allclose(ours[0] - ours[1], theirs[0] - theirs[1])  # equal but for the constant


def test_a_cell_without_counts_costs_nothing():
    assert losses.multinomial_cross_entropy(torch.zeros(1, 4), torch.randn(1, 4)).item() == 0
