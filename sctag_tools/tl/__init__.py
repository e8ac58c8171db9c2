"""Tools: the method itself, and what its model gives afterwards."""

from ._cut import cut
from ._denoise import denoise
from ._explain import explain
from ._map_query import map_query
from ._rank_genes_splits import rank_genes_splits
from ._sctag import sctag
from ._subcluster import subcluster
from ._umap import umap

__all__ = ["cut", "denoise", "explain", "map_query", "rank_genes_splits", "sctag", "subcluster", "umap"]
