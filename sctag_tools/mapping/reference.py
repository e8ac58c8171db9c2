"""A trained model as arrays: its networks, and the training cells that new cells are compared with."""

from dataclasses import dataclass, fields, replace
from functools import cached_property, partialmethod
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from ..nn.joint_latent import JointLatent
from ..nn.network import Ensemble
from ..train.config import Config
from ..train.data import TrainingData
from ..train.preprocessing import GeneScaler
from .novelty import CellFeatures, NoveltyScorer, multinomial_deviance, nearest_others

ROWS_AT_ONCE = 4096
_N_COMPONENTS = 50
_N_CELLS_FOR_PCA = 5_000  # the leading components of more cells are those of a sample
_N_CELLS_FOR_DEVIANCE = 1_000


@dataclass(frozen=True)
class CellResults:
    """What a run found of each training cell."""

    latents: NDArray[np.float32]  # (n_cells, n_networks, n_latent) of each network
    latent: NDArray[np.float32]  # (n_cells, n_latent) of all together
    proba: NDArray[np.float32]  # (n_cells, n_clusters), rows sum to one
    confidence: NDArray[np.float32]  # (n_cells,) in [0, 1]


@dataclass(frozen=True)
class ReferenceCells(CellResults):
    """The training cells, one row each."""

    representation: NDArray[np.float32]  # (n_cells, n_components) that neighbors of new cells are found in
    messages: NDArray[np.float32]  # (n_cells, n_networks, n_hidden) what a cell adds to the hidden layer of a neighbor
    n_counts: NDArray[np.float32]  # (n_cells,) counts in the genes of the model
    deviance: NDArray[np.float32]  # (n_cells,) of the counts from what is decoded; -1 where it was not computed
    batch_index: NDArray[np.int64]  # (n_cells,)

    def __len__(self) -> int:
        return len(self.latent)

    def take(self, rows: NDArray[np.int64]) -> Self:
        """These rows."""
        return type(self)(*(np.ascontiguousarray(getattr(self, field.name)[rows]) for field in fields(self)))


@dataclass(frozen=True)
class NeighborSettings:
    """How neighbors of new cells are found: as the graph of the training cells was built."""

    n_neighbors: int = 14  # others
    metric: str = "euclidean"
    representation: NDArray[np.float32] | None = None  # (n_cells, n_components) of training cells; None: PCA of genes

    def take(self, rows: NDArray[np.int64]) -> Self:
        """The same with the training cells in this order."""
        return self if self.representation is None else replace(self, representation=self.representation[rows])


@dataclass(frozen=True)
class ReferenceModel:
    """Trained networks and their training cells."""

    config: Config
    state: dict[str, NDArray[np.float32]]  # parameters of the networks by name
    scales: NDArray[np.float32]  # (n_networks,) unit of the distances to centroids in each latent
    centroid_index: NDArray[np.int64]  # (n_clusters,) centroid of each cluster; those that no cell prefers are left out
    scaler: GeneScaler
    joint_latent: JointLatent
    pca_loadings: NDArray[np.float32] | None  # (n_genes, n_components); None: the representation was given
    mean_degree: float  # mean row sum of the normalized graph
    gene_proportions: NDArray[np.float32]  # (n_genes,) share of each gene in all training counts
    n_neighbors: int  # others that a new cell is joined to
    metric: str
    cells: ReferenceCells

    @classmethod
    def from_training(
        cls,
        nets: Ensemble,
        data: TrainingData,
        config: Config,
        settings: NeighborSettings,
        joint_latent: JointLatent,
        centroid_index: NDArray[np.int64],
        found: CellResults,
        rng: np.random.Generator,
    ) -> Self:
        """From trained networks, their data, and what was ``found`` of each cell."""
        if settings.representation is None:
            pca_loadings: NDArray[np.float32] | None = _pca_loadings(data, rng)
            representation = np.concatenate([part[:, 0].cpu().numpy() @ pca_loadings for part in data.hop_blocks()])
        else:
            representation, pca_loadings = settings.representation, None
        model = cls(
            config=config,
            state={name: tensor.detach().cpu().numpy().copy() for name, tensor in nets.state_dict().items()},
            scales=np.array([net.scale for net in nets], dtype=np.float32),
            centroid_index=centroid_index,
            scaler=data.features.scaler,
            joint_latent=joint_latent,
            pca_loadings=pca_loadings,
            mean_degree=float(data.adjacency.sum() / len(data)),
            gene_proportions=np.asarray(data.gene_sums / data.totals.sum(), dtype=np.float32),
            n_neighbors=min(settings.n_neighbors, len(data)),
            metric=settings.metric,
            cells=ReferenceCells(
                representation=representation,
                messages=_messages(nets, data),
                n_counts=data.cell_sums,
                deviance=np.full(len(data), -1, dtype=np.float32),
                batch_index=data.batch_index.cpu().numpy(),
                **vars(found),
            ),
        )
        model._measure_deviance(data, rng)
        return model

    def _measure_deviance(self, data: TrainingData, rng: np.random.Generator) -> None:
        """Measure how well some training cells are decoded, to compare new cells with.

        The networks have seen these cells, and remember much of few cells. What they make of the neighbors of a cell
        is what they could say without it. A new cell is expected half-way between (our own; on five sets one in a
        hundred cells of a known type then has a novelty above one).
        """
        cells = self.cells
        rows = np.sort(rng.permutation(len(data))[:_N_CELLS_FOR_DEVIANCE])
        counts = data.features.counts(torch.from_numpy(rows).to(data.device)).cpu().numpy()
        representation = cells.representation
        _, others = nearest_others(representation, representation[rows], rows, self.n_neighbors, self.metric)
        both = [
            multinomial_deviance(counts, self.expected_proportions(latents, cells.batch_index[rows]))
            for latents in (cells.latents[rows], cells.latents[others].mean(axis=1))
        ]
        cells.deviance[rows] = np.mean(both, axis=0)

    @property
    def n_genes(self) -> int:
        """Genes that the networks read."""
        return len(self.scaler.std)

    @property
    def n_batches(self) -> int:
        """Experimental batches that the decoders know."""
        return len(self.scaler.means) - 1

    @property
    def n_clusters(self) -> int:
        """Clusters that hold a cell."""
        return len(self.centroid_index)

    @cached_property
    def networks(self) -> Ensemble:
        """The networks, on the CPU, ready for inference; no random state is touched."""
        with torch.device("meta"):
            nets = Ensemble(self.config, torch.zeros(self.n_genes), self.n_batches)
            n_centroids = len(self.state["networks.0.centroids"])
            for net, scale in zip(nets, self.scales, strict=True):
                net.set_centroids(torch.empty(n_centroids, self.config.n_latent), float(scale))
        nets.load_state_dict({name: torch.from_numpy(array) for name, array in self.state.items()}, assign=True)
        return nets.eval()

    @cached_property
    def novelty_scorer(self) -> NoveltyScorer:
        """Compares new cells with the training cells."""
        cells, x, latents = self.cells, self.cells.representation, self.on_one_scale(self.cells.latents)
        rows = np.flatnonzero(cells.deviance >= 0)
        sample = CellFeatures(x[rows], latents[rows], cells.n_counts[rows], cells.deviance[rows].astype(float))
        return NoveltyScorer(x, latents, sample, rows, n_neighbors=self.n_neighbors, metric=self.metric)

    def on_one_scale(self, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n_cells, n_networks * n_latent) latents of all networks, standardized, side by side."""
        scaled = (latents - self.joint_latent.means) / self.joint_latent.scales[:, None]
        return scaled.reshape(len(latents), -1)

    def _decode(
        self,
        what: str,
        latents: NDArray[np.float32],
        batch_index: NDArray[np.int64],
        genes: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float32]:
        """(n_cells, n_genes) mean over the networks of what their decoders' method ``what`` gives.

        ``latents`` is (n_cells, n_networks, n_latent), ``batch_index`` (n_cells,); -1 stands for the mean effect of
        all batches. ``genes`` are the numbers of those that are wanted, by default all.
        """
        genes = np.arange(self.n_genes) if genes is None else genes
        decoded = np.empty((len(latents), len(genes)), dtype=np.float32)
        for start in range(0, len(latents), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            each, batches = torch.from_numpy(latents[rows]), torch.from_numpy(batch_index[rows])
            with torch.no_grad():
                parts = [getattr(net.decoder, what)(each[:, i], batches) for i, net in enumerate(self.networks)]
            decoded[rows] = torch.stack(parts).mean(dim=0).numpy()[:, genes]
        return decoded

    expected_proportions = partialmethod(_decode, "expected_proportions")  # of each gene in the counts of a cell
    dropout_probability = partialmethod(_decode, "dropout_probability")  # of a count; of ``likelihood="zinb"`` only


def _messages(nets: Ensemble, data: TrainingData) -> NDArray[np.float32]:
    """(n_cells, n_networks, n_hidden) message of each training cell to a neighbor."""
    device = next(nets.parameters()).device
    with torch.no_grad():
        parts = [
            torch.stack([net.encoder.hidden.outgoing_message(part.to(device)) for net in nets], dim=1).cpu().numpy()
            for part in data.hop_blocks()
        ]
    return np.concatenate(parts)


def _pca_loadings(data: TrainingData, rng: np.random.Generator) -> NDArray[np.float32]:
    """(n_genes, n_components) from scaled expression to the principal components of log-expression.

    They are those of scanpy's usual workflow, where each gene keeps its variance.
    """
    std = np.where(np.isfinite(data.features.scaler.std), data.features.scaler.std, 0)
    rows = torch.from_numpy(np.sort(rng.permutation(len(data))[:_N_CELLS_FOR_PCA])).to(data.device)
    sample = np.concatenate([part[:, 0].cpu().numpy() for part in data.hop_blocks(rows)]) * std
    n_components = max(1, min(_N_COMPONENTS, len(sample) - 1, sample.shape[1] - 1))
    pca = PCA(n_components, svd_solver="randomized", random_state=int(rng.integers(2**31)))
    return np.ascontiguousarray(std[:, None] * pca.fit(sample).components_.T, dtype=np.float32)
