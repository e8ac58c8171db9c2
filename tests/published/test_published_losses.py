"""The losses of the published method and its optimizer, against independent formulas."""

import numpy as np
import pytest
import torch
from scipy import sparse, special

from sctag_tools.published import losses
from sctag_tools.published.fit import binary_graph
from sctag_tools.published.losses import ZINBTarget, block_rows, graph_loss, kl_divergence, zinb_loss
from sctag_tools.published.net import Adjacency
from sctag_tools.published.train import KerasAdam

CPU = torch.device("cpu")


def published_zinb(y, logits, raw, log_mean, sizes):
    """The published likelihood in numpy, entry by entry."""
    eps = 1e-10
    pi = special.expit(logits)
    theta = np.minimum(np.clip(np.logaddexp(0, raw), 1e-4, 1e4), 1e6)
    mean = np.clip(np.exp(log_mean), 1e-5, 1e6) * sizes
    log_factors = special.gammaln(theta + eps) + special.gammaln(y + 1) - special.gammaln(y + theta + eps)
    rates = (theta + y) * np.log(1 + mean / (theta + eps)) + y * (np.log(theta + eps) - np.log(mean + eps))
    positive = log_factors + rates - np.log(1 - pi + eps)
    zero = -np.log(pi + (1 - pi) * (theta / (theta + mean + eps)) ** theta + eps)
    return np.where(y < 1e-8, zero, positive)


def zinb_problem(scale):
    """A matrix of 33 cells and 20 genes, values of both signs; hidden layer, kernel and bias in double precision."""
    rng = np.random.default_rng(1)
    y = np.where(rng.random((33, 20)) < 0.3, rng.gamma(1.0, 3.0, (33, 20)), -rng.random((33, 20))).astype(np.float32)
    y[0, :3] = 1e-9, 1e-7, 0
    shapes = (33, 5), (5, 60), (60,)
    return y, [torch.from_numpy(rng.normal(scale=scale, size=shape)).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("on_counts", [False, True])
@pytest.mark.parametrize("block", [2**19, 100])
@pytest.mark.parametrize("scale", [0.5, 5.0])  # the larger one reaches the bounds of mean and dispersion
def test_zinb_equals_numpy_formula(monkeypatch, scale, block, on_counts):
    monkeypatch.setattr(losses, "_N_BLOCK_ENTRIES", block)
    y, inputs = zinb_problem(scale)
    sizes = np.random.default_rng(2).uniform(0.3, 3.0, size=33).astype(np.float32) if on_counts else np.ones(33)
    if on_counts:
        y = np.ceil(np.maximum(y, 0))
        target = ZINBTarget.from_counts(sparse.csr_matrix(y), sizes, CPU)
    else:
        target = ZINBTarget.from_scaled(y, CPU)
    hidden, kernel, bias = (tensor.detach().numpy() for tensor in inputs)
    heads = np.split(hidden @ kernel + bias, 3, axis=1)
    expected = published_zinb(y.astype(float), *heads, sizes[:, None]).mean()
    assert zinb_loss(*inputs, target).item() == pytest.approx(expected, rel=1e-9)


def test_zinb_gradients_equal_finite_differences():
    y, inputs = zinb_problem(0.5)
    target = ZINBTarget.from_scaled(y, CPU)
    assert torch.autograd.gradcheck(lambda *tensors: zinb_loss(*tensors, target), inputs, fast_mode=True)


@pytest.mark.parametrize("block", [2**19, 2_000])
def test_graph_loss_equals_dense_error(monkeypatch, cells, block):
    monkeypatch.setattr(losses, "_N_BLOCK_ENTRIES", block)
    binary = binary_graph(cells.distances)
    torch.manual_seed(0)
    factors = [torch.randn(150, 6, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    edges = Adjacency.from_scipy(binary, CPU).edges
    assert len(edges) == -(-150 // block_rows(150, 150))
    expected = (torch.sigmoid(factors[0] @ factors[1].T) - torch.from_numpy(binary.toarray())).square().mean()
    found = graph_loss(*factors, edges)
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(torch.autograd.grad(found, factors), torch.autograd.grad(expected, factors), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_divergence_is_clipped_as_in_keras():
    p, q = torch.tensor([[1.0, 0.0], [0.4, 0.6]]), torch.tensor([[0.5, 0.5], [0.3, 0.7]])
    clipped = np.clip(p.numpy().astype(float), 1e-7, 1)
    expected = (clipped * np.log(clipped / q.numpy())).sum(axis=1).mean()
    assert kl_divergence(p, q).item() == pytest.approx(expected, rel=1e-6)


def test_keras_adam_equals_numpy_loop():
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=4), rng.normal(size=(20, 4)) * [1.0, 1e-3, 1e-6, 1e-9]
    parameter, untouched = (torch.tensor(start, requires_grad=True) for _ in range(2))
    optimizer = KerasAdam([parameter, untouched], 1e-2)
    expected, m, v = start.copy(), np.zeros(4), np.zeros(4)
    for t, gradient in enumerate(gradients, start=1):
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        rate = 1e-2 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        expected -= rate * m / (np.sqrt(v) + 1e-7)
    np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-12)
    assert np.array_equal(untouched.detach().numpy(), start)
