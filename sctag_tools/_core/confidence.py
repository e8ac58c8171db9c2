"""How sure the place of each cell is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def confidence(labels: NDArray[np.int64], proba: NDArray[np.float32], others: NDArray[np.int64]) -> NDArray[np.float32]:
    """(n_cells,) estimated share of runs that put a cell into the cluster that ``labels`` (n_cells,) has it in.

    The mean of two: how often it stays there in ``others`` (n_others, n_cells), and what its soft assignment ``proba``
    (n_cells, n_clusters) says. The first is a share of runs, but coarse, and the same for cells that go together. The
    second orders cells by how close they are to another cluster, but is no share of anything, so it is put on the
    scale of the first by isotonic regression. Our own.
    """
    from sklearn.isotonic import IsotonicRegression

    stays = agreement(labels, others)
    closeness = proba.max(axis=1).astype(np.float64)
    expected = IsotonicRegression(out_of_bounds="clip").fit(closeness, stays).predict(closeness)
    return np.asarray((stays + expected) / 2, dtype=np.float32)


def agreement(labels: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n_cells,) share of other clusterings (n_others, n_cells) that put a cell where ``labels`` (n_cells,) has it.

    A cluster of another clustering stands for the one of ``labels`` that most of its cells are in.
    """
    kept = np.zeros(len(labels))
    n = int(labels.max()) + 1
    for other in others:
        shared = np.bincount(other * n + labels, minlength=(int(other.max()) + 1) * n).reshape(-1, n)
        kept += shared.argmax(axis=1)[other] == labels
    return kept / len(others)
