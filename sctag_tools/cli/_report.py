"""What a command tells the user: clusters and scores, warnings and errors."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from .._checks import AdvisedError
from .._keys import ResultKeys

if TYPE_CHECKING:
    from anndata import AnnData


@contextmanager
def plain_messages() -> Iterator[None]:
    """Print warnings as one line each, and errors that the user can fix as one line with exit status 1."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_args, **_kwargs: warn(str(message))
        try:
            yield
        except (KeyError, OSError, TypeError, ValueError, ImportError, NotImplementedError, RuntimeError) as error:
            typer.echo(f"Error: {describe(error)}", err=True)
            raise typer.Exit(1) from error


def warn(message: str) -> None:
    """Print a warning."""
    typer.echo(f"Warning: {message}", err=True)


def describe(error: Exception) -> str:
    """The message of an error, with the advice for the command line."""
    if isinstance(error, AdvisedError):
        return error.on_command_line
    message = error.args[0] if isinstance(error, KeyError) and error.args else error  # str(KeyError) adds quotes
    return " ".join([str(message), *getattr(error, "__notes__", ())])


def print_result(adata: AnnData, key: str, label_key: str | None) -> None:
    """A line for each cluster, one about unlike cells if cells were mapped, and the scores if there are labels.

    Beside the mean confidence of its cells stands that of the cluster as a whole, and what it was split from.
    """
    from ..get import clusters_df

    keys, table = ResultKeys(key), clusters_df(adata, key)
    has_sibling = "sibling" in table
    header = f"{'cluster':>8}{'cells':>9}{'share':>9}{'confidence':>12}"
    typer.echo(header + (f"{'as a whole':>12}  next to" if has_sibling else ""))
    for name, row in table.iterrows():
        line = f"{name:>8}{int(row['n_cells']):>9}{row['share']:>9.1%}{row['cell_confidence']:>12.2f}"
        typer.echo(line + (f"{row['cluster_confidence']:>12.2f}  {row['sibling']}" if has_sibling else ""))
    if keys.novelty in adata.obs:
        n_new = int((adata.obs[keys.novelty] > 1).sum())
        unlike = f"{n_new} of {adata.n_obs} cells are less like the model's cells than 99 % of these are"
        typer.echo(f"{unlike} ({keys.novelty})")
    if label_key is not None:
        print_scores(adata, label_key, key)


def print_scores(adata: AnnData, label_key: str, key: str) -> None:
    """ACC, NMI and ARI of the clusters against a column of labels."""
    from ..metrics import score

    typer.echo("  ".join(f"{name} {value:.4f}" for name, value in score(adata, label_key, key=key).items()))
