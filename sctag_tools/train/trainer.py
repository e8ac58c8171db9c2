"""The training loop: steps over minibatches, driven by Lightning Fabric, with stopping rules and loss history."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from tqdm.auto import tqdm

from ..nn.minibatch import Minibatch, row_shares
from ..nn.network import Ensemble
from ..nn.self_training import target_distribution
from .checkpoint import SAVE_EVERY, Checkpoint
from .config import Config
from .data import TrainingData
from .runtime import get_random_state, set_random_state

_MIN_PRETRAIN_STEPS = 450  # or until each cell was seen once
_MAX_CLUSTER_STEPS = 60
_WARM_UP = 0.3  # of the steps of pretraining
_GRAPH_START = 0.7  # of the steps of pretraining: a graph that is decoded earlier decides what the latent shows
_REFRESH_EVERY = 20  # steps between refreshes of the target distribution
_MAX_CHANGED = 0.001  # share of cells that change cluster between refreshes when training is done (DEC's tolerance)
_CLUSTER_RATE = 0.5  # of the learning rate of pretraining
_MAX_GRADIENT_NORM = 5.0


class Trainer:
    """Trains one ensemble on one data set, in two phases that share the loss history."""

    def __init__(
        self,
        nets: Ensemble,
        data: TrainingData,
        config: Config,
        fabric: Fabric,
        rng: np.random.Generator,
        *,
        progress: bool,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self._checkpoint = checkpoint
        self.nets, self.data, self.config, self.fabric = nets.to(fabric.device), data, config, fabric
        self.progress = progress and fabric.is_global_zero
        self._paired = config.graph_weight > 0  # the graph decoder needs edges within a minibatch, and it whole
        halves = fabric.device.type == "cpu" and not self._paired  # on a GPU they would be twice the launches
        self._shares = row_shares(fabric.global_rank, fabric.world_size, min_shares=2 if halves else 1)
        self._rows = data.minibatches(config.batch_size, rng, paired=self._paired)
        self._steps_per_epoch = data.steps_per_epoch(config.batch_size, paired=self._paired)
        self._targets: Tensor | None = None
        self._labels: NDArray[np.int64] | None = None
        weights = config.count_weight, config.graph_weight, config.cluster_weight
        self._loss_weights = dict(zip((config.likelihood, "graph", "cluster"), weights, strict=True))
        self.history: dict[str, list[float]] = {name: [] for name in ("loss", *self._loss_weights)}
        self._unread: list[dict[str, Tensor]] = []  # terms of the latest steps, still on the device

    def pretrain(self) -> str:
        """Train without clusters, the learning rate rising and falling once; returns why it stopped."""
        steps = self._n_steps(self.config.pretrain_epochs, max(_MIN_PRETRAIN_STEPS, self._steps_per_epoch))
        return self._run("Pretraining", steps, self.config.learning_rate, checkpoint=self._checkpoint)

    def cluster(self, starts: list[tuple[NDArray[np.float32], float]]) -> str:
        """Self-training until clusters no longer change; returns why it stopped.

        Each network starts from its own (K, n_latent) centroids, which stand for the same clusters in all, and from
        the standard deviation within clusters, the unit of its distances. All networks aim at one target
        distribution, sharpened from their mean assignment.
        """
        for net, (centroids, scale) in zip(self.nets, starts, strict=True):
            net.set_centroids(torch.from_numpy(centroids).to(self.fabric.device), scale)
        steps = self._n_steps(self.config.cluster_epochs, _MAX_CLUSTER_STEPS)
        return self._run("Clustering", steps, self.config.learning_rate * _CLUSTER_RATE, self._refresh_targets)

    def latents(self) -> list[Tensor]:
        """(n_cells, n_latent) latent of all cells from each network as it is, nothing masked."""
        self.nets.eval()
        with torch.no_grad():
            rows = torch.arange(len(self.data), device=self.data.device)
            encoded = [self._encode(share.take(rows)) for share in self._shares]
            latents = [self._gather(of_one) for of_one in zip(*encoded, strict=True)]
        if not all(torch.isfinite(latent).all() for latent in latents):
            self._fail(len(self.history["loss"]), ["latent"])
        return latents

    def _encode(self, rows: Tensor) -> list[Tensor]:
        """Latents of these cells from each network."""
        parts = (part.to(self.fabric.device) for part in self.data.hop_blocks(rows))
        each = [[net.encoder(part) for net in self.nets] for part in parts]
        return [torch.cat(of_one) for of_one in zip(*each, strict=True)]

    def _gather(self, parts: Sequence[Tensor]) -> Tensor:
        """Rows of all cells, in their order, from the shares of this process and of the others."""
        n_shares = self._shares[0].n_shares
        longest = math.ceil(len(self.data) / n_shares)
        padded = [nn.functional.pad(part, (0, 0, 0, longest - len(part))) for part in parts]
        if len(padded) < n_shares:
            mine, padded = padded[0], [torch.empty_like(padded[0]) for _ in range(n_shares)]
            torch.distributed.all_gather(padded, mine)
        return torch.stack(padded, dim=1).flatten(0, 1)[: len(self.data)]

    def assignment(self, latents: Sequence[Tensor]) -> Tensor:
        """(n_cells, K) mean over the networks of the soft assignment of their ``latents`` (n_cells, n_latent)."""
        with torch.no_grad():
            each = [net.assignment(latent) for net, latent in zip(self.nets, latents, strict=True)]
        return torch.stack(each).mean(dim=0)

    def _n_steps(self, epochs: int | None, default: int) -> int:
        return default if epochs is None else epochs * self._steps_per_epoch

    def _run(
        self,
        phase: str,
        steps: int,
        rate: float,
        converged: Callable[[int], bool] | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> str:
        # A new optimizer for each phase, as in the published code: the moments of the last one are of another loss.
        fused = self.fabric.device.type in {"cpu", "cuda"}
        adam = torch.optim.Adam(self.nets.parameters(), lr=rate, fused=fused)
        schedule = None
        if converged is None and steps:
            schedule = OneCycleLR(adam, rate, total_steps=steps, pct_start=_WARM_UP, cycle_momentum=False)
        first = 0 if checkpoint is None else self._resume(checkpoint, adam, schedule)
        module, optimizer = self.fabric.setup(self.nets, adam)
        steps_left, hidden = range(first, steps), not self.progress
        with tqdm(steps_left, phase, steps, initial=first, disable=hidden, leave=False, mininterval=0.5) as bar:
            for step in bar:
                if converged is not None and converged(step):
                    return "converged"
                rows = next(self._rows)
                edges = self._paired and (converged is not None or step >= _GRAPH_START * steps)
                shares = [
                    self.data.minibatch(rows, self.fabric.device, self._targets, with_edges=edges, share=share)
                    for share in self._shares
                ]
                self._step(module, optimizer, shares)
                if schedule is not None:
                    schedule.step()
                if (step + 1) % _REFRESH_EVERY == 0 or step + 1 == steps:
                    bar.set_postfix(self._read_terms(), refresh=False)
                if checkpoint is not None and ((step + 1) % SAVE_EVERY == 0 or step + 1 == steps):
                    self._save(checkpoint, step + 1, adam, schedule)
        return "all steps done"

    def _resume(self, checkpoint: Checkpoint, adam: torch.optim.Adam, schedule: OneCycleLR | None) -> int:
        """Take up the state that was saved, if there is one; returns the steps that were done."""
        state = checkpoint.load()
        if state is None:
            return 0
        self.nets.load_state_dict(state["nets"])
        adam.load_state_dict(state["adam"])
        if schedule is not None:
            schedule.load_state_dict(state["schedule"])
        set_random_state(state["random_state"], self.fabric.device)
        self.history = state["history"]
        for _ in range(state["step"]):  # minibatches have a generator of their own
            next(self._rows)
        return int(state["step"])

    def _save(self, checkpoint: Checkpoint, step: int, adam: torch.optim.Adam, schedule: OneCycleLR | None) -> None:
        if self._unread:
            self._read_terms()
        if not self.fabric.is_global_zero:  # all processes have the same state
            return
        checkpoint.save(
            {
                "step": step,
                "nets": self.nets.state_dict(),
                "adam": adam.state_dict(),
                "schedule": {} if schedule is None else schedule.state_dict(),
                "random_state": get_random_state(self.fabric.device),
                "history": self.history,
            }
        )

    def _step(self, module: Any, optimizer: Any, shares: list[Minibatch]) -> None:
        """One step; nothing in it waits for the device, or moves to another."""
        self.nets.train()
        n_processes = self.fabric.world_size  # gradients become their mean over processes, and are to be their sum
        terms = {name: term * n_processes for name, term in module(shares).items()}
        loss = sum(self._loss_weights[name] * term for name, term in terms.items())
        optimizer.zero_grad()
        self.fabric.backward(loss)
        self.fabric.clip_gradients(module, optimizer, max_norm=_MAX_GRADIENT_NORM, error_if_nonfinite=False)
        optimizer.step()
        if self._unread and len(self._unread[-1]) != 1 + len(terms):  # the graph sets in
            self._read_terms()
        self._unread.append({"loss": loss.detach(), **{name: term.detach() for name, term in terms.items()}})

    def _read_terms(self) -> dict[str, str]:
        """Bring the terms of the latest steps into the history; returns the last, for the bar."""
        names = list(self._unread[0])
        stacked = torch.stack([torch.stack([terms[name] for name in names]) for terms in self._unread])
        reduced: Any = self.fabric.all_reduce(stacked, reduce_op="mean")
        values = reduced.cpu().numpy()
        first = len(self.history["loss"])
        self._unread.clear()
        for step, row in enumerate(values):
            wrong = [name for name, value in zip(names, row, strict=True) if not math.isfinite(value)]
            if wrong:
                self._fail(first + step + 1, wrong)
            of_step = dict(zip(names, row.tolist(), strict=True))
            for name, history in self.history.items():
                history.append(of_step.get(name, math.nan))
        return {name: f"{value:.4g}" for name, value in zip(names, values[-1], strict=True)}

    def _fail(self, step: int, wrong: list[str]) -> NoReturn:
        msg = (
            f"The training became non-finite ({', '.join(wrong)}) at step {step}. Likely causes: the input is not raw "
            "counts, or `learning_rate` is too high."
        )
        raise RuntimeError(msg)

    def _refresh_targets(self, step: int) -> bool:
        """Refresh the target distribution every few steps; returns whether to stop, as clusters no longer change."""
        if step % _REFRESH_EVERY:
            return False
        q = self.assignment(self.latents())
        self._targets = target_distribution(q)
        before, self._labels = self._labels, q.argmax(dim=1).cpu().numpy()
        unchanged = before is not None and bool((before != self._labels).mean() <= _MAX_CHANGED)
        stops = unchanged and self.config.cluster_epochs is None
        return bool(self.fabric.broadcast(stops))  # rounding must not send processes different ways
