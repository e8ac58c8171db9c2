"""The networks: TAG convolution over hop features, decoders of counts and graph, and cluster centroids."""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import TAGConv

from . import losses
from .share import WHOLE, Share

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .config import Config

_LOG_MEAN_RANGE = 14.0  # means from 1e-6 to 1e6
_LOG_DISPERSION_RANGE = 9.2  # dispersions from 1e-4 to 1e4
_GRAPH_FEATURES = 32
_GRAPH_TEMPERATURE = 0.2
_START_DROPOUT_LOGIT = -2.0


class Batch(NamedTuple):
    """Rows of the data as tensors, with what is needed to score their reconstruction."""

    blocks: Tensor  # (B, n_hops + 1, G) hop features
    counts: Tensor  # (B, G) raw counts
    log_size: Tensor  # (B,) log size factors
    batch_numbers: Tensor  # (B,) number of the experimental batch that each cell came from
    n_rows: int  # of the whole batch, of which this may be a share
    share: Share = WHOLE
    edges: Tensor | None = None  # (B, B) graph targets, rows sum to one or zero; None if the graph is not decoded
    same_cell: Tensor | None = None  # (B, B) True where both are one cell
    target: Tensor | None = None  # (B, K) target distribution, while clusters are trained

    @property
    def weight(self) -> float:
        """What a mean over these rows counts for in the mean over the whole batch: shares may differ by a row."""
        return len(self.counts) / self.n_rows


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

    def context(self, blocks: Tensor) -> Tensor:
        """(B, n_hidden) what cells with these hop features give to the hidden layer of a neighbour.

        The first layer is linear, so that all hops of a cell that joins the graph later are one product of its edges
        with this, instead of with every hop's genes.
        """
        weights = torch.cat([hop.weight for hop in self.hidden.lins], dim=1)[:, blocks.shape[2] :]
        return F.linear(blocks[:, :-1].flatten(1), weights)

    def place(self, own: Tensor, context: Tensor) -> Tensor:
        """Latent of cells from their own scaled expression (B, G) and their neighbours' :meth:`context`."""
        hidden = F.linear(own, self.hidden.lins[0].weight, self.hidden.bias) + context
        return apply_tag(self.latent, torch.relu(hidden)[:, None])


def apply_tag(layer: TAGConv, blocks: Tensor) -> Tensor:
    """Output of a TAG layer from hop features (B, K + 1, F): the sum of its per-hop products, plus the bias."""
    out: Tensor = layer.bias
    for hop, linear in enumerate(layer.lins):
        out = torch.addmm(out, blocks[:, hop], linear.weight.T)
    return out


class BatchEffects(nn.Module):
    """What each experimental batch adds to the log mean of each gene, zero at first; one batch alone adds nothing.

    Number -1, a batch that was not trained on, adds the mean of all.
    """

    def __init__(self, n_batches: int, n_genes: int) -> None:
        super().__init__()
        self.effects = nn.Parameter(torch.zeros(n_batches, n_genes)) if n_batches > 1 else None

    def forward(self, log_mean: Tensor, batch_numbers: Tensor) -> Tensor:
        if self.effects is None:
            return log_mean
        return log_mean + torch.cat([self.effects, self.effects.mean(dim=0, keepdim=True)])[batch_numbers]


class MultinomialDecoder(nn.Module):
    """n_latent -> n_hidden -> logit per cell and gene, whose softmax is the expected share of the cell's counts."""

    def __init__(self, n_latent: int, n_hidden: int, log_mean_counts: Tensor, n_batches: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(n_latent, n_hidden)
        self.logit = nn.Linear(n_hidden, len(log_mean_counts))
        self.batch_effects = BatchEffects(n_batches, len(log_mean_counts))
        with torch.no_grad():  # start from the average cell
            self.logit.bias.copy_(log_mean_counts)

    def forward(self, latent: Tensor, batch_numbers: Tensor) -> Tensor:
        logits: Tensor = self.batch_effects(self.logit(torch.relu(self.hidden(latent))), batch_numbers)
        return logits

    def shares(self, latent: Tensor, batch_numbers: Tensor) -> Tensor:
        """(B, G) expected share of a cell's counts in each gene."""
        logits: Tensor = self(latent, batch_numbers)
        return logits.softmax(dim=1)

    def loss(self, latent: Tensor, batch: Batch) -> Tensor:
        """Mean over cells of the negative log-likelihood per count."""
        return losses.multinomial_cross_entropy(batch.counts, self(latent, batch.batch_numbers).float()).mean()


class ZINBDecoder(nn.Module):
    """n_latent -> n_hidden -> log mean and dropout logit per cell and gene; one dispersion per gene."""

    def __init__(self, n_latent: int, n_hidden: int, log_mean_counts: Tensor, n_batches: int) -> None:
        super().__init__()
        n_genes = len(log_mean_counts)
        self.batch_effects = BatchEffects(n_batches, n_genes)
        self.hidden = nn.Linear(n_latent, n_hidden)
        self.log_mean = nn.Linear(n_hidden, n_genes)
        self.dropout_logit = nn.Linear(n_hidden, n_genes)
        self.log_dispersion = nn.Parameter(torch.zeros(n_genes))
        with torch.no_grad():  # start from the average cell rather than from one count per gene
            self.log_mean.bias.copy_(log_mean_counts)
            self.dropout_logit.bias.fill_(_START_DROPOUT_LOGIT)

    def forward(self, latent: Tensor, log_size: Tensor, batch_numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = torch.relu(self.hidden(latent))
        log_mean = self.batch_effects(self.log_mean(hidden), batch_numbers) + log_size[:, None]
        log_mean = log_mean.clamp(-_LOG_MEAN_RANGE, _LOG_MEAN_RANGE)
        log_dispersion = self.log_dispersion.clamp(-_LOG_DISPERSION_RANGE, _LOG_DISPERSION_RANGE)
        return log_mean, log_dispersion, self.dropout_logit(hidden)

    def shares(self, latent: Tensor, batch_numbers: Tensor) -> Tensor:
        """(B, G) expected share of a cell's counts in each gene, but for dropout."""
        return self._of_average_size(latent, batch_numbers)[0].softmax(dim=1)

    def dropout(self, latent: Tensor, batch_numbers: Tensor) -> Tensor:
        """(B, G) probability that a gene's counts were lost."""
        return self._of_average_size(latent, batch_numbers)[2].sigmoid()

    def _of_average_size(self, latent: Tensor, batch_numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        parameters: tuple[Tensor, Tensor, Tensor] = self(latent, latent.new_zeros(len(latent)), batch_numbers)
        return parameters

    def loss(self, latent: Tensor, batch: Batch) -> Tensor:
        """Mean over cells and genes of the negative log-likelihood."""
        parameters = (part.float() for part in self(latent, batch.log_size, batch.batch_numbers))
        return -losses.zinb_log_likelihood(batch.counts, *parameters).mean()


_DECODERS: dict[str, type[MultinomialDecoder | ZINBDecoder]] = {
    "multinomial": MultinomialDecoder,
    "zinb": ZINBDecoder,
}


class ScTAGNet(nn.Module):
    """One network; calling it on the parts of a batch gives the terms of the loss.

    ``mask`` (n_rows, G) multiplies the input, all hops alike: neighbours must not give away a gene that is hidden.
    """

    centroids: nn.Parameter

    def __init__(self, config: Config, log_mean_counts: Tensor, n_batches: int) -> None:
        super().__init__()
        self.likelihood = config.likelihood
        self.encoder = TAGEncoder(len(log_mean_counts), config.n_hidden, config.n_latent, config.n_hops)
        self.decoder = _DECODERS[config.likelihood](config.n_latent, config.n_hidden, log_mean_counts, n_batches)
        if config.graph_weight > 0:
            self.graph_decoder = nn.Linear(config.n_latent, _GRAPH_FEATURES, bias=False)

    def set_centroids(self, centroids: Tensor, spread: float) -> None:
        """Make the (K, n_latent) cluster centroids a trained parameter; ``spread`` is the unit of distance."""
        self.centroids = nn.Parameter(centroids)
        self.spread = spread

    def forward(self, parts: Sequence[Batch], mask: Tensor | None = None) -> dict[str, Tensor]:
        each = [(part.weight, self._terms(part, mask)) for part in parts]
        return {name: torch.stack([weight * terms[name] for weight, terms in each]).sum() for name in each[0][1]}

    def _terms(self, batch: Batch, mask: Tensor | None) -> dict[str, Tensor]:
        blocks = batch.blocks if mask is None else batch.blocks * batch.share.of(mask)[:, None]
        latent = self.encoder(blocks).float()  # of mixed precision, the losses are spared
        terms: dict[str, Tensor] = {self.likelihood: self.decoder.loss(latent, batch)}
        if batch.edges is not None and batch.same_cell is not None:
            terms["graph"] = losses.graph_cross_entropy(self._similarity(latent), batch.edges, batch.same_cell)
        if batch.target is not None:
            terms["cluster"] = losses.cluster_divergence(batch.target, self.assignment(latent))
        return terms

    def assignment(self, latent: Tensor) -> Tensor:
        """(B, K) soft assignment of latent rows (B, n_latent)."""
        return losses.soft_assignment(latent, self.centroids, self.spread)

    def _similarity(self, latent: Tensor) -> Tensor:
        with torch.autocast(latent.device.type, enabled=False):
            features = F.normalize(self.graph_decoder(latent), dim=1)
            return features @ features.T / _GRAPH_TEMPERATURE


class Ensemble(nn.Module):
    """Several networks that differ in their first weights and in what is hidden from them, trained side by side."""

    def __init__(self, config: Config, log_mean_counts: Tensor, n_batches: int = 1) -> None:
        super().__init__()
        self.mask_rate = config.mask_rate
        self.networks = nn.ModuleList(ScTAGNet(config, log_mean_counts, n_batches) for _ in range(config.n_networks))

    def __iter__(self) -> Iterator[ScTAGNet]:
        return iter(self.networks)  # type: ignore[arg-type]

    def forward(self, parts: Sequence[Batch]) -> dict[str, Tensor]:
        """Terms of the loss, means over the networks and over the rows of the batch (sums of a process's parts)."""
        masked = self.training and self.mask_rate > 0
        masks: Iterator[Tensor | None] = self._masks(parts[0]) if masked else repeat(None, len(self.networks))
        each = [network(parts, mask) for network, mask in zip(self, masks, strict=True)]
        return {name: torch.stack([terms[name] for terms in each]).mean() for name in each[0]}

    def _masks(self, part: Batch) -> Iterator[Tensor]:
        """For each network the factors (n_rows, G) that hide a random share of the genes of each cell.

        Drawing is slow, so that one number serves all networks, each of which counts it from a point of its own: what
        one sees is hidden from the others as far as their number allows. The whole batch is drawn in every process, so
        that the number of processes does not change the result.
        """
        drawn = torch.rand(part.n_rows, part.blocks.shape[2], device=part.blocks.device)
        for number in range(len(self.networks)):
            own = (drawn + number / len(self.networks)).frac_()
            yield (own >= self.mask_rate).to(part.blocks.dtype).mul_(1 / (1 - self.mask_rate))
