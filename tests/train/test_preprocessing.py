"""Size factors, scaled expression and the order of the cells against scanpy and numpy."""

import numpy as np
import pytest
import scanpy as sc
from anndata import AnnData
from scipy import sparse

from sctag_tools._threads import keep_thread_counts
from sctag_tools.train.preprocessing import GeneScaler, canonical_order, log_expression, size_factors


def scaled_expression(counts, totals, batch_index=None):
    x = log_expression(counts, totals)
    return GeneScaler.fit(x, batch_index).transform(x, batch_index)


@pytest.fixture
def counts():
    rng = np.random.default_rng(0)
    return sparse.csr_matrix(rng.negative_binomial(1, 0.3, size=(80, 30)).astype(np.float32) + np.eye(80, 30))


def test_size_factors_are_totals_over_the_median():
    np.testing.assert_allclose(size_factors(np.array([1.0, 2.0, 8.0])), [0.5, 1, 4])


def test_scaled_expression_equals_scanpy(counts):
    """Also of some of the genes, whose totals are over all."""
    totals = np.asarray(counts.sum(axis=1)).ravel()
    adata = AnnData(counts.copy())
    with keep_thread_counts():  # or numba's threads would slow every test that follows
        sc.pp.normalize_total(adata, target_sum=1e4)
        sc.pp.log1p(adata)
    expected = adata.X.toarray()
    expected = np.clip((expected - expected.mean(axis=0)) / expected.std(axis=0), -10, 10)
    found = scaled_expression(counts, totals)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(scaled_expression(counts[:, :5], totals), expected[:, :5], atol=1e-4)
    assert found.dtype == np.float32


def test_constant_genes_become_zero_and_one_of_a_single_cell_is_clipped():
    counts = np.zeros((500, 3), np.float32)
    counts[:, 1], counts[7, 2] = 5, 1
    found = scaled_expression(sparse.csr_matrix(counts), np.full(500, 10.0))
    assert (found[:, :2] == 0).all()
    assert found[7, 2] == 10
    assert -0.1 < found[0, 2] < 0


def test_new_cells_are_put_on_the_scale_of_the_training_cells(counts):
    totals, batch_index = np.asarray(counts.sum(axis=1)).ravel(), np.tile([0, 1], 40)
    x = log_expression(counts, totals)
    scaler = GeneScaler.fit(x, batch_index)
    both = scaler.transform(log_expression(counts[:4], totals[:4]), batch_index[:4])
    np.testing.assert_allclose(both, scaler.transform(x.copy(), batch_index)[:4], atol=1e-6)
    unknown = scaler.transform(log_expression(counts[:4], totals[:4]), np.full(4, -1))
    np.testing.assert_allclose(unknown, np.clip((x[:4] - x.mean(axis=0)) / scaler.std, -10, 10), atol=1e-5)
    assert np.abs(unknown - both).max() > 0.01


def test_canonical_order_depends_on_the_counts_alone(counts):
    totals = np.asarray(counts.sum(axis=1)).ravel()
    assert len(np.unique(totals)) < 80, "the projection has nothing to decide"
    shuffled = np.random.default_rng(1).permutation(80)
    one, other = counts[canonical_order(counts, totals)], counts[shuffled]
    other = other[canonical_order(other, totals[shuffled])]
    np.testing.assert_array_equal(one.toarray(), other.toarray())
