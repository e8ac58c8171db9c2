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
    from .model import ScTAGNet

_PRETRAIN_STEPS = 400
_CLUSTER_STEPS = 200
_REFRESH_EVERY = 20  # steps between refreshes of the target distribution
_SETTLED = 0.001  # share of cells that change cluster between refreshes when training is done (DEC's tolerance)
_WINDOW = 50  # steps over which the loss is averaged to judge progress
_MIN_GAIN = 1e-3  # relative
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
    """Trains one network on one data set, in phases that share the loss history."""

    def __init__(
        self, net: ScTAGNet, data: CellData, config: Config, fabric: Fabric, rng: np.random.Generator, *, progress: bool
    ) -> None:
        self.net, self.data, self.config, self.fabric, self.progress = net, data, config, fabric, progress
        self._rows = data.batches(config.batch_size, rng)
        self._target: Tensor | None = None
        self._labels: NDArray[np.int64] | None = None
        self.history: dict[str, list[float]] = {name: [] for name in ("loss", "zinb", "graph", "cluster")}
        self._weights = {"zinb": config.zinb_weight, "graph": config.graph_weight, "cluster": config.cluster_weight}

    def pretrain(self) -> str:
        """Train without clusters until the loss no longer falls; returns why it stopped."""
        return self._run("Pretraining", self.config.pretrain_epochs, _PRETRAIN_STEPS, self._loss_has_settled)

    def cluster(self, centroids: NDArray[np.float32], spread: float) -> str:
        """Self-training from these (K, n_latent) centroids until labels no longer change; returns why it stopped.

        ``spread`` is the standard deviation within clusters, the unit of the assignment's distances.
        """
        self.net.set_centroids(torch.from_numpy(centroids).to(self.fabric.device), spread)
        return self._run("Clustering", self.config.cluster_epochs, _CLUSTER_STEPS, self._labels_have_settled)

    def latent(self) -> Tensor:
        """(n_cells, n_latent) latent of all cells from the present weights, nothing masked."""
        self.net.eval()
        parts = np.array_split(np.arange(len(self.data)), math.ceil(len(self.data) / _ROWS_AT_ONCE))
        with torch.no_grad():
            blocks = (torch.from_numpy(self.data.blocks[rows]).to(self.fabric.device) for rows in parts)
            latent = torch.cat([self.net.encoder(block) for block in blocks])
        if not torch.isfinite(latent).all():
            self._fail(["latent"])
        return latent

    def assignment(self) -> Tensor:
        """(n_cells, K) soft assignment from the present weights."""
        with torch.no_grad():
            return losses.soft_assignment(self.latent(), self.net.centroids, self.net.spread)

    def _run(self, phase: str, epochs: int | None, max_steps: int, settled: Callable[[int], bool]) -> str:
        if epochs is not None:
            max_steps = epochs * self.data.steps_per_epoch(self.config.batch_size)
        # A new optimiser for each phase, as in the published code: the moments of the last one are of another loss.
        module, optimizer = self.fabric.setup(
            self.net, torch.optim.Adam(self.net.parameters(), lr=self.config.learning_rate)
        )
        with tqdm(range(max_steps), desc=phase, disable=not self.progress, leave=False, mininterval=0.5) as bar:
            for step in bar:
                if settled(step) and epochs is None:
                    return "converged"
                bar.set_postfix(self._step(module, optimizer), refresh=False)
        return "all steps done"

    def _step(self, module: Any, optimizer: Any) -> dict[str, str]:
        self.net.train()
        batch = self.data.batch(next(self._rows), self.fabric.device, self._target)
        terms = module(batch)
        loss = sum(self._weights[name] * term for name, term in terms.items())
        self._record(loss, terms)
        optimizer.zero_grad()
        self.fabric.backward(loss)
        nn.utils.clip_grad_norm_(self.net.parameters(), _MAX_GRADIENT)
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

    def _loss_has_settled(self, step: int) -> bool:
        if step < 3 * _WINDOW or step % _WINDOW:
            return False
        window = np.array(self.history["loss"]).reshape(-1, _WINDOW).mean(axis=1)
        return bool(window[-2] - window[-1] < _MIN_GAIN * abs(window[-2]))

    def _labels_have_settled(self, step: int) -> bool:
        if step % _REFRESH_EVERY:
            return False
        q = self.assignment()
        self._target = losses.target_distribution(q)
        before, self._labels = self._labels, q.argmax(dim=1).cpu().numpy()
        return before is not None and bool((before != self._labels).mean() <= _SETTLED)
