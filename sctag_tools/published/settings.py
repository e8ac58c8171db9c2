"""Where the published code departs from the paper, as switches."""

from dataclasses import dataclass
from typing import Literal


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

    hops: Literal["reference", "true"] = "reference"
    dropout: bool = False
    likelihood: Literal["scaled", "counts"] = "scaled"
    trained_centroids: bool = False
    divergence: Literal["q_from_p", "p_from_q"] = "q_from_p"
    labels: Literal["last_refresh", "final"] = "last_refresh"
    symmetric_graph: bool = False


REFERENCE = PublishedSettings()
PAPER = PublishedSettings(
    hops="true", dropout=True, likelihood="counts", trained_centroids=True, divergence="p_from_q", labels="final"
)
