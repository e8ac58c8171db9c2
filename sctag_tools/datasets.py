"""Data sets that need neither a file nor a download."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

# scanpy rounds the logarithms to 3 decimals: they must come back within half a unit of the last one
_LOG_TOLERANCE = 5.1e-4
_COUNT_TOLERANCE = 0.1


def pbmc68k_reduced() -> AnnData:
    """700 peripheral blood cells with the counts of 765 genes.

    This is :func:`scanpy.datasets.pbmc68k_reduced`, which comes with scanpy, with its counts restored. scanpy keeps
    log1p of the counts per 10,000, rounded to three decimals, and the total of each cell over all genes of the full
    data. The counts follow from both without ambiguity. To read counts from a file, see :func:`sctag_tools.read`.

    Returns
    -------
    A new object (700 cells x 765 genes) with

    `X` : :class:`scipy.sparse.csr_matrix` (dtype `float32`)
        Counts, all of them integers.
    `obs["bulk_labels"]` : :class:`pandas.Series` (dtype `category`)
        Ten cell types, by similarity to bulk-sorted cells; for scoring, not for fitting.

    Raises
    ------
    RuntimeError
        If the installed scanpy has a file from which the counts do not follow.

    Examples
    --------
    >>> from sctag_tools.datasets import pbmc68k_reduced
    >>> adata = pbmc68k_reduced()
    >>> adata.shape
    (700, 765)
    >>> adata.obs["bulk_labels"].nunique()
    10
    >>> float(adata.X.max())
    259.0
    """
    import scanpy as sc
    from anndata import AnnData

    source = sc.datasets.pbmc68k_reduced()
    counts = _restore_counts(source.raw.X, source.obs["n_counts"].to_numpy())
    obs = source.obs[["bulk_labels"]].rename_axis(None)
    return AnnData(counts, obs=obs, var=pd.DataFrame(index=source.raw.var_names.rename(None)))


def _restore_counts(logs: csr_matrix, totals: NDArray[np.floating]) -> csr_matrix:
    """Integers whose log1p per 10,000 of `totals` (n_obs,) are the rounded `logs` (n_obs, n_vars)."""
    counts = logs.copy()
    counts.sort_indices()
    stored = counts.data.astype(np.float64)
    scale = np.repeat(totals.astype(np.float64), np.diff(counts.indptr)) / 1e4
    exact = np.expm1(stored) * scale
    rounded = np.rint(exact)
    log_error = np.abs(np.log1p(rounded / scale) - stored).max()
    if log_error > _LOG_TOLERANCE or np.abs(exact - rounded).max() > _COUNT_TOLERANCE:
        msg = "The counts cannot be restored: the values that scanpy stores are not log1p of counts per 10,000."
        raise RuntimeError(msg)
    counts.data = rounded.astype(np.float32)
    return counts
