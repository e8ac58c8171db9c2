"""Agreement of a clustering with known labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import ArrayLike

_USUAL_KEY = "sctag"


def accuracy(labels_true: ArrayLike, labels_pred: ArrayLike) -> float:
    """Compute the share of cells whose cluster is matched with their label.

    Clusters and labels are matched one to one so that the share is largest (Hungarian algorithm).
    Their numbers may differ: those left over count as wrong.

    Parameters
    ----------
    labels_true
        Known labels, shape (n_obs,), of any type.
    labels_pred
        Clusters, shape (n_obs,), of any type.

    Returns
    -------
    Between 0 and 1.

    Raises
    ------
    ValueError
        The two differ in length, are empty, are not one-dimensional or hold missing values.

    See Also
    --------
    sctag_tools.metrics.score : the three measures of a result in an AnnData.

    Examples
    --------
    >>> from sctag_tools.metrics import accuracy
    >>> accuracy(["B", "B", "T", "T"], [1, 1, 0, 2])
    0.75
    """
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    true, pred = _paired_codes(labels_true, labels_pred)
    table = np.zeros((true.max() + 1, pred.max() + 1), dtype=np.int64)
    np.add.at(table, (true, pred), 1)
    matched = table[linear_sum_assignment(table, maximize=True)].sum()
    return float(matched / true.size)


def nmi(labels_true: ArrayLike, labels_pred: ArrayLike) -> float:
    """Compute the normalised mutual information, with the arithmetic mean of the two entropies as the norm.

    Parameters
    ----------
    labels_true
        Known labels, shape (n_obs,), of any type.
    labels_pred
        Clusters, shape (n_obs,), of any type.

    Returns
    -------
    Between 0 and 1.

    Raises
    ------
    ValueError
        The two differ in length, are empty, are not one-dimensional or hold missing values.

    See Also
    --------
    sklearn.metrics.normalized_mutual_info_score : what is computed.

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

    Parameters
    ----------
    labels_true
        Known labels, shape (n_obs,), of any type.
    labels_pred
        Clusters, shape (n_obs,), of any type.

    Returns
    -------
    1 for equal partitions, near 0 for random ones, at least -0.5.

    Raises
    ------
    ValueError
        The two differ in length, are empty, are not one-dimensional or hold missing values.

    See Also
    --------
    sklearn.metrics.adjusted_rand_score : what is computed.

    Examples
    --------
    >>> from sctag_tools.metrics import ari
    >>> round(ari(["B", "B", "T", "T"], [1, 1, 0, 2]), 3)
    0.571
    """
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(*_paired_codes(labels_true, labels_pred)))


def score(adata: AnnData, label_key: str, *, key: str = _USUAL_KEY) -> dict[str, float]:
    """Compare a clustering with known labels.

    Cells without a label (missing values in `adata.obs[label_key]`) are left out.

    Parameters
    ----------
    adata
        Annotated data; it is not changed.
    label_key
        Column of `adata.obs` with the known labels.
    key
        Column of `adata.obs` with the clusters.

    Returns
    -------
    `"ACC"` (see :func:`accuracy`), `"NMI"` (:func:`nmi`) and `"ARI"` (:func:`ari`).

    Raises
    ------
    KeyError
        One of the columns does not exist.
    ValueError
        No cell has a label, or a cell with a label has no cluster.

    See Also
    --------
    sctag_tools.tl.sctag : compute the clusters.

    Examples
    --------
    >>> from sctag_tools.datasets import pbmc68k_reduced
    >>> from sctag_tools.metrics import score
    >>> adata = pbmc68k_reduced()
    >>> adata.obs["sctag"] = adata.obs["bulk_labels"]
    >>> score(adata, "bulk_labels")
    {'ACC': 1.0, 'NMI': 1.0, 'ARI': 1.0}
    """
    advice = "Run `sctag_tools.tl.sctag` first." if key == _USUAL_KEY else "Give the column that holds the clusters."
    clusters = _column(adata, key, advice)
    labels = _column(adata, label_key, "Give the column that holds the known labels.")
    labelled = labels.notna().to_numpy()
    if not labelled.any():
        msg = f"No cell has a label in adata.obs[{label_key!r}]."
        raise ValueError(msg)
    pair = labels[labelled], clusters[labelled]
    return {"ACC": accuracy(*pair), "NMI": nmi(*pair), "ARI": ari(*pair)}


def _column(adata: AnnData, key: str, advice: str) -> pd.Series:
    if key not in adata.obs:
        msg = f"adata.obs has no column {key!r}, only {list(adata.obs)}. {advice}"
        raise KeyError(msg)
    return adata.obs[key]


def _paired_codes(labels_true: ArrayLike, labels_pred: ArrayLike) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Both labellings as integers from 0, shape (n_obs,) each."""
    true, pred = _codes("labels_true", labels_true), _codes("labels_pred", labels_pred)
    if true.size != pred.size:
        msg = f"labels_true has {true.size} entries, labels_pred has {pred.size}."
        raise ValueError(msg)
    return true, pred


def _codes(name: str, labels: ArrayLike) -> np.ndarray[Any, Any]:
    import numpy as np
    import pandas as pd

    if np.ndim(labels) != 1 or np.size(labels) == 0:
        msg = f"{name} must be one-dimensional and not empty, its shape is {np.shape(labels)}."
        raise ValueError(msg)
    # a Series keeps missing values apart where numpy would turn them into the string "nan"
    codes = np.asarray(pd.factorize(pd.Series(labels))[0])
    if (codes < 0).any():
        msg = f"{name} has {int((codes < 0).sum())} missing values: leave these cells out first."
        raise ValueError(msg)
    return codes
