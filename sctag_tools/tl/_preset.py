"""The presets "reference" and "paper" of ``sctag.tl.sctag``: the published method on raw counts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .._adata import DEFAULT
from .._checks import check_integer
from .._core.config import Config
from .._published_recipe import published_inputs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from scipy import sparse

    from .._core.fit import Fit

_PRETRAIN_EPOCHS, _CLUSTER_EPOCHS = 1000, 300


def check_preset(
    preset: str,
    config: Config,
    n_clusters: int | None,
    n_top_genes: int,
    mask_var: object,
    batch_key: str | None,
    devices: int,
    precision: str,
) -> None:
    """Raise ValueError for what a published preset cannot do: choose the number of clusters, or take options."""
    if n_clusters is None:
        msg = f"preset={preset!r} cannot choose the number of clusters; give `n_clusters`."
        raise ValueError(msg)
    check_integer("n_top_genes", n_top_genes, low=2)
    if mask_var is not DEFAULT:
        msg = f"preset={preset!r} chooses its genes itself; give `n_top_genes` instead of `mask_var`."
        raise ValueError(msg)
    if batch_key is not None:
        msg = f"preset={preset!r} knows no batches; leave out `batch_key`."
        raise ValueError(msg)
    if devices != 1 or precision != "32-true":
        msg = f"preset={preset!r} runs in one process and in float32; leave out `devices` and `precision`."
        raise ValueError(msg)
    if replace(config, pretrain_epochs=None, cluster_epochs=None) != Config():
        msg = f"preset={preset!r} fixes the model and its training; only the epochs can be given."
        raise ValueError(msg)


def fit_preset(
    counts: sparse.csr_matrix,
    distances: sparse.csr_matrix,
    n_neighbors: int | None,
    n_clusters: int | None,
    preset: str,
    config: Config,
    n_top_genes: int,
    **training: Any,
) -> tuple[Fit, NDArray[np.bool_]]:
    """Run the published method on raw counts (n_obs, n_vars); returns the result and the genes that it used.

    ``n_neighbors`` is what the graph was asked for, the cell itself included; None if that is not known.
    """
    from .._core import published
    from .._core.graph import nearest_entries

    if n_neighbors is not None:
        distances = nearest_entries(distances, n_neighbors - 1)
    inputs = published_inputs(counts, training["random_state"], n_top_genes=n_top_genes)
    result = published.fit_published(
        inputs.x,
        distances,
        n_clusters,
        {"reference": published.REFERENCE, "paper": published.PAPER}[preset],
        counts=counts[:, inputs.genes],
        size_factors=inputs.size_factors,
        pretrain_epochs=_PRETRAIN_EPOCHS if config.pretrain_epochs is None else config.pretrain_epochs,
        cluster_epochs=_CLUSTER_EPOCHS if config.cluster_epochs is None else config.cluster_epochs,
        **training,
    )
    return result, inputs.genes
