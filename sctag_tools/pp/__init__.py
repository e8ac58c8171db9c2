"""Preprocessing: the cell graph."""

from ._graph import build_graph

__all__ = ["build_graph"]
