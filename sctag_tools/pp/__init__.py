"""Preprocessing: the cell graph, and the published code's recipe."""

from ._graph import build_graph
from ._recipe import recipe_published

__all__ = ["build_graph", "recipe_published"]
