"""The published network on all cells at once: PyG's TAG layers, a graph decoder and a ZINB decoder.

Weights are exchanged as Keras kernels, (input, output), so that runs of the original can be followed. Source: Yu et al.
2022 and the authors' code on TensorFlow.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor, nn
from torch_geometric.nn.conv.gcn_conv import gcn_norm

from ..nn.tag import PlainTAGConv, csr_tensor, quiet_csr
from .losses import ZINBTarget, block_rows, graph_loss, zinb_loss

N_HOPS = 3
_N_HIDDEN, _N_LATENT, _N_GRAPH_FEATURES = 128, 15, 32
_DECODER_WIDTHS = (128, 256, 512)
_DROPOUT_RATE = 0.2


@dataclass(frozen=True)
class Adjacency:
    """The graph as the network uses it."""

    normalized: Tensor  # (n, n) sparse CSR
    edges: list[Tensor]  # the edges of each block of rows, as flat positions in the block

    @classmethod
    def from_scipy(cls, binary: sparse.csr_matrix, device: torch.device) -> Self:
        """From the binary (n, n) graph with self-loops; degrees are row sums."""
        n = binary.shape[0]
        with quiet_csr():
            normalized, _ = gcn_norm(csr_tensor(binary), num_nodes=n, add_self_loops=False)
        rows = block_rows(n, n)
        blocks = (binary[start : start + rows].tocoo() for start in range(0, n, rows))
        edges = [torch.from_numpy(block.row.astype(np.int64) * n + block.col).to(device) for block in blocks]
        return cls(normalized.to(device), edges)


class RepeatedHopTAGConv(PlainTAGConv):
    """The graph layer as the published code has it, with a defect: :math:`X W_0 + A X (W_1 + W_2 + W_3)`.

    The code multiplies the input by A each time, not the previous hop. So the layer sees X, AX, AX, AX in place of
    X, AX, A²X, A³X: one hop, however large K is.
    """

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        # Propagate after the product, which makes the features narrower.
        neighbor_weight = torch.stack([linear.weight for linear in self.lins[1:]]).sum(dim=0)
        neighbors = self.propagate(adjacency, x=F.linear(x, neighbor_weight), edge_weight=None)
        out: Tensor = F.linear(x, self.lins[0].weight, self.bias) + neighbors
        return out


def _tag_layer(kind: type[PlainTAGConv], n_in: int, n_out: int) -> PlainTAGConv:
    """A TAG layer with the weights that Keras would draw for one kernel of all hops."""
    with torch.random.fork_rng([]):  # what PyG draws is replaced and must not change later draws
        layer = kind(n_in, n_out, K=N_HOPS, normalize=False)
    _set_kernel(layer, _glorot_uniform((N_HOPS + 1) * n_in, n_out))
    return layer


def _set_kernel(layer: PlainTAGConv, kernel: Tensor) -> None:
    """Split the ((K + 1) n_in, n_out) kernel into the weights of the hops."""
    with torch.no_grad():
        for linear, block in zip(layer.lins, kernel.chunk(len(layer.lins)), strict=True):
            linear.weight.copy_(block.T)


def _glorot_uniform(n_in: int, n_out: int, n_layers: int = 1) -> Tensor:
    """Kernels (n_in, n_out) of layers with one input, side by side."""
    limit = math.sqrt(6 / (n_in + n_out))
    return torch.empty(n_in, n_layers * n_out).uniform_(-limit, limit)


class Dense(nn.Module):
    """A Keras layer, or several of one input side by side. Without ``has_bias`` the bias stays at zero."""

    def __init__(self, n_in: int, n_out: int, *, n_layers: int = 1, has_bias: bool = True) -> None:
        super().__init__()
        self.kernel = nn.Parameter(_glorot_uniform(n_in, n_out, n_layers))
        self.bias = nn.Parameter(torch.zeros(n_layers * n_out), requires_grad=has_bias)

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.kernel)


class PublishedNet(nn.Module):
    """Encoder n_genes -> 128 -> 15, bilinear graph decoder, and ZINB decoder 15 -> 128 -> 256 -> 512 -> n_genes."""

    def __init__(self, n_genes: int, *, true_hops: bool, dropout: bool) -> None:
        super().__init__()
        layer = PlainTAGConv if true_hops else RepeatedHopTAGConv
        self.dropout_rate = _DROPOUT_RATE if dropout else 0.0
        self.hidden = _tag_layer(layer, n_genes, _N_HIDDEN)
        self.latent = _tag_layer(layer, _N_HIDDEN, _N_LATENT)
        self.graph = Dense(_N_LATENT, _N_GRAPH_FEATURES)
        self.bilinear = Dense(_N_GRAPH_FEATURES, _N_GRAPH_FEATURES, has_bias=False)
        widths = (_N_LATENT, *_DECODER_WIDTHS)
        self.decoder = nn.ModuleList(Dense(*pair) for pair in itertools.pairwise(widths))
        self.heads = Dense(_DECODER_WIDTHS[-1], n_genes, n_layers=3)  # dropout, dispersion, mean

    def load(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        """Replace these kernels and biases, such as "hidden.kernel"; KeyError or ValueError for what does not fit."""
        layers = {"hidden.kernel": self.hidden, "latent.kernel": self.latent}
        others = {name: value for name, value in self.state_dict().items() if ".lins." not in name}
        shapes = {name: ((N_HOPS + 1) * layer.in_channels, layer.out_channels) for name, layer in layers.items()}
        shapes |= {name: tuple(value.shape) for name, value in others.items()}
        for name, value in weights.items():
            if name not in shapes:
                msg = f"initial_weights[{name!r}] is no weight of the network; there are {list(shapes)}."
                raise KeyError(msg)
            if shapes[name] != value.shape:
                msg = f"initial_weights[{name!r}] must have shape {shapes[name]}, got {value.shape}."
                raise ValueError(msg)
            given = torch.from_numpy(np.asarray(value))
            if name in layers:
                _set_kernel(layers[name], given)
            else:
                others[name].copy_(given)

    def encode(self, x: Tensor, adjacency: Adjacency) -> Tensor:
        """(n, 15) latent of the scaled expression (n, n_genes); dropout acts in training mode alone."""
        if self.dropout_rate:
            x = F.dropout(x, self.dropout_rate, self.training)
        latent: Tensor = self.latent(torch.relu(self.hidden(x, adjacency.normalized)), adjacency.normalized)
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
