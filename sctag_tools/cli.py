"""The ``sctag`` command: from a file of raw counts to clusters, and from new cells to a model's clusters."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from ._errors import AdvisedError

if TYPE_CHECKING:
    from anndata import AnnData

app = typer.Typer(name="sctag", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

_ORIGINAL_LABELS = "cell_type1"
_BUNDLED, _BUNDLED_LABELS = "pbmc68k_reduced", "bulk_labels"
_TARGET_SUM = 1e4
_SUFFIXES = {".h5ad", ".h5", ".hdf5", ".loom", ".zarr", ".csv", ".tsv", ".txt", ".gz", ".zip"}
_OPTIONS = {
    "n_clusters": "--n-clusters", "resolution": "--resolution", "batch_key": "--batch-key", "preset": "--preset",
    "n_top_genes": "--highly-genes", "n_neighbors": "--n-neighbors", "pretrain_epochs": "--pretrain-epochs",
    "cluster_epochs": "--maxiter", "label_key": "--label-key", "layer": "--layer", "random_state": "--seed",
    "key_added": "--key", "accelerator": "--accelerator", "devices": "--devices", "precision": "--precision",
    "use_rep": "--use-rep",
}  # fmt: skip
_ANY, _SNAKES = "|".join(_OPTIONS), "|".join(name for name in _OPTIONS if "_" in name)
# A word such as "layer" may be just a word; what stands in quotes is the user's.
_NAMED_OPTION = re.compile(
    rf"(?<!['\"-])(?:`({_ANY})=?`|\b({_ANY})(=)(?=\S)|\b({_SNAKES})\b(?!['\"])|^({_ANY})\b(?= must))"
)
_Transpose = Annotated[bool, typer.Option("--transpose", help="The table has genes in rows, cells in columns.")]


def _print_version(wanted: bool) -> None:  # noqa: FBT001 (typer's callback signature)
    if wanted:
        typer.echo(version("sctag-tools"))
        raise typer.Exit


def command() -> None:
    """Entry point of the installed command.

    OpenMP threads that spin while they wait slow training down badly when another process needs a core; the policy
    is read when torch loads, and a setting of the user's stands.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    app()


@app.callback()
def main(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Cluster single cells with topology-adaptive graph convolutions (scTAG)."""


@app.command()
def run(
    data: Annotated[
        Path | None,
        typer.Argument(
            help="Raw counts: h5ad, zarr, loom, 10x h5 or mtx folder, csv/tsv, or the original's HDF5. "
            "Without it the bundled set of 700 blood cells is used."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Result file; the UMAP is saved beside it as .png.  [default: ./DATA_sctag.h5ad]"),
    ] = None,
    n_clusters: Annotated[
        int | None, typer.Option("--n-clusters", "--n_clusters", help="Number of clusters; chosen if not given.")
    ] = None,
    resolution: Annotated[
        float, typer.Option(help="When the number of clusters is chosen: above 1 for finer ones, below 1 for coarser.")
    ] = 1.0,
    batch_key: Annotated[
        str | None, typer.Option("--batch-key", "--batch_key", help="Column of obs with the experimental batch.")
    ] = None,
    highly_genes: Annotated[
        int, typer.Option("--highly-genes", "--highly_genes", min=1, help="Highly variable genes to use.")
    ] = 2000,
    preset: Annotated[
        str, typer.Option(help="default; reference (the published code as it runs) or paper (without its defects).")
    ] = "default",
    n_neighbors: Annotated[
        int, typer.Option("--n-neighbors", "--n_neighbors", help="Neighbours in the cell graph, a cell counted as one.")
    ] = 15,
    pretrain_epochs: Annotated[
        int | None,
        typer.Option("--pretrain-epochs", "--pretrain_epochs", help="Epochs of pretraining, without early stopping."),
    ] = None,
    maxiter: Annotated[
        int | None, typer.Option("--maxiter", help="Epochs of clustering, without early stopping.")
    ] = None,
    label_key: Annotated[
        str | None,
        typer.Option(
            "--label-key", "--label_key",
            help=f"Column of obs to score against; never used for clustering.  [default: {_ORIGINAL_LABELS} in the "
            f"original's layout, {_BUNDLED_LABELS} in the bundled set]",
        ),
    ] = None,
    layer: Annotated[str | None, typer.Option(help="Layer with the raw counts, if X does not hold them.")] = None,
    check_values: Annotated[
        bool, typer.Option("--check-values/--no-check-values", help="Refuse values that look logged or scaled.")
    ] = True,
    transpose: _Transpose = False,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of all random draws.")] = 0,
    key: Annotated[str, typer.Option(help="Name of the results in the file.")] = "sctag",
    accelerator: Annotated[str, typer.Option(help="auto, cpu, gpu, cuda or mps.")] = "auto",
    devices: Annotated[
        int, typer.Option(help="Processes that share the training: one a GPU, or that many on the CPU.")
    ] = 1,
    precision: Annotated[str, typer.Option(help="32-true or bf16-mixed.")] = "32-true",
    save_model: Annotated[
        Path | None,
        typer.Option("--save-model", "--save_model", help="New or empty folder for the model, for `sctag map`."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:  # fmt: skip
    """Cluster the cells of DATA; write the result, its UMAP, and print a table."""
    with _plain_messages():
        adata, usual_labels = _load(data, transpose=transpose)
        target = _target(data, out)
        label_key = _labels(adata, label_key, usual_labels)
        options: dict[str, Any] = {
            "preset": preset, "n_clusters": n_clusters, "resolution": resolution, "batch_key": batch_key,
            "pretrain_epochs": pretrain_epochs, "cluster_epochs": maxiter, "accelerator": accelerator,
            "devices": devices, "precision": precision, "random_state": seed, "key_added": key, "save": save_model,
            "progress_bar": not quiet, "check_values": check_values, "layer": _counts_layer(adata, layer),
        }  # fmt: skip
        _check(adata, n_neighbors, options)
        _preprocess(adata, highly_genes, layer, options)
        _cluster(adata, n_neighbors, highly_genes, **options)
        try:
            _draw(adata, key, label_key, target.with_suffix(".png"))
        finally:  # a plot may fail on what the clustering did not mind
            adata.write_h5ad(target)
    typer.echo(_table(adata, key))
    if label_key is not None:
        _print_score(adata, label_key, key)
    typer.echo(f"wrote {target} and {target.with_suffix('.png')}" + (f", model in {save_model}" if save_model else ""))


@app.command("map")
def map_(
    query: Annotated[Path, typer.Argument(help="Raw counts of new cells, all genes; formats as for `sctag run`.")],
    model: Annotated[
        Path, typer.Option(help="Folder of the model: `sctag run --save-model`, or `ScTAG.save` in Python.")
    ],
    out: Annotated[Path | None, typer.Option(help="Result file.  [default: ./QUERY_mapped.h5ad]")] = None,
    layer: Annotated[str | None, typer.Option(help="Layer with the raw counts, if X does not hold them.")] = None,
    transpose: _Transpose = False,
    use_rep: Annotated[
        str | None,
        typer.Option("--use-rep", "--use_rep", help="Representation in obsm that the model's graph was built on."),
    ] = None,
    label_key: Annotated[
        str | None, typer.Option("--label-key", "--label_key", help="Column of obs to score against.")
    ] = None,
    key: Annotated[str, typer.Option(help="Name of the results in the file.")] = "sctag",
) -> None:
    """Place the cells of QUERY into the clusters of a saved model; write the result and print a table."""
    from .tl import map_query

    with _plain_messages():
        adata, usual_labels = _load(query, transpose=transpose)
        target = _target(query, out, "mapped")
        label_key = _labels(adata, label_key, usual_labels)
        map_query(adata, model, layer=layer, use_rep=use_rep, key_added=key)
        adata.write_h5ad(target)
        typer.echo(_table(adata, key))
        new = int((adata.obs[f"{key}_novelty"] > 1).sum())
        typer.echo(
            f"{new} of {adata.n_obs} cells are less like the model's cells than 99 % of these are ({key}_novelty)"
        )
        if label_key is not None:
            _print_score(adata, label_key, key)
    typer.echo(f"wrote {target}")


@app.command()
def score(
    data: Annotated[Path, typer.Argument(help="Result of `sctag run` or `sctag map`.")],
    label_key: Annotated[str, typer.Option("--label-key", "--label_key", help="Column of obs to score against.")],
    key: Annotated[str, typer.Option(help="Name of the results in the file.")] = "sctag",
) -> None:
    """Print ACC, NMI and ARI of the clusters in DATA against a column of labels."""
    with _plain_messages():
        from ._read import read

        _print_score(read(data), label_key, key)


@app.command()
def info(
    model: Annotated[Path, typer.Argument(help="Folder of a saved model.")],
) -> None:
    """Print what a saved model was trained on, and how."""
    from ._model import ScTAG

    with _plain_messages():
        loaded = ScTAG.load(model)
        trained = loaded.trained
        typer.echo(loaded)
        typer.echo(f"genes     {', '.join(trained.genes[:3])}, ...")
        typer.echo(f"cells     {', '.join(trained.cells[:3])}, ...")
        if trained.batch_key is not None:
            typer.echo(f"batches   {trained.batch_key}: {', '.join(trained.batches)}")
        typer.echo(f"neighbors {trained.fitted.n_neighbors} in {trained.use_rep or 'the PCA of the genes'}")
        for part in ("params", "versions"):
            for name, value in trained.run.get(part, {}).items():
                typer.echo(f"{part:<9} {name} = {value}")


def _print_score(adata: AnnData, label_key: str, key: str) -> None:
    from .metrics import score as scores_of

    typer.echo("  ".join(f"{name} {value:.4f}" for name, value in scores_of(adata, label_key, key=key).items()))


@contextmanager
def _plain_messages() -> Iterator[None]:
    """Warnings as one line each; errors that the user can mend as one line and exit status 1."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_args, **_kwargs: _warn(_in_options(message))
        try:
            yield
        except (KeyError, OSError, TypeError, ValueError, ImportError, NotImplementedError, RuntimeError) as error:
            typer.echo(f"Error: {_said(error)}", err=True)
            raise typer.Exit(1) from error


def _warn(message: str) -> None:
    typer.echo(f"Warning: {message}", err=True)


def _said(error: Exception) -> str:
    if isinstance(error, AdvisedError):
        return error.on_command_line
    message = error.args[0] if isinstance(error, KeyError) and error.args else error
    return _in_options(" ".join([str(message), *getattr(error, "__notes__", ())]))


def _in_options(message: object) -> str:
    """A message of the Python functions with the names that their parameters have on the command line."""

    def option(found: re.Match[str]) -> str:
        name = next(group for group in found.groups() if group in _OPTIONS)
        return _OPTIONS[name] + (" " if found[3] else "")

    return _NAMED_OPTION.sub(option, str(message))


def _load(data: Path | None, *, transpose: bool) -> tuple[AnnData, str | None]:
    """The cells, and the column that usually holds their labels."""
    from . import datasets
    from ._read import ORIGINAL_LAYOUT, read, recognise

    if data is None:
        if transpose:
            msg = "--transpose is for a table of yours; name one."
            raise ValueError(msg)
        return datasets.pbmc68k_reduced(), _BUNDLED_LABELS
    adata = read(data, transpose=transpose)
    if adata.n_obs < 2:
        msg = f"Clustering needs at least 2 cells, {data} has {adata.n_obs}."
        raise ValueError(msg)
    return adata, _ORIGINAL_LABELS if recognise(data) == ORIGINAL_LAYOUT else None


def _target(data: Path | None, out: Path | None, suffix: str = "sctag") -> Path:
    """The result file; refused before the work begins if it could not be written after it."""
    if out is None:
        stem = Path(_BUNDLED if data is None else data.resolve().name)
        while stem.suffix in _SUFFIXES:
            stem = stem.with_suffix("")
        return Path(f"{stem}_{suffix}.h5ad")
    if out.suffix != ".h5ad":
        msg = f"--out must end in .h5ad, got {out}."
        raise ValueError(msg)
    if data is not None and out.resolve() == data.resolve():
        msg = f"--out is the input file {data}; choose another name."
        raise ValueError(msg)
    if not out.resolve().parent.is_dir():
        msg = f"The folder of --out does not exist: {out.resolve().parent}"
        raise FileNotFoundError(msg)
    return out


def _labels(adata: AnnData, label_key: str | None, usual: str | None) -> str | None:
    if label_key is None:
        return usual if usual in adata.obs else None
    if label_key not in adata.obs:
        msg = f"--label-key {label_key!r} is no column of obs; there are {list(adata.obs.columns)}."
        raise KeyError(msg)
    return label_key


def _check(adata: AnnData, n_neighbors: int, options: dict[str, Any]) -> None:
    """Refuse at once what the steps would refuse after many seconds of preparation, by the same checks as theirs."""
    from ._adata import DEFAULT, batch_numbers, require_own_key
    from ._checks import check_choice, check_integer, check_name
    from ._core.config import MOST_CLUSTERS, Config
    from ._inputs import check_run_options
    from ._model import check_devices, check_model_folder
    from ._types import Accelerator, Precision, Preset
    from .tl._preset import check_preset

    for name, allowed in {"preset": Preset, "accelerator": Accelerator, "precision": Precision}.items():
        check_choice(name, options[name], get_args(allowed))
    if options["accelerator"] not in {"auto", "cpu"}:
        from ._core.train import resolve_accelerator  # torch loads here

        resolve_accelerator(options["accelerator"])
    config = Config(pretrain_epochs=options["pretrain_epochs"], cluster_epochs=options["cluster_epochs"])
    most = MOST_CLUSTERS if options["preset"] == "default" else None
    check_run_options(options["n_clusters"], adata.n_obs, "sctag_neighbors", options["resolution"], most=most)
    check_devices(options["devices"], options["precision"], config, adata.n_obs)
    if options["preset"] != "default":
        check_preset(
            options["preset"], options["n_clusters"], config, options["save"], {"mask_var": DEFAULT, **options}
        )
    check_integer("n_neighbors", n_neighbors, low=2)
    check_name("key_added", options["key_added"])
    require_own_key(adata, options["key_added"])
    batch_numbers(adata, options["batch_key"])
    if options["save"] is not None:
        check_model_folder(options["save"])


def _counts_layer(adata: AnnData, layer: str | None) -> str:
    """Where the result keeps raw counts: "counts", unless the user's other layer of that name would be lost."""
    return "counts" if layer is None or "counts" not in adata.layers else layer


def _preprocess(adata: AnnData, highly_genes: int, layer: str | None, options: dict[str, Any]) -> None:
    """What a scanpy user does before clustering; raw counts are kept in a layer."""
    import scanpy as sc
    from scipy import sparse

    from ._counts import find_counts

    found, _ = find_counts(adata, layer, check_values=options["check_values"])
    counts = sparse.csr_matrix(found, dtype="float32")
    adata.layers[options["layer"]] = counts
    adata.X = counts.copy()
    n_obs = adata.n_obs
    sc.pp.filter_cells(adata, min_counts=1)
    if adata.n_obs < n_obs:
        _warn(f"{n_obs - adata.n_obs} cells without any count are left out.")
    adata.uns.pop("log1p", None)  # of what X held before
    sc.pp.normalize_total(adata, target_sum=_TARGET_SUM)
    sc.pp.log1p(adata)
    with warnings.catch_warnings():  # the number is a wish, and the default one nobody's
        warnings.filterwarnings("ignore", message="`n_top_genes` > number of normalized dispersions")
        sc.pp.highly_variable_genes(adata, n_top_genes=min(highly_genes, adata.n_vars))
    n_genes = int(adata.var["highly_variable"].sum())
    sc.pp.pca(adata, n_comps=max(1, min(50, adata.n_obs - 1, n_genes - 1)), random_state=options["random_state"])


def _cluster(adata: AnnData, n_neighbors: int, highly_genes: int, **options: Any) -> None:
    from .pp import build_graph, recipe_published
    from .tl import sctag

    seed, use_rep = options["random_state"], None
    if options["preset"] != "default":
        recipe_published(adata, layer=options["layer"], n_top_genes=highly_genes, random_state=seed)
        use_rep, options["n_top_genes"] = "X_pca_published", highly_genes
    build_graph(adata, n_neighbors, use_rep=use_rep, batch_key=options["batch_key"], random_state=seed)
    sctag(adata, **options)


def _draw(adata: AnnData, key: str, label_key: str | None, path: Path) -> None:
    import matplotlib.pyplot as plt

    from .pl import embedding

    colors = [key] if label_key is None else [key, label_key]
    # One panel's legend is as wide as its longest name: the layout finds the place that scanpy's own grid would guess.
    figure, axes = plt.subplots(1, len(colors), figsize=(5.5 * len(colors), 4.5), squeeze=False, layout="constrained")
    for ax, color in zip(axes[0], colors, strict=True):
        embedding(adata, key=key, color=color, ax=ax, show=False, frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _table(adata: AnnData, key: str) -> str:
    groups = adata.obs.groupby(key, observed=False)[f"{key}_confidence"]
    lines = [f"{'cluster':>8}{'cells':>9}{'share':>9}{'confidence':>12}"]
    lines += [
        f"{name:>8}{len(values):>9}{len(values) / adata.n_obs:>9.1%}{values.mean():>12.2f}" for name, values in groups
    ]
    return "\n".join(lines)
