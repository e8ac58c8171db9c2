"""The published network, full-batch; kernels are (input, output), as Keras has them.

Weights can so be exchanged with the original. Source: Yu et al. 2022 and what the authors' code gives on TensorFlow.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .published_losses import apply, block_rows, graph_loss, product, zinb_loss

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from .published_losses import ZINBTarget

N_HOPS = 3
_HIDDEN, _LATENT, _GRAPH_FEATURES = 128, 15, 32
_DECODER = (128, 256, 512)
_DROPOUT = 0.2


@dataclass(frozen=True)
class Adjacency:
    """The graph as the network uses it."""

    normalised: Tensor  # (n, n) sparse
    transposed: Tensor  # (n, n) sparse, of ``normalised``
    edges: list[Tensor]  # the edges of each block of rows, as flat positions in the block

    @classmethod
    def from_scipy(cls, binary: sparse.csr_matrix, device: torch.device) -> Adjacency:
        """From the binary (n, n) graph, self-loops included, normalised by the root of the row degrees."""
        n = binary.shape[0]
        scale = sparse.diags(1 / np.sqrt(np.asarray(binary.sum(axis=1)).ravel()))
        normalised = sparse.csr_matrix(scale @ binary @ scale, dtype=np.float32)
        rows = block_rows(n, n)
        blocks = (binary[start : start + rows].tocoo() for start in range(0, n, rows))
        edges = [torch.from_numpy(block.row.astype(np.int64) * n + block.col).to(device) for block in blocks]
        return cls(_sparse_tensor(normalised, device), _sparse_tensor(normalised.T, device), edges)


def _sparse_tensor(matrix: sparse.spmatrix, device: torch.device) -> Tensor:
    entries = matrix.tocsr().tocoo()
    indices = torch.from_numpy(np.stack([entries.row, entries.col]).astype(np.int64))
    values = torch.from_numpy(entries.data)
    tensor = torch.sparse_coo_tensor(indices, values, entries.shape, check_invariants=False)
    return tensor.coalesce().to(device)


class _Affine(Function):
    """Features (n, n_in) times kernel (n_in, n_out), plus a bias (n_out,) or None."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(features, kernel)
        out = product(features.detach(), kernel.detach())
        return out if bias is None else out.add_(bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        features, kernel = (saved.detach() for saved in ctx.saved_tensors)
        to_features = product(gradient, kernel.T) if ctx.needs_input_grad[0] else None
        to_bias = gradient.sum(dim=0) if ctx.needs_input_grad[2] else None
        return to_features, product(features.T, gradient), to_bias


class _Propagate(Function):
    """One hop, the normalised adjacency times features; its transpose is kept rather than rebuilt each epoch."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, adjacency: Adjacency) -> Tensor:
        ctx.adjacency = adjacency
        out: Tensor = torch.sparse.mm(adjacency.normalised, features)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return torch.sparse.mm(ctx.adjacency.transposed, gradient), None


class Dense(nn.Module):
    """A Keras layer, or several of one input side by side: Glorot-uniform kernel (n_in, n_out), bias of zeros.

    Without ``has_bias`` it stays at zero.
    """

    def __init__(self, n_in: int, n_out: int, *, n_layers: int = 1, has_bias: bool = True) -> None:
        super().__init__()
        limit = math.sqrt(6 / (n_in + n_out))
        self.kernel = nn.Parameter(torch.empty(n_in, n_layers * n_out).uniform_(-limit, limit))
        self.bias = nn.Parameter(torch.zeros(n_layers * n_out), requires_grad=has_bias)

    def forward(self, x: Tensor) -> Tensor:
        return apply(_Affine, x, self.kernel, self.bias)


class HopLayer(Dense):
    """The graph layer: features of N_HOPS + 1 blocks, concatenated, times one kernel (4 n_in, n_out).

    With ``true_hops`` the blocks are :math:`A^k X`; without, they are X, AX, AX, AX, as the published code has them.
    Features are projected before they are propagated, which gives the same with narrower products.
    """

    def __init__(self, n_in: int, n_out: int, *, true_hops: bool) -> None:
        super().__init__((N_HOPS + 1) * n_in, n_out)
        self.true_hops = true_hops

    def forward(self, x: Tensor, adjacency: Adjacency) -> Tensor:  # type: ignore[override]
        kernels = self.kernel.view(N_HOPS + 1, x.shape[1], -1)
        hops = list(kernels) if self.true_hops else [kernels[0], kernels[1:].sum(dim=0)]
        *projected, out = apply(_Affine, x, torch.cat(hops, dim=1), None).chunk(len(hops), dim=1)
        for block in reversed(projected):
            out = block + apply(_Propagate, out.contiguous(), adjacency)
        return out + self.bias


class PublishedNet(nn.Module):
    """Encoder n_genes -> 128 -> 15, bilinear graph decoder, and ZINB decoder 15 -> 128 -> 256 -> 512 -> n_genes."""

    def __init__(self, n_genes: int, *, true_hops: bool, dropout: bool) -> None:
        super().__init__()
        self.rate = _DROPOUT if dropout else 0.0
        self.hidden = HopLayer(n_genes, _HIDDEN, true_hops=true_hops)
        self.latent = HopLayer(_HIDDEN, _LATENT, true_hops=true_hops)
        self.graph = Dense(_LATENT, _GRAPH_FEATURES)
        self.bilinear = Dense(_GRAPH_FEATURES, _GRAPH_FEATURES, has_bias=False)
        widths = (_LATENT, *_DECODER)
        self.decoder = nn.ModuleList(Dense(*pair) for pair in itertools.pairwise(widths))
        self.heads = Dense(_DECODER[-1], n_genes, n_layers=3)  # dropout, dispersion, mean

    def load(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        """Replace these entries of the network's state; KeyError or ValueError for what does not fit."""
        state = self.state_dict()
        for name, value in weights.items():
            if name not in state:
                msg = f"initial_weights[{name!r}] is no weight of the network; there are {list(state)}."
                raise KeyError(msg)
            if state[name].shape != value.shape:
                msg = f"initial_weights[{name!r}] must have shape {tuple(state[name].shape)}, got {value.shape}."
                raise ValueError(msg)
            state[name].copy_(torch.from_numpy(np.asarray(value)))

    def encode(self, x: Tensor, adjacency: Adjacency) -> Tensor:
        """(n, 15) latent of the scaled expression (n, n_genes); dropout acts in training mode alone."""
        if self.rate:
            x = F.dropout(x, self.rate, self.training)
        latent: Tensor = self.latent(torch.relu(self.hidden(x, adjacency)), adjacency)
        return latent

    def zinb_loss(self, latent: Tensor, target: ZINBTarget) -> Tensor:
        """Mean negative ZINB log-likelihood over cells and genes."""
        for layer in self.decoder:
            latent = torch.relu(layer(latent))
        return zinb_loss(latent, self.heads.kernel, self.heads.bias, target)

    def graph_loss(self, latent: Tensor, adjacency: Adjacency) -> Tensor:
        """Mean squared error of the decoded graph against the binary one, over all pairs of cells."""
        features = self.graph(latent)
        return graph_loss(self.bilinear(features), features, adjacency.edges)
