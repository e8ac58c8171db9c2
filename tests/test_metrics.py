"""Accuracy, NMI, ARI and their reading from an AnnData."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from sctag_tools.metrics import accuracy, ari, nmi, score

every_measure = pytest.mark.parametrize("measure", [accuracy, nmi, ari])


@pytest.fixture
def labeled():
    obs = {
        "cell_type": pd.Categorical(["B", "B", None, "T", "T"]),
        "sctag": pd.Categorical(["1", "1", "1", "0", "2"]),
        "empty": pd.Categorical([None] * 5, categories=["B"]),
    }
    return AnnData(np.ones((5, 1), dtype=np.float32), obs=pd.DataFrame(obs, index=[f"c{i}" for i in range(5)]))


@pytest.mark.parametrize("n_clusters", [2, 3, 4])
def test_accuracy_is_that_of_the_best_of_all_matchings(n_clusters):
    for seed in range(5):
        rng = np.random.default_rng(seed)
        true, pred = rng.integers(0, 4, 40), rng.integers(0, n_clusters, 40)
        clusters = np.unique(pred)
        best = max(
            np.mean(np.select([pred == cluster for cluster in clusters], chosen, default=-1) == true)
            for chosen in permutations(np.unique(true), len(clusters))
        )
        assert accuracy(true, pred) == accuracy(pred, true) == pytest.approx(best)


@pytest.mark.parametrize(
    ("true", "pred", "expected"),
    [
        ([0, 0, 1, 1], [0, 0, 0, 0], 0.5),
        ([0, 0, 0, 0], [0, 1, 2, 3], 0.25),
        ([0, 0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 0, 0], 4 / 7),  # matching the largest overlap first would give 3
        ([5], [9], 1.0),
        (pd.Categorical(["B", "T"], categories=["A", "B", "T"]), [0, 1], 1.0),
    ],
)
def test_accuracy_by_hand(true, pred, expected):
    assert accuracy(true, pred) == pytest.approx(expected)


def test_nmi_and_ari_are_those_of_sklearn():
    rng = np.random.default_rng(0)
    true, pred = rng.integers(0, 4, 100), rng.integers(0, 6, 100)
    expected = normalized_mutual_info_score(true, pred, average_method="arithmetic")
    assert nmi(true, pred) == pytest.approx(expected, rel=1e-9)
    assert ari(true, pred) == pytest.approx(adjusted_rand_score(true, pred), rel=1e-9)


@every_measure
@pytest.mark.parametrize(
    "convert",
    [
        list, tuple, np.array, pd.Series, pd.Index, pd.Categorical,
        lambda labels: pd.Series(pd.Categorical(labels), index=list("wxyz")),
        lambda labels: np.array(labels, dtype=object),
    ],
)  # fmt: skip
def test_array_likes(measure, convert):
    result = measure(convert(["B", "B", "T", "T"]), [0.5, 0.5, 1.5, 1.5])
    assert type(result) is float
    assert result == 1.0


@every_measure
@pytest.mark.parametrize(
    ("true", "pred", "match"),
    [
        ([0, 1, 1], [0, 1], "labels_true has 3 entries, labels_pred has 2"),
        ([], [], r"labels_true must be one-dimensional and not empty, its shape is \(0,\)"),
        ([[0], [1]], [0, 1], r"labels_true must be one-dimensional .* \(2, 1\)"),
        ([0, 1], 3, r"labels_pred must be one-dimensional .* \(\)"),
        ([0.0, np.nan], [0, 1], "labels_true has 1 missing values"),
        (["a", "b"], ["a", np.nan], "labels_pred has 1 missing values"),
        (["a", "b"], pd.Categorical([None, None], categories=["a"]), "labels_pred has 2 missing values"),
    ],
)
def test_unusable_labels(measure, true, pred, match):
    with pytest.raises(ValueError, match=match):
        measure(true, pred)


def test_score_leaves_out_cells_without_label(labeled, unchanged):
    true, pred = ["B", "B", "T", "T"], ["1", "1", "0", "2"]
    with unchanged(labeled):
        result = score(labeled, "cell_type")
    assert list(result.items()) == [("ACC", accuracy(true, pred)), ("NMI", nmi(true, pred)), ("ARI", ari(true, pred))]
    labeled.obs["leiden"] = labeled.obs["cell_type"].cat.add_categories("?").fillna("?")
    assert score(labeled, "cell_type", key="leiden") == {"ACC": 1.0, "NMI": 1.0, "ARI": 1.0}


@pytest.mark.parametrize(
    ("label_key", "key", "error", "match"),
    [
        ("cell_type", "other", KeyError, r"no column 'other', only \['cell_type', .*\. Give the column that holds"),
        ("celltype", "sctag", KeyError, r"no column 'celltype', only \['cell_type', .*holds the known labels"),
        ("empty", "sctag", ValueError, r"No cell has a label in adata.obs\['empty'\]"),
        ("sctag", "cell_type", ValueError, "labels_pred has 1 missing values"),
    ],
)
def test_score_refuses(labeled, label_key, key, error, match):
    with pytest.raises(error, match=match):
        score(labeled, label_key, key=key)


def test_score_before_a_run(labeled):
    del labeled.obs["sctag"]
    with pytest.raises(KeyError, match=r"no column 'sctag', .*Run `sctag_tools\.tl\.sctag` first"):
        score(labeled, "cell_type")
