"""The rule for the number of clusters: which splits of the co-association tree are supported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .dprime import cross_fitted_dprime, dprime_standard_error
from .tree import CoassociationTree

_N_TESTED = 60  # splits from the top of the tree
_MIN_DPRIME = 3.5  # the sides of one Gaussian are up to 3.2 apart, down to a twentieth


@dataclass(frozen=True)
class SplitTests:
    """What speaks for the splits near the top of a tree; one entry a split, in the order of ``split_order``."""

    nodes: list[int]
    coassociation: NDArray[np.float64]  # (n_nodes,) share of partitions that keep the two sides together
    dprime: NDArray[np.float64]  # (n_nodes,) distance of the two sides, less two standard errors
    supported: NDArray[np.bool_]  # (n_nodes,) the split passes, or one below it does

    @property
    def supported_nodes(self) -> list[int]:
        """The nodes of the supported splits."""
        return [node for node, is_supported in zip(self.nodes, self.supported, strict=True) if is_supported]

    @property
    def n_clusters(self) -> int:
        """One more than the supported splits."""
        return 1 + int(self.supported.sum())

    def curve(self) -> dict[str, NDArray[np.float64]]:
        """The same for 2, 3, ... clusters, and the ``least_separation`` that a split needs."""
        return {
            "n_clusters": np.arange(2.0, len(self.nodes) + 2),
            "coassociation": self.coassociation,
            "separation": self.dprime,
            "supported": self.supported.astype(np.float64),
            "least_separation": np.array(_MIN_DPRIME),
        }


def run_split_tests(
    tree: CoassociationTree, latents: Sequence[NDArray[np.float32]], resolution: float, rng: np.random.Generator
) -> SplitTests:
    """Which splits of cells the partitions and the latents support.

    A split passes if fewer than ``resolution / (1 + resolution)`` of the partitions keep its sides together (at 1: if
    most partitions tell them apart), and if the sides lie further apart than those of one Gaussian cut in two, by more
    than two standard errors (:func:`.dprime.cross_fitted_dprime`, mean over the latents).
    """
    max_coassociation = resolution / (1 + resolution)
    tested = tree.split_order()[:_N_TESTED]
    dprime = {node: _lower_dprime(tree, node, latents, rng) for node in tested}
    supported: set[int] = set()
    for node in sorted(tested):  # children come before their parents
        passes = tree.coassociation_of(node) < max_coassociation and dprime[node] > _MIN_DPRIME
        if passes or not supported.isdisjoint(tree.children[node - tree.n_leaves].tolist()):
            supported.add(node)
    nodes = [node for node in tree.split_order(supported) if node in dprime]
    return SplitTests(
        nodes=nodes,
        coassociation=np.array([tree.coassociation_of(node) for node in nodes]),
        dprime=np.array([dprime[node] for node in nodes]),
        supported=np.array([node in supported for node in nodes], dtype=bool),
    )


def _lower_dprime(
    tree: CoassociationTree, node: int, latents: Sequence[NDArray[np.float32]], rng: np.random.Generator
) -> float:
    """Lower end of the distance between the two sides of a split."""
    left, right = (tree.members(int(child)) for child in tree.children[node - tree.n_leaves])
    dprime = float(np.mean([cross_fitted_dprime(latent[left], latent[right], rng) for latent in latents]))
    return dprime - 2 * dprime_standard_error(dprime, int(left.sum()), int(right.sum()))
