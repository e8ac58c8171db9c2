"""Plots of a result."""

from ._clustree import clustree
from ._confusion import confusion
from ._embedding import embedding
from ._history import history
from ._n_clusters import n_clusters
from ._tree import tree

__all__ = ["clustree", "confusion", "embedding", "history", "n_clusters", "tree"]
