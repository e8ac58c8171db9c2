"""Confidence: a share of runs, in the order of the soft assignment."""

import numpy as np

from sctag_tools._core.confidence import agreement, confidence


def test_agreement_by_hand():
    labels = np.array([0, 0, 0, 1, 1, 1])
    others = np.array([[5, 5, 5, 2, 2, 2], [0, 0, 1, 1, 1, 1], [0, 1, 2, 3, 3, 3]])
    np.testing.assert_allclose(agreement(labels, others), [1, 1, 2 / 3, 1, 1, 1])


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
    found = confidence(labels, proba, others)
    assert found.dtype == np.float32
    assert (found >= 0).all()
    assert (found <= 1).all()
    for low, high in ((0.4, 0.7), (0.7, 0.9), (0.9, 1.01)):
        inside = (found >= low) & (found < high)
        assert abs(found[inside].mean() - happened[inside].mean()) < 0.06


def test_it_tells_apart_cells_that_other_runs_keep_alike():
    """Where all others agree, the assignment still says which cells are nearer to another cluster."""
    labels, proba, others, _ = doubtful()
    found = confidence(labels, proba, others)
    alike = agreement(labels, others) == 1
    closeness = proba.max(axis=1)
    assert np.corrcoef(found[alike], closeness[alike])[0, 1] > 0.3


def test_without_any_doubt_it_is_one():
    labels = np.repeat([0, 1], 10)
    proba = np.tile(np.float32([0.6, 0.4]), (20, 1))
    np.testing.assert_array_equal(confidence(labels, proba, np.tile(labels, (5, 1))), 1)
