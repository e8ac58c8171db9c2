"""The latents of several networks: on one scale, joined into one, and summarised by clusters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_TINY = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class JointLatent:
    """The principal components of the latents of all networks, side by side.

    Each network turns its latent as it likes; the components of all together hold what they share.
    """

    means: NDArray[np.float32]  # (n_networks, n_latent)
    scales: NDArray[np.float32]  # (n_networks,) what a network's latent is divided by, to a mean variance of one
    loadings: NDArray[np.float32]  # (n_networks * n_latent, n_latent), signs such that the largest is positive

    @classmethod
    def of(cls, latents: Sequence[NDArray[np.float32]]) -> JointLatent:
        """Learnt from (n_cells, n_latent) latents."""
        means = np.stack([latent.mean(axis=0) for latent in latents])
        scales = np.array([max(float((z - mean).std()), _TINY) for z, mean in zip(latents, means, strict=True)])
        joined = _joined(latents, means, scales)
        _, loadings = np.linalg.eigh(joined.T @ joined)
        loadings = loadings[:, ::-1][:, : latents[0].shape[1]]
        loadings *= np.sign(np.take_along_axis(loadings, np.abs(loadings).argmax(axis=0)[None], axis=0))
        return cls(means, scales.astype(np.float32), loadings.astype(np.float32))

    def apply(self, latents: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """(n_cells, n_latent) joint latent of these or other cells."""
        return np.asarray(_joined(latents, self.means, self.scales) @ self.loadings, dtype=np.float32)


def _joined(
    latents: Sequence[NDArray[np.float32]], means: NDArray[np.floating], scales: NDArray[np.floating]
) -> NDArray[np.float64]:
    parts = [(latent - mean) / scale for latent, mean, scale in zip(latents, means, scales, strict=True)]
    return np.concatenate(parts, axis=1).astype(np.float64)


def centroids_of(latent: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[NDArray[np.float32], float]:
    """Mean latent of each label, (n_labels, n_latent), and the standard deviation within labels, per dimension."""
    _, members = np.unique(labels, return_inverse=True)
    centroids = np.stack([latent[members == label].mean(axis=0) for label in range(members.max() + 1)])
    spread = float((latent - centroids[members]).std())
    return centroids, max(spread, _TINY)
