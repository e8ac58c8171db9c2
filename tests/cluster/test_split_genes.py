"""Fold changes, shares and AUROC against scikit-learn and plain numpy, gene by gene."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy import sparse
from sklearn.metrics import roc_auc_score

from sctag_tools.cluster import split_genes
from sctag_tools.cluster.comparisons import Comparison
from sctag_tools.cluster.split_genes import GeneDifferences, Sides


def compared(*sides):
    return [Comparison(0, np.array(group), np.array(reference)) for group, reference in sides]


COMPARISONS = compared(([0], [1, 2]), ([1, 2], [0]), ([1], [2]), ([2], [3]), ([3], [2]), ([0, 3], [1]))


@pytest.fixture
def counts():
    """Sparse genes and dense ones, ties within and across depths, a gene that no cell has and one that all have."""
    rng = np.random.default_rng(3)
    found = rng.poisson(rng.gamma(0.5, 2.0, size=30) * rng.lognormal(0, 0.5, size=(80, 1)))
    found[:, 0], found[:, 1] = 0, found[:, 1] + 1
    found[1::2] = 2 * found[::2]  # equal shares at twice the depth
    return found


@pytest.fixture
def labels():
    return np.random.default_rng(4).permutation(np.repeat(np.arange(4), [40, 20, 15, 5]))


def differences(counts, labels, comparisons=COMPARISONS):
    totals = counts.sum(axis=1).astype(float)
    sides = Sides.from_comparisons(comparisons, labels)
    return GeneDifferences.from_counts(sparse.csc_matrix(counts, dtype=np.float32), totals, sides)


def test_as_scikit_learn_and_numpy_have_them(counts, labels):
    found = differences(counts, labels)
    shares = counts / counts.sum(axis=1, keepdims=True)
    for i, one in enumerate(COMPARISONS):
        group, reference = np.isin(labels, one.group), np.isin(labels, one.reference)
        both = group | reference
        for gene in range(counts.shape[1]):
            assert found.auroc[i, gene] == pytest.approx(roc_auc_score(group[both], shares[both, gene]), abs=1e-12)
        means = [1e4 * shares[side].mean(axis=0) + 0.1 for side in (group, reference)]
        np.testing.assert_allclose(found.log_fold_change[i], np.log2(means[0] / means[1]), atol=1e-9)
        np.testing.assert_allclose(found.detected[i], (counts[group] > 0).mean(axis=0))
        np.testing.assert_allclose(found.detected_in_reference[i], (counts[reference] > 0).mean(axis=0))
    np.testing.assert_array_equal(found.auroc[:, 0], 0.5)
    np.testing.assert_allclose(found.score, (2 * found.auroc - 1) * abs(found.log_fold_change))


def test_by_hand():
    """The largest share of the first gene is the least one of the second."""
    counts, labels = np.array([[1, 1], [1, 1], [1, 1], [0, 2]]), np.array([0, 0, 1, 1])
    found = differences(counts, labels, compared(([0], [1])))
    assert found.auroc.tolist() == [[0.75, 0.25]]
    np.testing.assert_allclose(found.log_fold_change, np.log2([[5000.1 / 2500.1, 5000.1 / 7500.1]]))
    assert (found.detected.tolist(), found.detected_in_reference.tolist()) == ([[1, 1]], [[0.5, 1]])


def test_depth_makes_no_difference(counts, labels):
    """Twice the counts of any cell are the same shares, and ties stay ties."""
    found, deeper = differences(counts, labels), differences(counts * (1 + labels % 3)[:, None], labels)
    np.testing.assert_array_equal(deeper.auroc, found.auroc)
    np.testing.assert_allclose(deeper.log_fold_change, found.log_fold_change, atol=1e-9)


def test_the_other_side_is_the_mirror_image(counts, labels):
    found = differences(counts, labels)
    for one, other in ((0, 1), (3, 4)):
        np.testing.assert_allclose(found.auroc[one], 1 - found.auroc[other])
        np.testing.assert_allclose(found.score[one], -found.score[other])
        np.testing.assert_array_equal(found.detected[one], found.detected_in_reference[other])


def test_stored_zeros_duplicates_and_chunks_of_genes_change_nothing(counts, labels, monkeypatch):
    expected = differences(counts, labels)
    is_stored = (counts > 0) | (np.arange(80) % 2 == 0)[:, None]
    gene, cell = np.nonzero(is_stored.T)
    halves, indptr = np.repeat(counts[cell, gene] / 2, 2), np.r_[0, 2 * np.cumsum(np.bincount(gene))]
    twice = sparse.csc_matrix((halves, np.repeat(cell, 2), indptr), shape=counts.shape)
    assert (twice.nnz, (twice.data == 0).any()) == (2 * is_stored.sum(), True)
    monkeypatch.setattr(split_genes, "_ENTRIES_AT_ONCE", 100)
    sides = Sides.from_comparisons(COMPARISONS, labels)
    found = GeneDifferences.from_counts(twice, counts.sum(axis=1).astype(float), sides)
    for name, values in vars(expected).items():
        np.testing.assert_array_equal(getattr(found, name), values)


def test_means_over_blocks_are_those_of_the_whole(counts, labels):
    sides = Sides.from_comparisons(COMPARISONS, labels)
    for blocks in ([counts], [counts[:7], counts[7:60], counts[60:]], [sparse.csr_matrix(counts)]):
        of_group, of_reference = sides.means(blocks)
        for i, one in enumerate(COMPARISONS):
            np.testing.assert_allclose(of_group[i], counts[np.isin(labels, one.group)].mean(axis=0))
            np.testing.assert_allclose(of_reference[i], counts[np.isin(labels, one.reference)].mean(axis=0))


def test_ten_thousand_cells_and_twenty_splits_take_seconds():
    rng = np.random.default_rng(0)
    x = sparse.random(10_000, 2_000, density=0.1, format="csc", random_state=rng, dtype=np.float32)
    x.data = np.ceil(4 * x.data)
    labels = rng.integers(0, 21, 10_000)
    comparisons = compared(*(([i], list(range(i + 1, 21))) for i in range(20)))
    sides = Sides.from_comparisons([x for one in comparisons for x in (one, one.reversed())], labels)
    start = time.process_time()
    GeneDifferences.from_counts(x, np.asarray(x.sum(axis=1)).ravel().astype(float), sides)
    assert time.process_time() - start < 10
