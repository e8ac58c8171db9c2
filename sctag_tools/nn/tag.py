"""Topology-adaptive graph convolution (Du et al. 2017): normalized graph, hop features, layer, message to new cells."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor, nn
from torch_geometric.nn import TAGConv
from torch_geometric.nn.conv.gcn_conv import gcn_norm
from torch_geometric.utils import spmm

_COLUMNS_AT_ONCE = 256
_FAR_HOPS = 0.1  # of the usual size, first weights of the second hop and beyond


def normalize_adjacency(connectivities: sparse.spmatrix | sparse.sparray) -> sparse.csr_matrix:
    r"""Symmetrically normalized adjacency :math:`D^{-1/2} A D^{-1/2}` without self-loops, by PyG's ``gcn_norm``.

    ``connectivities`` is (n, n); row i lists the neighbors that cell i gathers from, and degrees are row sums. A cell
    without neighbors keeps an empty row: its hop features are zero. Returns (n, n) CSR, float32.
    """
    adjacency = sparse.csr_matrix(connectivities, dtype=np.float64, copy=True)
    rows = np.repeat(np.arange(adjacency.shape[0]), np.diff(adjacency.indptr))
    adjacency.data[adjacency.indices == rows] = 0  # setdiag would store entries where there are none
    adjacency.eliminate_zeros()
    adjacency.sum_duplicates()  # which sorts, too
    with quiet_csr():
        normalized, _ = gcn_norm(csr_tensor(adjacency), num_nodes=adjacency.shape[0], add_self_loops=False)
    adjacency.data = normalized.values().numpy()
    return sparse.csr_matrix(adjacency, dtype=np.float32)


def hop_features(
    x: NDArray[np.float32], adjacency: sparse.csr_matrix, n_hops: int, device: torch.device | None = None
) -> Tensor:
    """The features :math:`A^k X` of hops k = 0..n_hops, (n_cells, n_hops + 1, n_features) float32 on the CPU.

    A TAG layer multiplies them with its weights. They are the same in every step, so they are computed once, on
    ``device`` (default CPU) by PyG's sparse product, and training draws minibatches of rows without looking for
    neighbors (SIGN, Frasca et al. 2020).
    """
    n, width = x.shape
    hops = torch.empty(n, n_hops + 1, width)
    hops[:, 0] = torch.from_numpy(x)
    if n_hops == 0:
        return hops
    with quiet_csr():
        graph = csr_tensor(adjacency).to(device or "cpu")
        for start in range(0, width, _COLUMNS_AT_ONCE):  # a second array of this size would double the memory
            columns = slice(start, start + _COLUMNS_AT_ONCE)
            reached = hops[:, 0, columns].contiguous().to(graph.device)
            for k in range(n_hops):
                reached = spmm(graph, reached)
                hops[:, k + 1, columns] = reached.cpu()
    return hops


def csr_tensor(matrix: sparse.csr_matrix) -> Tensor:
    """A scipy CSR matrix as a torch CSR tensor of the same dtype."""
    starts, columns = (torch.from_numpy(part.astype(np.int64)) for part in (matrix.indptr, matrix.indices))
    values = torch.from_numpy(matrix.data)
    with quiet_csr():
        return torch.sparse_csr_tensor(starts, columns, values, size=matrix.shape, check_invariants=True)


@contextmanager
def quiet_csr() -> Iterator[None]:
    """Without torch's notes that its CSR tensors are in beta, and unchecked where PyG makes them."""
    with warnings.catch_warnings():
        for note in ("Sparse CSR tensor support is in beta", "Sparse invariant checks are implicitly disabled"):
            warnings.filterwarnings("ignore", message=note, category=UserWarning)
        yield


class PlainTAGConv(TAGConv):  # type: ignore[misc]
    """PyG's ``TAGConv`` as it is written, without the code that PyG generates for a class.

    That would leave a file in the temporary folder for every process, and fail where there is none to write to.
    """

    def _set_jittable_templates(self, raise_on_error: bool = False) -> None:  # noqa: FBT001, FBT002 (PyG's signature)
        pass


class PrecomputedTAGConv(PlainTAGConv):
    """PyG's ``TAGConv`` on hop features that were computed before (:func:`hop_features`), for minibatches of cells.

    Weights and result are those of ``TAGConv`` on the whole graph.
    """

    def __init__(self, in_channels: int, out_channels: int, n_hops: int) -> None:
        super().__init__(in_channels, out_channels, K=n_hops, normalize=False)
        with torch.no_grad():  # far hops smooth; they start small and grow where the counts ask for it
            for linear in self.lins[2:]:
                linear.weight.mul_(_FAR_HOPS)

    def forward(self, hops: Tensor) -> Tensor:
        """(B, out_channels) from hop features (B, n_hops + 1, in_channels)."""
        out: Tensor = self.bias
        for k, linear in enumerate(self.lins):
            out = torch.addmm(out, hops[:, k], linear.weight.T)
        return out

    def outgoing_message(self, hops: Tensor) -> Tensor:
        """(B, out_channels) what cells with these hop features add to the output of a cell they become neighbors of.

        The layer is linear, so the neighbors of a new cell enter its output as the sum of their messages, weighted by
        the edges. Their features need not be kept.
        """
        weights = torch.cat([linear.weight for linear in self.lins], dim=1)[:, hops.shape[2] :]
        return F.linear(hops[:, :-1].flatten(1), weights)

    def with_messages(self, x: Tensor, messages: Tensor) -> Tensor:
        """(B, out_channels) of new cells from their own features (B, in_channels) and their summed ``messages``."""
        return F.linear(x, self.lins[0].weight, self.bias) + messages


class TAGEncoder(nn.Module):
    """A TAG layer over ``n_hops`` hops, then one over the cell alone (K = 0): genes -> n_hidden -> n_latent.

    With K > 0 the second layer would need the hidden states of the neighbors of each cell in every minibatch.
    """

    def __init__(self, n_genes: int, n_hidden: int, n_latent: int, n_hops: int) -> None:
        super().__init__()
        self.hidden = PrecomputedTAGConv(n_genes, n_hidden, n_hops)
        self.latent = PlainTAGConv(n_hidden, n_latent, K=0, normalize=False)

    def forward(self, hops: Tensor) -> Tensor:
        """Latent (B, n_latent) of cells with hop features (B, n_hops + 1, n_genes)."""
        return self._latent(self.hidden(hops))

    def encode_new(self, x: Tensor, messages: Tensor) -> Tensor:
        """Latent of new cells from their scaled expression (B, n_genes) and their neighbors' messages (B, n_hidden)."""
        return self._latent(self.hidden.with_messages(x, messages))

    def _latent(self, hidden: Tensor) -> Tensor:
        no_edges = torch.empty(2, 0, dtype=torch.int64, device=hidden.device)
        latent: Tensor = self.latent(torch.relu(hidden), no_edges)
        return latent
