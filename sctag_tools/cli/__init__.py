"""The ``sctag`` command: from a file of raw counts to clusters, and from new cells to a model's clusters."""

from importlib.metadata import version
from typing import Annotated

import typer

from ._map import info, map_, score
from ._options import OTHER_NAMES, normalize_name
from ._run import run

app = typer.Typer(
    name="sctag",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"token_normalize_func": normalize_name},
)
app.command(epilog=OTHER_NAMES)(run)
app.command("map")(map_)
app.command()(score)
app.command()(info)


def _print_version(wanted: bool) -> None:  # noqa: FBT001 (typer's callback signature)
    if wanted:
        typer.echo(version("sctag-tools"))
        raise typer.Exit


@app.callback()
def main(
    *,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Cluster single cells with topology-adaptive graph convolutions (scTAG)."""
