"""Novelty: a yardstick of the training cells, and how far off it other cells are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from sctag_tools._core import novelty
from sctag_tools._core.novelty import Views, Yardstick, unexplained


def cells(seed, n, shift=0.0):
    """Views of ``n`` cells in three groups, moved by ``shift``."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(3, 6)) * 6
    position = (centres[np.arange(n) % 3] + rng.normal(size=(n, 6)) + shift).astype(np.float32)
    latents = (centres[np.arange(n) % 3][:, :4] / 6 + 0.2 * rng.normal(size=(n, 4)) + shift / 6).astype(np.float32)
    depth = rng.integers(200, 2000, n).astype(np.float32)
    return Views(position, latents, depth, 1 + 100 / depth.astype(float) + 0.05 * rng.normal(size=n) + shift / 10)


def yardstick(views, rows=None, n_neighbors=10, metric="euclidean"):
    rows = np.arange(len(views.depth)) if rows is None else rows
    return Yardstick(views.position, views.latents, views.take(rows), rows, n_neighbors=n_neighbors, metric=metric)


def test_unexplained_is_the_divergence_of_the_shares():
    rng = np.random.default_rng(0)
    counts = rng.poisson(2, (7, 20)).astype(np.float32)
    shares = rng.dirichlet(np.ones(20), 7).astype(np.float32)
    observed = counts.astype(float) / counts.sum(axis=1, keepdims=True)
    by_hand = [
        sum(p * np.log(p / (q + 1e-9)) for p, q in zip(a, b, strict=True) if p > 0)
        for a, b in zip(observed, shares, strict=True)
    ]
    np.testing.assert_allclose(unexplained(counts, shares), by_hand, rtol=1e-5)
    np.testing.assert_allclose(unexplained(counts, observed.astype(np.float32)), 0, atol=1e-5)


def test_unexplained_of_cells_without_counts_or_at_the_end():
    counts = np.zeros((4, 3), dtype=np.float32)
    counts[1] = [1, 0, 3]
    found = unexplained(counts, np.full((4, 3), 1 / 3, dtype=np.float32))
    assert found.shape == (4,)
    assert found.dtype == np.float64
    assert (found[[0, 2, 3]] == 0).all()
    assert found[1] > 0


def test_depth_beyond_the_sample_is_taken_for_its_end():
    found, new = yardstick(cells(0, 500)), cells(1, 100)
    deepest = found.novelty(replace(new, depth=np.full(100, 1999.0)))
    assert np.abs(found.novelty(replace(new, depth=np.full(100, 1e6))) - deepest).max() < 0.01
    assert np.abs(found.novelty(replace(new, depth=np.full(100, 200.0))) - deepest).max() > 0.1


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "manhattan"])
def test_one_stands_for_the_99th_percentile_of_cells_like_the_training_cells(metric):
    known = yardstick(cells(0, 1500), metric=metric).novelty(cells(1, 3000))
    assert known.dtype == np.float32
    assert known.shape == (3000,)
    assert abs(np.median(known)) < 0.1
    assert 0.003 < (known > 1).mean() < 0.025


def test_the_training_sample_itself_has_the_percentiles():
    """Each cell without itself among its neighbours: by hand, from the three views."""
    views, k = cells(0, 400), 10
    ruler = yardstick(views, n_neighbors=k)

    def others(x):
        distance, index = NearestNeighbors(n_neighbors=k + 1, algorithm="brute").fit(x).kneighbors(x)
        return distance[:, 1:], index[:, 1:]

    distance, index = others(views.position)
    spacing = distance.mean(axis=1)
    of_depth = np.polynomial.Polynomial.fit(np.log1p(views.depth), views.unexplained, 2)
    three = np.stack(
        [
            np.log(distance.mean(axis=1) / np.median(spacing[index], axis=1)),
            np.log(others(views.latents)[0].mean(axis=1)),
            views.unexplained - of_depth(np.log1p(views.depth)),
        ],
        axis=1,
    )
    added = ((three - three.mean(axis=0)) / three.std(axis=0)).sum(axis=1)
    scaled = (added - np.median(added)) / (np.percentile(added, 99) - np.median(added))
    assert (scaled > 1).sum() == 4
    # of a cell that is asked as a new one, the cell itself is a neighbour: it is nearer than by hand
    found = ruler.novelty(views)
    assert (found <= scaled + 1e-3).mean() > 0.99
    assert np.corrcoef(found, scaled)[0, 1] > 0.8


def test_higher_the_further_away():
    ruler = yardstick(cells(0, 600))
    means = [ruler.novelty(cells(1, 300, shift)).mean() for shift in (0.0, 1.0, 2.0, 4.0)]
    assert np.all(np.diff(means) > 0.2), means


@pytest.mark.parametrize("side", ["position", "latents", "unexplained"])
def test_each_side_counts(side):
    """A cell may be unlike the others from one side alone."""
    ruler, known, odd = yardstick(cells(0, 600)), cells(1, 300), cells(1, 300)
    getattr(odd, side)[:] += {"position": 5.0, "latents": 3.0, "unexplained": 0.5}[side]
    truth = np.repeat([0, 1], 300)
    assert roc_auc_score(truth, np.concatenate([ruler.novelty(known), ruler.novelty(odd)])) > 0.9


def test_shallow_cells_are_not_new_for_being_shallow():
    """Divergence per count falls with depth whatever a cell is; that much is taken off."""
    ruler, known = yardstick(cells(0, 1500)), cells(1, 3000)
    found = ruler.novelty(known)
    shallow = known.depth < np.quantile(known.depth, 0.1)
    assert known.unexplained[shallow].mean() > known.unexplained[~shallow].mean() + 0.2
    assert abs(np.median(found[shallow]) - np.median(found[~shallow])) < 0.3


def test_sparse_regions_are_not_new_for_being_sparse():
    """A distance counts beside those that the neighbours have among themselves."""

    def two_densities(seed, n):
        dense = np.arange(n) % 2 == 1
        spread = np.where(dense, 0.1, 1.0)[:, None]
        position = 20 * dense[:, None] + spread * np.random.default_rng(seed).normal(size=(n, 6))
        return replace(cells(seed, n), position=position.astype(np.float32)), dense

    ruler, (known, dense) = yardstick(two_densities(0, 1000)[0]), two_densities(1, 600)
    found = ruler.novelty(known)
    assert abs(np.median(found[dense]) - np.median(found[~dense])) < 0.2
    known.position[:] += 0.5  # little beside the one spread, much beside the other
    moved = ruler.novelty(known) - found
    assert np.median(moved[dense]) > np.median(moved[~dense]) + 0.5


def test_each_cell_on_its_own():
    ruler, known = yardstick(cells(0, 300)), cells(1, 50, 1.0)
    whole, order = ruler.novelty(known), np.random.default_rng(0).permutation(50)
    np.testing.assert_allclose(ruler.novelty(known.take(order)), whole[order], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ruler.novelty(known.take(np.array([7]))), whole[[7]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("landmarks", [300, 299, 150])
def test_fewer_landmarks_give_nearly_the_same(monkeypatch, landmarks):
    views, rows = cells(0, 600), np.sort(np.random.default_rng(0).permutation(600)[:200])
    new = cells(1, 200), cells(2, 200, 2.5)
    full = [yardstick(views, rows).novelty(part) for part in new]
    monkeypatch.setattr(novelty, "_MOST_LANDMARKS", landmarks)
    fewer = [yardstick(views, rows).novelty(part) for part in new]
    assert np.corrcoef(np.concatenate(full), np.concatenate(fewer))[0, 1] > 0.95
    assert 0 <= (fewer[0] > 1).mean() < 0.04
    truth = np.repeat([0, 1], 200)
    assert roc_auc_score(truth, np.concatenate(fewer)) > roc_auc_score(truth, np.concatenate(full)) - 0.03


def test_a_landmark_is_not_its_own_neighbour(monkeypatch):
    """Or training cells would seem nearer than new ones, and most new ones would seem new."""
    monkeypatch.setattr(novelty, "_MOST_LANDMARKS", 500)
    ruler = yardstick(cells(0, 1000), np.arange(1000))
    known = ruler.novelty(cells(1, 2000))
    assert abs(np.median(known)) < 0.15
    assert (known > 1).mean() < 0.03


@pytest.mark.parametrize("n", [2, 3, 5])
def test_few_training_cells(n):
    found = yardstick(cells(0, n), n_neighbors=14).novelty(cells(1, 20))
    assert np.isfinite(found).all()


def test_cells_that_are_all_the_same():
    views = cells(0, 1).take(np.zeros(30, dtype=np.int64))
    assert np.isfinite(yardstick(views).novelty(cells(1, 20))).all()
