"""Plots of a result."""

from ._embedding import embedding
from ._history import history

__all__ = ["embedding", "history"]
