"""What a finished run is used for: ``sctag map``, ``sctag score`` and ``sctag info``."""

from pathlib import Path
from typing import Annotated

import typer

from . import _options as opt
from ._files import check_result, find_label_key, read_cells, target_file, write_result
from ._report import plain_messages, print_result, print_scores


@plain_messages()
def map_(
    query: Annotated[Path, typer.Argument(help="Raw counts of new cells, all genes; formats as for `sctag run`.")],
    *,
    model: Annotated[Path, opt.of_input(help="Folder of the model: `sctag run --save`, or `ScTAG.save` in Python.")],
    layer: opt.Layer = None,
    transpose: opt.Transpose = False,
    check_values: opt.CheckValues = True,
    use_rep: Annotated[
        str | None, opt.of_input(help="Representation in obsm that the model's graph was built on.", metavar="NAME")
    ] = None,
    out: Annotated[Path | None, opt.of_output(help="Result file.", show_default="./QUERY_mapped.h5ad")] = None,
    label_key: opt.LabelKey = None,
    key_added: opt.KeyAdded = "sctag",
) -> None:
    """Place the cells of QUERY into the clusters of a saved model; write the result and print a table."""
    from ..tl import map_query

    adata = read_cells(query, transpose=transpose)
    target = target_file(query, out, "mapped")
    label_key = find_label_key(adata, label_key, query)
    check_result(adata, target)
    map_query(adata, model, layer=layer, use_rep=use_rep, check_values=check_values, key_added=key_added)
    write_result(adata, target)
    print_result(adata, key_added, label_key)
    typer.echo(f"wrote {target}")


@plain_messages()
def score(
    data: Annotated[Path, typer.Argument(help="Result of `sctag run` or `sctag map`.")],
    *,
    label_key: Annotated[str, typer.Option(help="Column of obs to score against.", metavar="NAME")],
    key_added: Annotated[str, typer.Option(help="Name of the results.", metavar="NAME")] = "sctag",
) -> None:
    """Print ACC, NMI and ARI of the clusters in DATA against a column of labels."""
    from ..io.read import read

    print_scores(read(data), label_key, key_added)


@plain_messages()
def info(model: Annotated[Path, typer.Argument(help="Folder of a saved model.")]) -> None:
    """Print what a saved model was trained on, and how."""
    from .._model import ScTAG

    loaded = ScTAG.load(model)
    registry = loaded.registry
    typer.echo(loaded)
    typer.echo(f"genes     {', '.join(registry.var_names[:3])}, ...")
    typer.echo(f"cells     {', '.join(registry.obs_names[:3])}, ...")
    if registry.batch_key is not None:
        typer.echo(f"batches   {registry.batch_key}: {', '.join(registry.batch_categories)}")
    space = registry.use_rep or "the PCA of the genes"
    typer.echo(f"neighbors {loaded.reference.n_neighbors} others of a cell, in {space}")
    for part in ("params", "versions"):
        for name, value in registry.run.get(part, {}).items():
            typer.echo(f"{part:<9} {name} = {value}")
