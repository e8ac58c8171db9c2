"""The network: TAG convolution over hop features, a ZINB decoder, a graph decoder, and cluster centroids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import TAGConv

from . import losses

if TYPE_CHECKING:
    from .config import Config

_LOG_MEAN_RANGE = 14.0  # means from 1e-6 to 1e6
_LOG_DISPERSION_RANGE = 9.2  # dispersions from 1e-4 to 1e4
_GRAPH_FEATURES = 32
_GRAPH_TEMPERATURE = 0.2
_START_DROPOUT_LOGIT = -2.0


@dataclass(frozen=True)
class Batch:
    """Rows of the data as tensors, with what is needed to score their reconstruction."""

    blocks: Tensor  # (B, n_hops + 1, G) hop features
    counts: Tensor  # (B, G) raw counts
    log_size: Tensor  # (B,) log size factors
    edges: Tensor  # (B, B) graph targets, rows sum to one or zero
    same_cell: Tensor  # (B, B) True where both are one cell
    target: Tensor | None = None  # (B, K) target distribution, while clusters are trained


class TAGEncoder(nn.Module):
    """Two TAG layers, G -> n_hidden -> n_latent.

    The first convolves over K hops, whose features come in ready-made (:func:`.graph.hop_blocks`), with the weights of
    PyG's TAGConv. The second reads the cell alone (its K is 0): its hops would need hidden states of neighbours of
    neighbours in every batch.
    """

    def __init__(self, n_genes: int, n_hidden: int, n_latent: int, n_hops: int) -> None:
        super().__init__()
        self.hidden = TAGConv(n_genes, n_hidden, K=n_hops, normalize=False)
        self.latent = TAGConv(n_hidden, n_latent, K=0, normalize=False)

    def forward(self, blocks: Tensor) -> Tensor:
        return apply_tag(self.latent, torch.relu(apply_tag(self.hidden, blocks))[:, None])


def apply_tag(layer: TAGConv, blocks: Tensor) -> Tensor:
    """Output of a TAG layer from hop features (B, K + 1, F): the sum of its per-hop products, plus the bias."""
    weights = torch.cat([hop.weight for hop in layer.lins], dim=1)
    return F.linear(blocks.flatten(1), weights, layer.bias)


class ZINBDecoder(nn.Module):
    """n_latent -> n_hidden -> log mean and dropout logit per cell and gene; one dispersion per gene."""

    def __init__(self, n_latent: int, n_hidden: int, log_mean_counts: Tensor) -> None:
        super().__init__()
        n_genes = len(log_mean_counts)
        self.hidden = nn.Linear(n_latent, n_hidden)
        self.log_mean = nn.Linear(n_hidden, n_genes)
        self.dropout_logit = nn.Linear(n_hidden, n_genes)
        self.log_dispersion = nn.Parameter(torch.zeros(n_genes))
        with torch.no_grad():  # start from the average cell rather than from one count per gene
            self.log_mean.bias.copy_(log_mean_counts)
            self.dropout_logit.bias.fill_(_START_DROPOUT_LOGIT)

    def forward(self, latent: Tensor, log_size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = torch.relu(self.hidden(latent))
        log_mean = (self.log_mean(hidden) + log_size[:, None]).clamp(-_LOG_MEAN_RANGE, _LOG_MEAN_RANGE)
        log_dispersion = self.log_dispersion.clamp(-_LOG_DISPERSION_RANGE, _LOG_DISPERSION_RANGE)
        return log_mean, log_dispersion, self.dropout_logit(hidden)


class ScTAGNet(nn.Module):
    """The whole network; calling it on a batch gives the terms of the loss."""

    centroids: nn.Parameter

    def __init__(self, config: Config, log_mean_counts: Tensor) -> None:
        super().__init__()
        n_genes = len(log_mean_counts)
        self.mask_rate = config.mask_rate
        self.encoder = TAGEncoder(n_genes, config.n_hidden, config.n_latent, config.n_hops)
        self.decoder = ZINBDecoder(config.n_latent, config.n_hidden, log_mean_counts)
        self.graph_decoder = nn.Linear(config.n_latent, _GRAPH_FEATURES, bias=False)

    def set_centroids(self, centroids: Tensor, spread: float) -> None:
        """Make the (K, n_latent) cluster centroids a trained parameter; ``spread`` is the unit of distance."""
        self.centroids = nn.Parameter(centroids)
        self.spread = spread

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        latent = self.encoder(self._masked(batch.blocks))
        terms = {
            "zinb": -losses.zinb_log_likelihood(batch.counts, *self.decoder(latent, batch.log_size)).mean(),
            "graph": losses.graph_cross_entropy(self._similarity(latent), batch.edges, batch.same_cell),
        }
        if batch.target is not None:
            q = losses.soft_assignment(latent, self.centroids, self.spread)
            terms["cluster"] = losses.cluster_divergence(batch.target, q)
        return terms

    def _masked(self, blocks: Tensor) -> Tensor:
        """Hide a random share of the genes of each cell, in all hops alike: neighbours must not give them away."""
        if not self.training or self.mask_rate == 0:
            return blocks
        kept = torch.rand(len(blocks), 1, blocks.shape[2], device=blocks.device) >= self.mask_rate
        return blocks * (kept / (1 - self.mask_rate))

    def _similarity(self, latent: Tensor) -> Tensor:
        features = F.normalize(self.graph_decoder(latent), dim=1)
        return features @ features.T / _GRAPH_TEMPERATURE
