"""Confidence: a share of runs, in the order of the soft assignment."""

import numpy as np

from sctag_tools._core.confidence import agreement, confidence, strict_agreement
from sctag_tools._core.consensus import Replicates


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
    found = strict_agreement(labels, others)
    np.testing.assert_allclose(found[3:] + found[0], 2 / 3 + 1)
    np.testing.assert_allclose(found[0] - found[2], 1 / 3)
    np.testing.assert_allclose(found[0], found[1])


def test_a_cluster_that_others_split_is_less_sure():
    labels = np.repeat([0, 1], 100)
    proba = np.eye(2, dtype=np.float32)[labels]
    finer = np.tile(np.repeat([0, 1, 2], [50, 50, 100]), (21, 1))
    whole, split = Replicates(labels[None], finer), Replicates(finer, finer)
    assert confidence(labels, proba, whole).min() == 1
    assert confidence(labels, proba, split)[:100].mean() < 0.95
    assert confidence(labels, proba, split)[100:].min() > confidence(labels, proba, split)[:100].mean()


def doubtful(n=2000, seed=0):
    """Cells of two clusters, some close to the border; the further away, the more other runs agree."""
    rng = np.random.default_rng(seed)
    place = rng.uniform(-1, 1, n)
    others = np.array([place + rng.normal(scale=0.3, size=n) > 0 for _ in range(21)]).astype(np.int64)
    labels = (place > 0).astype(np.int64)
    first = 1 / (1 + np.exp(3 * place))
    proba = np.stack([first, 1 - first], axis=1).astype(np.float32)
    fresh = place + rng.normal(scale=0.3, size=n) > 0
    return labels, proba, others, fresh == labels


def test_it_is_a_share_of_runs():
    labels, proba, others, happened = doubtful()
    found = confidence(labels, proba, Replicates(others, others))
    assert found.dtype == np.float32
    assert (found >= 0).all()
    assert (found <= 1).all()
    for low, high in ((0.4, 0.7), (0.7, 0.9), (0.9, 1.01)):
        inside = (found >= low) & (found < high)
        assert abs(found[inside].mean() - happened[inside].mean()) < 0.06


def test_it_tells_apart_cells_that_other_runs_keep_alike():
    """Where all others agree, the assignment still says which cells are nearer to another cluster."""
    labels, proba, others, _ = doubtful()
    found = confidence(labels, proba, Replicates(others, others))
    alike = agreement(labels, others) == 1
    closeness = proba.max(axis=1)
    assert np.corrcoef(found[alike], closeness[alike])[0, 1] > 0.3


def test_without_any_doubt_it_is_one():
    labels = np.repeat([0, 1], 10)
    proba = np.tile(np.float32([0.6, 0.4]), (20, 1))
    np.testing.assert_array_equal(
        confidence(labels, proba, Replicates(np.tile(labels, (5, 1)), np.tile(labels, (5, 1)))), 1
    )
