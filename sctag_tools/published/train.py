"""Training on all cells at once as the published code does it, with TensorFlow's Adam."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from ..nn.self_training import soft_assignment, target_distribution
from .losses import ZINBTarget, kl_divergence
from .net import Adjacency, PublishedNet

_PRETRAIN_RATE, _CLUSTER_RATE = 1e-4, 5e-4
_N_EPOCHS_PER_REFRESH = 8
_BETA_1, _BETA_2, _ADAM_EPSILON = 0.9, 0.999, 1e-7
_LOSS_WEIGHTS = {"zinb": 1.0, "graph": 0.3, "cluster": 1.5}


class KerasAdam:
    """Adam as in TensorFlow: epsilon is 1e-7, added before the bias correction (the paper's "epsilon hat").

    Source: Kingma & Ba 2015, the last paragraph of section 2. torch.optim.Adam corrects first and adds epsilon then,
    which moves weights with small gradients differently.
    """

    def __init__(self, parameters: Iterable[Tensor], learning_rate: float) -> None:
        self.parameters = list(parameters)
        self.learning_rate = learning_rate
        self._first = [torch.zeros_like(parameter) for parameter in self.parameters]
        self._second = [torch.zeros_like(parameter) for parameter in self.parameters]
        self._n_steps = 0

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter that has a gradient, and forget the gradient."""
        self._n_steps += 1
        rate = self.learning_rate * math.sqrt(1 - _BETA_2**self._n_steps) / (1 - _BETA_1**self._n_steps)
        for parameter, first, second in zip(self.parameters, self._first, self._second, strict=True):
            if parameter.grad is not None:
                first.lerp_(parameter.grad, 1 - _BETA_1)
                second.mul_(_BETA_2).addcmul_(parameter.grad, parameter.grad, value=1 - _BETA_2)
                parameter.addcdiv_(first, second.sqrt().add_(_ADAM_EPSILON), value=-rate)
                parameter.grad = None


class FullBatchTrainer:
    """Trains one network on all cells at once, in two phases that share the loss history."""

    def __init__(
        self, net: PublishedNet, x: NDArray[np.float32], adjacency: Adjacency, target: ZINBTarget, *, progress: bool
    ) -> None:
        self.net, self.adjacency, self.target, self.progress = net, adjacency, target, progress
        self.x = torch.from_numpy(x).to(target.sizes.device)
        self.history: dict[str, list[float]] = defaultdict(list)

    def pretrain(self, epochs: int) -> None:
        """Train without clusters."""
        optimizer = KerasAdam(self.net.parameters(), _PRETRAIN_RATE)
        for _ in self._epochs("Pretraining", epochs):
            self._step(optimizer, lambda _: {})

    def cluster(
        self, start: NDArray[np.int64], epochs: int, *, trained_centroids: bool, p_from_q: bool
    ) -> tuple[Tensor, Tensor]:
        """Self-training. Centroids start at the class means of the labels ``start`` (n,), which must all occur.

        Returns two (n, K) assignments: of the last refresh of the target distribution, and of the final weights.
        """
        centroids = self._class_means(start).requires_grad_(trained_centroids)
        trained = [centroids] if trained_centroids else []
        optimizer = KerasAdam([*self.net.parameters(), *trained], _CLUSTER_RATE)
        q = p = self._assignment(centroids)

        def cluster_loss(latent: Tensor) -> dict[str, Tensor]:
            current = soft_assignment(latent, centroids, scale=1.0)
            return {"cluster": kl_divergence(p, current) if p_from_q else kl_divergence(current, p)}

        for epoch in self._epochs("Clustering", epochs):
            if epoch % _N_EPOCHS_PER_REFRESH == 0:
                q = self._assignment(centroids)
                p = target_distribution(q)
            self._step(optimizer, cluster_loss)
        return q, self._assignment(centroids)

    def latent(self) -> Tensor:
        """(n, 15) latent of the current weights, without dropout."""
        self.net.eval()
        with torch.no_grad():
            return self.net.encode(self.x, self.adjacency)

    def _class_means(self, labels: NDArray[np.int64]) -> Tensor:
        latent, members = self.latent(), torch.from_numpy(labels).to(self.x.device)
        return torch.stack([latent[members == label].mean(dim=0) for label in range(int(labels.max()) + 1)])

    def _assignment(self, centroids: Tensor) -> Tensor:
        with torch.no_grad():
            return soft_assignment(self.latent(), centroids, scale=1.0)

    def _epochs(self, phase: str, epochs: int) -> Iterator[int]:
        with tqdm(range(epochs), desc=phase, disable=not self.progress, leave=False, mininterval=0.5) as bar:
            for epoch in bar:
                yield epoch
                bar.set_postfix({name: f"{values[-1]:.4g}" for name, values in self.history.items()}, refresh=False)

    def _step(self, optimizer: KerasAdam, more_terms: Callable[[Tensor], dict[str, Tensor]]) -> None:
        self.net.train()
        latent = self.net.encode(self.x, self.adjacency)
        terms = {
            "zinb": self.net.zinb_loss(latent, self.target),
            "graph": self.net.graph_loss(latent, self.adjacency),
            **more_terms(latent),
        }
        loss = torch.stack([_LOSS_WEIGHTS[name] * term for name, term in terms.items()]).sum()
        self._record(loss, terms)
        torch.autograd.backward(loss)
        optimizer.step()

    def _record(self, loss: Tensor, terms: dict[str, Tensor]) -> None:
        values = {"loss": loss.item(), **{name: term.item() for name, term in terms.items()}}
        wrong = [name for name, value in values.items() if not math.isfinite(value)]
        if wrong:
            msg = (
                f"The loss became non-finite ({', '.join(wrong)}) at epoch {len(self.history['loss']) + 1}; the likely "
                "cause is input that is not scaled log-expression, or counts that are not raw."
            )
            raise RuntimeError(msg)
        for name in ("loss", *_LOSS_WEIGHTS):
            self.history[name].append(values.get(name, math.nan))
