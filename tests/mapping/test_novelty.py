"""Novelty: training cells have the percentiles that are promised, and other cells stand out by how far off they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from sctag_tools.mapping import novelty
from sctag_tools.mapping.novelty import CellFeatures, NoveltyScorer, multinomial_deviance


def cells(seed, n, shift=0.0):
    """Features of ``n`` cells in three groups, moved by ``shift``."""
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(9).normal(size=(3, 6))[np.arange(n) % 3] * 6
    representation = (centers + rng.normal(size=(n, 6)) + shift).astype(np.float32)
    latents = (centers[:, :4] / 6 + 0.2 * rng.normal(size=(n, 4)) + shift / 6).astype(np.float32)
    n_counts = rng.integers(200, 2000, n).astype(np.float32)
    deviance = 1 + 100 / n_counts.astype(float) + 0.05 * rng.normal(size=n) + shift / 10
    return CellFeatures(representation, latents, n_counts, deviance)


def take(features, rows):
    return CellFeatures(**{name: array[rows] for name, array in vars(features).items()})


def scorer(features, rows=None, n_neighbors=10, metric="euclidean"):
    rows = np.arange(len(features.n_counts)) if rows is None else rows
    return NoveltyScorer(
        features.representation, features.latents, take(features, rows), rows, n_neighbors=n_neighbors, metric=metric
    )


def test_deviance_is_the_divergence_of_the_shares():
    rng = np.random.default_rng(0)
    counts = rng.poisson(2, (7, 20)).astype(np.float32)
    counts[[2, 6]] = 0  # within and at the end: cells without counts deviate from nothing
    proportions = rng.dirichlet(np.ones(20), 7).astype(np.float32)
    observed = counts.astype(float) / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    by_hand = [
        sum(p * np.log(p / (q + 1e-9)) for p, q in zip(a, b, strict=True) if p > 0)
        for a, b in zip(observed, proportions, strict=True)
    ]
    found = multinomial_deviance(counts, proportions)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, by_hand, rtol=1e-5)
    assert found[2] == found[6] == 0
    np.testing.assert_allclose(multinomial_deviance(counts, observed.astype(np.float32)), 0, atol=1e-5)


def test_depth_beyond_the_sample_is_taken_for_its_end():
    found, new = scorer(cells(0, 500)), cells(1, 100)
    deepest, deeper, shallow = (
        found.score_samples(replace(new, n_counts=np.full(100, n))) for n in (1999.0, 1e6, 200.0)
    )
    assert np.abs(deeper - deepest).max() < 0.01
    assert np.abs(shallow - deepest).max() > 0.1


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "manhattan"])
def test_one_stands_for_the_99th_percentile_of_cells_like_the_training_cells(metric):
    known = scorer(cells(0, 1500), metric=metric).score_samples(cells(1, 3000))
    assert known.dtype == np.float32
    assert known.shape == (3000,)
    assert abs(np.median(known)) < 0.1
    assert 0.003 < (known > 1).mean() < 0.025


def test_the_training_sample_itself_has_the_percentiles():
    """Each cell without itself among its neighbors: by hand, from the three features."""
    features, k = cells(0, 400), 10

    def others(x):
        distance, index = NearestNeighbors(n_neighbors=k + 1, algorithm="brute").fit(x).kneighbors(x)
        return distance[:, 1:], index[:, 1:]

    distance, index = others(features.representation)
    spacing, log_counts = distance.mean(axis=1), np.log1p(features.n_counts)
    usual = np.polynomial.Polynomial.fit(log_counts, features.deviance, 2)
    in_latent = others(features.latents)[0].mean(axis=1)
    three = np.stack(
        [
            np.log(spacing / np.median(spacing[index], axis=1)),
            np.log(in_latent),
            features.deviance - usual(log_counts),
        ],
        axis=1,
    )
    added = ((three - three.mean(axis=0)) / three.std(axis=0)).sum(axis=1)
    expected = (added - np.median(added)) / (np.percentile(added, 99) - np.median(added))
    assert (expected > 1).sum() == 4
    # Of a cell that is asked as a new one, the cell itself is a neighbor: it is nearer than by hand.
    found = scorer(features, n_neighbors=k).score_samples(features)
    assert (found <= expected + 1e-3).mean() > 0.99
    assert np.corrcoef(found, expected)[0, 1] > 0.8


def test_higher_the_further_away():
    found = scorer(cells(0, 600))
    means = [found.score_samples(cells(1, 300, shift)).mean() for shift in (0.0, 1.0, 2.0, 4.0)]
    assert np.all(np.diff(means) > 0.2), means


@pytest.mark.parametrize(("feature", "shift"), [("representation", 5.0), ("latents", 3.0), ("deviance", 0.5)])
def test_each_feature_counts(feature, shift):
    """A cell may be unlike the others in one respect alone."""
    known, odd = cells(1, 300), cells(1, 300)
    getattr(odd, feature)[:] += shift
    found = scorer(cells(0, 600))
    scores = np.concatenate([found.score_samples(known), found.score_samples(odd)])
    assert roc_auc_score(np.repeat([0, 1], 300), scores) > 0.9


def test_shallow_cells_are_not_new_for_being_shallow():
    """Divergence per count falls with depth whatever a cell is; that much is taken off."""
    known = cells(1, 3000)
    found = scorer(cells(0, 1500)).score_samples(known)
    shallow = known.n_counts < np.quantile(known.n_counts, 0.1)
    assert known.deviance[shallow].mean() > known.deviance[~shallow].mean() + 0.2
    assert abs(np.median(found[shallow]) - np.median(found[~shallow])) < 0.3


def test_sparse_regions_are_not_new_for_being_sparse():
    """A distance counts beside those that the neighbors have among themselves."""

    def two_densities(seed, n):
        dense = np.arange(n) % 2 == 1
        width = np.where(dense, 0.1, 1.0)[:, None]
        x = 20 * dense[:, None] + width * np.random.default_rng(seed).normal(size=(n, 6))
        return replace(cells(seed, n), representation=x.astype(np.float32)), dense

    fitted, (known, dense) = scorer(two_densities(0, 1000)[0]), two_densities(1, 600)
    found = fitted.score_samples(known)
    assert abs(np.median(found[dense]) - np.median(found[~dense])) < 0.2
    known.representation[:] += 0.5  # little beside the one width, much beside the other
    moved = fitted.score_samples(known) - found
    assert np.median(moved[dense]) > np.median(moved[~dense]) + 0.5


@pytest.mark.parametrize("landmarks", [300, 299, 150])
def test_fewer_landmarks_give_nearly_the_same(monkeypatch, landmarks):
    features, rows = cells(0, 600), np.sort(np.random.default_rng(0).permutation(600)[:200])
    new = cells(1, 200), cells(2, 200, 2.5)
    full = [scorer(features, rows).score_samples(part) for part in new]
    monkeypatch.setattr(novelty, "_MAX_LANDMARKS", landmarks)
    fewer = [scorer(features, rows).score_samples(part) for part in new]
    assert np.corrcoef(np.concatenate(full), np.concatenate(fewer))[0, 1] > 0.95
    assert 0 <= (fewer[0] > 1).mean() < 0.04
    truth = np.repeat([0, 1], 200)
    assert roc_auc_score(truth, np.concatenate(fewer)) > roc_auc_score(truth, np.concatenate(full)) - 0.03


def test_a_landmark_is_not_its_own_neighbor(monkeypatch):
    """Or training cells would seem nearer than new ones, and most new ones would seem new."""
    monkeypatch.setattr(novelty, "_MAX_LANDMARKS", 500)
    known = scorer(cells(0, 1000)).score_samples(cells(1, 2000))
    assert abs(np.median(known)) < 0.15
    assert (known > 1).mean() < 0.03


@pytest.mark.parametrize("n", [2, 3, 5, 30])
def test_few_or_equal_training_cells(n):
    features = cells(0, n) if n < 30 else take(cells(0, 1), np.zeros(n, dtype=np.int64))
    assert np.isfinite(scorer(features, n_neighbors=14).score_samples(cells(1, 20))).all()
