"""Tools: the method itself."""

from ._sctag import sctag

__all__ = ["sctag"]
