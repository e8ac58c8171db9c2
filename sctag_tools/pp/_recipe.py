"""``sctag.pp.recipe_published``: the preprocessing of the published scTAG code."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from .. import _logging as logg
from .._adata import require_anndata, require_in_memory, working_copy, writing
from .._checks import check_flag, check_integer, seed_of
from .._counts import find_counts
from .._published_recipe import N_TOP_GENES, published_inputs

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
    """Principal components as the published code computes them, for ``preset="reference"`` and ``"paper"``.

    Counts are rounded up, cells scaled to the median total, log1p taken, highly variable genes chosen by normalised
    dispersion and scaled without clipping; PCA of 50 components. Build the graph on the result:
    ``sctag.pp.build_graph(adata, use_rep="X_pca_published")``.

    Parameters
    ----------
    adata
        Annotated data with raw counts.
    layer
        Layer with the raw counts, found as by :func:`sctag_tools.tl.sctag` if not given.
    n_top_genes
        Highly variable genes to use.
    random_state
        Seed of the randomised PCA, which is used above 500 cells or genes; None draws one.
    copy
        Return a changed copy instead of writing to ``adata``.

    Returns
    -------
    ``None``, or the copy if ``copy=True``. Writes:

    `adata.obsm['X_pca_published']` : :class:`numpy.ndarray` (float32)
        (n_obs, 50), fewer columns of small data.
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
    require_anndata(adata, _FUNCTION)
    require_in_memory(adata, _FUNCTION)
    check_integer("n_top_genes", n_top_genes, low=2)
    random_state = seed_of(random_state)
    check_flag("copy", copy)
    matrix, _ = find_counts(adata, layer, check_values=True)
    inputs = published_inputs(sparse.csr_matrix(matrix, dtype=np.float32), random_state, n_top_genes=n_top_genes)
    if not inputs.cells.all():
        msg = (
            f"{int(np.count_nonzero(~inputs.cells))} cells have no counts; "
            "run `sc.pp.filter_cells(adata, min_counts=1)` on the raw counts first."
        )
        raise ValueError(msg)
    adata = working_copy(adata, copy=copy)
    with writing():
        adata.obsm["X_pca_published"] = inputs.pca
        adata.var["highly_variable_published"] = inputs.genes
    logg.info("added the published code's 'X_pca_published' (adata.obsm), 'highly_variable_published' (adata.var)")
    return adata if copy else None
