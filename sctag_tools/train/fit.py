"""One run of the method on arrays: pretraining, consensus clustering, self-training, result."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from numpy.typing import NDArray
from scipy import sparse

from ..cluster.confidence import cell_confidence, cluster_confidence
from ..cluster.consensus import ConsensusClustering, cluster_centroids, consensus_clustering
from ..cluster.hierarchy import Hierarchy
from ..mapping.reference import CellResults, NeighborSettings, ReferenceModel
from ..nn.joint_latent import JointLatent
from ..nn.network import Ensemble
from .checkpoint import Checkpoint, fingerprint_of
from .config import Config
from .data import TrainingData
from .preprocessing import canonical_order
from .result import FitResult, clusters_by_size, select_clusters
from .runtime import StageTimer, own_threads, own_torch_state, resolve_accelerator
from .trainer import Trainer


def fit(
    counts: sparse.csr_matrix,
    totals: NDArray[np.floating],
    connectivities: sparse.csr_matrix,
    config: Config,
    *,
    batch_index: NDArray[np.int64] | None = None,
    neighbor_settings: NeighborSettings | None = None,
    progress: bool = False,
    checkpoint: Path | None = None,
) -> FitResult:
    """Learn a latent and clusters of the cells.

    ``counts`` (n_cells, n_genes) are raw counts of the chosen genes, CSR float32; ``totals`` (n_cells,) total counts
    over all genes, positive; ``connectivities`` (n_cells, n_cells) edge weights of the cell graph, CSR;
    ``batch_index`` (n_cells,) experimental batches from 0, None if there is one. ``neighbor_settings`` say how new
    cells will find their neighbors; without them the networks are not kept. With ``config.devices`` above 1 this
    process is one of so many (:mod:`.launch` starts them). The state of the training is saved in the folder
    ``checkpoint``, and taken up from there.

    Global random states are left as they were. Equal seeds give equal results whatever the order of the cells, and
    whatever the number of processes, up to rounding.
    """
    order = canonical_order(counts, totals)
    counts, totals, connectivities = counts[order], totals[order], connectivities[order][:, order]
    counts.sum_duplicates()
    batch_index = None if batch_index is None else batch_index[order]
    kept = None
    if checkpoint is not None:
        arrays = _arrays(counts, totals, connectivities, batch_index)
        kept = Checkpoint(checkpoint, fingerprint_of(config, arrays))
    settings = None if neighbor_settings is None else neighbor_settings.take(order)
    fabric = _launch_fabric(config)
    seed = int(config.random_state or 0)
    alone_on_cpu = config.devices == 1 and fabric.device.type == "cpu"
    stage = StageTimer()
    with own_torch_state(seed, fabric.device), own_threads() if alone_on_cpu else nullcontext():
        with stage("hop features"):
            data = TrainingData(counts, totals, connectivities, config.n_hops, batch_index, fabric.device)
        result = _fit_ordered(data, config, fabric, settings, stage, progress=progress, checkpoint=kept)
    back = np.argsort(order)
    per_cell: dict[str, Any] = {
        name: np.ascontiguousarray(getattr(result, name)[back]) for name in ("latent", "proba", "labels", "confidence")
    }
    if result.tree is not None:
        per_cell["tree"] = {**result.tree, **{name: result.tree[name][back] for name in ("leaf", "consensus_leaf")}}
    if result.reference is not None:
        per_cell["reference"] = replace(result.reference, cells=result.reference.cells.take(back))
    return replace(result, **per_cell)


def _arrays(
    counts: sparse.csr_matrix,
    totals: NDArray[np.floating],
    connectivities: sparse.csr_matrix,
    batch_index: NDArray[np.int64] | None,
) -> dict[str, NDArray[Any]]:
    """What a run is told by, beside its options."""
    arrays: dict[str, NDArray[Any]] = {"totals": totals}
    for name, matrix in (("counts", counts), ("connectivities", connectivities)):
        arrays |= {f"{name}.{part}": getattr(matrix, part) for part in ("data", "indices", "indptr")}
    return arrays if batch_index is None else {**arrays, "batch_index": batch_index}


def _launch_fabric(config: Config) -> Fabric:
    alone = config.devices == 1
    fabric = Fabric(
        accelerator=resolve_accelerator(config.accelerator),
        strategy="auto" if alone else "ddp",
        devices=config.devices,
        precision=config.precision,
        # Named, or Fabric would take the variables of a scheduler for ours where only cores were asked of it.
        plugins=[LightningEnvironment() if alone else TorchElasticEnvironment()],
    )
    current = torch.cuda.current_device() if torch.cuda.is_initialized() else -1  # type: ignore[no-untyped-call]
    with torch.cuda.device(current):  # Fabric makes its own the current one; -1 leaves CUDA alone
        fabric.launch()
    return fabric


def _fit_ordered(
    data: TrainingData,
    config: Config,
    fabric: Fabric,
    settings: NeighborSettings | None,
    stage: StageTimer,
    *,
    progress: bool,
    checkpoint: Checkpoint | None,
) -> FitResult:
    """The run, on cells in the canonical order."""
    for_minibatches, for_consensus, for_reference = np.random.default_rng(config.random_state).spawn(3)
    nets = Ensemble(config, data.log_mean_counts, data.n_batches)
    trainer = Trainer(nets, data, config, fabric, for_minibatches, progress=progress, checkpoint=checkpoint)
    with stage("pretraining"):
        stop_reasons = {"pretraining": trainer.pretrain()}
    with stage("consensus"):
        latents = [latent.cpu().numpy() for latent in trainer.latents()]
        # Rounding may differ between processes, so one decides for all.
        first = fabric.is_global_zero
        own = consensus_clustering(latents, config.n_clusters, config.resolution, for_consensus) if first else None
        consensus: ConsensusClustering = fabric.broadcast(own)  # type: ignore[assignment]
        starts = [cluster_centroids(latent, consensus.labels) for latent in latents]
    with stage("clustering"):
        stop_reasons["clustering"] = trainer.cluster(starts)
        encoded = trainer.latents()
        proba = trainer.assignment(encoded).cpu().numpy()
        latents = [latent.cpu().numpy() for latent in encoded]
        joint = JointLatent.fit(latents)
    columns = clusters_by_size(proba)
    proba = select_clusters(proba, columns)
    labels = proba.argmax(axis=1)
    found = CellResults(
        latents=np.stack(latents, axis=1),
        latent=joint.transform(latents),
        proba=proba,
        confidence=cell_confidence(labels, proba, consensus.replicates),
    )
    reference = None
    if settings is not None and fabric.is_global_zero:
        with stage("model"):
            reference = ReferenceModel.from_training(nets, data, config, settings, joint, columns, found, for_reference)
    return FitResult(
        latent=found.latent,
        proba=proba,
        labels=labels,
        confidence=found.confidence,
        cluster_confidence=cluster_confidence(labels, consensus.replicates),
        history={name: np.array(values) for name, values in trainer.history.items()},
        n_clusters_curve=consensus.curve,
        stop_reasons=stop_reasons,
        seconds=stage.seconds,
        device=str(fabric.device),
        tree=Hierarchy.from_consensus(consensus, columns[labels], found.latent).arrays(),
        reference=reference,
    )
