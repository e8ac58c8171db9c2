"""``python -m sctag_tools`` is the ``sctag`` command, for where its script is not on the path."""

from .cli import app

app()
