"""Where the published code departs from the paper, as switches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from .._checks import check_choice, check_flag

Hops = Literal["reference", "true"]
ZINBTargetName = Literal["scaled", "counts"]
Divergence = Literal["q_from_p", "p_from_q"]
Labels = Literal["last_refresh", "final"]


@dataclass(frozen=True, kw_only=True)
class PublishedSettings:
    """The defaults are the published code.

    Attributes
    ----------
    hops
        "reference": each layer sees X and three times AX. "true": :math:`A^k X`, k = 0..3, as the paper says.
    dropout
        Whether a fifth of the input is dropped in training. The code has the layer, but it is never active.
    likelihood
        What the ZINB describes. "scaled": the scaled matrix, whose values below 1e-8 count as zeros. "counts": the raw
        counts, with means multiplied by size factors.
    trained_centroids
        Whether centroids are trained with the network (as in DEC) or stay where they started.
    divergence
        "q_from_p": KL(Q || P). "p_from_q": KL(P || Q), as in DEC.
    labels
        Whether clusters are read at the "last_refresh" of the target distribution, up to 8 epochs before the end, or
        from the "final" weights.
    symmetric_graph
        Whether an edge in one direction makes one in the other. The graph of the code is directed; the paper does not
        say.
    """

    hops: Hops = "reference"
    dropout: bool = False
    likelihood: ZINBTargetName = "scaled"
    trained_centroids: bool = False
    divergence: Divergence = "q_from_p"
    labels: Labels = "last_refresh"
    symmetric_graph: bool = False

    def __post_init__(self) -> None:
        choices = {"hops": Hops, "likelihood": ZINBTargetName, "divergence": Divergence, "labels": Labels}
        for name, allowed in choices.items():
            check_choice(name, getattr(self, name), get_args(allowed))
        for name in ("dropout", "trained_centroids", "symmetric_graph"):
            check_flag(name, getattr(self, name))


REFERENCE = PublishedSettings()
PAPER = PublishedSettings(
    hops="true", dropout=True, likelihood="counts", trained_centroids=True, divergence="p_from_q", labels="final"
)
