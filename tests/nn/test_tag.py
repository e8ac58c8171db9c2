"""The normalised graph and its hop features against dense algebra and PyG, on directed graphs too."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from torch_geometric.nn import TAGConv

from sctag_tools._core.graph import (
    hop_blocks,
    nearest_entries,
    normalise_adjacency,
    sample_neighbors,
    subgraph_targets,
)
from sctag_tools._core.model import TAGEncoder, apply_tag


def random_graph(n, *, seed=0, density=0.2, directed=True):
    graph = sparse.random(n, n, density=density, random_state=seed, format="csr", dtype=np.float32)
    return graph if directed else graph + graph.T


def dense_normalised(graph):
    dense = graph.toarray().astype(np.float64)
    np.fill_diagonal(dense, 0)
    degree = dense.sum(axis=1)
    scale = np.where(degree > 0, 1 / np.sqrt(np.where(degree > 0, degree, 1)), 0)
    return scale[:, None] * dense * scale[None, :]


@pytest.mark.parametrize("directed", [True, False])
def test_normalisation_equals_dense_algebra(directed):
    graph = random_graph(40, directed=directed)
    np.testing.assert_allclose(normalise_adjacency(graph).toarray(), dense_normalised(graph), atol=1e-6)


@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array, sparse.coo_array])
def test_normalisation_takes_any_sparse_format_and_leaves_it_alone(kind):
    graph = kind(random_graph(20))
    before = graph.toarray()
    assert isinstance(normalise_adjacency(graph), sparse.csr_matrix)
    np.testing.assert_array_equal(graph.toarray(), before)


def test_isolated_cell_has_an_empty_row():
    graph = random_graph(10, directed=False).tolil()
    graph[3], graph[:, 3] = 0, 0
    normalised = normalise_adjacency(graph.tocsr())
    assert normalised[3].nnz == 0
    assert np.isfinite(normalised.data).all()


def test_self_loops_are_dropped():
    assert normalise_adjacency(sparse.eye(5, format="csr")).nnz == 0


@settings(max_examples=25, deadline=None)
@given(n=st.integers(2, 15), n_hops=st.integers(0, 4), seed=st.integers(0, 1000))
def test_hop_blocks_are_powers_of_the_adjacency(n, n_hops, seed):
    graph = normalise_adjacency(random_graph(n, seed=seed, density=0.5))
    x = np.random.default_rng(seed).normal(size=(n, 3)).astype(np.float32)
    blocks = hop_blocks(x, graph, n_hops)
    assert blocks.shape == (n, n_hops + 1, 3)
    for k in range(n_hops + 1):
        expected = np.linalg.matrix_power(graph.toarray().astype(np.float64), k) @ x
        np.testing.assert_allclose(blocks[:, k], expected, atol=1e-4)


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")  # torch, on any CSR tensor
@pytest.mark.parametrize("directed", [True, False])
def test_tag_layer_over_hop_blocks_equals_pyg_and_a_dense_sum(directed):
    n, width, out, n_hops = 30, 6, 4, 3
    graph = normalise_adjacency(random_graph(n, directed=directed))
    x = np.random.default_rng(1).normal(size=(n, width)).astype(np.float32)
    layer = TAGConv(width, out, K=n_hops, normalize=False)
    with torch.no_grad():
        torch.nn.init.normal_(layer.bias)
        found = apply_tag(layer, torch.from_numpy(hop_blocks(x, graph, n_hops))).numpy()
        csr = torch.sparse_csr_tensor(
            torch.from_numpy(graph.indptr).long(), torch.from_numpy(graph.indices).long(), torch.from_numpy(graph.data),
            size=graph.shape,
        )  # fmt: skip
        pyg = layer(torch.from_numpy(x), csr).numpy()
        weights = [lin.weight.numpy().astype(np.float64) for lin in layer.lins]
        dense = sum(np.linalg.matrix_power(graph.toarray(), k) @ x @ w.T for k, w in enumerate(weights))
    np.testing.assert_allclose(found, pyg, atol=1e-5)
    np.testing.assert_allclose(found, dense + layer.bias.detach().numpy(), atol=1e-5)


def test_a_transposed_graph_gives_other_features():
    graph = random_graph(20)
    x = np.ones((20, 1), dtype=np.float32)
    one, other = (hop_blocks(x, normalise_adjacency(g), 1)[:, 1] for g in (graph, graph.T.tocsr()))
    assert not np.allclose(one, other)


def test_encoder_of_no_hops_ignores_the_graph():
    encoder = TAGEncoder(5, 8, 2, n_hops=0)
    x = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
    one, other = (hop_blocks(x, normalise_adjacency(random_graph(12, seed=s)), 0) for s in (1, 2))
    assert torch.equal(encoder(torch.from_numpy(one)), encoder(torch.from_numpy(other)))


def test_sampled_neighbors_follow_the_edge_weights():
    graph = sparse.csr_matrix(np.array([[0, 3.0, 1.0, 0], [1.0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1.0, 0]], np.float32))
    rng = np.random.default_rng(0)
    drawn = np.stack([sample_neighbors(graph, np.arange(4), rng) for _ in range(2_000)])
    assert set(drawn[:, 0]) == {1, 2}
    assert (drawn[:, 0] == 1).mean() == pytest.approx(0.75, abs=0.04)
    assert (drawn[:, 1] == 0).all()
    assert (drawn[:, 2] == 2).all()  # isolated: itself


def test_subgraph_targets_are_rows_of_the_graph_scaled_to_one():
    graph = random_graph(25)
    rows = np.array([3, 8, 8, 20, 1])
    expected = graph.toarray()[np.ix_(rows, rows)]
    totals = expected.sum(axis=1)
    found = subgraph_targets(graph, rows)
    np.testing.assert_allclose(found[totals > 0], expected[totals > 0] / totals[totals > 0, None], rtol=1e-6)
    assert (found[totals == 0] == 0).all()


def test_nearest_entries_by_hand():
    distances = sparse.csr_matrix(([0.0, 3.0, 1.0, 2.0, 5.0, 4.0], [0, 1, 2, 3, 0, 2], [0, 4, 4, 4, 6]), shape=(4, 4))
    kept = nearest_entries(distances, 2)
    assert [kept.indices[kept.indptr[i] : kept.indptr[i + 1]].tolist() for i in range(4)] == [[2, 3], [], [], [0, 2]]
    assert kept[0, 3] == 2
