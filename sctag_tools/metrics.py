"""Agreement of a clustering with known labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import ArrayLike, NDArray


def accuracy(labels_true: ArrayLike, labels_pred: ArrayLike) -> float:
    """Compute the share of cells whose cluster is matched with their label.

    Clusters and labels are matched one to one so that the share is largest (Hungarian algorithm). Their numbers may
    differ: those left over count as wrong. :func:`score` gives all three measures of a result in an AnnData.

    Parameters
    ----------
    labels_true, labels_pred
        Known labels and clusters, shape (n_obs,) each, of any type.

    Returns
    -------
    Between 0 and 1.

    Raises
    ------
    ValueError
        If the two differ in length, are empty, are not one-dimensional or hold missing values.

    Examples
    --------
    >>> from sctag_tools.metrics import accuracy
    >>> accuracy(["B", "B", "T", "T"], [1, 1, 0, 2])
    0.75
    """
    from scipy.optimize import linear_sum_assignment

    true, pred = _paired_codes(labels_true, labels_pred)
    table = pd.crosstab(true, pred).to_numpy()
    return float(table[linear_sum_assignment(table, maximize=True)].sum() / true.size)


def nmi(labels_true: ArrayLike, labels_pred: ArrayLike) -> float:
    """Compute the normalized mutual information, with the arithmetic mean of the two entropies as the norm.

    The computation is that of :func:`sklearn.metrics.normalized_mutual_info_score`.

    Parameters
    ----------
    labels_true, labels_pred
        Known labels and clusters, shape (n_obs,) each, of any type.

    Returns
    -------
    Between 0 and 1.

    Raises
    ------
    ValueError
        If the two differ in length, are empty, are not one-dimensional or hold missing values.

    Examples
    --------
    >>> from sctag_tools.metrics import nmi
    >>> round(nmi(["B", "B", "T", "T"], [1, 1, 0, 2]), 3)
    0.8
    """
    from sklearn.metrics import normalized_mutual_info_score

    return float(normalized_mutual_info_score(*_paired_codes(labels_true, labels_pred), average_method="arithmetic"))


def ari(labels_true: ArrayLike, labels_pred: ArrayLike) -> float:
    """Compute the adjusted Rand index.

    The computation is that of :func:`sklearn.metrics.adjusted_rand_score`.

    Parameters
    ----------
    labels_true, labels_pred
        Known labels and clusters, shape (n_obs,) each, of any type.

    Returns
    -------
    1 for equal partitions, near 0 for random ones, at least -0.5.

    Raises
    ------
    ValueError
        If the two differ in length, are empty, are not one-dimensional or hold missing values.

    Examples
    --------
    >>> from sctag_tools.metrics import ari
    >>> round(ari(["B", "B", "T", "T"], [1, 1, 0, 2]), 3)
    0.571
    """
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(*_paired_codes(labels_true, labels_pred)))


def score(adata: AnnData, label_key: str, *, key: str = "sctag") -> dict[str, float]:
    """Compare a clustering, such as that of :func:`sctag_tools.tl.sctag`, with known labels.

    Cells without a label (missing values in `adata.obs[label_key]`) are left out.

    Parameters
    ----------
    adata
        Annotated data; it is not changed.
    label_key, key
        Columns of `adata.obs` with the known labels and with the clusters.

    Returns
    -------
    `"ACC"` (see :func:`accuracy`), `"NMI"` (:func:`nmi`) and `"ARI"` (:func:`ari`).

    Raises
    ------
    KeyError
        If one of the columns does not exist.
    ValueError
        If no cell has a label, or a cell with a label has no cluster.

    Examples
    --------
    >>> import sctag_tools as sctag
    >>> adata = sctag.datasets.pbmc68k_reduced()
    >>> adata.obs["sctag"] = adata.obs["bulk_labels"]
    >>> sctag.metrics.score(adata, "bulk_labels")
    {'ACC': 1.0, 'NMI': 1.0, 'ARI': 1.0}
    """
    advice = "Run `sctag_tools.tl.sctag` first." if key == "sctag" else "Give the column that holds the clusters."
    clusters = _column(adata, key, advice)
    labels = _column(adata, label_key, "Give the column that holds the known labels.")
    labeled = labels.notna().to_numpy()
    if not labeled.any():
        msg = f"No cell has a label in adata.obs[{label_key!r}]."
        raise ValueError(msg)
    pair = labels[labeled], clusters[labeled]
    return {"ACC": accuracy(*pair), "NMI": nmi(*pair), "ARI": ari(*pair)}


def _column(adata: AnnData, key: str, advice: str) -> pd.Series:
    if key not in adata.obs:
        msg = f"adata.obs has no column {key!r}, only {list(adata.obs)}. {advice}"
        raise KeyError(msg)
    return adata.obs[key]


def _paired_codes(*labels: ArrayLike) -> list[NDArray[np.int64]]:
    """True and predicted labels as integers from 0, shape (n_obs,) each."""
    found = []
    for name, given in zip(("labels_true", "labels_pred"), labels, strict=True):
        if np.ndim(given) != 1 or np.size(given) == 0:
            msg = f"{name} must be one-dimensional and not empty, its shape is {np.shape(given)}."
            raise ValueError(msg)
        # a Series keeps missing values apart where numpy would turn them into the string "nan"
        found.append(np.asarray(pd.factorize(pd.Series(given))[0]))
        if n_missing := int((found[-1] < 0).sum()):
            msg = f"{name} has {n_missing} missing values: leave these cells out first."
            raise ValueError(msg)
    if found[0].size != found[1].size:
        msg = f"labels_true has {found[0].size} entries, labels_pred has {found[1].size}."
        raise ValueError(msg)
    return found
