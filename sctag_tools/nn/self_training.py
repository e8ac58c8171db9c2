"""Self-training (DEC, Xie et al. 2016): soft assignment, its sharpened target, and the divergence between them."""

import torch
from torch import Tensor


def soft_assignment(latent: Tensor, centroids: Tensor, scale: float) -> Tensor:
    """Student-t similarity of cells to centroids, rows summing to one (DEC, Xie et al. 2016, eq. 1, alpha = 1).

    Distances are in units of ``scale``, the standard deviation within clusters: the kernel has a fixed width, the
    latent has none (our own addition).
    """
    distance = torch.cdist(latent, centroids, compute_mode="donot_use_mm_for_euclid_dist") / scale
    similarity = 1 / (1 + distance.square())
    return similarity / similarity.sum(dim=1, keepdim=True)


def target_distribution(q: Tensor) -> Tensor:
    """The sharpened assignment that self-training aims at (DEC, eq. 3): q squared over cluster frequency."""
    sharpened = q.square() / q.sum(dim=0).clamp(min=torch.finfo(q.dtype).tiny)
    return sharpened / sharpened.sum(dim=1, keepdim=True)


def cluster_divergence(p: Tensor, q: Tensor) -> Tensor:
    """Mean over cells of KL(P || Q) (DEC, eq. 2)."""
    return (torch.xlogy(p, p) - p * q.clamp(min=1e-12).log()).sum(dim=1).mean()
