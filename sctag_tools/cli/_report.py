"""What is printed of results and models, and the commands that only print: ``sctag score`` and ``sctag info``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .._keys import ResultKeys
from ._messages import plain_messages
from ._options import option

if TYPE_CHECKING:
    from anndata import AnnData


def score(
    data: Annotated[Path, typer.Argument(help="Result of `sctag run` or `sctag map`.")],
    *,
    label_key: Annotated[str, option("Column of obs to score against.", metavar="NAME")],
    key_added: Annotated[str, option("Name of the results.", metavar="NAME")] = "sctag",
) -> None:
    """Print ACC, NMI and ARI of the clusters in DATA against a column of labels."""
    from ..io.read import read

    with plain_messages():
        typer.echo(score_line(read(data), label_key, key_added))


def info(model: Annotated[Path, typer.Argument(help="Folder of a saved model.")]) -> None:
    """Print what a saved model was trained on, and how."""
    from .._model import ScTAG

    with plain_messages():
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


def cluster_table(adata: AnnData, key: str) -> str:
    """A line for each cluster: cells, share of all cells, mean confidence."""
    keys = ResultKeys(key)
    confidences = adata.obs.groupby(keys.clusters, observed=False)[keys.confidence]
    lines = [f"{'cluster':>8}{'cells':>9}{'share':>9}{'confidence':>12}"]
    lines += [
        f"{name:>8}{len(values):>9}{len(values) / adata.n_obs:>9.1%}{values.mean():>12.2f}"
        for name, values in confidences
    ]
    return "\n".join(lines)


def score_line(adata: AnnData, label_key: str, key: str) -> str:
    """ACC, NMI and ARI of the clusters against a column of labels."""
    from ..metrics import score

    return "  ".join(f"{name} {value:.4f}" for name, value in score(adata, label_key, key=key).items())
