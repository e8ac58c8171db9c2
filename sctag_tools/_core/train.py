"""The training loop: steps over batches, driven by Lightning Fabric, with its stopping rules and loss history."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from . import losses

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightning_fabric import Fabric
    from numpy.typing import NDArray
    from torch import Tensor

    from .config import Config
    from .data import CellData
    from .model import Ensemble

_PRETRAIN_STEPS = 250
_CLUSTER_STEPS = 60
_WARM_UP = 0.3  # of the steps of pretraining: the learning rate rises, then falls to nothing along a cosine
_REFRESH_EVERY = 20  # steps between refreshes of the target distribution
_SETTLED = 0.001  # share of cells that change cluster between refreshes when training is done (DEC's tolerance)
_CLUSTER_RATE = 0.5  # of the learning rate of pretraining
_MAX_GRADIENT = 5.0
_ROWS_AT_ONCE = 4096


def resolve_accelerator(accelerator: str) -> str:
    """A Fabric accelerator from the user's choice; "auto" takes a CUDA device if there is one, never MPS."""
    has_cuda, has_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if accelerator == "auto":
        return "cuda" if has_cuda else "cpu"
    found = {"cpu": True, "gpu": has_cuda or has_mps, "cuda": has_cuda, "mps": has_mps}
    if not found[accelerator]:
        msg = f"accelerator={accelerator!r} was asked for, but torch finds none; use 'auto' or 'cpu'."
        raise ValueError(msg)
    return accelerator


class Trainer:
    """Trains one ensemble on one data set, in phases that share the loss history."""

    def __init__(
        self,
        nets: Ensemble,
        data: CellData,
        config: Config,
        fabric: Fabric,
        rng: np.random.Generator,
        *,
        progress: bool,
    ) -> None:
        self.nets, self.data, self.config, self.fabric, self.progress = nets, data, config, fabric, progress
        self._paired = config.graph_weight > 0  # the graph decoder needs edges within a batch
        self._rows = data.batches(config.batch_size, rng, paired=self._paired)
        self._target: Tensor | None = None
        self._labels: NDArray[np.int64] | None = None
        self._weights = {
            config.likelihood: config.count_weight,
            "graph": config.graph_weight,
            "cluster": config.cluster_weight,
        }
        self.history: dict[str, list[float]] = {name: [] for name in ("loss", *self._weights)}

    def pretrain(self) -> str:
        """Train without clusters, the learning rate rising and falling once; returns why it stopped."""
        steps = self._n_steps(self.config.pretrain_epochs, _PRETRAIN_STEPS)
        return self._run("Pretraining", steps, lambda step: _one_cycle(step / steps), lambda _: False)

    def cluster(self, starts: list[tuple[NDArray[np.float32], float]]) -> str:
        """Self-training until labels no longer change; returns why it stopped.

        Each network starts from its own (K, n_latent) centroids, which stand for the same clusters in all, and from
        the standard deviation within clusters, which is the unit of the assignment's distances. All networks aim at
        one target distribution, sharpened from their mean assignment.
        """
        for net, (centroids, spread) in zip(self.nets, starts, strict=True):
            net.set_centroids(torch.from_numpy(centroids).to(self.fabric.device), spread)
        steps, by_itself = self._n_steps(self.config.cluster_epochs, _CLUSTER_STEPS), self.config.cluster_epochs is None
        return self._run(
            "Clustering", steps, lambda _: _CLUSTER_RATE, lambda step: self._labels_have_settled(step) and by_itself
        )

    def latents(self) -> list[Tensor]:
        """(n_cells, n_latent) latent of all cells from each network as it is, nothing masked."""
        self.nets.eval()
        parts = np.array_split(np.arange(len(self.data)), math.ceil(len(self.data) / _ROWS_AT_ONCE))
        with torch.no_grad():
            blocks = (torch.from_numpy(self.data.blocks[rows]).to(self.fabric.device) for rows in parts)
            encoded = [[net.encoder(block) for net in self.nets] for block in blocks]
        latents = [torch.cat(of_one) for of_one in zip(*encoded, strict=True)]
        if not all(torch.isfinite(latent).all() for latent in latents):
            self._fail(["latent"])
        return latents

    def assignment(self) -> Tensor:
        """(n_cells, K) soft assignment from the networks as they are, their mean."""
        with torch.no_grad():
            each = [net.assignment(latent) for net, latent in zip(self.nets, self.latents(), strict=True)]
        return torch.stack(each).mean(dim=0)

    def _n_steps(self, epochs: int | None, default: int) -> int:
        if epochs is None:
            return default
        return epochs * self.data.steps_per_epoch(self.config.batch_size, paired=self._paired)

    def _run(self, phase: str, steps: int, rate: Callable[[int], float], settled: Callable[[int], bool]) -> str:
        # A new optimiser for each phase, as in the published code: the moments of the last one are of another loss.
        module, optimizer = self.fabric.setup(
            self.nets, torch.optim.Adam(self.nets.parameters(), lr=self.config.learning_rate)
        )
        with tqdm(range(steps), desc=phase, disable=not self.progress, leave=False, mininterval=0.5) as bar:
            for step in bar:
                if settled(step):
                    return "converged"
                for group in optimizer.param_groups:
                    group["lr"] = self.config.learning_rate * rate(step)
                bar.set_postfix(self._step(module, optimizer), refresh=False)
        return "all steps done"

    def _step(self, module: Any, optimizer: Any) -> dict[str, str]:
        self.nets.train()
        batch = self.data.batch(next(self._rows), self.fabric.device, self._target, with_edges=self._paired)
        terms = module(batch)
        loss = sum(self._weights[name] * term for name, term in terms.items())
        self._record(loss, terms)
        optimizer.zero_grad()
        self.fabric.backward(loss)
        nn.utils.clip_grad_norm_(self.nets.parameters(), _MAX_GRADIENT)
        optimizer.step()
        return {name: f"{values[-1]:.4g}" for name, values in self.history.items() if name in terms}

    def _record(self, loss: Tensor, terms: dict[str, Tensor]) -> None:
        values = {"loss": loss.item(), **{name: term.item() for name, term in terms.items()}}
        wrong = [name for name, value in values.items() if not math.isfinite(value)]
        if wrong:
            self._fail(wrong)
        for name, history in self.history.items():
            history.append(values.get(name, math.nan))

    def _fail(self, wrong: list[str]) -> NoReturn:
        msg = (
            f"The training became non-finite ({', '.join(wrong)}) at step {len(self.history['loss']) + 1}; the likely "
            "cause is input that is not raw counts, or too high a `learning_rate`."
        )
        raise RuntimeError(msg)

    def _labels_have_settled(self, step: int) -> bool:
        if step % _REFRESH_EVERY:
            return False
        q = self.assignment()
        self._target = losses.target_distribution(q)
        before, self._labels = self._labels, q.argmax(dim=1).cpu().numpy()
        return before is not None and bool((before != self._labels).mean() <= _SETTLED)


def _one_cycle(done: float) -> float:
    """Learning rate, as a share of the largest, when this share of the steps is done (Smith & Topin 2019)."""
    if done < _WARM_UP:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * done / _WARM_UP)) / 2
    return (1 + math.cos(math.pi * (done - _WARM_UP) / (1 - _WARM_UP))) / 2
