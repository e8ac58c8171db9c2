"""How unlike the training cells a new cell is, from three sides that fail in different places.

A cell of an unseen type may lie in a sparse region of expression space, or in a dense one that belongs to its nearest
relatives; its counts may fit no mixture that the decoders can make; and the encoders may put it between the clusters.
Each is measured against what training cells show among themselves, and the three are added. Our own; the first is the
local outlier factor of Breunig et al. (2000) in its simplest form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .neighbors import nearest

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MOST_LANDMARKS = 20_000  # distances among all pairs are affordable up to here
_TINY = 1e-9
_UPPER = 99  # percentile of the training cells that a novelty of one stands for


def unexplained(counts: NDArray[np.float32], shares: NDArray[np.float32]) -> NDArray[np.float64]:
    """(n_cells,) divergence per count of observed shares of counts (n_cells, n_genes) from expected ``shares``.

    The Kullback-Leibler divergence, which is half the multinomial deviance over the number of counts.
    """
    cells, genes = np.nonzero(counts)
    observed = counts[cells, genes] / counts.sum(axis=1, dtype=np.float64)[cells]
    terms = observed * (np.log(observed) - np.log(shares[cells, genes] + _TINY))
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
class Views:
    """What of some cells is looked at."""

    position: NDArray[np.float32]  # (n_cells, n_components) among the genes, or where the graph was built
    latents: NDArray[np.float32]  # (n_cells, n_dimensions) of all networks, on one scale
    depth: NDArray[np.float32]  # (n_cells,) counts
    unexplained: NDArray[np.float64]  # (n_cells,)

    def take(self, rows: NDArray[np.int64]) -> Views:
        """These rows."""
        return Views(self.position[rows], self.latents[rows], self.depth[rows], self.unexplained[rows])


class Yardstick:
    """What is usual among training cells."""

    def __init__(
        self,
        position: NDArray[np.float32],
        latents: NDArray[np.float32],
        sample: Views,
        rows: NDArray[np.int64],
        *,
        n_neighbors: int,
        metric: str,
    ) -> None:
        """From all training cells' ``position`` and ``latents``, and a ``sample`` of them, whose ``rows`` these are."""
        landmarks = np.arange(len(position))
        if len(position) > _MOST_LANDMARKS:
            landmarks = np.linspace(0, len(position) - 1, _MOST_LANDMARKS).astype(np.int64)
        self._position, self._latents = position[landmarks], latents[landmarks]
        self._k, self._metric = min(n_neighbors, len(landmarks) - 1), metric
        own = np.arange(len(landmarks))
        self._spacing = nearest_others(self._position, self._position, own, self._k, metric)[0].mean(axis=1)
        depths = _log(sample.depth)
        self._depths = depths.min(), depths.max()  # nothing is known of the parabola beyond them
        degree = min(2, len(np.unique(depths)) - 1)
        self._of_depth = np.polynomial.Polynomial.fit(depths, sample.unexplained, degree, domain=[0, 1])
        place = np.searchsorted(landmarks, rows)
        itself = np.where(landmarks[np.minimum(place, len(landmarks) - 1)] == rows, place, -1)
        views = self._views(sample, itself)
        self._centre, self._unit = views.mean(axis=0), np.maximum(views.std(axis=0), _TINY)
        added = self._added(views)
        self._usual = float(np.median(added))
        self._range = max(float(np.percentile(added, _UPPER)) - self._usual, _TINY)

    def novelty(self, cells: Views) -> NDArray[np.float32]:
        """(n_cells,) 0 for a cell like the median training cell, 1 for one at the 99th percentile."""
        added = self._added(self._views(cells, np.full(len(cells.depth), -1)))
        return np.asarray((added - self._usual) / self._range, dtype=np.float32)

    def _added(self, views: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(((views - self._centre) / self._unit).sum(axis=1))

    def _views(self, cells: Views, itself: NDArray[np.int64]) -> NDArray[np.float64]:
        """(n_cells, 3); ``itself`` is the landmark that each cell is, or -1."""
        distances, indices = nearest_others(self._position, cells.position, itself, self._k, self._metric)
        around = np.median(self._spacing[indices], axis=1)
        in_latent, _ = nearest_others(self._latents, cells.latents, itself, self._k, "euclidean")
        return np.stack(
            [
                np.log((distances.mean(axis=1) + _TINY) / (around + _TINY)),
                np.log(in_latent.mean(axis=1) + _TINY),
                cells.unexplained - self._of_depth(np.clip(_log(cells.depth), *self._depths)),
            ],
            axis=1,
        )


def _log(depth: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.log1p(depth).astype(np.float64)  # numpy 1 fits float32 in float32, where close depths count as one
