"""How unlike the training cells a new cell is.

Three features fail in different places, so they are added. A cell of an unseen type may lie in a sparse region of
expression space, or in a dense one that belongs to its nearest relatives; its counts may fit nothing that the decoders
can make; and the encoders may put it between the clusters. Each feature is compared with what training cells show among
themselves. Our own; the first is the local outlier factor of Breunig et al. (2000) in its simplest form.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..neighbors.search import nearest

_MAX_LANDMARKS = 20_000  # distances among all pairs are affordable up to here
_TINY = 1e-9
_UPPER_PERCENTILE = 99  # of the training cells; a novelty of one stands for it


def multinomial_deviance(counts: NDArray[np.float32], proportions: NDArray[np.float32]) -> NDArray[np.float64]:
    """(n_cells,) Kullback-Leibler divergence of the shares of ``counts`` from expected ``proportions``.

    Both are (n_cells, n_genes). It is half the multinomial deviance over the number of counts.
    """
    cells, genes = np.nonzero(counts)
    observed = counts[cells, genes] / counts.sum(axis=1, dtype=np.float64)[cells]
    terms = observed * (np.log(observed) - np.log(proportions[cells, genes] + _TINY))
    return np.asarray(np.bincount(cells, terms, minlength=len(counts)), dtype=np.float64)


def nearest_others(
    x: NDArray[np.float32], queries: NDArray[np.float32], itself: NDArray[np.int64], k: int, metric: str
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Distances to the ``k`` nearest rows of ``x`` and their numbers, (n_queries, k) each.

    ``itself`` (n_queries,) is the row that a query is, which does not count, or -1.
    """
    k = min(k, len(x) - 1)
    indices, distances = nearest(x, queries, k + 1, metric)
    own = indices == itself[:, None]
    own[~own.any(axis=1), -1] = True  # the farthest is one too many
    return distances[~own].reshape(len(queries), k), indices[~own].reshape(len(queries), k)


@dataclass(frozen=True)
class CellFeatures:
    """Per-cell features of the novelty score."""

    representation: NDArray[np.float32]  # (n_cells, n_components) in the space that the graph was built in
    latents: NDArray[np.float32]  # (n_cells, n_dimensions) of all networks, on one scale
    n_counts: NDArray[np.float32]  # (n_cells,)
    deviance: NDArray[np.float64]  # (n_cells,) of the counts from what is decoded


class NoveltyScorer:
    """Scores cells by how unusual their features are among training cells."""

    def __init__(
        self,
        representation: NDArray[np.float32],
        latents: NDArray[np.float32],
        sample: CellFeatures,
        sample_rows: NDArray[np.int64],
        *,
        n_neighbors: int,
        metric: str,
    ) -> None:
        """Fit to ``representation`` and ``latents`` of all training cells, and a ``sample`` of them."""
        landmarks = np.arange(len(representation))
        if len(representation) > _MAX_LANDMARKS:
            landmarks = np.linspace(0, len(representation) - 1, _MAX_LANDMARKS).astype(np.int64)
        self._representation, self._latents = representation[landmarks], latents[landmarks]
        self._k, self._metric = min(n_neighbors, len(landmarks) - 1), metric
        own = np.arange(len(landmarks))
        distances, _ = nearest_others(self._representation, self._representation, own, self._k, metric)
        self._spacing = distances.mean(axis=1)
        log_counts = _log(sample.n_counts)
        self._range_of_log_counts = log_counts.min(), log_counts.max()  # the parabola is unknown beyond them
        degree = min(2, len(np.unique(log_counts)) - 1)
        self._usual_deviance = np.polynomial.Polynomial.fit(log_counts, sample.deviance, degree, domain=[0, 1])
        place = np.searchsorted(landmarks, sample_rows)
        itself = np.where(landmarks[np.minimum(place, len(landmarks) - 1)] == sample_rows, place, -1)
        scores = self._feature_scores(sample, itself)
        self._means, self._stds = scores.mean(axis=0), np.maximum(scores.std(axis=0), _TINY)
        total = self._total(scores)
        self._median = float(np.median(total))
        self._range = max(float(np.percentile(total, _UPPER_PERCENTILE)) - self._median, _TINY)

    def score_samples(self, cells: CellFeatures) -> NDArray[np.float32]:
        """(n_cells,) 0 for a cell like the median training cell, 1 for one at the 99th percentile."""
        total = self._total(self._feature_scores(cells, np.full(len(cells.n_counts), -1)))
        return np.asarray((total - self._median) / self._range, dtype=np.float32)

    def _total(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(((scores - self._means) / self._stds).sum(axis=1))

    def _feature_scores(self, cells: CellFeatures, itself: NDArray[np.int64]) -> NDArray[np.float64]:
        """(n_cells, 3); ``itself`` is the landmark that each cell is, or -1."""
        distances, indices = nearest_others(self._representation, cells.representation, itself, self._k, self._metric)
        around = np.median(self._spacing[indices], axis=1)
        in_latent, _ = nearest_others(self._latents, cells.latents, itself, self._k, "euclidean")
        usual = self._usual_deviance(np.clip(_log(cells.n_counts), *self._range_of_log_counts))
        return np.stack(
            [
                np.log((distances.mean(axis=1) + _TINY) / (around + _TINY)),
                np.log(in_latent.mean(axis=1) + _TINY),
                cells.deviance - usual,
            ],
            axis=1,
        )


def _log(n_counts: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.log1p(n_counts).astype(np.float64)  # numpy 1 fits float32 in float32, where close depths count as one
