"""``sctag map``: new cells into the clusters of a saved model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .._keys import ResultKeys
from . import _options as opt
from ._files import find_label_key, read_cells, target_file
from ._messages import plain_messages
from ._report import cluster_table, score_line


def map_(
    query: Annotated[Path, typer.Argument(help="Raw counts of new cells, all genes; formats as for `sctag run`.")],
    *,
    model: Annotated[
        Path, opt.option("Folder of the model: `sctag run --save`, or `ScTAG.save` in Python.", panel="Input")
    ],
    layer: opt.Layer = None,
    transpose: opt.Transpose = False,
    check_values: opt.CheckValues = True,
    use_rep: Annotated[
        str | None,
        opt.option("Representation in obsm that the model's graph was built on.", panel="Input", metavar="NAME"),
    ] = None,
    out: Annotated[Path | None, opt.option("Result file.", panel="Output", show_default="./QUERY_mapped.h5ad")] = None,
    label_key: opt.LabelKey = None,
    key_added: opt.KeyAdded = "sctag",
) -> None:
    """Place the cells of QUERY into the clusters of a saved model; write the result and print a table."""
    from ..tl import map_query

    with plain_messages():
        adata = read_cells(query, transpose=transpose)
        target = target_file(query, out, "mapped")
        label_key = find_label_key(adata, label_key, query)
        map_query(adata, model, layer=layer, use_rep=use_rep, check_values=check_values, key_added=key_added)
        adata.write_h5ad(target)
        typer.echo(cluster_table(adata, key_added))
        novelty = ResultKeys(key_added).novelty
        n_new = int((adata.obs[novelty] > 1).sum())
        typer.echo(f"{n_new} of {adata.n_obs} cells are less like the model's cells than 99 % of these are ({novelty})")
        if label_key is not None:
            typer.echo(score_line(adata, label_key, key_added))
    typer.echo(f"wrote {target}")
