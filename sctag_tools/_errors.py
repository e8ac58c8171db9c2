"""Errors whose advice differs between Python and the command line."""

from __future__ import annotations


class AdvisedError(ValueError):
    """Something that the user can mend: what is wrong, then the call that helps.

    A call of Python is no help to someone at the command line, so both forms are kept where the error is raised.
    """

    def __init__(self, problem: str, python: str = "", command: str | None = None) -> None:
        super().__init__(f"{problem} {python}".rstrip())
        self.on_command_line = str(self) if command is None else f"{problem} {command}"
