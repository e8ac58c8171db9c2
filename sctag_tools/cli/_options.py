"""Options of the commands. Those of a run are made from :class:`..train.config.Config`, where they are written."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import Field
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from .._types import Preset
from ..train.config import Config, Group, options_of

Command = TypeVar("Command", bound=Callable[..., None])

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
_PANELS: dict[Group, str] = {
    "clustering": "Clustering",
    "model": "Model",
    "training": "Training",
    "runtime": "Runtime",
}


def option(text: str, *names: str, panel: str | None = None, **settings: Any) -> Any:
    """Declare an option with its text and its place in the help; typer derives the name if there is none."""
    return typer.Option(*names, help=text, rich_help_panel=panel, **settings)


Layer = Annotated[
    str | None, option("Layer with the raw counts, if X does not hold them.", panel="Input", metavar="NAME")
]
Transpose = Annotated[bool, option("The table has genes in rows, cells in columns.", "--transpose", panel="Input")]
CheckValues = Annotated[bool, option("Refuse values that look logged or scaled.", panel="Input")]

Published = Annotated[
    Preset,
    option("The published method: reference is the code as it runs, paper is without its defects.", panel="Clustering"),
]
NTopGenes = Annotated[int, option("Highly variable genes to use.", panel="Clustering", metavar="INT", min=1)]
NNeighbors = Annotated[
    int, option("Neighbors of a cell in the graph, itself included.", panel="Clustering", metavar="INT", min=2)
]
BatchKey = Annotated[
    str | None, option("Column of obs with the experimental batch.", panel="Clustering", metavar="NAME")
]

LabelKey = Annotated[
    str | None,
    option(
        "Column of obs to score against; never used for clustering.",
        panel="Output",
        metavar="NAME",
        show_default="cell_type1 in the original's HDF5",
    ),
]
KeyAdded = Annotated[str, option("Name of the results.", panel="Output", metavar="NAME")]
Save = Annotated[
    Path | None, option("New or empty folder for the model, for `sctag map`.", panel="Output", metavar="FOLDER")
]
Quiet = Annotated[bool, option("No progress bars.", "--quiet", panel="Output")]


def normalize_name(name: str) -> str:
    """The name that an option is declared by: dashes for underscores, and the name that an alias stands for."""
    dashed = name.replace("_", "-")
    return ALIASES.get(dashed, dashed)


def takes_config_options(*, before: str) -> Callable[[Command], Command]:
    """Put the options of Config into the signature of a command, where typer looks for them.

    They stand before the parameter ``before``. The command itself receives them as ``**options``.
    """

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        own = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
        place = [one.name for one in own].index(before)
        own[place:place] = [_parameter(field) for field in options_of(*_PANELS) if field.name != "progress_bar"]
        command.__signature__ = signature.replace(parameters=own)  # type: ignore[attr-defined]
        return command

    return decorate


def _parameter(field: Field[Any]) -> inspect.Parameter:
    check = field.metadata
    number = "FLOAT" if isinstance(field.default, float) else "INT"
    declared = option(
        _plain_text(check["text"]),
        panel=_PANELS[check["group"]],
        metavar=None if "choices" in check else number,
        min=check.get("low"),
        max=check.get("high"),
    )
    annotation: Any = Annotated[get_type_hints(Config)[field.name], declared]
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=annotation)


def _plain_text(text: str) -> str:
    """A text without the markup of the documentation."""
    return re.sub(r":\w+:`([^`]*)`", r"\1", text).replace("``", "")
