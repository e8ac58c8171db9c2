"""Show the options of :class:`.train.config.Config` where users read: in signatures and docstrings."""

import inspect
import textwrap
from collections.abc import Callable
from dataclasses import Field
from typing import Any, TypeVar

from . import _types
from .train.config import Group, options_of

Documented = TypeVar("Documented", bound=Callable[..., Any])
_WIDTH = 112


def takes_options(*groups: Group, before: str | None = None) -> Callable[[Documented], Documented]:
    """Replace ``**options`` in the signature by the options of these groups, and ``{options}`` in the docstring.

    For functions and classes. The options stand before the parameter ``before``, or last. The function itself receives
    ``**options`` and builds the :class:`.Config`, so that names, defaults, checks and texts are written once.
    """

    def decorate(documented: Documented) -> Documented:
        documented.__doc__ = _with_texts(documented.__doc__ or "", groups)
        function: Any = documented.__init__ if isinstance(documented, type) else documented  # type: ignore[misc]
        literal_choices(function)
        add_parameters(function, [_parameter(option) for option in options_of(*groups)], before=before)
        return documented

    return decorate


def add_parameters(function: Any, added: list[inspect.Parameter], *, before: str | None) -> None:
    """Replace ``**options`` in the signature by those that are not there yet, in front of ``before`` or last."""
    signature = inspect.signature(function)
    own = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    names = [one.name for one in own]
    place = names.index(before) if before else len(own)
    own[place:place] = [one for one in added if one.name not in names]
    function.__signature__ = signature.replace(parameters=own)


def literal_choices(function: Documented) -> Documented:
    """Show the choices of Literal options in the signature, in place of the names of their types."""
    signature = inspect.signature(function)
    shown = [one.replace(annotation=_readable(one.annotation)) for one in signature.parameters.values()]
    function.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]
    return function


def _parameter(option: Field[Any]) -> inspect.Parameter:
    return inspect.Parameter(
        option.name, inspect.Parameter.KEYWORD_ONLY, default=option.default, annotation=_readable(option.type)
    )


def _readable(annotation: Any) -> Any:
    """The Literal that a name such as ``"Metric"`` stands for; anything else as it is."""
    return getattr(_types, annotation, annotation) if isinstance(annotation, str) else annotation


def _with_texts(docstring: str, groups: tuple[Group, ...]) -> str:
    """Replace ``{name}`` by the entry of one option, and ``{options}`` by those of all others of these groups."""
    text = textwrap.TextWrapper(_WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 4)
    entries = {one.name: f"{one.name}\n{text.fill(one.metadata['text'])}" for one in options_of(*groups)}
    docstring = inspect.cleandoc(docstring)  # as Python 3.13 does by itself
    for name in [*entries]:
        if f"\n{{{name}}}\n" in docstring:
            docstring = docstring.replace(f"{{{name}}}", entries.pop(name))
    return docstring.replace("{options}", "\n".join(entries.values())) + "\n"
