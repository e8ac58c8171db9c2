"""``sctag run``: from a file of raw counts to clusters."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..pp._standard import prepare_counts
from ..train.config import Config
from . import _options as opt
from ._extras import make_extras
from ._files import check_result, find_label_key, read_cells, target_file, write_result
from ._report import plain_messages, print_result, warn

if TYPE_CHECKING:
    from anndata import AnnData


@plain_messages()
@opt.takes_config_options
def run(
    data: Annotated[
        Path | None,
        typer.Argument(
            help="Raw counts: h5ad, zarr, loom, 10x h5 or mtx folder, csv/tsv, or the original's HDF5. "
            "Without it the bundled set of 700 blood cells is used."
        ),
    ] = None,
    *,
    layer: opt.Layer = None,
    transpose: opt.Transpose = False,
    check_values: opt.CheckValues = True,
    preset: opt.Published = "default",
    n_top_genes: opt.NTopGenes = 2000,
    n_neighbors: opt.NNeighbors = 15,
    batch_key: opt.BatchKey = None,
    out: Annotated[
        Path | None,
        opt.of_output(help="Result file; the UMAP is saved beside it as .png.", show_default="./DATA_sctag.h5ad"),
    ] = None,
    label_key: opt.LabelKey = None,
    key_added: opt.KeyAdded = "sctag",
    save: opt.Save = None,
    overwrite: opt.Overwrite = False,
    checkpoint: opt.CheckpointFolder = None,
    quiet: opt.Quiet = False,
    **options: Any,
) -> None:
    """Cluster the cells of DATA; write the result, its UMAP, and print a table."""
    config = Config(**options, progress_bar=not quiet)
    adata = read_cells(data, transpose=transpose)
    target = target_file(data, out, "sctag")
    label_key = find_label_key(adata, label_key, data)
    published = {} if preset == "default" else {"n_top_genes": n_top_genes}
    choices = {"preset": preset, "batch_key": batch_key, "key_added": key_added, "checkpoint": checkpoint, **published}
    _check(adata, config, choices, save, target, overwrite=overwrite)
    counts_layer = _keep_counts(adata, layer, check_values=check_values)
    prepare_counts(adata, n_top_genes, config.random_state)
    with nullcontext() if checkpoint is None else _keeping(checkpoint):
        _cluster(adata, config, n_neighbors, layer=counts_layer, check_values=check_values, **choices)
        write_result(adata, target)  # before all that may still fail, or be interrupted
    print_result(adata, key_added, label_key)
    make_extras(adata, key_added, label_key, target, save, overwrite=overwrite)


@contextmanager
def _keeping(checkpoint: Path) -> Iterator[None]:
    """Remove the checkpoint once the result is in its file, and not before."""
    from ..train.checkpoint import keep_checkpoints, remove_checkpoint

    with keep_checkpoints():
        yield
    remove_checkpoint(checkpoint)


def _check(
    adata: "AnnData", config: Config, choices: dict[str, Any], save: Path | None, target: Path, *, overwrite: bool
) -> None:
    """Refuse at once what could not be done or written after minutes of work."""
    from ..io.model_folder import check_model_folder
    from ..tl._sctag import check_call

    if config.accelerator not in {"auto", "cpu"}:
        from ..train.runtime import resolve_accelerator  # torch loads here

        resolve_accelerator(config.accelerator)
    published_save = save if choices["preset"] != "default" else None  # which is refused
    check_call(adata, config, save=published_save, **choices)
    if save is not None:
        check_model_folder(save, overwrite=overwrite)
        if save.resolve() in {target.resolve(), target.with_suffix(".png").resolve()}:
            msg = f"--save names the result {save}; choose another name for the folder of the model."
            raise ValueError(msg)
    check_result(adata, target)


def _keep_counts(adata: "AnnData", layer: str | None, *, check_values: bool) -> str:
    """Put raw counts into X and into a layer of the result, whose name is returned. Cells without counts go."""
    import scanpy as sc
    from scipy import sparse

    from .._anndata.counts import find_counts

    found, _ = find_counts(adata, layer, check_values=check_values)
    # "counts", unless the user named a layer and another one of that name would be lost
    name = "counts" if layer is None or "counts" not in adata.layers else layer
    counts = sparse.csr_matrix(found, dtype="float32")
    adata.layers[name] = counts
    adata.X = counts.copy()
    n_obs = adata.n_obs
    sc.pp.filter_cells(adata, min_counts=1)
    if adata.n_obs < n_obs:
        warn(f"{n_obs - adata.n_obs} cells without any count are left out.")
    return name


def _cluster(adata: "AnnData", config: Config, n_neighbors: int, **choices: Any) -> None:
    from ..pp import build_graph, recipe_published
    from ..tl import sctag

    seed, use_rep = config.random_state, None
    if choices["preset"] != "default":
        recipe_published(adata, layer=choices["layer"], n_top_genes=choices["n_top_genes"], random_state=seed)
        use_rep = "X_pca_published"
    build_graph(adata, n_neighbors, use_rep=use_rep, batch_key=choices["batch_key"], random_state=seed)
    sctag(adata, **asdict(config), **choices)
