"""What a run leaves behind: its networks as arrays, and the cells that later ones are held against."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import sparse

from .inputs import log_expression
from .model import Ensemble
from .neighbors import nearest
from .novelty import Views, Yardstick, nearest_others, unexplained

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from .config import Config
    from .data import CellData
    from .inputs import Scaling
    from .latent import JointLatent

_ROWS_AT_ONCE = 4096
_COMPONENTS = 50
_CELLS_TO_EXPLAIN = 1_000
_CELLS_FOR_COMPONENTS = 5_000  # the leading components of more cells are those of a sample


@dataclass(frozen=True)
class Reference:
    """The training cells, one row each."""

    position: NDArray[np.float32]  # (n_cells, n_components) where neighbours of new cells are looked for
    context: NDArray[np.float32]  # (n_cells, n_networks, n_hidden) what a cell gives to the hidden layer of a neighbour
    latents: NDArray[np.float32]  # (n_cells, n_networks, n_latent) of each network
    latent: NDArray[np.float32]  # (n_cells, n_latent) of all
    proba: NDArray[np.float32]  # (n_cells, n_clusters)
    confidence: NDArray[np.float32]  # (n_cells,)
    depth: NDArray[np.float32]  # (n_cells,) counts in the genes of the model
    unexplained: NDArray[np.float32]  # (n_cells,) divergence of counts from what is decoded; -1 where not computed
    batches: NDArray[np.int64]  # (n_cells,)

    def __len__(self) -> int:
        return len(self.latent)

    def take(self, rows: NDArray[np.int64]) -> Reference:
        """These rows."""
        of_rows = {field.name: np.ascontiguousarray(getattr(self, field.name)[rows]) for field in fields(self)}
        return Reference(**of_rows)


@dataclass(frozen=True)
class Neighborhood:
    """How neighbours of new cells are found."""

    n_neighbors: int = 14  # others
    metric: str = "euclidean"
    position: NDArray[np.float32] | None = None  # (n_cells, n_components) of the training cells; None: PCA of the genes

    def take(self, rows: NDArray[np.int64]) -> Neighborhood:
        """The same with the training cells in this order."""
        return self if self.position is None else replace(self, position=self.position[rows])


@dataclass(frozen=True)
class Placed:
    """Where new cells belong."""

    latents: NDArray[np.float32]  # (n_cells, n_networks, n_latent)
    latent: NDArray[np.float32]  # (n_cells, n_latent)
    proba: NDArray[np.float32]  # (n_cells, n_clusters), rows sum to one
    labels: NDArray[np.int64]  # (n_cells,)
    confidence: NDArray[np.float32]  # (n_cells,) in [0, 1]
    novelty: NDArray[np.float32]  # (n_cells,) one at the 99th percentile of the training cells


@dataclass(frozen=True)
class Fitted:
    """Trained networks and their training cells."""

    config: Config
    weights: dict[str, NDArray[np.float32]]  # state of the ensemble by parameter
    spreads: NDArray[np.float32]  # (n_networks,) unit of the distances in each latent
    columns: NDArray[np.int64]  # (n_clusters,) centroid of each cluster; one that no cell prefers is in none
    scaling: Scaling
    joint: JointLatent
    loadings: NDArray[np.float32] | None  # (n_genes, n_components) of scaled expression; None: ``position`` was given
    gain: float  # mean row sum of the normalised graph
    gene_shares: NDArray[np.float32]  # (n_genes,) part of all training counts that each gene has
    n_neighbors: int  # others that a new cell is joined to
    metric: str
    reference: Reference

    @classmethod
    def of(
        cls,
        nets: Ensemble,
        data: CellData,
        config: Config,
        *,
        totals: NDArray[np.floating],
        joint: JointLatent,
        columns: NDArray[np.int64],
        neighborhood: Neighborhood,
        rng: np.random.Generator,
        found: dict[str, NDArray[np.float32]],
    ) -> Fitted:
        """From trained networks and their data; ``found`` is what the run found of each cell."""
        if neighborhood.position is None:
            loadings: NDArray[np.float32] | None = _principal_components(data, rng)
            position = np.concatenate([part.cpu().numpy() @ loadings for part in _chunks(data.blocks[:, 0])])
        else:
            position, loadings = neighborhood.position, None
        device = next(nets.parameters()).device
        with torch.no_grad():
            context = [
                torch.stack([net.encoder.context(part.to(device)) for net in nets], dim=1).cpu().numpy()
                for part in _chunks(data.blocks)
            ]
        of_genes = np.sum([part.cpu().numpy().sum(axis=0, dtype=np.float64) for part in _chunks(data.counts)], axis=0)
        fitted = cls(
            config=config,
            weights={name: tensor.detach().cpu().numpy().copy() for name, tensor in nets.state_dict().items()},
            spreads=np.array([net.spread for net in nets], dtype=np.float32),
            columns=columns,
            scaling=data.scaling,
            joint=joint,
            loadings=loadings,
            gain=float(data.adjacency.sum() / len(data)),
            gene_shares=np.asarray(of_genes / totals.sum(), dtype=np.float32),
            n_neighbors=min(neighborhood.n_neighbors, len(data)),
            metric=neighborhood.metric,
            reference=Reference(
                position=position,
                context=np.concatenate(context),
                depth=data.counts.sum(dim=1, dtype=torch.float32).cpu().numpy(),
                unexplained=np.full(len(data), -1, dtype=np.float32),
                batches=data.batch_numbers.cpu().numpy(),
                **found,
            ),
        )
        fitted._explain_sample(data, rng)
        return fitted

    def _explain_sample(self, data: CellData, rng: np.random.Generator) -> None:
        """How well some training cells are decoded, to hold new cells against.

        The networks have seen these cells, and of few cells they remember much. What they make of a cell's neighbours
        is what they could say without; a new cell is expected half-way (our own; on five sets one in a hundred cells
        of a known type then has a novelty above one).
        """
        reference = self.reference
        rows = np.sort(rng.permutation(len(data))[:_CELLS_TO_EXPLAIN])
        counts = data.counts[torch.from_numpy(rows).to(data.device)].cpu().numpy().astype(np.float32)
        _, others = nearest_others(reference.position, reference.position[rows], rows, self.n_neighbors, self.metric)
        both = [
            unexplained(counts, self.shares(latents, reference.batches[rows]))
            for latents in (reference.latents[rows], reference.latents[others].mean(axis=1))
        ]
        reference.unexplained[rows] = np.mean(both, axis=0)

    @property
    def n_genes(self) -> int:
        """Genes that the networks read."""
        return len(self.scaling.spread)

    @property
    def n_batches(self) -> int:
        """Experimental batches that the decoders know."""
        return len(self.scaling.means) - 1

    @property
    def n_clusters(self) -> int:
        """Clusters that hold a cell."""
        return len(self.columns)

    def networks(self) -> Ensemble:
        """The networks, on the CPU, ready for inference; no random state is touched."""
        with torch.device("meta"):
            nets = Ensemble(self.config, torch.zeros(self.n_genes), self.n_batches)
            n_centroids = len(self.weights["networks.0.centroids"])
            for net, spread in zip(nets, self.spreads, strict=True):
                net.set_centroids(torch.empty(n_centroids, self.config.n_latent), float(spread))
        nets.load_state_dict({name: torch.from_numpy(array) for name, array in self.weights.items()}, assign=True)
        return nets.eval()

    def place(
        self,
        counts: sparse.csr_matrix,
        totals: NDArray[np.floating],
        known: NDArray[np.bool_],
        batches: NDArray[np.int64],
        position: NDArray[np.float32] | None = None,
    ) -> Placed:
        """Latent, clusters and confidence of new cells, each on its own.

        A new cell is joined to its nearest training cells, whose contribution to the first layer is stored, so that
        the graph among the training cells stays as it was.

        Parameters
        ----------
        counts
            (n_cells, n_genes) raw counts of the model's genes, CSR; columns that are not ``known`` are ignored.
        totals
            (n_cells,) total counts, as for the training cells.
        known
            (n_genes,) which genes were measured. The others are treated as genes that were masked in training.
        batches
            (n_cells,) numbers of the training batches, -1 for another one.
        position
            (n_cells, n_components) in the representation that the graph was built on, if it was not this model's own.
        """
        nets, yardstick, parts = self.networks(), self._yardstick(), []
        for start in range(0, len(totals), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            x = self.scaling.apply(log_expression(counts[rows], totals[rows]), batches[rows])
            x[:, ~known] = 0
            of_rows = None if position is None else position[rows]
            parts.append(self._place(nets, counts[rows], x, known, batches[rows], of_rows, yardstick))
        return Placed(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Placed)))

    def shares(
        self, latents: NDArray[np.float32], batches: NDArray[np.int64], genes: NDArray[np.int64] | None = None
    ) -> NDArray[np.float32]:
        """(n_cells, n_genes) expected share of each cell's counts, mean over the networks.

        ``latents`` is (n_cells, n_networks, n_latent), ``batches`` (n_cells,); -1 stands for one of
        average effects. ``genes`` are the numbers of those that are wanted, of all by default.
        """
        return self._decoded(latents, batches, genes, "shares")

    def dropout(
        self, latents: NDArray[np.float32], batches: NDArray[np.int64], genes: NDArray[np.int64] | None = None
    ) -> NDArray[np.float32]:
        """(n_cells, n_genes) probability that counts were lost; of ``likelihood="zinb"`` alone."""
        return self._decoded(latents, batches, genes, "dropout")

    def _decoded(
        self, latents: NDArray[np.float32], batches: NDArray[np.int64], genes: NDArray[np.int64] | None, what: str
    ) -> NDArray[np.float32]:
        nets = self.networks()
        genes = np.arange(self.n_genes) if genes is None else genes
        decoded = np.empty((len(latents), len(genes)), dtype=np.float32)
        for start in range(0, len(latents), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            each, numbers = torch.from_numpy(latents[rows]), torch.from_numpy(batches[rows])
            with torch.no_grad():
                parts = [getattr(net.decoder, what)(each[:, i], numbers) for i, net in enumerate(nets)]
            decoded[rows] = torch.stack(parts).mean(dim=0).numpy()[:, genes]
        return decoded

    def _yardstick(self) -> Yardstick:
        reference = self.reference
        rows = np.flatnonzero(reference.unexplained >= 0)
        latents = self._on_one_scale(reference.latents)
        sample = Views(
            reference.position[rows], latents[rows], reference.depth[rows], reference.unexplained[rows].astype(float)
        )
        return Yardstick(reference.position, latents, sample, rows, n_neighbors=self.n_neighbors, metric=self.metric)

    def _on_one_scale(self, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        scaled = (latents - self.joint.means) / self.joint.scales[:, None]
        return scaled.reshape(len(latents), -1)

    def _place(
        self,
        nets: Ensemble,
        counts: sparse.csr_matrix,
        x: NDArray[np.float32],
        known: NDArray[np.bool_],
        batches: NDArray[np.int64],
        position: NDArray[np.float32] | None,
        yardstick: Yardstick,
    ) -> Placed:
        if position is None:
            if self.loadings is None:
                msg = "the neighbours of these cells are sought in a representation that was not given"
                raise ValueError(msg)
            position = x @ self.loadings
        found, _ = nearest(self.reference.position, position, self.n_neighbors, self.metric)
        edges = sparse.csr_matrix(
            (
                np.full(found.size, self.gain / found.shape[1], np.float32),
                found.ravel(),
                np.arange(0, found.size + 1, found.shape[1]),
            ),
            shape=(len(x), len(self.reference)),
        )
        context = edges @ self.reference.context.reshape(len(self.reference), -1)
        own = torch.from_numpy(x * float(len(known) / known.sum()))
        with torch.no_grad():
            contexts = torch.split(torch.from_numpy(context), self.config.n_hidden, dim=1)
            each = [net.encoder.place(own, part) for net, part in zip(nets, contexts, strict=True)]
            q = torch.stack([net.assignment(z) for net, z in zip(nets, each, strict=True)]).mean(dim=0).numpy()
        latents = [z.numpy() for z in each]
        proba = q[:, self.columns]
        proba /= proba.sum(axis=1, keepdims=True)
        labels = proba.argmax(axis=1)
        agreeing = self.reference.proba.argmax(axis=1)[found] == labels[:, None]
        sure = (agreeing * self.reference.confidence[found]).mean(axis=1)
        side_by_side = np.stack(latents, axis=1)
        measured, shares = counts[:, known].toarray(), self.shares(side_by_side, batches)[:, known]
        views = Views(
            position=position,
            latents=self._on_one_scale(side_by_side),
            depth=measured.sum(axis=1),
            unexplained=unexplained(measured, shares / shares.sum(axis=1, keepdims=True)),
        )
        return Placed(
            latents=side_by_side,
            latent=self.joint.apply(latents),
            proba=proba,
            labels=labels,
            confidence=sure.astype(np.float32),
            novelty=yardstick.novelty(views),
        )


def _principal_components(data: CellData, rng: np.random.Generator) -> NDArray[np.float32]:
    """(n_genes, n_components) from scaled expression to the principal components of log-expression.

    They are those of scanpy's usual workflow: each gene with the variance that it has.
    """
    from sklearn.decomposition import PCA

    x = data.blocks[:, 0]
    spread = np.where(np.isfinite(data.scaling.spread), data.scaling.spread, 0)
    rows = np.sort(rng.permutation(len(x))[:_CELLS_FOR_COMPONENTS])
    sample = x[torch.from_numpy(rows).to(x.device)].cpu().numpy() * spread
    n_components = max(1, min(_COMPONENTS, len(sample) - 1, sample.shape[1] - 1))
    pca = PCA(n_components, svd_solver="randomized", random_state=int(rng.integers(2**31)))
    return np.ascontiguousarray(spread[:, None] * pca.fit(sample).components_.T, dtype=np.float32)


def _chunks(x: Tensor) -> Sequence[Tensor]:
    return torch.split(x, _ROWS_AT_ONCE)
