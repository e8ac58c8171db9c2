"""Why training cells lie in their cluster and not in another: parts of genes, of the graph, and of each neighbor."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from ..nn.attribution import Attribution, attribute, log_assignment
from ..nn.tag import normalize_adjacency
from ..train.preprocessing import log_expression
from .reference import ROWS_AT_ONCE, ReferenceCells, ReferenceModel

_CELLS_AT_ONCE = 256


@dataclass(frozen=True)
class TrainingCells:
    """The cells of a run as they were trained on, in any one order."""

    counts: sparse.csr_matrix  # (n_cells, n_genes) of the genes of the model
    totals: NDArray[np.float64]  # (n_cells,) over all genes
    connectivities: sparse.csr_matrix  # (n_cells, n_cells)
    found: ReferenceCells  # what the run found of them

    def scaled(self, model: ReferenceModel, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """(n_rows, n_genes) what the networks read of these cells."""
        return model.scaler.transform(
            log_expression(self.counts[rows], self.totals[rows]), self.found.batch_index[rows]
        )


@dataclass(frozen=True)
class Explanation:
    """What speaks for the cluster of some cells."""

    proba: NDArray[np.float32]  # (n_rows, n_clusters) computed anew from counts and graph
    log_odds: NDArray[np.float32]  # (n_rows,) of the cluster against the other
    own: NDArray[np.float32]  # (n_rows, n_genes) parts of the cell's own expression
    graph: NDArray[np.float32]  # (n_rows, n_genes) parts of its neighbors' expression
    by_neighbor: sparse.csr_matrix  # (n_rows, n_cells) the latter by neighbor
    difference: NDArray[np.float32]  # (n_rows, n_genes) scaled expression above that of the other's average cell


def explain_cells(
    model: ReferenceModel,
    cells: TrainingCells,
    rows: NDArray[np.int64],
    cluster: NDArray[np.int64],
    other: NDArray[np.int64],
    n_steps: int,
) -> Explanation:
    """Parts of the log odds of ``cluster`` against ``other``, above those of the average cell of ``other``.

    ``rows`` (n_rows,) are the numbers of the cells to explain, ``cluster`` and ``other`` (n_rows,) numbers of clusters.
    """
    n, others = len(rows), np.unique(other)
    sums = sparse.vstack([_indicator([[row] for row in rows.tolist()], cells), _averages(others, cells)], format="csr")
    weights = _weights_of_hops(sums, cells, model.config.n_hops)
    hops = _hop_features(weights, cells, model)
    baselines = hops[n + np.searchsorted(others, other)]
    parts = []
    for start in range(0, n, _CELLS_AT_ONCE):
        at = slice(start, min(start + _CELLS_AT_ONCE, n))
        arrays = hops[at], baselines[at], cluster[at], other[at]
        parts.append(attribute(model.networks, model.centroid_index, *arrays, n_steps))
    found = Attribution(*(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(Attribution)))
    with torch.no_grad():
        log_q = log_assignment(model.networks, model.centroid_index, torch.from_numpy(hops[:n]))
    return Explanation(
        proba=np.asarray(log_q.exp().numpy()),
        log_odds=found.log_odds,
        own=found.parts[:, 0],
        graph=found.parts[:, 1:].sum(axis=1),
        by_neighbor=_by_neighbor(found.gradients, baselines, [each[:n] for each in weights[1:]], cells, model),
        difference=hops[:n, 0] - baselines[:, 0],
    )


def _indicator(groups: Sequence[Sequence[int]], cells: TrainingCells) -> sparse.csr_matrix:
    """(n_groups, n_cells) one over the size of each group for its cells: rows times features are means."""
    sizes = [len(group) for group in groups]
    weights = np.repeat(1 / np.array(sizes, dtype=np.float32), sizes)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    return sparse.csr_matrix((weights, np.concatenate(groups), starts), shape=(len(groups), len(cells.totals)))


def _averages(clusters: NDArray[np.int64], cells: TrainingCells) -> sparse.csr_matrix:
    labels = cells.found.proba.argmax(axis=1)
    return _indicator([np.flatnonzero(labels == cluster).tolist() for cluster in clusters], cells)


def _weights_of_hops(sums: sparse.csr_matrix, cells: TrainingCells, n_hops: int) -> list[sparse.csr_matrix]:
    """For each hop the weights (n_rows, n_cells) with which the features of all cells add up."""
    adjacency, weights = normalize_adjacency(cells.connectivities), [sums]
    for _ in range(n_hops):
        weights.append(sparse.csr_matrix(weights[-1] @ adjacency))
    return weights


def _hop_features(
    weights: Sequence[sparse.csr_matrix], cells: TrainingCells, model: ReferenceModel
) -> NDArray[np.float32]:
    """(n_rows, n_hops + 1, n_genes), from one pass over all cells in blocks."""
    features = np.zeros((weights[0].shape[0], len(weights), model.n_genes), dtype=np.float32)
    by_cell = [sparse.csc_matrix(each) for each in weights]
    for start in range(0, len(cells.totals), ROWS_AT_ONCE):
        block = np.arange(start, min(start + ROWS_AT_ONCE, len(cells.totals)))
        x = cells.scaled(model, block)
        for k, each in enumerate(by_cell):
            features[:, k] += each[:, block] @ x
    return features


def _by_neighbor(
    gradients: NDArray[np.float32],
    baselines: NDArray[np.float32],
    weights: Sequence[sparse.csr_matrix],
    cells: TrainingCells,
    model: ReferenceModel,
) -> sparse.csr_matrix:
    """(n_rows, n_cells) what comes through each neighbor, by ``weights`` of the first hop and beyond.

    A hop is linear in the features of the neighbors. They share the baseline in proportion to their weights, so that
    what comes through them adds up to the parts of the graph.
    """
    total = sparse.csr_matrix((len(gradients), len(cells.totals)), dtype=np.float32)
    for k, edges in enumerate(weights, start=1):
        reached = np.unique(edges.indices)
        x = cells.scaled(model, reached)
        sums = np.asarray(edges.sum(axis=1)).ravel()
        of_baseline = (gradients[:, k] * baselines[:, k]).sum(axis=1) / np.where(sums == 0, 1, sums)
        data = edges.data.copy()
        for row, (start, end) in enumerate(pairwise(edges.indptr)):
            neighbors = np.searchsorted(reached, edges.indices[start:end])
            data[start:end] *= x[neighbors] @ gradients[row, k] - of_baseline[row]
        total = total + sparse.csr_matrix((data, edges.indices, edges.indptr), shape=edges.shape)
    return sparse.csr_matrix(total)
