"""The names that go with a trained model: genes, cells, batches, and the record of its run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Registry:
    """Names in the order of the arrays of a :class:`..mapping.reference.ReferenceModel`."""

    var_names: list[str]
    obs_names: list[str]
    batch_categories: list[str]  # one empty name if there is a single batch
    batch_key: str | None
    use_rep: str | None  # representation that neighbors are found in; None: PCA of the genes
    run: dict[str, Any]  # as ``uns`` has it: params, history, ...
