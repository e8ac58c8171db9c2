"""The published network: PyG's layers against dense sums over hops, weights as Keras has them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch_geometric.nn import TAGConv

from sctag_tools.published.fit import binary_graph
from sctag_tools.published.losses import ZINBTarget
from sctag_tools.published.net import Adjacency, PublishedNet

CPU = torch.device("cpu")


def in_double(graph):
    return replace(graph, normalized=graph.normalized.double())


def test_first_epoch_of_the_original_in_double_precision(original):
    net = PublishedNet(500, true_hops=False, dropout=False)
    net.load(original.weights)
    graph = in_double(Adjacency.from_scipy(binary_graph(original.distances), CPU))
    latent = net.double().encode(torch.from_numpy(original.x).double(), graph)
    zinb = net.zinb_loss(latent, ZINBTarget.from_scaled(original.x, CPU))
    assert zinb.item() == pytest.approx(0.6168840, abs=6e-8)
    assert net.graph_loss(latent, graph).item() == pytest.approx(0.5163186, abs=6e-8)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("true_hops", [False, True])
def test_encoder_equals_dense_sums_over_hops(cells, true_hops, symmetric):
    """Values and gradients; the graph is directed unless it is made symmetric."""
    torch.manual_seed(0)
    shapes = {"hidden.kernel": (160, 128), "hidden.bias": (128,), "latent.kernel": (512, 15), "latent.bias": (15,)}
    weights = {name: 0.1 * torch.randn(shape, dtype=torch.float64) for name, shape in shapes.items()}
    net = PublishedNet(40, true_hops=true_hops, dropout=False).double()
    net.load({name: value.numpy() for name, value in weights.items()})
    assert isinstance(net.hidden, TAGConv)
    binary = binary_graph(cells.distances, symmetric=symmetric)
    assert ((binary != binary.T).nnz == 0) == symmetric
    dense = torch.from_numpy(binary.toarray()).double()
    dense = dense / (dense.sum(dim=1)[:, None] * dense.sum(dim=1)).sqrt()
    powers = [torch.linalg.matrix_power(dense, k if true_hops else min(k, 1)) for k in range(4)]
    x = torch.from_numpy(cells.x).double().requires_grad_()
    hidden = torch.cat([power @ x for power in powers], dim=1) @ weights["hidden.kernel"] + weights["hidden.bias"]
    hops = [power @ torch.relu(hidden) for power in powers]
    expected = torch.cat(hops, dim=1) @ weights["latent.kernel"] + weights["latent.bias"]
    found = net.encode(x, in_double(Adjacency.from_scipy(binary, CPU)))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    to_x, expected_to_x = (torch.autograd.grad(out.sin().sum(), x)[0] for out in (found, expected))
    torch.testing.assert_close(to_x, expected_to_x, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("true_hops", [False, True])
def test_initial_weights_are_one_glorot_draw_for_each_keras_kernel(true_hops):
    torch.manual_seed(3)
    net = PublishedNet(40, true_hops=true_hops, dropout=True)
    torch.manual_seed(3)
    for layer, shape in ((net.hidden, (160, 128)), (net.latent, (512, 15)), (net.graph, (15, 32))):
        limit = (6 / sum(shape)) ** 0.5
        expected = torch.empty(shape).uniform_(-limit, limit)
        kernel = layer.kernel if layer is net.graph else torch.cat([linear.weight.T for linear in layer.lins])
        assert torch.equal(kernel, expected)
        assert not layer.bias.any()


def test_dropout_acts_in_training_only(cells):
    net = PublishedNet(40, true_hops=True, dropout=True)
    graph, x = Adjacency.from_scipy(binary_graph(cells.distances), CPU), torch.from_numpy(cells.x)
    assert not torch.equal(net.encode(x, graph), net.encode(x, graph))
    net.eval()
    assert torch.equal(net.encode(x, graph), net.encode(x, graph))


def test_weights_that_do_not_fit_are_refused():
    net = PublishedNet(40, true_hops=False, dropout=False)
    with pytest.raises(KeyError, match=r"'encoder'\] is no weight.*'hidden.kernel', 'latent.kernel', 'hidden.bias'"):
        net.load({"encoder": np.zeros(3)})
    with pytest.raises(ValueError, match=r"must have shape \(160, 128\), got \(3,\)"):
        net.load({"hidden.kernel": np.zeros(3)})
