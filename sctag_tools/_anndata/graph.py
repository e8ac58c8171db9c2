"""The cell graph of an AnnData, in scanpy's neighbors layout, and the representation that it is built on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy import sparse

from .blocks import check_structure, whole

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray


def get_graph(adata: AnnData, neighbors_key: str, what: Literal["connectivities", "distances"]) -> sparse.csr_matrix:
    """The (n_obs, n_obs) connectivities or distances that ``neighbors_key`` names."""
    entry = adata.uns.get(neighbors_key)
    # Files of anndata before 0.7 have no names of the matrices, which scanpy then expects under these.
    of_old_files = what if neighbors_key == "neighbors" else None
    name = entry.get(f"{what}_key", of_old_files) if isinstance(entry, Mapping) else None
    if name not in adata.obsp:
        msg = (
            f"There is no graph adata.uns[{neighbors_key!r}]. Run `sctag.pp.build_graph(adata)` first, or name one "
            "with `neighbors_key=` (scanpy's own is 'neighbors')."
        )
        raise KeyError(msg)
    check_structure(adata.obsp[name])
    graph = sparse.csr_matrix(adata.obsp[name])
    if not np.isfinite(graph.data).all() or (graph.data < 0).any():
        msg = f"The graph {neighbors_key!r} has negative or non-finite weights; rebuild it."
        raise ValueError(msg)
    return graph


def n_neighbors_of(params: Mapping[str, Any]) -> int | None:
    """The number in the parameters of a graph, itself included; None where there is none. Old files have arrays."""
    values = np.ravel(np.asarray(params.get("n_neighbors"), dtype=object))
    return int(values[0]) if len(values) == 1 and values[0] is not None else None


def get_representation(adata: AnnData, name: str) -> NDArray[np.floating]:
    """``adata.X`` or an entry of ``adata.obsm``, dense (n_obs, d); ValueError unless all of it is finite."""
    stored = whole(adata.X) if name == "X" else adata.obsm[name]
    x = stored.toarray() if sparse.issparse(stored) else np.asarray(stored)
    if x.ndim != 2 or not np.isfinite(x).all():
        msg = f"{name!r} holds NaN or infinite values; recompute it, or name another representation with `use_rep=`."
        raise ValueError(msg)
    return x
