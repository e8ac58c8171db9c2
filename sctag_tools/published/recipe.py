"""The inputs of the published method from raw counts, as its preprocessing with scanpy 1.4.4 gave them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from .._threads import keep_thread_counts
from ..train.preprocessing import size_factors

N_TOP_GENES = 500
N_NEIGHBORS = 15
_N_PCS = 50
# Up to here, scikit-learn chose the exact solver when the original was written; later versions choose differently.
_MAX_EXACT_PCA = 500


@dataclass(frozen=True)
class PublishedInputs:
    """What the network and the graph are made from, for the cells and genes that are kept."""

    x: NDArray[np.float32]  # (n_kept, n_top_genes) scaled log-expression, not clipped
    genes: NDArray[np.bool_]  # (n_genes,) the highly variable genes
    cells: NDArray[np.bool_]  # (n_cells,) cells that are not empty
    size_factors: NDArray[np.float32]  # (n_kept,) total counts over their median
    pca: NDArray[np.float32]  # (n_kept, n_pcs)


@keep_thread_counts()
def published_inputs(
    counts: sparse.csr_matrix, random_state: int, *, n_top_genes: int = N_TOP_GENES
) -> PublishedInputs:
    """Preprocess raw counts (n_cells, n_genes) as the published code does; ``counts`` is left as it is.

    Counts are rounded up. Empty genes are dropped, then empty cells (the original did not drop their labels, so
    ``cells`` tells which are left). Cells are scaled to the median total, and log1p is taken. The ``n_top_genes`` genes
    of the highest normalized dispersion ("seurat" flavor) are kept and scaled to zero mean and unit variance. The
    result agrees with a stored original run to the last digit, and so do the neighbors found in ``pca``.
    """
    import scanpy as sc
    from anndata import AnnData

    adata = AnnData(sparse.csr_matrix(sparse.csr_matrix(counts).ceil(), dtype=np.float32))
    genes, _ = sc.pp.filter_genes(adata, min_counts=1, inplace=False)
    cells, _ = sc.pp.filter_cells(adata[:, genes], min_counts=1, inplace=False)
    if min(cells.sum(), genes.sum()) < 2:
        msg = f"Too little is left without empty cells and genes: {cells.sum()} cells, {genes.sum()} genes."
        raise ValueError(msg)
    adata = adata[cells, genes].copy()
    sizes = size_factors(np.asarray(adata.X.sum(axis=1)).ravel())
    sc.pp.normalize_total(adata)
    sc.pp.log1p(adata)
    n_top_genes = min(n_top_genes, adata.n_vars)
    sc.pp.highly_variable_genes(adata, n_top_genes=n_top_genes, flavor="seurat")
    variable = adata.var["highly_variable"].to_numpy()
    genes[np.flatnonzero(genes)] = variable
    x = sc.pp.scale(adata.X[:, variable].toarray())  # dense, as there: the sparse path rounds otherwise
    return PublishedInputs(x, genes, cells, sizes, _principal_components(x, random_state))


def _principal_components(x: NDArray[np.float32], random_state: int) -> NDArray[np.float32]:
    """(n_cells, 50) principal components, fewer for small data, by the solver that scikit-learn chose at the time.

    Above 500 cells or genes it is the randomized one with few iterations. So the graph depends on the seed, and with
    it the spectral start.
    """
    from sklearn.decomposition import PCA

    n_pcs = min(_N_PCS, *x.shape)
    exact = max(x.shape) <= _MAX_EXACT_PCA or n_pcs >= 0.8 * min(x.shape)
    solver = "full" if exact else "randomized"
    return np.asarray(PCA(n_pcs, svd_solver=solver, random_state=random_state).fit_transform(x), dtype=np.float32)
