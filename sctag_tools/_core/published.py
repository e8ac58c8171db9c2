"""The published method as its code runs, each of its departures from the paper a switch."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from scipy import sparse

from .._checks import check_choice, check_flag, check_integer
from .fit import Fit, Stages, by_size, of_columns, own_torch_state
from .published_losses import ZINBTarget
from .published_net import Adjacency, PublishedNet
from .published_train import FullBatchTrainer
from .train import resolve_accelerator

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from numpy.typing import NDArray

Hops = Literal["reference", "true"]
Likelihood = Literal["scaled", "counts"]
Divergence = Literal["q_from_p", "p_from_q"]
Labels = Literal["last_refresh", "final"]


@dataclass(frozen=True, kw_only=True)
class PublishedSettings:
    """Where the published code and the paper part; the defaults are the code.

    Attributes
    ----------
    hops
        "reference": each layer sees X and three times AX; "true": :math:`A^k X`, k = 0..3.
    dropout
        Whether a fifth of the input is dropped in training, as the layer that is there but never active would.
    likelihood
        What the ZINB describes: the "scaled" matrix (z-scores below 1e-8 as zeros), or the raw "counts", means
        multiplied by size factors.
    trained_centroids
        Whether centroids are trained with the network (DEC) or stay where they started.
    divergence
        "q_from_p": KL(Q || P); "p_from_q": KL(P || Q), as in DEC.
    labels
        Read out at the "last_refresh" of the target distribution, up to 8 epochs before the end, or from the "final"
        weights.
    symmetric_graph
        Whether an edge in one direction makes one in the other; both the paper and the code are silent on it, and the
        code's graph is directed.
    """

    hops: Hops = "reference"
    dropout: bool = False
    likelihood: Likelihood = "scaled"
    trained_centroids: bool = False
    divergence: Divergence = "q_from_p"
    labels: Labels = "last_refresh"
    symmetric_graph: bool = False

    def __post_init__(self) -> None:
        choices = {"hops": Hops, "likelihood": Likelihood, "divergence": Divergence, "labels": Labels}
        for name, allowed in choices.items():
            check_choice(name, getattr(self, name), get_args(allowed))
        for name in ("dropout", "trained_centroids", "symmetric_graph"):
            check_flag(name, getattr(self, name))


REFERENCE = PublishedSettings()
PAPER = PublishedSettings(
    hops="true", dropout=True, likelihood="counts", trained_centroids=True, divergence="p_from_q", labels="final"
)


def fit_published(
    x: NDArray[np.float32],
    distances: sparse.csr_matrix,
    n_clusters: int | None,
    settings: PublishedSettings = REFERENCE,
    *,
    counts: sparse.csr_matrix | None = None,
    size_factors: NDArray[np.floating] | None = None,
    random_state: int = 0,
    accelerator: str = "auto",
    pretrain_epochs: int = 1000,
    cluster_epochs: int = 300,
    progress: bool = False,
    initial_weights: Mapping[str, NDArray[np.float32]] | None = None,
) -> Fit:
    """Run the published method, full-batch, on one set of cells.

    Parameters
    ----------
    x
        (n_cells, n_genes) scaled log-expression, not clipped.
    distances
        (n_cells, n_cells) CSR whose row i has an entry, of any value, for each neighbour of cell i; itself need not
        be among them.
    n_clusters
        Number of clusters; the published method has no way to choose it, so None is refused.
    counts, size_factors
        (n_cells, n_genes) CSR raw counts and (n_cells,) factors; needed for the likelihood of "counts" alone.
    random_state
        Seeds the initial weights and dropout; the global random states are left as they were.
    initial_weights
        Entries of the network's ``state_dict`` to start from, kernels as (input, output); others are drawn.

    Returns
    -------
    Fit with one value of ``loss``, ``zinb``, ``graph`` and ``cluster`` an epoch; its ``latent`` is that of the final
    weights. There are fewer than ``n_clusters`` clusters if the spectral start or training emptied one.
    """
    n_clusters = _checked_number(n_clusters, len(x))
    check_integer("pretrain_epochs", pretrain_epochs, low=0)
    check_integer("cluster_epochs", cluster_epochs, low=0)
    _check_arrays(x, distances, settings, counts, size_factors)
    _check_memory(*x.shape)
    x = np.ascontiguousarray(x, dtype=np.float32)
    device = Fabric(accelerator=resolve_accelerator(accelerator), devices=1, plugins=[LightningEnvironment()]).device
    binary = binary_graph(distances, symmetric=settings.symmetric_graph)
    stage = Stages()
    with own_torch_state(random_state, device):
        net = PublishedNet(x.shape[1], true_hops=settings.hops == "true", dropout=settings.dropout)
        if initial_weights is not None:
            net.load(initial_weights)
        adjacency = Adjacency.from_scipy(binary, device)
        on_counts = settings.likelihood == "counts"
        target = _zinb_target(x, counts if on_counts else None, size_factors, device)
        trainer = FullBatchTrainer(net.to(device), x, adjacency, target, progress=progress)
        with stage("pretraining"):
            trainer.pretrain(pretrain_epochs)
        with stage("start"):
            start = spectral_start(binary, n_clusters)
        with stage("clustering"):
            refreshed, final = trainer.cluster(
                start,
                cluster_epochs,
                trained_centroids=settings.trained_centroids,
                p_from_q=settings.divergence == "p_from_q",
            )
        latent = trainer.latent().cpu().numpy()
    proba = (refreshed if settings.labels == "last_refresh" else final).cpu().numpy()
    proba = of_columns(proba, by_size(proba))
    labels = proba.argmax(axis=1)
    history = {name: np.array(values) for name, values in trainer.history.items()}
    stops = dict.fromkeys(("pretraining", "clustering"), "all steps done")
    return Fit(latent, proba, labels, proba.max(axis=1), history, None, stops, stage.seconds, str(device))


def _zinb_target(
    x: NDArray[np.float32],
    counts: sparse.csr_matrix | None,
    size_factors: NDArray[np.floating] | None,
    device: torch.device,
) -> ZINBTarget:
    if counts is None or size_factors is None:
        return ZINBTarget.from_scaled(x, device)
    return ZINBTarget.from_counts(counts, size_factors, device)


def binary_graph(distances: sparse.csr_matrix, *, symmetric: bool = False) -> sparse.csr_matrix:
    """The (n, n) graph of ones, self-loops included, from the entries of ``distances``, zeros among them too.

    A row lists the neighbours of its cell; two cells are joined in one direction, both or (``symmetric``) both as
    soon as in one.
    """
    n = distances.shape[0]
    graph = sparse.csr_matrix(
        (np.ones(len(distances.indices), dtype=np.float32), distances.indices, distances.indptr), shape=(n, n)
    )
    graph = graph + sparse.identity(n, dtype=np.float32, format="csr")
    if symmetric:
        graph = sparse.csr_matrix(graph + graph.T)
    graph.sum_duplicates()
    graph.data[:] = 1.0
    return graph


def spectral_start(binary: sparse.csr_matrix, n_clusters: int) -> NDArray[np.int64]:
    """Labels (n,) of scikit-learn's spectral clustering of the binary graph, discretised, seed 0.

    The directed graph is averaged with its transpose, as scikit-learn would after a warning. Discretising may leave
    labels out, which would make centroids of nothing (NaN, and then all cells in one cluster, in the published code):
    labels are renumbered and UserWarning says how many there are.
    """
    from sklearn.cluster import SpectralClustering

    if n_clusters == 1:
        return np.zeros(binary.shape[0], dtype=np.int64)
    model = SpectralClustering(n_clusters, affinity="precomputed", assign_labels="discretize", random_state=0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Graph is not fully connected")
        labels = model.fit_predict(0.5 * (binary + binary.T))
    occurring, start = np.unique(labels, return_inverse=True)
    if len(occurring) < n_clusters:
        msg = f"Spectral clustering of the graph gave {len(occurring)} of {n_clusters} clusters; training starts there."
        warnings.warn(msg, UserWarning, stacklevel=3)
    return np.asarray(start, dtype=np.int64)


def _checked_number(n_clusters: int | None, n_cells: int) -> int:
    if n_clusters is None:
        msg = "The published method cannot choose the number of clusters; give `n_clusters`."
        raise ValueError(msg)
    check_integer("n_clusters", n_clusters, low=1)
    if n_clusters >= n_cells:
        msg = f"n_clusters must be smaller than the number of cells ({n_cells}), got {n_clusters}."
        raise ValueError(msg)
    return int(n_clusters)


def _check_arrays(
    x: NDArray[np.float32],
    distances: sparse.csr_matrix,
    settings: PublishedSettings,
    counts: sparse.csr_matrix | None,
    size_factors: NDArray[np.floating] | None,
) -> None:
    expected: dict[str, tuple[Any, tuple[int, ...]]] = {"distances": (distances, (len(x), len(x)))}
    if settings.likelihood == "counts":
        if counts is None or size_factors is None:
            msg = "likelihood='counts' needs `counts` and `size_factors`."
            raise ValueError(msg)
        expected |= {"counts": (counts, x.shape), "size_factors": (size_factors, (len(x),))}
    for name, (array, shape) in expected.items():
        if array.shape != shape:
            msg = f"{name} must have shape {shape} for x of shape {x.shape}, got {array.shape}."
            raise ValueError(msg)
    if not np.isfinite(x).all():
        msg = "x holds NaN or infinite values."
        raise ValueError(msg)


def memory_need(n_cells: int, n_genes: int) -> int:
    """Upper bound of the bytes that a run adds to its input.

    24 n G + 24,000 n for entries above zero and hidden layers, 6 n^2 for the factorised Laplacian of the spectral
    start (measured: 2.5 to 4.3 n^2), and 200 MB for weights, gradients and blocks. Unlike the original, training
    itself holds nothing of size n^2.
    """
    return 24 * n_cells * n_genes + 24_000 * n_cells + 6 * n_cells**2 + 200_000_000


def _check_memory(n_cells: int, n_genes: int) -> None:
    need, installed = memory_need(n_cells, n_genes), _installed_memory()
    if installed is not None and need > installed:
        msg = (
            f"The published method takes all cells at once: {n_cells} cells x {n_genes} genes need up to "
            f"{need / 1e9:.1f} GB, this machine has {installed / 1e9:.1f} GB. Take fewer cells, or the default method."
        )
        raise ValueError(msg)


def _installed_memory() -> int | None:
    """Bytes of memory, or None where the system does not tell; what is free at the moment says less, caches count."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
