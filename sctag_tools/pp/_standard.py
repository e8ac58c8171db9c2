"""Normalization, highly variable genes and PCA as scanpy's users do them before clustering."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from ._pca import N_PCS, TARGET_SUM

if TYPE_CHECKING:
    from anndata import AnnData


def prepare_counts(adata: AnnData, n_top_genes: int, random_state: int | None) -> None:
    """Log-normalize the counts in X, mark highly variable genes, and run PCA on them."""
    import scanpy as sc

    adata.uns.pop("log1p", None)  # of what X held before
    sc.pp.normalize_total(adata, target_sum=TARGET_SUM)
    sc.pp.log1p(adata)
    adata.uns["log1p"].pop("base", None)  # None, which older readers refuse
    with warnings.catch_warnings():  # fewer genes than wanted may vary
        warnings.filterwarnings("ignore", message="`n_top_genes` > number of normalized dispersions")
        sc.pp.highly_variable_genes(adata, n_top_genes=n_top_genes)
    n_genes = int(adata.var["highly_variable"].sum())
    sc.pp.pca(adata, n_comps=max(1, min(N_PCS, adata.n_obs - 1, n_genes - 1)), random_state=random_state)
