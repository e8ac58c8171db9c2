"""How sure the place of each cell is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .consensus import Replicates

# Weight of the strict reading. Six partitions split and join clusters more often than a whole run does, which is why it
# is small; without it, cells of clusters that often are split or joined would pass for sure.
_STRICT = 0.2


def confidence(labels: NDArray[np.int64], proba: NDArray[np.float32], others: Replicates) -> NDArray[np.float32]:
    """(n_cells,) estimated share of runs that put a cell into the cluster that ``labels`` (n_cells,) has it in.

    The mean of two: how often it stays there in ``others``, and what its soft assignment ``proba``
    (n_cells, n_clusters) says. The first is a share of runs, but coarse, and the same for cells that go together. The
    second orders cells by how close they are to another cluster, but is no share of anything, so it is put on the
    scale of the first by isotonic regression. Our own.
    """
    from sklearn.isotonic import IsotonicRegression

    stays = (1 - _STRICT) * agreement(labels, others.finer) + _STRICT * strict_agreement(labels, others.alike)
    closeness = proba.max(axis=1).astype(np.float64)
    expected = IsotonicRegression(out_of_bounds="clip").fit(closeness, stays).predict(closeness)
    return np.asarray((stays + expected) / 2, dtype=np.float32)


def agreement(labels: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n_cells,) share of other clusterings (n_others, n_cells) that put a cell where ``labels`` (n_cells,) has it.

    A cluster of another clustering stands for the one of ``labels`` that most of its cells are in.
    """
    kept = np.zeros(len(labels))
    for other in others:
        shared = _shared(other, labels)
        kept += shared.argmax(axis=1)[other] == labels
    return kept / len(others)


def strict_agreement(labels: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n_cells,) the same where a cluster stands for one other at most, those that together keep most cells.

    Cells of a cluster that another clustering splits, or joins to a larger one, have then left it in part.
    """
    from scipy.optimize import linear_sum_assignment

    kept = np.zeros(len(labels))
    for other in others:
        shared = _shared(other, labels)
        partner = np.full(len(shared), -1)
        rows, columns = linear_sum_assignment(shared, maximize=True)
        partner[rows] = columns
        kept += partner[other] == labels
    return kept / len(others)


def _shared(other: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n_others, n_labels) cells that a cluster of each has in common."""
    n, n_others = int(labels.max()) + 1, int(other.max()) + 1
    return np.bincount(other * n + labels, minlength=n_others * n).reshape(n_others, n)
