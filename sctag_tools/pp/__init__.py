"""Preprocessing: the cell graph, and the recipe of the published code."""

from ._build_graph import build_graph
from ._recipe_published import recipe_published

__all__ = ["build_graph", "recipe_published"]
