"""New cells placed into the clusters of a trained model, each on its own."""

from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from ..neighbors.search import nearest
from ..train.preprocessing import log_expression
from .novelty import CellFeatures, multinomial_deviance
from .reference import ROWS_AT_ONCE, ReferenceModel


@dataclass(frozen=True)
class Placement:
    """Where new cells belong."""

    latents: NDArray[np.float32]  # (n_cells, n_networks, n_latent)
    latent: NDArray[np.float32]  # (n_cells, n_latent)
    proba: NDArray[np.float32]  # (n_cells, n_clusters), rows sum to one
    confidence: NDArray[np.float32]  # (n_cells,) in [0, 1]
    novelty: NDArray[np.float32]  # (n_cells,) one at the 99th percentile of the training cells
    neighbors: NDArray[np.int64]  # (n_cells, n_neighbors) training cells that a new cell is joined to


def place_cells(
    model: ReferenceModel,
    counts: sparse.csr_matrix,
    totals: NDArray[np.floating],
    measured: NDArray[np.bool_],
    batch_index: NDArray[np.int64],
    representation: NDArray[np.float32] | None = None,
) -> Placement:
    """Latent, clusters and confidence of new cells.

    A new cell is joined to its nearest training cells, whose messages are stored. The graph among the training cells
    stays as it was. ``counts`` (n_cells, n_genes) CSR are raw counts of the genes of the model, ``totals`` (n_cells,)
    as for the training cells. Genes that are not ``measured`` (n_genes,) are treated as genes that were masked in
    training. ``batch_index`` (n_cells,) is the training batch, -1 for another one. ``representation`` (n_cells,
    n_components) lies in the space that the graph was built in; it is given unless that was the PCA of the genes.
    """
    if len(totals) > ROWS_AT_ONCE:
        parts = []
        for start in range(0, len(totals), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            x = None if representation is None else representation[rows]
            parts.append(place_cells(model, counts[rows], totals[rows], measured, batch_index[rows], x))
        return Placement(*(np.concatenate([getattr(one, part.name) for one in parts]) for part in fields(Placement)))
    expression = model.scaler.transform(log_expression(counts, totals), batch_index)
    expression[:, ~measured] = 0
    if representation is None:
        if model.pca_loadings is None:
            msg = "The graph of this model was built on a representation of its own; give that of the new cells."
            raise ValueError(msg)
        representation = expression @ model.pca_loadings
    found, _ = nearest(model.cells.representation, representation, model.n_neighbors, model.metric)
    latents, proba = _encode(model, expression * float(len(measured) / measured.sum()), found)
    agreeing = model.cells.proba.argmax(axis=1)[found] == proba.argmax(axis=1)[:, None]
    side_by_side = np.stack(latents, axis=1)
    observed = counts[:, measured].toarray()
    expected = model.expected_proportions(side_by_side, batch_index)[:, measured]
    features = CellFeatures(
        representation=representation,
        latents=model.on_one_scale(side_by_side),
        n_counts=observed.sum(axis=1),
        deviance=multinomial_deviance(observed, expected / expected.sum(axis=1, keepdims=True)),
    )
    return Placement(
        latents=side_by_side,
        latent=model.joint_latent.transform(latents),
        proba=proba,
        confidence=(agreeing * model.cells.confidence[found]).mean(axis=1).astype(np.float32),
        novelty=model.novelty_scorer.score_samples(features),
        neighbors=np.asarray(found, dtype=np.int64),
    )


def _encode(
    model: ReferenceModel, x: NDArray[np.float32], neighbors: NDArray[np.int64]
) -> tuple[list[NDArray[np.float32]], NDArray[np.float32]]:
    """Latent of each network and soft assignment, from scaled expression and (n_cells, n_neighbors) training cells."""
    n, k = neighbors.shape
    weight = np.full(neighbors.size, model.mean_degree / k, np.float32)
    edges = sparse.csr_matrix((weight, neighbors.ravel(), np.arange(0, n * k + 1, k)), shape=(n, len(model.cells)))
    summed = torch.from_numpy(edges @ model.cells.messages.reshape(len(model.cells), -1))
    own = torch.from_numpy(x)
    with torch.no_grad():
        messages = torch.split(summed, model.config.n_hidden, dim=1)
        each = [net.encoder.encode_new(own, part) for net, part in zip(model.networks, messages, strict=True)]
        q = torch.stack([net.assignment(z) for net, z in zip(model.networks, each, strict=True)]).mean(dim=0).numpy()
    proba = q[:, model.centroid_index]
    proba /= proba.sum(axis=1, keepdims=True)
    return [z.numpy() for z in each], proba
