"""One run of the published method on arrays: pretraining, spectral start, self-training, result."""

import os
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from numpy.typing import NDArray
from scipy import sparse

from ..train.config import Config
from ..train.result import FitResult, clusters_by_size, select_clusters
from ..train.runtime import StageTimer, own_torch_state, resolve_accelerator
from .losses import ZINBTarget
from .net import Adjacency, PublishedNet
from .settings import REFERENCE, PublishedSettings
from .train import FullBatchTrainer

_N_PRETRAIN_EPOCHS, _N_CLUSTER_EPOCHS = 1000, 300


def fit_published(
    x: NDArray[np.float32],
    distances: sparse.csr_matrix,
    config: Config,
    settings: PublishedSettings = REFERENCE,
    *,
    counts: sparse.csr_matrix | None = None,
    size_factors: NDArray[np.floating] | None = None,
    initial_weights: Mapping[str, NDArray[np.float32]] | None = None,
    progress: bool = False,
) -> FitResult:
    """Run the published method on all cells at once.

    ``x`` (n_cells, n_genes) is scaled log-expression, not clipped. Row i of ``distances`` (n_cells, n_cells), CSR, has
    an entry, of any value, for each neighbor of cell i; cell i itself may be left out. Of ``config`` are used:
    ``n_clusters``, which is required, ``random_state``, ``accelerator``, ``pretrain_epochs`` (default 1000) and
    ``cluster_epochs`` (default 300). Raw ``counts`` (n_cells, n_genes), CSR, and ``size_factors`` (n_cells,) are needed
    only if the ZINB describes the "counts". ``initial_weights`` are kernels (input, output) and biases to start from
    (:meth:`.PublishedNet.load`); the others are drawn.

    The history has one value of ``loss``, ``zinb``, ``graph`` and ``cluster`` for each epoch. The latent is that of the
    final weights. There are fewer than ``n_clusters`` clusters if one is empty at the spectral start or after training.
    """
    n_clusters = _require_n_clusters(config, len(x))
    _check_arrays(x, distances, settings, counts, size_factors)
    _check_memory(*x.shape)
    x = np.ascontiguousarray(x, dtype=np.float32)
    accelerator = resolve_accelerator(config.accelerator)
    device = Fabric(accelerator=accelerator, devices=1, plugins=[LightningEnvironment()]).device
    binary = binary_graph(distances, symmetric=settings.symmetric_graph)
    stage = StageTimer()
    with own_torch_state(int(config.random_state or 0), device):
        net = PublishedNet(x.shape[1], true_hops=settings.hops == "true", dropout=settings.dropout)
        net.load(initial_weights or {})
        if settings.likelihood == "counts" and counts is not None and size_factors is not None:
            target = ZINBTarget.from_counts(counts, size_factors, device)
        else:
            target = ZINBTarget.from_scaled(x, device)
        trainer = FullBatchTrainer(net.to(device), x, Adjacency.from_scipy(binary, device), target, progress=progress)
        with stage("pretraining"):
            trainer.pretrain(_N_PRETRAIN_EPOCHS if config.pretrain_epochs is None else config.pretrain_epochs)
        with stage("start"):
            start = spectral_start(binary, n_clusters)
        with stage("clustering"):
            refreshed, final = trainer.cluster(
                start,
                _N_CLUSTER_EPOCHS if config.cluster_epochs is None else config.cluster_epochs,
                trained_centroids=settings.trained_centroids,
                p_from_q=settings.divergence == "p_from_q",
            )
        latent = trainer.latent().cpu().numpy()
    proba = (refreshed if settings.labels == "last_refresh" else final).cpu().numpy()
    proba = select_clusters(proba, clusters_by_size(proba))
    return FitResult(
        latent=latent,
        proba=proba,
        labels=proba.argmax(axis=1),
        confidence=proba.max(axis=1),
        history={name: np.array(values) for name, values in trainer.history.items()},
        n_clusters_curve=None,
        stop_reasons=dict.fromkeys(("pretraining", "clustering"), "all steps done"),
        seconds=stage.seconds,
        device=str(device),
    )


def nearest_neighbors(distances: sparse.csr_matrix, k: int) -> sparse.csr_matrix:
    """The ``k`` smallest entries of each row of (n, n) distances, none of them on the diagonal.

    For the same ``n_neighbors``, scanpy stores one neighbor more, or the cell itself, if its search is not exact.
    """
    graph = distances.tocoo()
    order = np.lexsort((graph.col, graph.data, graph.row))
    order = order[graph.row[order] != graph.col[order]]
    rank = np.arange(len(order)) - np.searchsorted(graph.row[order], graph.row[order])
    kept = order[rank < k]
    return sparse.csr_matrix((graph.data[kept], (graph.row[kept], graph.col[kept])), shape=graph.shape)


def binary_graph(distances: sparse.csr_matrix, *, symmetric: bool = False) -> sparse.csr_matrix:
    """The (n, n) graph of ones: an edge for each entry of ``distances``, zeros among them too, and self-loops.

    Row i lists the neighbors of cell i. With ``symmetric``, an edge in one direction makes one in the other.
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
    """Labels (n,) of scikit-learn's spectral clustering of the binary graph, discretized, seed 0.

    The directed graph is averaged with its transpose, as scikit-learn would do after a warning. Some labels may not
    occur. In the published code their centroids are NaN, and all cells end in one cluster; here labels are renumbered
    and a UserWarning tells how many there are.
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


def _require_n_clusters(config: Config, n_cells: int) -> int:
    if config.n_clusters is None:
        msg = "The published method cannot choose the number of clusters; give `n_clusters`."
        raise ValueError(msg)
    if config.n_clusters >= n_cells:
        msg = f"n_clusters must be smaller than the number of cells ({n_cells}), got {config.n_clusters}."
        raise ValueError(msg)
    return config.n_clusters


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


def _check_memory(n_cells: int, n_genes: int) -> None:
    """Raise ValueError if the run may need more bytes beside its input than there are.

    24 n G + 24,000 n for positive entries and hidden layers, 6 n^2 for the factorized Laplacian of the spectral start
    (measured: 2.5 to 4.3 n^2), and 200 MB for weights, gradients and blocks. Unlike the original, training itself
    holds nothing of size n^2.
    """
    required = 24 * n_cells * n_genes + 24_000 * n_cells + 6 * n_cells**2 + 200_000_000
    installed = _installed_memory()
    if installed is not None and required > installed:
        msg = (
            f"The published method takes all cells at once: {n_cells} cells x {n_genes} genes need up to "
            f"{required / 1e9:.1f} GB, this machine has {installed / 1e9:.1f} GB. Take fewer cells, or the default "
            "method."
        )
        raise ValueError(msg)


def _installed_memory() -> int | None:
    """Bytes of memory, or None if the system does not tell. Free memory would say less, since caches count as used."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
