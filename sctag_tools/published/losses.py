"""The losses of the published method on all cells, with the gradients of the two costly ones written out.

These two are computed block by block of rows, value and gradients together. No array of shape (n_cells, n_cells), and
no decoded (n_cells, n_genes), is ever whole in memory. Source: Yu et al. 2022 and the authors' code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

_EPSILON = 1e-10
_MIN_POSITIVE = 1e-8  # smaller values are scored as zeros
_DISPERSION_RANGE = (1e-4, 1e4)
_MEAN_RANGE = (1e-5, 1e6)
_MIN_PROBABILITY = 1e-7  # Keras clips both distributions of a KL divergence here
_N_BLOCK_ENTRIES = 2**19  # of a matrix, held at a time: they fit the processor's cache


def block_rows(n: int, width: int) -> int:
    """Rows in each block of an (n, width) matrix: blocks of equal size that fit the cache."""
    return math.ceil(n / math.ceil(n * width / _N_BLOCK_ENTRIES))


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Matrix product, outside autograd.

    On one CPU thread it is numpy's. These products are most of the cost of an epoch, and on AMD processors the MKL in
    torch's builds reaches 60 % of the speed of numpy's OpenBLAS. With several threads, the thread pools of the two
    libraries would compete.
    """
    if left.device.type != "cpu" or torch.get_num_threads() > 1:
        return left @ right
    with np.errstate(all="ignore"):
        return torch.from_numpy(left.numpy() @ right.numpy())


def zinb_loss(hidden: Tensor, kernel: Tensor, bias: Tensor, target: ZINBTarget) -> Tensor:
    """Mean negative ZINB log-likelihood over cells and genes.

    ``hidden`` (n, 512) is the last hidden layer. ``kernel`` (512, 3 G) and ``bias`` (3 G,) belong to the three heads
    side by side: dropout, dispersion and mean.
    """
    return _ZINBLoss.evaluate(hidden, kernel, bias, target)


def graph_loss(left: Tensor, right: Tensor, edges: list[Tensor]) -> Tensor:
    """Mean over all pairs of cells of (sigmoid(left right^T) - A)^2, from (n, 32) factors.

    ``edges`` holds, for each block of ``block_rows(n, n)`` rows of A, the flat positions of its ones.
    """
    return _GraphLoss.evaluate(left, right, edges)


class _WithGradients(Function):
    """A loss that saves its gradients in all arguments but the last when it is computed."""

    @classmethod
    def evaluate(cls, *arguments: Any) -> Tensor:
        """Typed ``apply``."""
        out: Tensor = cls.apply(*arguments)  # type: ignore[no-untyped-call]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return *(part * gradient for part in ctx.saved_tensors), None


class _GraphLoss(_WithGradients):
    """:func:`graph_loss`, block by block."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, edges: list[Tensor]) -> Tensor:
        left, right = left.detach(), right.detach()
        total, size = left.new_zeros(()), block_rows(len(left), len(left))
        to_left, to_right = torch.empty_like(left), torch.zeros_like(right)
        for block, ones in enumerate(edges):
            rows = slice(block * size, (block + 1) * size)
            decoded = _product(left[rows], right.T).sigmoid_()
            error = decoded.clone()
            flat = error.view(-1)
            flat[ones] -= 1
            total += flat @ flat
            error.mul_(decoded).addcmul_(error, decoded, value=-1)  # the sigmoid's derivative is d (1 - d)
            to_left[rows] = _product(error, right)
            to_right += _product(error.T, left[rows])
        n_pairs = len(left) ** 2
        ctx.save_for_backward(to_left.mul_(2 / n_pairs), to_right.mul_(2 / n_pairs))
        return total / n_pairs


@dataclass(frozen=True)
class ZINBTarget:
    """What the ZINB describes: the positive entries of an (n, n_genes) matrix, and the cells' size factors."""

    positions: list[Tensor]  # for each block of rows, (n_positive,) flat positions in the block
    values: list[Tensor]  # for each block of rows, (n_positive,) values there
    sizes: Tensor  # (n, 1) factors of the mean
    block_rows: int

    @classmethod
    def from_scaled(cls, x: NDArray[np.float32], device: torch.device) -> ZINBTarget:
        """The scaled matrix (n, n_genes), whose negative values count as zeros; no size factors."""
        return cls.from_counts(sparse.csr_matrix(np.maximum(x, 0)), np.ones(len(x)), device)

    @classmethod
    def from_counts(
        cls, counts: sparse.csr_matrix, size_factors: NDArray[np.floating], device: torch.device
    ) -> ZINBTarget:
        """Raw counts (n, n_genes), with the size factors (n,) that multiply the decoded means."""
        n, n_genes = counts.shape
        rows = block_rows(n, n_genes)
        positions, values = [], []
        # In float32, lgamma of a count of 1e5 has no digits left. MPS has no wider type.
        exact = torch.float32 if device.type == "mps" else torch.float64
        for start in range(0, n, rows):
            block = counts[start : start + rows].tocoo()
            above = block.data >= _MIN_POSITIVE
            flat = (block.row.astype(np.int64) * n_genes + block.col)[above]
            positions.append(torch.from_numpy(flat).to(device))
            values.append(torch.from_numpy(block.data[above]).to(device, exact))
        column = torch.from_numpy(np.asarray(size_factors, dtype=np.float32)[:, None]).to(device)
        return cls(positions, values, column, rows)


class _ZINBLoss(_WithGradients):
    """:func:`zinb_loss`, block by block.

    All entries are first scored as zeros, which needs no lgamma. The scores of the few positive entries then replace
    theirs.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, kernel: Tensor, bias: Tensor, target: ZINBTarget) -> Tensor:
        hidden, kernel = hidden.detach(), kernel.detach()
        total = hidden.new_zeros(())
        to_hidden, to_kernel, to_bias = torch.empty_like(hidden), torch.zeros_like(kernel), torch.zeros_like(bias)
        for block, (positions, values) in enumerate(zip(target.positions, target.values, strict=True)):
            rows = slice(block * target.block_rows, (block + 1) * target.block_rows)
            heads = _product(hidden[rows], kernel).add_(bias)
            scores, gradients = _scores(heads, target.sizes[rows], positions, values)
            total += scores.sum()
            to_hidden[rows] = _product(gradients, kernel.T)
            to_kernel += _product(hidden[rows].T, gradients)
            to_bias += gradients.sum(dim=0)
        n_entries = len(hidden) * len(bias) // 3
        ctx.save_for_backward(*(part.div_(n_entries) for part in (to_hidden, to_kernel, to_bias)))
        return total / n_entries


def _scores(heads: Tensor, sizes: Tensor, positions: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood (rows, G) of a block and its gradients in ``heads`` (rows, 3 G), which they replace."""
    n_genes = heads.shape[1] // 3
    row = positions // n_genes
    at = positions + 2 * n_genes * row + n_genes * torch.arange(3, device=heads.device)[:, None]
    dropout, dispersion, mean = heads.view(-1)[at]
    found, *gradients = _positive_scores(values, dropout, dispersion, mean, sizes.view(-1)[row])
    dropout, dispersion, mean = heads.chunk(3, dim=1)
    scores = _zero_scores(dropout, dispersion, mean, sizes)
    scores.view(-1)[positions] = found.to(scores.dtype)
    heads.view(-1)[at] = torch.stack(gradients).to(heads.dtype)
    return scores, heads


def _zero_scores(dropout: Tensor, dispersion: Tensor, mean: Tensor, sizes: Tensor) -> Tensor:
    """Score of every entry as a zero, -log(pi + (1 - pi) NB(0) + eps). Its gradients replace the three heads."""
    pi = torch.sigmoid(dropout)
    theta, clipped_theta = _clip(F.softplus(dispersion), *_DISPERSION_RANGE)
    mu, clipped_mu = _clip(mean.exp(), *_MEAN_RANGE)
    mu.mul_(sizes)
    ratio = theta / (theta + mu).add_(_EPSILON)
    log_ratio = ratio.log()
    nb = theta.mul_(log_ratio).exp_()
    not_nb = 1 - nb
    likelihood = torch.addcmul(nb, pi, not_nb).add_(_EPSILON)
    kept = (1 - pi).div_(likelihood)
    torch.mul(not_nb.mul_(pi).neg_(), kept, out=dropout)
    of_log_nb = nb.mul_(kept)
    torch.mul(mu.mul_(ratio), of_log_nb, out=mean)
    dispersion.sigmoid_().mul_(ratio.sub_(1).sub_(log_ratio).mul_(of_log_nb))
    for gradient, clipped in ((mean, clipped_mu), (dispersion, clipped_theta)):
        if clipped is not None:
            gradient.masked_fill_(clipped, 0)
    return likelihood.log_().neg_()


def _clip(values: Tensor, low: float, high: float) -> tuple[Tensor, Tensor | None]:
    """Clip in place. Also returns where values changed, or None in the common case that none did."""
    least, most = values.aminmax()
    if bool(least >= low) and bool(most <= high):
        return values, None
    clipped = (values < low) | (values > high)
    return values.clamp_(low, high), clipped


def _positive_scores(y: Tensor, dropout: Tensor, dispersion: Tensor, mean: Tensor, sizes: Tensor) -> list[Tensor]:
    """Negative log-likelihood of values y > 0 (n_positive,) and its gradients in the three heads."""
    with torch.enable_grad():
        heads = [head.to(y.dtype).requires_grad_() for head in (dropout, dispersion, mean)]
        theta = F.softplus(heads[1]).clamp(*_DISPERSION_RANGE) + _EPSILON
        mu = heads[2].exp().clamp(*_MEAN_RANGE) * sizes
        binomial = torch.lgamma(theta) + torch.lgamma(y + 1) - torch.lgamma(y + theta)
        rates = (theta + y) * torch.log1p(mu / theta) + y * (theta.log() - (mu + _EPSILON).log())
        scores = binomial + rates - (torch.sigmoid(-heads[0]) + _EPSILON).log()
        gradients = torch.autograd.grad(scores.sum(), heads)
    return [scores.detach(), *gradients]


def kl_divergence(p: Tensor, q: Tensor) -> Tensor:
    """Mean over cells of KL(p || q), with probabilities clipped to [1e-7, 1] as Keras does."""
    p, q = p.clamp(_MIN_PROBABILITY, 1.0), q.clamp(_MIN_PROBABILITY, 1.0)
    return (p * (p / q).log()).sum(dim=1).mean()
