"""Losses of the decoders: multinomial or ZINB likelihood of the counts, cross-entropy of the graph."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def _stirling_error(z: Tensor) -> Tensor:
    """Log z! minus Stirling's approximation of it; a series from 8 up, where lgamma would cancel."""
    small = z.clamp(max=8.0)
    exact = torch.lgamma(small + 1) - (small + 0.5) * small.log() + small - _HALF_LOG_2PI
    inverse = 1 / z.clamp(min=8.0)
    square = inverse * inverse
    series = inverse * (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square / 1680)))
    return torch.where(z < 8.0, exact, series)


def _deviance(excess: Tensor, log_ratio: Tensor) -> Tensor:
    """T - log(1 + t) from t and log(1 + t), by a series where the two nearly cancel."""
    near = excess.abs() < 0.02
    t = torch.where(near, excess, torch.zeros_like(excess))
    series = t * t * (1 / 2 - t * (1 / 3 - t * (1 / 4 - t * (1 / 5 - t / 6))))
    return torch.where(near, series, excess - log_ratio)


def _nb_positive(counts: Tensor, log_mean: Tensor, log_dispersion: Tensor) -> Tensor:
    """Log-likelihood of counts > 0 under a negative binomial, by its saddle-point expansion (Loader 2000).

    The textbook sum of three lgamma terms loses all digits of a float32 at counts and dispersions of 1e5.
    """
    mean, dispersion = log_mean.exp(), log_dispersion.exp()
    log_total = torch.logaddexp(log_mean, log_dispersion)
    log_size = (counts + dispersion).log()
    residual = (counts - mean) / (mean + dispersion)
    from_dispersion = dispersion * _deviance(residual, log_size - log_total)
    log_counts = counts.log()
    from_counts = counts * _deviance(-dispersion * residual / counts, log_size + log_mean - log_counts - log_total)
    stirling = _stirling_error(counts + dispersion) - _stirling_error(dispersion) - _stirling_error(counts)
    prefactor = 0.5 * (log_dispersion - log_size - log_counts) - _HALF_LOG_2PI
    return stirling - from_dispersion - from_counts + prefactor


def _zinb_zero(log_mean: Tensor, log_dispersion: Tensor, dropout_logit: Tensor) -> Tensor:
    """Log-probability of a zero: log(pi + (1 - pi) NB(0)), without cancellation at either end."""
    nb_zero = -log_dispersion.exp() * F.softplus(log_mean - log_dispersion, threshold=80.0)
    likely = torch.log1p(torch.sigmoid(-dropout_logit) * torch.expm1(nb_zero.clamp(min=-1.0)))
    unlikely = F.softplus(nb_zero - dropout_logit) - F.softplus(-dropout_logit)
    return torch.where(nb_zero > -1.0, likely, unlikely)


def zinb_log_likelihood(counts: Tensor, log_mean: Tensor, log_dispersion: Tensor, dropout_logit: Tensor) -> Tensor:
    r"""Log-likelihood of each count under a zero-inflated negative binomial (as in DCA, Eraslan et al. 2019).

    ``counts`` (cells, genes) need not be integers. ``log_mean`` of the NB mean :math:`\mu` and the logit of the dropout
    probability are (cells, genes), too; ``log_dispersion`` of :math:`\theta` (variance :math:`\mu + \mu^2/\theta`) is
    broadcast.
    """
    log_dispersion = log_dispersion.expand_as(counts)
    zero = _zinb_zero(log_mean, log_dispersion, dropout_logit)
    # Nine counts in ten are zeros: the costly terms are computed for the others alone.
    where = torch.nonzero(counts > 0, as_tuple=True)
    kept = F.logsigmoid(-dropout_logit[where])
    positive = kept + _nb_positive(counts[where], log_mean[where], log_dispersion[where])
    return zero.index_put(where, positive)


def multinomial_cross_entropy(counts: Tensor, logits: Tensor) -> Tensor:
    r"""Negative multinomial log-likelihood per count, one value a cell, without its constant.

    ``counts`` and ``logits`` are (cells, genes); the expected share of gene g in a cell is the softmax of its logits.
    Given a cell's total, independent Poisson counts are multinomial: the depth drops out, and with it the size
    factors. Dividing by the total lets every cell weigh the same however deep it was sequenced.
    """
    total = counts.sum(dim=1)
    return -(counts * logits.log_softmax(dim=1)).sum(dim=1) / total.clamp(min=1.0)


def graph_cross_entropy(similarity: Tensor, targets: Tensor, same_cell: Tensor) -> Tensor:
    """Cross-entropy of the decoded graph, over the rows that have an edge in the batch.

    Each row of ``similarity`` (batch, batch) becomes a distribution over the other cells of the batch and is held
    against that row's edge weights ``targets``, which sum to one. Every row weighs the same however sparse the graph
    is, so "no edges" is no solution, which it is for the squared error of the published code. ``same_cell`` marks the
    entries that compare a cell with itself.
    """
    log_decoded = similarity.masked_fill(same_cell, -torch.inf).log_softmax(dim=1)
    entropy = -(targets * log_decoded.masked_fill(same_cell, 0.0)).sum(dim=1)
    return entropy.sum() / targets.sum().clamp(min=1.0)
