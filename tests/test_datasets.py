"""The packaged data set and the restoring of its counts."""

from __future__ import annotations

import numpy as np
import pytest
import scanpy as sc
from scipy import sparse

from sctag_tools.datasets import _restore_counts, pbmc68k_reduced


def test_slots_and_counts():
    """No warning reaches the user either: warnings are errors here."""
    adata = pbmc68k_reduced()
    assert adata.shape == (700, 765)
    assert list(adata.obs) == ["bulk_labels"]
    assert adata.obs["bulk_labels"].nunique() == len(adata.obs["bulk_labels"].cat.categories) == 10
    assert adata.raw is None
    assert not any(len(slot) for slot in (adata.obsm, adata.obsp, adata.varm, adata.layers, adata.uns, adata.var.T))
    assert adata.var_names.is_unique
    assert "CD3E" in adata.var_names
    assert isinstance(adata.X, sparse.csr_matrix)
    assert adata.X.dtype == np.float32
    assert adata.X.has_canonical_format
    assert adata.X.data.min() == 1
    np.testing.assert_array_equal(adata.X.data, np.rint(adata.X.data))
    adata.X.data[:] = 0
    assert pbmc68k_reduced().X.data.min() == 1, "it is not a new object"


def test_counts_reproduce_what_scanpy_stores():
    adata, source = pbmc68k_reduced(), sc.datasets.pbmc68k_reduced()
    totals = source.obs["n_counts"].to_numpy(dtype=np.float64)
    assert list(adata.obs_names) == list(source.obs_names)
    assert list(adata.var_names) == list(source.raw.var_names)
    assert (np.asarray(adata.X.sum(axis=1)).ravel() <= totals).all()
    logs = np.log1p(adata.X.toarray() / totals[:, None] * 1e4)
    # three decimals are stored, ties may be rounded either way
    np.testing.assert_allclose(logs, source.raw.X.toarray(), rtol=0, atol=5.01e-4)


def test_restored_counts_are_exact():
    rng = np.random.default_rng(0)
    counts = rng.poisson(2.0, (50, 30)).astype(np.float32)
    totals = counts.sum(axis=1) + 2000
    logs = sparse.csr_matrix(np.round(np.log1p(counts / totals[:, None] * 1e4), 3))
    np.testing.assert_array_equal(_restore_counts(logs, totals).toarray(), counts)


@pytest.mark.parametrize("shift", [0.002, 0.1, 0.9])
def test_values_that_are_not_logs_of_counts(shift):
    logs = sparse.csr_matrix(np.log1p(np.array([[1.0, 2.0], [3.0, 0.0]]) * 5) + shift)
    with pytest.raises(RuntimeError, match="counts cannot be restored"):
        _restore_counts(logs, np.array([2000.0, 2000.0]))
