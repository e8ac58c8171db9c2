"""Normalized graph, hop features and TAG layers against dense algebra and PyG's own layers, on directed graphs too."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from torch_geometric.nn import TAGConv

from sctag_tools.nn.tag import PrecomputedTAGConv, hop_features, normalize_adjacency


def random_graph(n, *, seed=0, density=0.2, directed=True):
    graph = sparse.random(n, n, density=density, random_state=seed, format="csr", dtype=np.float32)
    return graph if directed else graph + graph.T


def dense_normalized(graph):
    dense = graph.toarray().astype(np.float64)
    np.fill_diagonal(dense, 0)
    degree = dense.sum(axis=1)
    scale = np.where(degree > 0, 1 / np.sqrt(np.where(degree > 0, degree, 1)), 0)
    return scale[:, None] * dense * scale[None, :]


def random_features(n, width, seed=1):
    return np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)


@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array, sparse.coo_array])
@pytest.mark.parametrize("directed", [True, False])
def test_normalization_equals_dense_algebra(directed, kind):
    """Degrees are row sums; any sparse format is taken and left alone; loops go, cells without edges stay empty."""
    graph = random_graph(40, directed=directed).tolil()
    graph[3] = graph[7] = 0
    graph[7, 7] = 2  # a loop alone is no edge
    graph = kind(graph)
    before = graph.toarray()
    assert before.diagonal().sum() > 2
    found = normalize_adjacency(graph)
    assert isinstance(found, sparse.csr_matrix)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.toarray(), dense_normalized(graph), atol=1e-6)
    assert found[3].nnz == found[7].nnz == 0
    np.testing.assert_array_equal(graph.toarray(), before)


def test_only_loops_are_an_empty_graph():
    graph = normalize_adjacency(sparse.eye(5, format="csr"))
    assert graph.nnz == 0
    assert (hop_features(np.ones((5, 2), np.float32), graph, 2)[:, 1:] == 0).all()


@settings(max_examples=25, deadline=None)
@given(n=st.integers(2, 15), n_hops=st.integers(0, 4), seed=st.integers(0, 1000))
def test_hop_features_are_powers_of_the_adjacency(n, n_hops, seed):
    graph = normalize_adjacency(random_graph(n, seed=seed, density=0.5))
    x = random_features(n, 3, seed)
    hops = hop_features(x, graph, n_hops).numpy()
    assert hops.shape == (n, n_hops + 1, 3)
    for k in range(n_hops + 1):
        expected = np.linalg.matrix_power(graph.toarray().astype(np.float64), k) @ x
        np.testing.assert_allclose(hops[:, k], expected, atol=1e-4)


def test_hop_features_of_many_genes_are_those_of_each():
    graph, x = normalize_adjacency(random_graph(12)), random_features(12, 600)
    expected = graph.toarray() @ graph.toarray() @ x
    np.testing.assert_allclose(hop_features(x, graph, 2)[:, 2], expected, atol=1e-5)


def whole_graph(graph):
    """(edge_index, edge_weight) of PyG: edges point to the cell whose row they are in."""
    targets, sources = graph.nonzero()
    return torch.from_numpy(np.stack([sources, targets])).long(), torch.from_numpy(graph.toarray()[targets, sources])


@pytest.mark.parametrize("n_hops", [0, 1, 3])
@pytest.mark.parametrize("directed", [True, False])
def test_layer_on_hop_features_equals_pyg_on_the_whole_graph(directed, n_hops):
    n, width, out = 30, 6, 4
    graph, x = normalize_adjacency(random_graph(n, directed=directed)), random_features(30, 6)
    layer = PrecomputedTAGConv(width, out, n_hops)
    pyg = TAGConv(width, out, K=n_hops, normalize=False)
    pyg.load_state_dict(layer.state_dict())
    with torch.no_grad():
        for module in (layer, pyg):
            module.bias.copy_(torch.arange(out))
        hops = hop_features(x, graph, n_hops)
        found = layer(hops).numpy()
        on_edges = pyg(torch.from_numpy(x), *whole_graph(graph)).numpy()
        rows = layer(hops[[5, 2]]).numpy()
    weights = [linear.weight.detach().numpy().astype(np.float64) for linear in layer.lins]
    dense = sum(np.linalg.matrix_power(graph.toarray(), k) @ x @ w.T for k, w in enumerate(weights)) + np.arange(out)
    np.testing.assert_allclose(found, on_edges, atol=1e-5)
    np.testing.assert_allclose(found, dense, atol=1e-5)
    np.testing.assert_allclose(rows, found[[5, 2]], atol=1e-6)


def test_messages_give_a_new_cell_what_pyg_gives_it_in_the_graph():
    """The new cell gathers from three others, and gives nothing to them."""
    n, width, out, n_hops = 20, 5, 3, 2
    graph, x = normalize_adjacency(random_graph(n)).toarray(), random_features(n + 1, width)
    joined = np.zeros((n + 1, n + 1), np.float32)
    joined[:n, :n], joined[n, [4, 9, 11]] = graph, [0.5, 0.2, 0.1]
    layer, pyg = PrecomputedTAGConv(width, out, n_hops), TAGConv(width, out, K=n_hops, normalize=False)
    torch.nn.init.normal_(layer.bias)
    pyg.load_state_dict(layer.state_dict())
    with torch.no_grad():
        messages = layer.outgoing_message(hop_features(x[:n], sparse.csr_matrix(graph), n_hops))
        summed = torch.from_numpy(joined[[n], :n]) @ messages
        found = layer.with_messages(torch.from_numpy(x[[n]]), summed).numpy()
        expected = pyg(torch.from_numpy(x), *whole_graph(sparse.csr_matrix(joined))).numpy()[[n]]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert summed.abs().max() > 1e-2
