"""``sctag.pp.recipe_published``: the preprocessing of the published scTAG code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import _logging as logg
from .._anndata.access import require_writable, silent_writing, working_copy
from .._anndata.counts import counts_in_memory
from .._checks import check_integer, checked_seed
from ..published.recipe import N_TOP_GENES, published_inputs

if TYPE_CHECKING:
    from anndata import AnnData

_FUNCTION = "sctag.pp.recipe_published"


def recipe_published(
    adata: AnnData,
    *,
    layer: str | None = None,
    n_top_genes: int = N_TOP_GENES,
    random_state: int | None = 0,
    copy: bool = False,
) -> AnnData | None:
    """Compute principal components as the published code does, for ``preset="reference"`` and ``"paper"``.

    Counts are rounded up, cells scaled to the median total and log1p-transformed. Highly variable genes are chosen by
    normalized dispersion and scaled without clipping; PCA keeps 50 components. Build the graph on the result:
    ``sctag.pp.build_graph(adata, use_rep="X_pca_published")``.

    Parameters
    ----------
    adata
        Annotated data with raw counts.
    layer
        Layer with the raw counts. If not given, they are found as by :func:`sctag_tools.tl.sctag`.
    n_top_genes
        Number of highly variable genes to use.
    random_state
        Seed of the randomized PCA, which is used above 500 cells or genes. None draws one.
    copy
        Return a changed copy instead of writing to ``adata``.

    Returns
    -------
    ``None``, or the copy if ``copy=True``. Writes:

    `adata.obsm['X_pca_published']` : :class:`numpy.ndarray` (float32)
        (n_obs, 50), fewer columns for small data.
    `adata.var['highly_variable_published']` : :class:`pandas.Series` (bool)
        (n_vars,), the genes used.

    Raises
    ------
    ValueError
        If the counts are no counts, or a cell has none.

    Examples
    --------
    >>> import sctag_tools as sctag
    >>> adata = sctag.datasets.pbmc68k_reduced()
    >>> sctag.pp.recipe_published(adata, n_top_genes=200)
    >>> adata.obsm["X_pca_published"].shape
    (700, 50)
    """
    require_writable(adata, _FUNCTION, copy=copy)
    check_integer("n_top_genes", n_top_genes, low=2)
    random_state = checked_seed(random_state)
    counts, _ = counts_in_memory(adata, layer, _FUNCTION, check_values=True)
    inputs = published_inputs(counts, random_state, n_top_genes=n_top_genes)
    adata = working_copy(adata, copy=copy)
    with silent_writing():
        adata.obsm["X_pca_published"] = inputs.pca
        adata.var["highly_variable_published"] = inputs.genes
    logg.info("added the published code's 'X_pca_published' (adata.obsm), 'highly_variable_published' (adata.var)")
    return adata if copy else None
