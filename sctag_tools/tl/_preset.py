"""The presets "reference" and "paper" of ``sctag.tl.sctag``: the published method on raw counts."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from scipy import sparse

from .. import _logging as logg
from .._adata import DEFAULT, require_in_memory
from .._checks import check_choice, check_flag, check_integer, seed_of
from .._core.config import Config
from .._counts import find_counts
from .._inputs import check_run_options, check_totals, graph_of
from .._model import record_of, warn_of_fewer
from .._published_recipe import N_TOP_GENES, published_inputs
from .._types import Accelerator

if TYPE_CHECKING:
    from anndata import AnnData

    from .._core.fit import Fit

_PRETRAIN_EPOCHS, _CLUSTER_EPOCHS = 1000, 300


class PresetRun:
    """A run of a published preset: checked when it is made, run when it is called."""

    def __init__(
        self,
        adata: AnnData,
        preset: str,
        n_clusters: int | None,
        n_top_genes: int | None,
        save: object,
        options: dict[str, Any],
    ) -> None:
        """Read ``adata``; raise ValueError for what a published preset cannot do."""
        self.config = Config(**{field.name: options[field.name] for field in fields(Config)})
        require_in_memory(adata, f"preset={preset!r}")
        n_clusters = check_preset(preset, n_clusters, self.config, save, options)
        n_top_genes = N_TOP_GENES if n_top_genes is None else n_top_genes
        check_integer("n_top_genes", n_top_genes, low=2)
        check_run_options(n_clusters, adata.n_obs, options["neighbors_key"], options["resolution"])
        check_choice("accelerator", options["accelerator"], get_args(Accelerator))
        options = {**options, "random_state": seed_of(options["random_state"])}
        check_flag("check_values", options["check_values"])
        self.preset, self.n_clusters, self.n_top_genes, self.options = preset, n_clusters, n_top_genes, options
        key = options["neighbors_key"]
        self.distances = graph_of(adata, key, "distances")
        matrix, self.source = find_counts(adata, options["layer"], check_values=options["check_values"])
        self.counts = sparse.csr_matrix(matrix, dtype=np.float32)
        check_totals(np.asarray(self.counts.sum(axis=1, dtype=np.float64)).ravel())
        self.n_neighbors = adata.uns[key].get("params", {}).get("n_neighbors")  # the cell itself included

    def __call__(self) -> tuple[Fit, dict[str, Any]]:
        """The result, and the record of the run."""
        from .._core import published
        from .._core.graph import nearest_entries

        config, seed = self.config, self.options["random_state"]
        distances = self.distances
        if self.n_neighbors is not None:
            distances = nearest_entries(distances, self.n_neighbors - 1)
        inputs = published_inputs(self.counts, seed, n_top_genes=self.n_top_genes)
        result = published.fit_published(
            inputs.x,
            distances,
            self.n_clusters,
            {"reference": published.REFERENCE, "paper": published.PAPER}[self.preset],
            counts=self.counts[:, inputs.genes],
            size_factors=inputs.size_factors,
            pretrain_epochs=_PRETRAIN_EPOCHS if config.pretrain_epochs is None else config.pretrain_epochs,
            cluster_epochs=_CLUSTER_EPOCHS if config.cluster_epochs is None else config.cluster_epochs,
            random_state=seed,
            accelerator=self.options["accelerator"],
            progress=self.options["progress_bar"] and logg.verbosity() > 0,
        )
        warn_of_fewer(self.n_clusters, result)
        params = {
            "preset": self.preset,
            "n_clusters": result.proba.shape[1],
            "n_clusters_given": True,
            "counts": self.source,
            "mask_var": "recipe_published",
            "n_genes": int(inputs.genes.sum()),
            "neighbors_key": self.options["neighbors_key"],
            "random_state": seed,
            "accelerator": self.options["accelerator"],
        }
        return result, record_of(result, params)


def check_preset(preset: str, n_clusters: int | None, config: Config, save: object, options: dict[str, Any]) -> int:
    """The number of clusters; raise ValueError if it or anything else does not go with a published preset."""
    if n_clusters is None:
        msg = f"preset={preset!r} cannot choose the number of clusters; give `n_clusters`."
        raise ValueError(msg)
    if options["mask_var"] is not DEFAULT:
        msg = f"preset={preset!r} chooses its genes itself; give `n_top_genes` instead of `mask_var`."
        raise ValueError(msg)
    if options["batch_key"] is not None:
        msg = f"preset={preset!r} knows no batches; leave out `batch_key`."
        raise ValueError(msg)
    if options["devices"] != 1 or options["precision"] != "32-true":
        msg = f"preset={preset!r} runs in one process and in float32; leave out `devices` and `precision`."
        raise ValueError(msg)
    if save is not None:
        msg = f"preset={preset!r} makes no model that could place other cells; leave out `save`."
        raise ValueError(msg)
    if replace(config, pretrain_epochs=None, cluster_epochs=None) != Config():
        msg = f"preset={preset!r} fixes the model and its training; only the epochs can be given."
        raise ValueError(msg)
    return n_clusters
