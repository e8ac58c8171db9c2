"""Hop features and counts of any rows: the same from dense tensors and from sparse matrices."""

import numpy as np
import pytest
import torch
from scipy import sparse

import sctag_tools as sctag
from sctag_tools.nn.tag import normalize_adjacency
from sctag_tools.train import features
from sctag_tools.train.features import DenseFeatures, SparseFeatures, features_of

CPU = torch.device("cpu")


@pytest.fixture(params=[None, 3])
def inputs(request):
    """Counts with a gene that no cell has, one that all have, and very large ones; a graph with an isolated cell."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(0.4, (70, 30)).astype(np.float32)
    counts[:, 3], counts[:, 4] = 0, 500
    counts[5, 6] = 100_000
    graph = sparse.random(70, 70, 0.1, random_state=1, format="lil")
    graph = sparse.csr_matrix(graph + graph.T)
    kept = sparse.diags((np.arange(70) != 8).astype(float))
    graph = kept @ graph @ kept
    batches = None if request.param is None else rng.integers(0, request.param, 70)
    totals = counts.sum(axis=1) + rng.integers(1, 50, 70)
    return sparse.csr_matrix(counts), totals, normalize_adjacency(graph), batches


@pytest.mark.parametrize("n_hops", [0, 1, 3])
def test_sparse_and_dense_rows_are_the_same(inputs, n_hops):
    counts, totals, adjacency, batches = inputs
    before = counts.copy()
    dense, thin = (kind(counts, totals, adjacency, n_hops, batches, CPU) for kind in (DenseFeatures, SparseFeatures))
    rows = torch.tensor([5, 8, 69, 0, 5])
    assert dense.hops(rows).shape == (5, n_hops + 1, 30)
    torch.testing.assert_close(thin.hops(rows), dense.hops(rows), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(thin.counts(rows), dense.counts(rows), rtol=0, atol=0)
    torch.testing.assert_close(thin.counts(rows), torch.from_numpy(counts[rows.numpy()].toarray()), rtol=0, atol=0)
    assert thin.hops(rows).dtype == thin.counts(rows).dtype == torch.float32
    np.testing.assert_allclose(thin.scaler.means, dense.scaler.means, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(thin.scaler.std, dense.scaler.std, rtol=1e-3)
    assert np.isinf(thin.scaler.std[3])
    assert (counts != before).nnz == 0


def test_values_are_clipped_on_both_sides():
    """Also the zeros of a gene that nearly every cell has alike."""
    counts = np.full((400, 2), 50, dtype=np.float32)
    counts[0], counts[1, 0], counts[:, 1] = 0, 3000, 50
    counts[7, 1] = 0
    x, totals = sparse.csr_matrix(counts), np.full(400, 1e4)
    graph = normalize_adjacency(sparse.csr_matrix(np.roll(np.eye(400), 1, axis=1)))
    dense, thin = (kind(x, totals, graph, 1, None, CPU) for kind in (DenseFeatures, SparseFeatures))
    found = dense.hops(torch.arange(400))
    assert float(found[:, 0].min()) == -10
    torch.testing.assert_close(thin.hops(torch.arange(400)), found, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("limit", "kind"), [(70 * 30 * 9, DenseFeatures), (70 * 30 * 9 - 1, SparseFeatures)])
def test_what_takes_more_than_the_limit_is_sparse(inputs, monkeypatch, limit, kind):
    monkeypatch.setattr(features, "_MAX_DENSE_BYTES", limit)
    assert type(features_of(*inputs[:3], 1, inputs[3], CPU)) is kind


@pytest.mark.parametrize("batch_key", [None, "group"])
def test_a_run_on_sparse_rows_finds_the_same(graphed, short, monkeypatch, batch_key):
    """Up to rounding, and so do mapping and the model that is kept."""
    options = {**short, "batch_key": batch_key, "pretrain_epochs": 20}
    if batch_key:
        sctag.pp.build_graph(graphed, batch_key=batch_key)
    dense = sctag.tl.sctag(graphed, 3, copy=True, **options)
    monkeypatch.setattr(features, "_MAX_DENSE_BYTES", 0)
    thin = sctag.tl.sctag(graphed, 3, copy=True, **options)
    np.testing.assert_allclose(thin.obsm["X_sctag"], dense.obsm["X_sctag"], atol=0.02)
    assert (thin.obs["sctag"].astype(str) == dense.obs["sctag"].astype(str)).mean() > 0.98
    placed = [sctag.tl.map_query(graphed, adata, key_added="new", copy=True) for adata in (dense, thin)]
    assert (placed[0].obs["new"].astype(str) == placed[1].obs["new"].astype(str)).mean() > 0.98
