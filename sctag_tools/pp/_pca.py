"""The PCA that :func:`.build_graph` runs where ``adata`` has none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from .. import _logging as logg
from .._anndata.blocks import Values, columns_and_totals, is_in_memory, place_columns
from .._anndata.genes import check_gene_mask

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

N_PCS = 50
TARGET_SUM = 1e4  # counts of a cell after normalization


def compute_pca(adata: AnnData, n_pcs: int | None, random_state: int) -> AnnData:
    """Compute at least ``n_pcs`` principal components, by default 50, in a new AnnData with scanpy's names for them.

    Only highly variable genes are used where some are marked. Raises ValueError if X cannot be used.
    """
    import scanpy as sc
    from anndata import AnnData

    matrix, where = adata.X, "adata.X"
    if matrix is None and "counts" in adata.layers:  # where tl.sctag finds them, too
        matrix, where = adata.layers["counts"], "adata.layers['counts']"
    if matrix is None:
        msg = "adata.X is empty and there is no adata.obsm['X_pca']; name a representation with `use_rep=`."
        raise ValueError(msg)
    values = Values.from_matrix(matrix)
    if not values.finite:
        msg = f"{where} holds NaN or infinite values; mend it, or name a representation with `use_rep=`."
        raise ValueError(msg)
    genes = np.arange(adata.n_vars)
    if "highly_variable" in adata.var:
        genes = genes[check_gene_mask(adata.var["highly_variable"].to_numpy(), "highly_variable", adata.n_vars)]
    n_comps = min(max(n_pcs or 0, N_PCS), adata.n_obs - 1, len(genes) - 1)
    if n_comps < 1:
        msg = f"PCA needs at least 2 genes, got {len(genes)}; name a representation with `use_rep=`."
        raise ValueError(msg)
    needs_log = values.are_counts or ("log1p" not in adata.uns and values.are_unlogged)
    x = _log_normalized(matrix, genes) if needs_log else _expression(matrix, genes)
    pca = AnnData(x, obs=adata.obs[[]], var=adata.var)
    logg.info(f"    computing X_pca with {n_comps} components on {len(genes)} genes")
    sc.pp.pca(pca, n_comps=n_comps, random_state=random_state)
    return pca


def _log_normalized(matrix: Any, genes: NDArray[np.integer]) -> sparse.csr_matrix:
    """Normalize counts to 10,000 a cell and take log1p; (n_obs, n_vars), in which other genes than these are zero."""
    x, totals = columns_and_totals(matrix, genes)
    x.data /= np.repeat(totals / TARGET_SUM, np.diff(x.indptr)).astype(np.float32)
    return place_columns(x.log1p(), genes, matrix.shape[1])


def _expression(matrix: Any, genes: NDArray[np.integer]) -> Any:
    """The (n_obs, n_vars) matrix in a format that scanpy accepts; of one on disk or in dask, only these genes."""
    if not is_in_memory(matrix):
        return place_columns(columns_and_totals(matrix, genes)[0], genes, matrix.shape[1])
    return sparse.csr_matrix(matrix) if sparse.issparse(matrix) else matrix  # older scanpy: no sparse arrays
