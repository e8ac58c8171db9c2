"""What a run found."""

from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ..mapping.reference import ReferenceModel  # loads torch


@dataclass(frozen=True)
class FitResult:
    """Arrays on the CPU; clusters are numbered by falling size."""

    latent: NDArray[np.float32]  # (n_cells, n_latent)
    proba: NDArray[np.float32]  # (n_cells, n_clusters), rows sum to one
    labels: NDArray[np.int64]  # (n_cells,)
    confidence: NDArray[np.float32]  # (n_cells,) in [0, 1]
    history: dict[str, NDArray[np.float64]]  # one value a step
    n_clusters_curve: dict[str, NDArray[np.float64]] | None  # why this many clusters; None if the number was given
    stop_reasons: dict[str, str]  # phase -> why it ended
    seconds: dict[str, float]  # stage -> wall time
    device: str
    cluster_confidence: dict[str, NDArray[np.float64]] | None = None  # one value a cluster; None if published
    tree: dict[str, NDArray[Any]] | None = None  # what the clusters are a cut of (:class:`.Hierarchy`); None likewise
    reference: "ReferenceModel | None" = None  # what new cells are mapped to; None if it was not asked for

    @property
    def n_clusters(self) -> int:
        """Clusters that hold a cell."""
        return int(self.proba.shape[1])

    def record(self, params: dict[str, Any]) -> dict[str, Any]:
        """What ``adata.uns`` keeps of the run: only what h5ad and zarr can hold."""
        record: dict[str, Any] = {
            "params": params,
            "history": self.history,
            "stop": self.stop_reasons,
            "seconds": self.seconds,
            "device": self.device,
            "versions": {name: version(name) for name in ("sctag-tools", "torch", "torch-geometric")},
        }
        for name in ("cluster_confidence", "n_clusters_curve", "tree"):
            if getattr(self, name) is not None:
                record[name] = getattr(self, name)
        return record


def clusters_by_size(proba: NDArray[np.float32]) -> NDArray[np.int64]:
    """Columns of ``proba`` (n_cells, n_clusters), most preferred first, without those that no cell prefers.

    Of two equal sizes, the one that holds the first cell comes first: rounding must not decide the order.
    """
    found, first, sizes = np.unique(proba.argmax(axis=1), return_index=True, return_counts=True)
    return found[np.lexsort((first, -sizes))]


def select_clusters(proba: NDArray[np.float32], columns: NDArray[np.int64]) -> NDArray[np.float32]:
    """These columns, rows summing to one."""
    kept = np.ascontiguousarray(proba[:, columns])
    kept /= kept.sum(axis=1, keepdims=True)
    return kept
