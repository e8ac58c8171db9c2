"""Hard partitions of the latent: the start of self-training, and how many clusters there are."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_RESTARTS = 20
_MIXTURE_CELLS = 5_000
_MOST_CLUSTERS = 50
_CELLS_PER_COMPONENT = 10
_PATIENCE = 5
_COVARIANCE_FLOOR = 1e-2  # of the mean variance; keeps a component from collapsing on duplicated cells


def kmeans(latent: NDArray[np.float32], n_clusters: int, random_state: int) -> NDArray[np.int64]:
    """Labels (n_cells,) of k-means with restarts on the latent (n_cells, n_latent)."""
    from sklearn.cluster import KMeans

    with _duplicates_allowed():
        found = KMeans(n_clusters, n_init=_RESTARTS, random_state=random_state).fit(latent)
    return np.asarray(found.labels_, dtype=np.int64)


def centroids_of(latent: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[NDArray[np.float32], float]:
    """Mean latent of each label, (n_labels, n_latent), and the standard deviation within labels, per dimension."""
    _, members = np.unique(labels, return_inverse=True)
    centroids = np.stack([latent[members == label].mean(axis=0) for label in range(members.max() + 1)])
    spread = float((latent - centroids[members]).std())
    return centroids, max(spread, float(np.finfo(np.float32).eps))


def choose_n_clusters(latent: NDArray[np.float32], random_state: int) -> tuple[int, dict[str, NDArray[np.float64]]]:
    """Number of clusters by the Bayesian information criterion of Gaussian mixtures of the latent.

    Mixtures of 1, 2, ... components are fitted (to a sample of at most 5,000 cells), with full and with diagonal
    covariances, until the criterion has got worse several times in a row. The best mixture of all counts the clusters
    (Fraley & Raftery 1998): full covariances win where there are cells enough to estimate them. Returns the number
    and the curves ``n_clusters``, ``bic_full`` and ``bic_diag`` (lower is better; NaN where a search had ended).
    """
    rng = np.random.default_rng(random_state)
    sample = latent[rng.choice(len(latent), min(len(latent), _MIXTURE_CELLS), replace=False)]
    curves = {f"bic_{kind}": _bic_curve(sample, kind, random_state) for kind in ("full", "diag")}
    longest = max(map(len, curves.values()))
    padded = {name: np.pad(curve, (0, longest - len(curve)), constant_values=np.nan) for name, curve in curves.items()}
    best = np.nanmin(np.stack(list(padded.values())), axis=0)
    return int(best.argmin()) + 1, {"n_clusters": np.arange(1.0, longest + 1), **padded}


def _bic_curve(sample: NDArray[np.float32], kind: str, random_state: int) -> NDArray[np.float64]:
    from sklearn.mixture import GaussianMixture

    sample = sample.astype(np.float64) - sample.mean(axis=0)
    floor = max(_COVARIANCE_FLOOR * float(sample.var(axis=0).mean()), float(np.finfo(np.float32).tiny))
    most = max(1, min(_MOST_CLUSTERS, len(sample) // _CELLS_PER_COMPONENT))
    curve: list[float] = []
    while len(curve) < most and len(curve) - np.argmin([*curve, np.inf]) < _PATIENCE + 1:
        mixture = GaussianMixture(len(curve) + 1, covariance_type=kind, reg_covar=floor, random_state=random_state)
        with _duplicates_allowed():
            curve.append(mixture.fit(sample).bic(sample))
    return np.array(curve)


@contextmanager
def _duplicates_allowed() -> Iterator[None]:
    """Fewer distinct cells than clusters are no cause for sklearn's warning: callers see how many were found."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield
