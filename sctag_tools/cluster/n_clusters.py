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
    """Which splits of cells the partitions and the latents support, of those near the top.

    Distances of sides are :func:`.dprime.cross_fitted_dprime`, mean over the latents, less ``_N_STANDARD_ERRORS``.
    """
    relative, sizes = tree.relative_coassociation(), tree.sizes()
    dprime, null = np.full((2, len(relative)), np.nan)
    for node in sorted(tree.split_order()[:_N_TESTED]):  # children come before their parents
        left, right = (int(child) for child in tree.children[node - tree.n_leaves])
        dprime[node - tree.n_leaves] = _lower_dprime(tree, left, right, latents, rng)
        share = min(sizes[left], sizes[right]) / (sizes[left] + sizes[right])
        null[node - tree.n_leaves] = gaussian_dprime(share)
    supported = supported_splits(tree.children, relative, dprime, null, resolution)
    order = np.array(tree.split_order(np.flatnonzero(supported) + tree.n_leaves), dtype=np.int64) - tree.n_leaves
    order = order[~np.isnan(dprime[order])]
    return SplitTests(
        nodes=(order + tree.n_leaves).tolist(),
        coassociation=relative[order],
        dprime=dprime[order],
        null_dprime=null[order],
        supported=supported[order],
        max_coassociation=_max_coassociation(resolution),
    )


def supported_splits(
    children: NDArray[np.int64],
    relative_coassociation: NDArray[np.float64],
    dprime: NDArray[np.float64],
    null_dprime: NDArray[np.float64],
    resolution: float,
) -> NDArray[np.bool_]:
    """(n_leaves - 1,) which splits of a tree are supported; the arguments have one row a split, NaN if not tested.

    A split passes two tests. Its two sides are kept together less often than cells of one side: less than
    ``_MAX_COASSOCIATION`` times as often at ``resolution`` 1. And they lie further apart than the sides of one Gaussian
    cut at the same share. A split above one that passes is supported, too. The first limit was chosen on eight labeled
    sets, before six others were looked at; the second follows from the number of tests.
    """
    supported = (relative_coassociation < _max_coassociation(resolution)) & (dprime > null_dprime)
    for i, pair in enumerate(children):  # children come before their parents
        below = pair[pair > len(children)] - len(children) - 1
        supported[i] |= supported[below].any()
    return supported


def _max_coassociation(resolution: float) -> float:
    """The limit of the first test: its odds are proportional to the resolution."""
    return resolution / (resolution + 1 / _MAX_COASSOCIATION - 1)


def _lower_dprime(
    tree: CoassociationTree, left: int, right: int, latents: Sequence[NDArray[np.float32]], rng: np.random.Generator
) -> float:
    """Lower bound of the distance between the cells below two nodes."""
    one, other = tree.members(left), tree.members(right)
    dprime = float(np.mean([cross_fitted_dprime(latent[one], latent[other], rng) for latent in latents]))
    return dprime - _N_STANDARD_ERRORS * dprime_standard_error(dprime, int(one.sum()), int(other.sum()))
