"""The latents of several networks joined into one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

_TINY = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class JointLatent:
    """Principal components of the latents of all networks, side by side.

    Each network is free to rotate its latent; the leading components of all together hold what they share.
    """

    means: NDArray[np.float32]  # (n_networks, n_latent)
    scales: NDArray[np.float32]  # (n_networks,) divisor of each latent, which brings its mean variance to one
    loadings: NDArray[np.float32]  # (n_networks * n_latent, n_latent), signs such that the largest is positive

    @classmethod
    def fit(cls, latents: Sequence[NDArray[np.float32]]) -> Self:
        """From (n_cells, n_latent) latents."""
        means = np.stack([latent.mean(axis=0) for latent in latents])
        scales = np.array([max(float((z - mean).std()), _TINY) for z, mean in zip(latents, means, strict=True)])
        joined = _joined(latents, means, scales)
        _, loadings = np.linalg.eigh(joined.T @ joined)
        loadings = loadings[:, ::-1][:, : latents[0].shape[1]]
        loadings *= np.sign(np.take_along_axis(loadings, np.abs(loadings).argmax(axis=0)[None], axis=0))
        return cls(means, scales.astype(np.float32), loadings.astype(np.float32))

    def transform(self, latents: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """(n_cells, n_latent) joint latent of these or other cells."""
        return np.asarray(_joined(latents, self.means, self.scales) @ self.loadings, dtype=np.float32)


def _joined(
    latents: Sequence[NDArray[np.float32]], means: NDArray[np.floating], scales: NDArray[np.floating]
) -> NDArray[np.float64]:
    parts = [(latent - mean) / scale for latent, mean, scale in zip(latents, means, scales, strict=True)]
    return np.concatenate(parts, axis=1).astype(np.float64)
