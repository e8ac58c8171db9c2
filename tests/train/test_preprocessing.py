"""Size factors and scaled expression against scanpy."""

import numpy as np
import pytest
import scanpy as sc
from anndata import AnnData
from scipy import sparse

from sctag_tools._core.inputs import Scaling, log_expression, size_factors


def scaled_expression(counts, totals, batches=None):
    x = log_expression(counts, totals)
    return Scaling.of(x, batches).apply(x, batches)


@pytest.fixture
def counts():
    rng = np.random.default_rng(0)
    return sparse.csr_matrix(rng.negative_binomial(1, 0.3, size=(80, 30)).astype(np.float32) + np.eye(80, 30))


def test_size_factors_are_totals_over_the_median():
    np.testing.assert_allclose(size_factors(np.array([1.0, 2.0, 8.0])), [0.5, 1, 4])


def test_scaled_expression_equals_scanpy(counts):
    totals = np.asarray(counts.sum(axis=1)).ravel()
    adata = AnnData(counts.copy())
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    expected = adata.X.toarray()
    expected = (expected - expected.mean(axis=0)) / expected.std(axis=0)
    found = scaled_expression(counts, totals)
    np.testing.assert_allclose(found, np.clip(expected, -10, 10), atol=1e-4)
    assert found.dtype == np.float32


def test_totals_may_be_over_more_genes_than_given(counts):
    totals = np.asarray(counts.sum(axis=1)).ravel()
    np.testing.assert_allclose(
        scaled_expression(counts[:, :5], totals), scaled_expression(counts, totals)[:, :5], atol=1e-6
    )


def test_constant_and_empty_genes_become_zero():
    counts = sparse.csr_matrix(np.array([[5.0, 0.0, 1.0], [5.0, 0.0, 3.0]], dtype=np.float32))
    found = scaled_expression(counts, np.array([10.0, 10.0]))
    assert (found[:, :2] == 0).all()
    assert found[0, 2] == pytest.approx(-1, abs=1e-5)


def test_a_gene_in_one_cell_is_clipped():
    counts = sparse.csr_matrix((np.ones(1, np.float32), ([0], [0])), shape=(500, 2)) + sparse.csr_matrix(
        np.tile(np.array([[0.0, 1.0]], np.float32), (500, 1))
    )
    assert scaled_expression(counts, np.full(500, 2.0))[0, 0] == 10


def test_new_cells_are_put_on_the_scale_of_the_training_cells(counts):
    totals, batches = np.asarray(counts.sum(axis=1)).ravel(), np.tile([0, 1], 40)
    x = log_expression(counts, totals)
    scaling = Scaling.of(x, batches)
    both = scaling.apply(log_expression(counts[:4], totals[:4]), batches[:4])
    np.testing.assert_allclose(both, scaling.apply(x.copy(), batches)[:4], atol=1e-6)
    unknown = scaling.apply(log_expression(counts[:4], totals[:4]), np.full(4, -1))
    np.testing.assert_allclose(unknown, np.clip((x[:4] - x.mean(axis=0)) / scaling.spread, -10, 10), atol=1e-5)
    assert np.abs(unknown - both).max() > 0.01
