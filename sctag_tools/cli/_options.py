"""Options of the commands. Those of a run are made from :class:`..train.config.Config`, where they are written."""

import inspect
import re
from collections.abc import Callable
from dataclasses import Field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer

from .._options import add_parameters
from .._types import Preset
from ..train.config import Config, Group, options_of

ALIASES = {
    "highly-genes": "n-top-genes",  # this one and the next are names of the original's train.py
    "maxiter": "cluster-epochs",
    "seed": "random-state",
    "key": "key-added",
    "save-model": "save",
}
OTHER_NAMES = (
    "Other names are taken, too: "
    + ", ".join(f"--{alias} for --{name}" for alias, name in ALIASES.items())
    + "; and underscores for dashes."
)

of_input, of_clustering, of_output = (
    partial(typer.Option, rich_help_panel=panel) for panel in ("Input", "Clustering", "Output")
)

Layer = Annotated[str | None, of_input(help="Layer with the raw counts, if X does not hold them.", metavar="NAME")]
Transpose = Annotated[bool, of_input("--transpose", help="The table has genes in rows, cells in columns.")]
CheckValues = Annotated[bool, of_input(help="Refuse values that look logged or scaled.")]

Published = Annotated[
    Preset, of_clustering(help="The published method: reference is the code as it runs, paper is without its defects.")
]
NTopGenes = Annotated[int, of_clustering(help="Highly variable genes to use.", metavar="INT", min=1)]
NNeighbors = Annotated[
    int, of_clustering(help="Neighbors of a cell in the graph, itself included.", metavar="INT", min=2)
]
BatchKey = Annotated[str | None, of_clustering(help="Column of obs with the experimental batch.", metavar="NAME")]

LabelKey = Annotated[
    str | None,
    of_output(
        help="Column of obs to score against; never used for clustering.",
        metavar="NAME",
        show_default="cell_type1 in the original's HDF5",
    ),
]
KeyAdded = Annotated[str, of_output(help="Name of the results.", metavar="NAME")]
Save = Annotated[Path | None, of_output(help="New or empty folder for the model, for `sctag map`.", metavar="FOLDER")]
CheckpointFolder = Annotated[
    Path | None,
    of_output(help="Folder for the state of the training; the same command goes on from it.", metavar="FOLDER"),
]
Overwrite = Annotated[bool, of_output("--overwrite", help="Replace an earlier model in the folder of --save.")]
Quiet = Annotated[bool, of_output("--quiet", help="No progress bars.")]


def normalize_name(name: str) -> str:
    """The name that an option is declared by: dashes for underscores, and the name that an alias stands for."""
    dashed = name.replace("_", "-")
    return ALIASES.get(dashed, dashed)


def takes_config_options(command: Callable[..., None]) -> Callable[..., None]:
    """Put the options of Config into the signature of a command, before ``preset``; it receives ``**options``."""
    parameters = [_parameter(field) for field in options_of(*get_args(Group)) if field.name != "progress_bar"]
    add_parameters(command, parameters, before="preset")
    return command


def _parameter(field: Field[Any]) -> inspect.Parameter:
    check = field.metadata
    number = "FLOAT" if isinstance(field.default, float) else "INT"
    declared = typer.Option(
        help=re.sub(r":\w+:`([^`]*)`", r"\1", check["text"]).replace("``", ""),  # without the documentation's markup
        rich_help_panel=check["group"].capitalize(),
        metavar=None if "choices" in check else number,
        min=check.get("low"),
        max=check.get("high"),
    )
    annotation: Any = Annotated[get_type_hints(Config)[field.name], declared]
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=annotation)
