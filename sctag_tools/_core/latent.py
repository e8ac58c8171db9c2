"""The latents of several networks: on one scale, joined into one, and summarised by clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_TINY = float(np.finfo(np.float32).eps)


def standardised(latent: NDArray[np.float32]) -> NDArray[np.float32]:
    """Centred, with a mean variance of one: networks choose the scale of their latent at will."""
    centred = latent - latent.mean(axis=0)
    return np.asarray(centred / max(float(centred.std()), _TINY), dtype=np.float32)


def joint_latent(latents: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """(n_cells, n_latent) principal components of the latents of all networks, side by side.

    Each network turns its latent as it likes; the components of all together hold what they share. Signs are such
    that the largest loading is positive.
    """
    joined = np.concatenate([standardised(latent) for latent in latents], axis=1).astype(np.float64)
    _, loadings = np.linalg.eigh(joined.T @ joined)
    loadings = loadings[:, ::-1][:, : latents[0].shape[1]]
    loadings *= np.sign(np.take_along_axis(loadings, np.abs(loadings).argmax(axis=0)[None], axis=0))
    return np.asarray(joined @ loadings, dtype=np.float32)


def centroids_of(latent: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[NDArray[np.float32], float]:
    """Mean latent of each label, (n_labels, n_latent), and the standard deviation within labels, per dimension."""
    _, members = np.unique(labels, return_inverse=True)
    centroids = np.stack([latent[members == label].mean(axis=0) for label in range(members.max() + 1)])
    spread = float((latent - centroids[members]).std())
    return centroids, max(spread, _TINY)
