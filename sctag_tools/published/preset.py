"""The presets "reference" and "paper" of ``sctag.tl.sctag``: the published method on raw counts."""

from collections.abc import Callable
from typing import Any

from anndata import AnnData

from .. import _logging as logg
from .._anndata.counts import counts_in_memory
from .._anndata.genes import DEFAULT
from .._anndata.graph import get_graph
from ..train.config import Config, options_of
from ..train.result import FitResult
from .recipe import N_TOP_GENES, published_inputs
from .settings import PAPER, REFERENCE

_PRESETS = {"reference": REFERENCE, "paper": PAPER}


def check_preset(preset: str, config: Config, *, mask_var: object, batch_key: str | None, save: object) -> None:
    """Raise ValueError for what does not go with a published preset."""
    free = {"pretrain_epochs", "cluster_epochs"}
    fixed = [option for option in options_of("model", "training") if option.name not in free]
    problems = {
        "cannot choose the number of clusters; give `n_clusters`": config.n_clusters is None,
        "chooses its genes itself; give `n_top_genes` instead of `mask_var`": mask_var is not DEFAULT,
        "knows no batches; leave out `batch_key`": batch_key is not None,
        "runs in one process and in float32; leave out `devices` and `precision`": (
            config.devices != 1 or config.precision != "32-true"
        ),
        "makes no model that could place other cells; leave out `save`": save is not None,
        "fixes the model and its training; only the epochs can be given": any(
            getattr(config, option.name) != option.default for option in fixed
        ),
    }
    for problem, found in problems.items():
        if found:
            msg = f"preset={preset!r} {problem}."
            raise ValueError(msg)


def prepare_run(
    adata: AnnData,
    preset: str,
    config: Config,
    *,
    n_top_genes: int | None,
    layer: str | None,
    neighbors_key: str,
    check_values: bool,
) -> Callable[[], tuple[FitResult, dict[str, Any]]]:
    """Read and check the AnnData; calling what is returned gives the result, and the params for the record."""
    distances = get_graph(adata, neighbors_key, "distances")
    n_neighbors = adata.uns[neighbors_key].get("params", {}).get("n_neighbors")  # with the cell itself
    counts, source = counts_in_memory(adata, layer, f"preset={preset!r}", check_values=check_values)

    def run() -> tuple[FitResult, dict[str, Any]]:
        from .fit import fit_published, nearest_neighbors

        seed = int(config.random_state or 0)
        inputs = published_inputs(counts, seed, n_top_genes=N_TOP_GENES if n_top_genes is None else n_top_genes)
        result = fit_published(
            inputs.x,
            distances if n_neighbors is None else nearest_neighbors(distances, n_neighbors - 1),
            config,
            _PRESETS[preset],
            counts=counts[:, inputs.genes],
            size_factors=inputs.size_factors,
            progress=config.progress_bar and logg.verbosity() > 0,
        )
        return result, {
            "preset": preset,
            "n_clusters": result.n_clusters,
            "n_clusters_given": True,
            "counts": source,
            "mask_var": "recipe_published",
            "n_genes": int(inputs.genes.sum()),
            "neighbors_key": neighbors_key,
            "random_state": seed,
            "accelerator": config.accelerator,
        }

    return run
