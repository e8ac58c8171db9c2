"""Confidence: a share of runs, in the order of the soft assignment."""

import numpy as np
import pytest
from sklearn.metrics import jaccard_score

from sctag_tools.cluster.confidence import (
    ReplicateClusterings,
    agreement,
    cell_confidence,
    cluster_confidence,
    cut_replicates,
    draw_replicates,
)
from sctag_tools.cluster.partitions import draw_partitions
from sctag_tools.cluster.tree import CoassociationTree


def test_agreement_by_hand():
    labels = np.array([0, 0, 0, 1, 1, 1])
    others = np.array([[5, 5, 5, 2, 2, 2], [0, 0, 1, 1, 1, 1], [0, 1, 2, 3, 3, 3]])
    np.testing.assert_allclose(agreement(labels, others), [1, 1, 2 / 3, 1, 1, 1])


def test_strict_agreement_by_hand():
    labels = np.array([0, 0, 0, 1, 1, 1])
    others = np.array([
        [5, 5, 5, 2, 2, 2],  # the same
        [0, 0, 1, 2, 2, 2],  # one split: its smaller part has left
        [0, 0, 0, 0, 0, 0],  # both joined: one of them has left
    ])  # fmt: skip
    found = agreement(labels, others, one_to_one=True)
    np.testing.assert_allclose(found[3:] + found[0], 2 / 3 + 1)
    np.testing.assert_allclose(found[0] - found[2], 1 / 3)
    np.testing.assert_allclose(found[0], found[1])


def test_a_cluster_that_others_split_is_less_sure():
    labels = np.repeat([0, 1], 100)
    proba = np.eye(2, dtype=np.float32)[labels]
    finer = np.tile(np.repeat([0, 1, 2], [50, 50, 100]), (21, 1))
    whole, split = ReplicateClusterings(labels[None], finer), ReplicateClusterings(finer, finer)
    assert cell_confidence(labels, proba, whole).min() == 1
    sure = cell_confidence(labels, proba, split)
    assert sure[:100].mean() < 0.95
    assert sure[100:].min() > sure[:100].mean()


@pytest.fixture(scope="module")
def doubtful():
    """Cells of two clusters, some close to the border; the further away, the more other runs agree."""
    n, rng = 2000, np.random.default_rng(0)
    place = rng.uniform(-1, 1, n)
    others = np.array([place + rng.normal(scale=0.3, size=n) > 0 for _ in range(21)]).astype(np.int64)
    labels = (place > 0).astype(np.int64)
    first = 1 / (1 + np.exp(3 * place))
    proba = np.stack([first, 1 - first], axis=1).astype(np.float32)
    fresh = place + rng.normal(scale=0.3, size=n) > 0
    found = cell_confidence(labels, proba, ReplicateClusterings(others, others))
    return labels, proba, others, fresh == labels, found


def test_it_is_a_share_of_runs(doubtful):
    *_, happened, found = doubtful
    assert found.dtype == np.float32
    assert (found >= 0).all()
    assert (found <= 1).all()
    for low, high in ((0.4, 0.7), (0.7, 0.9), (0.9, 1.01)):
        inside = (found >= low) & (found < high)
        assert abs(found[inside].mean() - happened[inside].mean()) < 0.06


def test_it_tells_apart_cells_that_other_runs_keep_alike(doubtful):
    """Where all others agree, the assignment still says which cells are nearer to another cluster."""
    labels, proba, others, _, found = doubtful
    alike = agreement(labels, others) == 1
    assert np.corrcoef(found[alike], proba.max(axis=1)[alike])[0, 1] > 0.3


def test_replicates_agree_where_clusters_are_clear(gaussians):
    latent, labels = gaussians(4)
    latent[:5] = (latent[:60].mean(axis=0) + latent[60:120].mean(axis=0)) / 2
    rng = np.random.default_rng(0)
    partitions = draw_partitions([latent], rng)
    tree = CoassociationTree.from_partitions(partitions, rng)
    replicates = cut_replicates(draw_replicates(partitions, tree, 1, rng), 4)
    assert replicates.same_number.shape == replicates.finer.shape == (21, len(labels))
    assert all(len(np.unique(cut)) == 4 for cut in replicates.same_number)
    assert all(len(np.unique(cut)) == 6 for cut in replicates.finer)
    kept = agreement(tree.cut(4), replicates.finer)
    assert kept[120:].min() == 1
    assert kept[:5].max() < 1


def test_closeness_is_that_to_the_own_cluster():
    """Parts of a cluster hold cells that are nearer to another part."""
    labels = np.repeat([0, 1], 100)
    near = np.linspace(0.1, 0.9, 100)
    proba = np.eye(2)[labels]
    proba[:100] = np.stack([near, 1 - near], axis=1)
    others = np.tile(np.r_[near < 0.4, np.ones(100)].astype(np.int64), (21, 1))
    found = cell_confidence(labels, proba.astype(np.float32), ReplicateClusterings(others, others))
    assert found[near.argmax()] > 0.9
    assert found[near.argmin()] < 0.1


def outcomes(labels, *others):
    replicates = np.array(others)
    return cluster_confidence(np.array(labels), ReplicateClusterings(replicates, replicates))


def test_a_cluster_that_comes_back_is_sure():
    found = outcomes([0, 0, 0, 1, 1], [3, 3, 3, 0, 0], [0, 0, 0, 1, 1])
    assert list(found) == ["confidence", "merged", "split", "dissolved"]
    np.testing.assert_array_equal(list(found.values()), [[1, 1], [0, 0], [0, 0], [0, 0]])


def test_what_becomes_of_clusters():
    labels = np.repeat([0, 1, 2], 20)
    joined, halved = np.repeat([0, 0, 1], 20), np.repeat([0, 1, 2, 3], [10, 10, 20, 20])
    scattered = np.r_[np.tile([0, 1, 2], 20)]
    found = outcomes(labels, labels, joined, halved, scattered)
    np.testing.assert_allclose(found["merged"], [1 / 4, 1 / 4, 0])
    np.testing.assert_allclose(found["split"], [1 / 4, 0, 0])
    np.testing.assert_allclose(found["dissolved"], 1 / 4)
    np.testing.assert_allclose(found["confidence"][0], np.mean([1, 1 / 2, 1 / 2, 7 / 33]))


def test_overlap_is_the_jaccard_index():
    rng = np.random.default_rng(0)
    labels, other = rng.integers(0, 4, 300), rng.integers(0, 6, 300)
    best = [max(jaccard_score(labels == k, other == j) for j in range(6)) for k in range(4)]
    np.testing.assert_allclose(outcomes(labels, other)["confidence"], best)


def test_the_better_cut_counts():
    labels = np.repeat([0, 1], 50)
    whole = np.zeros((3, 100), dtype=np.int64)
    found = cluster_confidence(labels, ReplicateClusterings(whole, np.tile(labels, (3, 1))))
    np.testing.assert_array_equal(found["confidence"], 1)
    np.testing.assert_array_equal(found["merged"], 0)
