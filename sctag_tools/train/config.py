"""Every option of a run: its default, its check and the text that users read. Built once, then passed on."""

from __future__ import annotations

from dataclasses import Field, asdict, dataclass, field, fields, replace
from difflib import get_close_matches
from typing import Any, Literal, get_args

import numpy as np

from .._checks import check_choice, check_flag, check_integer, check_number, checked_seed
from .._types import Accelerator, Likelihood, Precision

MAX_CLUSTERS = 300

Group = Literal["clustering", "model", "training", "runtime"]


def _option(default: Any, group: Group, text: str, **check: Any) -> Any:
    """A field of :class:`Config`; ``check`` is one of ``low`` (and ``high``) or ``choices``."""
    return field(default=default, metadata={"group": group, "text": text, **check})


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of a run. :func:`sctag_tools.tl.sctag` shows them with their texts, which are written here."""

    # fmt: off
    n_clusters: int | None = _option(None, "clustering",
        "Number of clusters, at most 300. By default it is chosen: as many as the partitions tell apart and lie far "
        "enough apart in the latent (:func:`sctag_tools.pl.n_clusters` draws the evidence). Labels are never used.",
        low=1)
    resolution: float = _option(1.0, "clustering",
        "Where the number of clusters is chosen: above 1 for finer, below 1 for coarser clusters. It moves how often "
        "the partitions may keep the two sides of a split together: at 1 less than .6 times as often as cells of one "
        "side.", low=1e-3, high=1e3)
    n_networks: int = _option(3, "model",
        "Networks to train. More take longer, and runs with other seeds agree better.", low=1)
    n_hops: int = _option(1, "model",
        "How many steps in the graph the encoder sees (K in the paper); 0 ignores the graph.", low=0)
    n_hidden: int = _option(128, "model", "Width of the hidden layers.", low=1)
    n_latent: int = _option(15, "model", "Dimensions of the latent.", low=1)
    likelihood: Likelihood = _option("multinomial", "model",
        'Of the counts: ``"multinomial"`` (share of each gene in the total of a cell) or ``"zinb"`` (zero-inflated '
        "negative binomial with size factors, as published).", choices=get_args(Likelihood))
    mask_rate: float = _option(0.8, "model",
        "Share of genes hidden from the encoder, drawn anew for each cell and step.", low=0.0, high=0.99)
    count_weight: float = _option(1.0, "model", "Weight of the likelihood of the counts in the loss.", low=0.0)
    graph_weight: float = _option(0.0, "model",
        "Weight of the graph decoder in the loss, from the last 30 % of pretraining on; at 0 the graph is not decoded.",
        low=0.0)
    cluster_weight: float = _option(1.0, "model", "Weight of the self-training in the loss.", low=0.0)
    learning_rate: float = _option(2e-3, "training",
        "Largest learning rate of Adam in pretraining.", low=1e-8, high=1.0)
    batch_size: int = _option(128, "training",
        "Cells in a minibatch. If the graph is decoded, half of them are graph neighbors of the other half.", low=2)
    pretrain_epochs: int | None = _option(None, "training",
        "Epochs of pretraining. By default 450 steps, or one epoch if that is more.", low=0)
    cluster_epochs: int | None = _option(None, "training",
        "Epochs of self-training. By default until the clusters no longer change, at most 60 steps.", low=0)
    accelerator: Accelerator = _option("auto", "runtime",
        '``"auto"`` takes a CUDA GPU if there is one, else the CPU.', choices=get_args(Accelerator))
    devices: int = _option(1, "runtime",
        "Processes on one machine that share each minibatch: one a GPU, or that many on the CPU. Each holds all cells. "
        "The result does not depend on their number, up to rounding; on the CPU one and two give equal bits.", low=1)
    precision: Precision = _option("32-true", "runtime",
        'Of training. ``"bf16-mixed"`` is for GPUs with bfloat16; latent and clusters are computed in float32.',
        choices=get_args(Precision))
    random_state: int | None = _option(0, "runtime",
        "Seed of every random draw; None draws one and records it. Equal seeds give equal clusters on one machine with "
        "the same number of threads; on a GPU up to the order of its sums.")
    progress_bar: bool = _option(True, "runtime",  # noqa: FBT003
        "Show a bar for each phase, unless ``sc.settings.verbosity`` is 0.", choices=(True, False))
    # fmt: on

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            if isinstance(value, np.generic):  # JSON cannot hold numpy's numbers
                object.__setattr__(self, option.name, value.item())
            _check(option, value)
        if self.n_clusters is not None and self.n_clusters > MAX_CLUSTERS:
            msg = f"n_clusters must be at most {MAX_CLUSTERS}, got {self.n_clusters}; "
            msg += "subset the cells for finer clusters."
            raise ValueError(msg)
        if self.devices > 1 and self.graph_weight > 0:
            msg = "The graph decoder needs whole minibatches; use devices=1, or graph_weight=0."
            raise ValueError(msg)
        object.__setattr__(self, "random_state", checked_seed(self.random_state))

    @classmethod
    def from_options(
        cls, function: str, groups: tuple[Group, ...], options: dict[str, Any], base: Config | None = None
    ) -> Config:
        """``base``, or the default, with what ``function`` was called with; TypeError for one not of its ``groups``."""
        known = [option.name for option in options_of(*groups)]
        for name in options:
            if name not in known:
                close = get_close_matches(name, known, n=1)
                msg = f"{function} has no option {name!r}" + (f"; did you mean {close[0]!r}?" if close else ".")
                raise TypeError(msg)
        return replace(base or cls(), **options)

    def check_cells(self, n_obs: int) -> None:
        """Raise ValueError for what so few cells cannot give."""
        if n_obs < 2:
            msg = f"Clustering needs at least 2 cells, adata has {n_obs}."
            raise ValueError(msg)
        if self.n_clusters is not None and self.n_clusters > n_obs:
            msg = f"n_clusters={self.n_clusters} exceeds the {n_obs} cells."
            raise ValueError(msg)
        if self.devices > min(self.batch_size, n_obs):
            msg = f"devices={self.devices} cannot share minibatches of {min(self.batch_size, n_obs)} cells; use fewer."
            raise ValueError(msg)

    def record(self) -> dict[str, Any]:
        """The options as they are written to files: those that were set, but for the progress bar."""
        return {name: value for name, value in asdict(self).items() if value is not None and name != "progress_bar"}


def options_of(*groups: Group) -> list[Field[Any]]:
    """The fields of :class:`Config` in these groups."""
    return [option for option in fields(Config) if option.metadata["group"] in groups]


def _check(option: Field[Any], value: object) -> None:
    check = option.metadata
    if value is None and option.default is None:
        return
    if check.get("choices") == (True, False):
        check_flag(option.name, value)
    elif "choices" in check:
        check_choice(option.name, value, check["choices"])
    elif "low" in check and isinstance(option.default, float):
        check_number(option.name, value, low=check["low"], high=check.get("high", float("inf")))
    elif "low" in check:
        check_integer(option.name, value, low=check["low"])
