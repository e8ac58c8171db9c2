"""One scTAG network, and several of them trained side by side."""

from collections.abc import Iterator, Sequence
from itertools import repeat

import torch
from torch import Tensor, nn

from ..train.config import Config
from .decoders import COUNT_DECODERS, GraphDecoder
from .losses import graph_cross_entropy
from .minibatch import Minibatch
from .self_training import cluster_divergence, soft_assignment
from .tag import TAGEncoder


class ScTAGNet(nn.Module):
    """Encoder, decoders and centroids; calling it on the shares of a minibatch gives the terms of the loss.

    ``mask`` (n_rows, G) multiplies the input, all hops alike: neighbors must not give away a gene that is hidden.
    """

    centroids: nn.Parameter

    def __init__(self, config: Config, log_mean_counts: Tensor, n_batches: int) -> None:
        super().__init__()
        self.likelihood = config.likelihood
        self.encoder = TAGEncoder(len(log_mean_counts), config.n_hidden, config.n_latent, config.n_hops)
        self.decoder = COUNT_DECODERS[config.likelihood](config.n_latent, config.n_hidden, log_mean_counts, n_batches)
        if config.graph_weight > 0:
            self.graph_decoder = GraphDecoder(config.n_latent)

    def set_centroids(self, centroids: Tensor, scale: float) -> None:
        """Make the (K, n_latent) cluster centroids a trained parameter; ``scale`` is the unit of distance."""
        self.centroids = nn.Parameter(centroids)
        self.scale = scale

    def forward(self, shares: Sequence[Minibatch], mask: Tensor | None = None) -> dict[str, Tensor]:
        each = [(cells.fraction, self._terms(cells, mask)) for cells in shares]
        return {name: torch.stack([fraction * terms[name] for fraction, terms in each]).sum() for name in each[0][1]}

    def _terms(self, cells: Minibatch, mask: Tensor | None) -> dict[str, Tensor]:
        hops = cells.hops if mask is None else cells.hops * cells.share.take(mask)[:, None]
        latent = self.encoder(hops).float()  # losses are computed in full precision
        terms: dict[str, Tensor] = {self.likelihood: self.decoder.loss(latent, cells)}
        if cells.edge_targets is not None and cells.same_cell is not None:
            terms["graph"] = graph_cross_entropy(self.graph_decoder(latent), cells.edge_targets, cells.same_cell)
        if cells.cluster_targets is not None:
            terms["cluster"] = cluster_divergence(cells.cluster_targets, self.assignment(latent))
        return terms

    def assignment(self, latent: Tensor) -> Tensor:
        """(B, K) soft assignment of latent rows (B, n_latent)."""
        return soft_assignment(latent, self.centroids, self.scale)


class Ensemble(nn.Module):
    """Networks that differ in their first weights and in the genes that are hidden from them."""

    def __init__(self, config: Config, log_mean_counts: Tensor, n_batches: int = 1) -> None:
        super().__init__()
        self.mask_rate = config.mask_rate
        self.networks = nn.ModuleList(ScTAGNet(config, log_mean_counts, n_batches) for _ in range(config.n_networks))

    def __iter__(self) -> Iterator[ScTAGNet]:
        return iter(self.networks)  # type: ignore[arg-type]

    def forward(self, shares: Sequence[Minibatch]) -> dict[str, Tensor]:
        """Terms of the loss: means over the networks and over the rows of the minibatch."""
        masked = self.training and self.mask_rate > 0
        masks: Iterator[Tensor | None] = self._masks(shares[0]) if masked else repeat(None, len(self.networks))
        each = [network(shares, mask) for network, mask in zip(self, masks, strict=True)]
        return {name: torch.stack([terms[name] for terms in each]).mean() for name in each[0]}

    def _masks(self, cells: Minibatch) -> Iterator[Tensor]:
        """For each network the factors (n_rows, G) that hide a random share of the genes of each cell.

        Random numbers are slow, so all networks share one draw, each shifted by another amount: what one network sees
        is hidden from the others as far as possible. Every process draws for the whole minibatch, so that the result
        does not depend on the number of processes.
        """
        drawn = torch.rand(cells.n_rows, cells.hops.shape[2], device=cells.hops.device)
        for number in range(len(self.networks)):
            shifted = (drawn + number / len(self.networks)).frac_()
            yield (shifted >= self.mask_rate).to(cells.hops.dtype).mul_(1 / (1 - self.mask_rate))
