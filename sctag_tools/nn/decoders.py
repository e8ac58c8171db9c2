"""Decoders from the latent: multinomial or ZINB for the counts, cosine similarity for the graph."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import losses
from .minibatch import Minibatch

_MAX_LOG_MEAN = 14.0  # means from 1e-6 to 1e6
_MAX_LOG_DISPERSION = 9.2  # inverse dispersions from 1e-4 to 1e4
_INITIAL_DROPOUT_LOGIT = -2.0
_N_GRAPH_FEATURES = 32
_GRAPH_TEMPERATURE = 0.2


class BatchEffects(nn.Module):
    """What each experimental batch adds to the log mean of each gene, zero at first; a single batch adds nothing.

    Batch -1, which was not trained on, adds the mean of all batches.
    """

    def __init__(self, n_batches: int, n_genes: int) -> None:
        super().__init__()
        self.effects = nn.Parameter(torch.zeros(n_batches, n_genes)) if n_batches > 1 else None

    def forward(self, log_mean: Tensor, batch_index: Tensor) -> Tensor:
        if self.effects is None:
            return log_mean
        return log_mean + torch.cat([self.effects, self.effects.mean(dim=0, keepdim=True)])[batch_index]


class MultinomialDecoder(nn.Module):
    """n_latent -> n_hidden -> logit per cell and gene. Their softmax is the expected share of the cell's counts."""

    def __init__(self, n_latent: int, n_hidden: int, log_mean_counts: Tensor, n_batches: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(n_latent, n_hidden)
        self.logit = nn.Linear(n_hidden, len(log_mean_counts))
        self.batch_effects = BatchEffects(n_batches, len(log_mean_counts))
        with torch.no_grad():  # start from the average cell
            self.logit.bias.copy_(log_mean_counts)

    def forward(self, latent: Tensor, batch_index: Tensor) -> Tensor:
        logits: Tensor = self.batch_effects(self.logit(torch.relu(self.hidden(latent))), batch_index)
        return logits

    def expected_proportions(self, latent: Tensor, batch_index: Tensor) -> Tensor:
        """(B, G) expected share of each gene in a cell's counts."""
        logits: Tensor = self(latent, batch_index)
        return logits.softmax(dim=1)

    def loss(self, latent: Tensor, cells: Minibatch) -> Tensor:
        """Mean over cells of the negative log-likelihood per count."""
        return losses.multinomial_cross_entropy(cells.counts, self(latent, cells.batch_index).float()).mean()


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
            self.dropout_logit.bias.fill_(_INITIAL_DROPOUT_LOGIT)

    def forward(self, latent: Tensor, log_size: Tensor, batch_index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = torch.relu(self.hidden(latent))
        log_mean = self.batch_effects(self.log_mean(hidden), batch_index) + log_size[:, None]
        log_mean = log_mean.clamp(-_MAX_LOG_MEAN, _MAX_LOG_MEAN)
        log_dispersion = self.log_dispersion.clamp(-_MAX_LOG_DISPERSION, _MAX_LOG_DISPERSION)
        return log_mean, log_dispersion, self.dropout_logit(hidden)

    def expected_proportions(self, latent: Tensor, batch_index: Tensor) -> Tensor:
        """(B, G) expected share of each gene in a cell's counts, had nothing dropped out."""
        return self._of_average_size(latent, batch_index)[0].softmax(dim=1)

    def dropout_probability(self, latent: Tensor, batch_index: Tensor) -> Tensor:
        """(B, G) probability that the counts of a gene were lost."""
        return self._of_average_size(latent, batch_index)[2].sigmoid()

    def _of_average_size(self, latent: Tensor, batch_index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        parameters: tuple[Tensor, Tensor, Tensor] = self(latent, latent.new_zeros(len(latent)), batch_index)
        return parameters

    def loss(self, latent: Tensor, cells: Minibatch) -> Tensor:
        """Mean over cells of the negative log-likelihood per count, so that deep cells do not rule."""
        parameters = (part.float() for part in self(latent, cells.log_size, cells.batch_index))
        log_likelihood = losses.zinb_log_likelihood(cells.counts, *parameters).sum(dim=1)
        return -(log_likelihood / cells.counts.sum(dim=1).clamp(min=1.0)).mean()


COUNT_DECODERS: dict[str, type[MultinomialDecoder | ZINBDecoder]] = {
    "multinomial": MultinomialDecoder,
    "zinb": ZINBDecoder,
}


class GraphDecoder(nn.Linear):
    """Similarity of cells in a minibatch: cosine of a linear image of their latents, over a temperature."""

    def __init__(self, n_latent: int) -> None:
        super().__init__(n_latent, _N_GRAPH_FEATURES, bias=False)

    def forward(self, latent: Tensor) -> Tensor:
        """(B, B) similarities of latent rows (B, n_latent)."""
        with torch.autocast(latent.device.type, enabled=False):
            features = F.normalize(super().forward(latent), dim=1)
            return features @ features.T / _GRAPH_TEMPERATURE
