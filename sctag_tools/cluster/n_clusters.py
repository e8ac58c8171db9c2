"""The rule for the number of clusters: which splits of the co-association tree are supported."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .dprime import cross_fitted_dprime, dprime_standard_error, gaussian_dprime
from .tree import CoassociationTree

_N_TESTED = 120  # splits tested, from the top of the tree: at most 121 clusters are chosen
_MAX_COASSOCIATION = 0.6  # at resolution 1, relative to cells of one side
_N_STANDARD_ERRORS = 3.34  # one-sided 5 % over all tests (Bonferroni)


@dataclass(frozen=True)
class SplitTests:
    """What speaks for the splits near the top of a tree; one entry a split, in the order of ``split_order``."""

    nodes: list[int]
    coassociation: NDArray[np.float64]  # (n_nodes,) how often the sides are kept together, over cells of one side
    dprime: NDArray[np.float64]  # (n_nodes,) lower bound of the distance of the sides
    null_dprime: NDArray[np.float64]  # (n_nodes,) that of one Gaussian cut at the same share
    supported: NDArray[np.bool_]  # (n_nodes,) the split passes, or one below it does
    max_coassociation: float

    @property
    def supported_nodes(self) -> list[int]:
        """The nodes of the supported splits."""
        return [node for node, is_supported in zip(self.nodes, self.supported, strict=True) if is_supported]

    @property
    def n_clusters(self) -> int:
        """One more than the supported splits."""
        return 1 + int(self.supported.sum())

    def curve(self) -> dict[str, NDArray[np.float64]]:
        """The same for 2, 3, ... clusters, with the limits that a split must pass."""
        return {
            "n_clusters": np.arange(2.0, len(self.nodes) + 2),
            "coassociation": self.coassociation,
            "max_coassociation": np.array(self.max_coassociation),
            "separation": self.dprime,
            "least_separation": self.null_dprime,
            "supported": self.supported.astype(np.float64),
        }


def run_split_tests(
    tree: CoassociationTree, latents: Sequence[NDArray[np.float32]], resolution: float, rng: np.random.Generator
) -> SplitTests:
    """Which splits of cells the partitions and the latents support.

    A split passes two tests. Its two sides are kept together less often than cells of one side: less than
    ``_MAX_COASSOCIATION`` times as often at ``resolution`` 1. And they lie further apart than the sides of one Gaussian
    cut at the same share, by more than ``_N_STANDARD_ERRORS`` (:func:`.dprime.cross_fitted_dprime`, mean over the
    latents). A split above one that passes is supported, too. The first limit was chosen on eight labeled sets, before
    six others were looked at; the second follows from the number of tests.
    """
    # the odds of the limit are proportional to the resolution
    max_coassociation = resolution / (resolution + 1 / _MAX_COASSOCIATION - 1)
    relative, sizes = tree.relative_coassociation(), tree.sizes()
    dprime, null = {}, {}
    supported: set[int] = set()
    tested = tree.split_order()[:_N_TESTED]
    for node in sorted(tested):  # children come before their parents
        left, right = (int(child) for child in tree.children[node - tree.n_leaves])
        dprime[node] = _lower_dprime(tree, left, right, latents, rng)
        null[node] = gaussian_dprime(min(sizes[left], sizes[right]) / (sizes[left] + sizes[right]))
        passes = relative[node - tree.n_leaves] < max_coassociation and dprime[node] > null[node]
        if passes or not supported.isdisjoint((left, right)):
            supported.add(node)
    nodes = [node for node in tree.split_order(supported) if node in dprime]
    return SplitTests(
        nodes=nodes,
        coassociation=np.array([relative[node - tree.n_leaves] for node in nodes]),
        dprime=np.array([dprime[node] for node in nodes]),
        null_dprime=np.array([null[node] for node in nodes]),
        supported=np.array([node in supported for node in nodes], dtype=bool),
        max_coassociation=max_coassociation,
    )


def _lower_dprime(
    tree: CoassociationTree, left: int, right: int, latents: Sequence[NDArray[np.float32]], rng: np.random.Generator
) -> float:
    """Lower bound of the distance between the cells below two nodes."""
    one, other = tree.members(left), tree.members(right)
    dprime = float(np.mean([cross_fitted_dprime(latent[one], latent[other], rng) for latent in latents]))
    return dprime - _N_STANDARD_ERRORS * dprime_standard_error(dprime, int(one.sum()), int(other.sum()))
