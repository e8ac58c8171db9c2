"""One run of the method on arrays: pretraining, consensus, self-training, read-out."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from .confidence import confidence
from .consensus import MergeTree, Replicates, evidence, partitions, replicates
from .data import CellData
from .fitted import Fitted, Neighborhood
from .inputs import canonical_order
from .latent import JointLatent, centroids_of
from .model import Ensemble
from .threads import helpful_threads
from .train import Trainer, resolve_accelerator

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from scipy import sparse

    from .._types import Precision
    from .config import Config


@dataclass(frozen=True)
class Fit:
    """What a run found, as arrays on the CPU; clusters are numbered by falling size."""

    latent: NDArray[np.float32]  # (n_cells, n_latent)
    proba: NDArray[np.float32]  # (n_cells, n_clusters), rows sum to one
    labels: NDArray[np.int64]  # (n_cells,)
    confidence: NDArray[np.float32]  # (n_cells,) in [0, 1]
    history: dict[str, NDArray[np.float64]]  # one value a step
    n_clusters_curve: dict[str, NDArray[np.float64]] | None  # why this many clusters; None if the number was given
    stops: dict[str, str]  # phase -> why it ended
    seconds: dict[str, float]  # stage -> wall time
    device: str
    fitted: Fitted | None = None  # what places later cells; None if it was not asked for


@dataclass
class Stages:
    """Wall seconds of each stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start


@dataclass(frozen=True)
class Consensus:
    """What the partitions of all latents agree on."""

    start: NDArray[np.int64]  # (n_cells,) first clusters
    others: Replicates  # what the confidence is measured against
    curve: dict[str, NDArray[np.float64]] | None


def fit(
    counts: sparse.csr_matrix,
    totals: NDArray[np.floating],
    weights: sparse.csr_matrix,
    n_clusters: int | None,
    config: Config,
    *,
    random_state: int,
    resolution: float = 1.0,
    batches: NDArray[np.int64] | None = None,
    accelerator: str = "auto",
    devices: int = 1,
    precision: Precision = "32-true",
    progress: bool = False,
    neighborhood: Neighborhood | None = None,
) -> Fit:
    """Learn a latent and clusters of the cells.

    Parameters
    ----------
    counts
        (n_cells, n_genes) raw counts of the chosen genes, CSR float32.
    totals
        (n_cells,) total counts over all genes, positive.
    weights
        (n_cells, n_cells) edge weights of the cell graph, CSR.
    n_clusters
        Number of clusters, or None to have it chosen, at this ``resolution`` (:func:`.consensus.evidence`).
    batches
        (n_cells,) number of the experimental batch of each cell, from 0; None if there is one.
    random_state
        Seeds every draw; the global random states are left as they were. Equal seeds give equal results whatever the
        order of the cells, and whatever the number of processes, up to rounding.
    devices
        Number of processes that share each batch, this one being one of them (:mod:`.launch` starts them).
    neighborhood
        How later cells find their neighbours; None if the networks need not be kept.
    """
    # The order that the cells came in must not matter.
    order = canonical_order(counts, totals)
    counts, totals, weights = counts[order], totals[order], weights[order][:, order]
    counts.sum_duplicates()
    batches = None if batches is None else batches[order]
    fabric = Fabric(
        accelerator=resolve_accelerator(accelerator),
        strategy="auto" if devices == 1 else "ddp",
        devices=devices,
        precision=precision,
        # Named, or a scheduler's variables would be taken for ours where only cores were asked of it.
        plugins=[LightningEnvironment() if devices == 1 else TorchElasticEnvironment()],
    )
    with kept_cuda_device():
        fabric.launch()
    for_batches, for_consensus, for_position = np.random.default_rng(random_state).spawn(3)
    stage = Stages()
    alone_on_cpu = devices == 1 and fabric.device.type == "cpu"
    with own_torch_state(random_state, fabric.device), helpful_threads() if alone_on_cpu else nullcontext():
        with stage("hop features"):
            data = CellData(counts, totals, weights, config.n_hops, batches)
            data.settle(fabric.device)
            nets = Ensemble(config, data.log_mean_counts, data.n_batches)
        trainer = Trainer(nets, data, config, fabric, for_batches, progress=progress)
        with stage("pretraining"):
            stops = {"pretraining": trainer.pretrain()}
        with stage("consensus"):
            latents = [latent.cpu().numpy() for latent in trainer.latents()]
            # Rounding may differ between processes, so one decides for all.
            own = _consensus(latents, n_clusters, resolution, for_consensus) if fabric.is_global_zero else None
            agreed: Consensus = fabric.broadcast(own)  # type: ignore[assignment]
            starts = [centroids_of(latent, agreed.start) for latent in latents]
        with stage("clustering"):
            stops["clustering"] = trainer.cluster(starts)
            encoded = trainer.latents()
            proba = trainer.assignment(encoded).cpu().numpy()
            latents = [latent.cpu().numpy() for latent in encoded]
            joint = JointLatent.of(latents)
            latent = joint.apply(latents)
        columns = by_size(proba)
        proba = of_columns(proba, columns)
        labels = proba.argmax(axis=1)
        sure = confidence(labels, proba, agreed.others)
        fitted = None
        if neighborhood is not None and fabric.is_global_zero:
            with stage("model"):
                fitted = Fitted.of(
                    nets, data, config, totals=totals, joint=joint, columns=columns, rng=for_position,
                    neighborhood=neighborhood.take(order),
                    found={
                        "latents": np.stack(latents, axis=1), "latent": latent, "proba": proba, "confidence": sure,
                    },
                )  # fmt: skip
    back = np.argsort(order)
    latent, proba, labels, sure = (np.ascontiguousarray(of_cells[back]) for of_cells in (latent, proba, labels, sure))
    fitted = None if fitted is None else replace(fitted, reference=fitted.reference.take(back))
    history = {name: np.array(values) for name, values in trainer.history.items()}
    return Fit(latent, proba, labels, sure, history, agreed.curve, stops, stage.seconds, str(fabric.device), fitted)


def _consensus(
    latents: Sequence[NDArray[np.float32]], n_clusters: int | None, resolution: float, rng: np.random.Generator
) -> Consensus:
    found = partitions(latents, rng)
    tree = MergeTree.of(found, rng)
    grounds = evidence(tree, latents, resolution, rng)
    curve = grounds.curve() if n_clusters is None else None
    n_clusters = grounds.n_clusters if n_clusters is None else n_clusters
    start = tree.cut(n_clusters, grounds.supported_nodes)
    return Consensus(start, replicates(found, tree, n_clusters, len(latents), rng), curve)


@contextmanager
def own_torch_state(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's generators of the CPU and ``device`` seeded for the block, gradients on, new tensors float32 on the CPU.

    All is as it was after it, whatever happens.
    """
    generator = {"cuda": torch.cuda, "mps": torch.mps}.get(device.type)
    dtype = torch.get_default_dtype()
    with ExitStack() as kept:
        kept.enter_context(torch.random.fork_rng([]))
        kept.enter_context(torch.inference_mode(mode=False))
        kept.enter_context(torch.enable_grad())
        if torch.get_default_device().type != "cpu":  # entered only then, since it slows every call
            kept.enter_context(torch.device("cpu"))
        if device.type == "cuda":  # its generator is that of the current device
            kept.enter_context(torch.cuda.device(device))
        before = None if generator is None else generator.get_rng_state()
        torch.set_default_dtype(torch.float32)
        torch.default_generator.manual_seed(int(seed))
        if generator is not None:
            generator.manual_seed(int(seed))
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
            if generator is not None:
                generator.set_rng_state(before)


@contextmanager
def kept_cuda_device() -> Iterator[None]:
    """The current CUDA device is afterwards what it was; Fabric makes its own the current one."""
    before = torch.cuda.current_device() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if before is not None:
            torch.cuda.set_device(before)


def by_size(proba: NDArray[np.float32]) -> NDArray[np.int64]:
    """Columns of ``proba`` (n_cells, n_clusters) by how many cells prefer them, without those that none does.

    Of equal sizes the one that holds the first cell comes first: which child of a merge is left and which is right may
    hang on rounding.
    """
    found, first, sizes = np.unique(proba.argmax(axis=1), return_index=True, return_counts=True)
    return found[np.lexsort((first, -sizes))]


def of_columns(proba: NDArray[np.float32], columns: NDArray[np.int64]) -> NDArray[np.float32]:
    """These columns, rows summing to one."""
    kept = np.ascontiguousarray(proba[:, columns])
    kept /= kept.sum(axis=1, keepdims=True)
    return kept
