"""What a command tells the user: warnings and errors in one line each."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from .._checks import AdvisedError


@contextmanager
def plain_messages() -> Iterator[None]:
    """Print warnings as one line each, and errors that the user can fix as one line with exit status 1."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_args, **_kwargs: warn(str(message))
        try:
            yield
        except (KeyError, OSError, TypeError, ValueError, ImportError, NotImplementedError, RuntimeError) as error:
            typer.echo(f"Error: {_describe(error)}", err=True)
            raise typer.Exit(1) from error


def warn(message: str) -> None:
    """Print a warning."""
    typer.echo(f"Warning: {message}", err=True)


def _describe(error: Exception) -> str:
    if isinstance(error, AdvisedError):
        return error.on_command_line
    message = error.args[0] if isinstance(error, KeyError) and error.args else error  # str(KeyError) adds quotes
    return " ".join([str(message), *getattr(error, "__notes__", ())])
