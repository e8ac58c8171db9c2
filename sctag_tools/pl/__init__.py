"""Plots of a result."""

from ._embedding import embedding
from ._history import history
from ._n_clusters import n_clusters

__all__ = ["embedding", "history", "n_clusters"]
