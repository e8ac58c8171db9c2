"""Which inputs put cells into their cluster: attribution through the trained networks."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .network import Ensemble

_ROWS_AT_ONCE = 4096  # cells times points of the path


@dataclass(frozen=True)
class Attribution:
    """The log odds of a cluster against another, above those of a baseline, divided up among the inputs."""

    log_odds: NDArray[np.float32]  # (n_cells,) of the cell itself
    gradients: NDArray[np.float32]  # (n_cells, n_hops + 1, n_genes) mean over the path from the baseline
    parts: NDArray[np.float32]  # (n_cells, n_hops + 1, n_genes), whose sum is the difference from the baseline


def log_assignment(networks: Ensemble, centroid_index: NDArray[np.int64], hops: Tensor) -> Tensor:
    """(n_cells, n_clusters) logarithm of the mean soft assignment of all networks, of hop features."""
    q = torch.stack([net.assignment(net.encoder(hops)) for net in networks]).mean(dim=0)
    return q[:, torch.from_numpy(centroid_index)].log().log_softmax(dim=1)


def attribute(
    networks: Ensemble,
    centroid_index: NDArray[np.int64],
    hops: NDArray[np.float32],
    baselines: NDArray[np.float32],
    cluster: NDArray[np.int64],
    other: NDArray[np.int64],
    n_steps: int,
) -> Attribution:
    """Integrated gradients (Sundararajan et al. 2017) of the log odds of ``cluster`` (n_cells,) against ``other``.

    ``hops`` and ``baselines`` are hop features (n_cells, n_hops + 1, n_genes) of the cells and of what they are
    compared with, ``centroid_index`` (n_clusters,) is the centroid of each cluster.
    """
    from captum.attr import IntegratedGradients

    def log_odds(x: Tensor, one: Tensor, against: Tensor) -> Tensor:
        log_q = log_assignment(networks, centroid_index, x)
        return (log_q.gather(1, one[:, None]) - log_q.gather(1, against[:, None]))[:, 0]

    x, start = torch.from_numpy(hops), torch.from_numpy(baselines)
    pair = torch.from_numpy(cluster), torch.from_numpy(other)
    gradients = IntegratedGradients(log_odds, multiply_by_inputs=False).attribute(
        x, start, additional_forward_args=pair, n_steps=n_steps, internal_batch_size=max(_ROWS_AT_ONCE, len(x))
    )
    with torch.no_grad():
        value = log_odds(x, *pair).numpy()
    gradients = gradients.float().detach()
    return Attribution(value, gradients.numpy(), (gradients * (x - start)).numpy())
