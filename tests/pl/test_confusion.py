"""``sctag.pl.confusion``: counts, shares and scores of two columns, in an order with a heavy diagonal."""

from __future__ import annotations

import itertools

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

import sctag_tools as sctag
from sctag_tools.pl._confusion import heavy_diagonal


@pytest.fixture
def cells():
    """400 cells in seven clusters, most of them of one of four types."""
    rng = np.random.default_rng(0)
    clusters = rng.integers(0, 7, 400)
    types = np.where(rng.random(400) < 0.8, clusters % 4, rng.integers(0, 4, 400))
    adata = AnnData(shape=(400, 0))
    adata.obs["sctag"] = pd.Categorical(clusters.astype(str))
    adata.obs["cell_type"] = pd.Categorical([f"type {number}" for number in types])
    return adata


def shown(ax):
    """The heat map as a table."""
    index = [text.get_text() for text in ax.get_yticklabels()]
    return pd.DataFrame(np.asarray(ax.images[0].get_array()), index, [text.get_text() for text in ax.get_xticklabels()])


def written(ax):
    return {tuple(int(x) for x in text.get_position()): text.get_text() for text in ax.texts}


@pytest.mark.parametrize("normalize", ["rows", "columns", None])
def test_colors_are_shares_and_texts_are_counts(cells, unchanged, normalize):
    expected = pd.crosstab(cells.obs["sctag"].astype(str), cells.obs["cell_type"].astype(str))
    with unchanged(cells):
        ax = sctag.pl.confusion(cells, "cell_type", normalize=normalize, show=False)
    table = shown(ax)
    assert sorted(table.index) == sorted(expected.index)
    assert sorted(table.columns) == sorted(expected.columns)
    expected = expected.loc[table.index, table.columns]
    for (row, column), count in np.ndenumerate(expected.to_numpy()):
        assert written(ax).get((column, row), "0") == str(count)
    divisor = {"rows": expected.sum(axis=1), "columns": expected.sum(axis=0), None: 1}[normalize]
    np.testing.assert_allclose(table, expected.div(divisor, axis=0 if normalize == "rows" else 1)
                               if normalize else expected)  # fmt: skip
    assert ax.images[0].get_clim() == ((0, 1) if normalize else (0, expected.to_numpy().max()))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("cell_type", "sctag")
    label = ax.images[0].colorbar.ax.get_ylabel()
    assert label == {"rows": "share of the cells of a row", "columns": "share of the cells of a column",
                     None: "cells"}[normalize]  # fmt: skip


def test_the_title_has_the_scores_without_cells_that_lack_a_value(cells):
    ax = sctag.pl.confusion(cells, "cell_type", show=False)
    pair = cells.obs["sctag"], cells.obs["cell_type"]
    scores = f"ARI {adjusted_rand_score(*pair):.2f}, NMI {normalized_mutual_info_score(*pair):.2f}"
    assert ax.get_title() == scores
    cells.obs.iloc[:30, 0] = np.nan
    cells.obs.iloc[20:40, 1] = np.nan
    ax = sctag.pl.confusion(cells, "cell_type", show=False)
    pair = [column[40:] for column in pair]
    scores = f"ARI {adjusted_rand_score(*pair):.2f}, NMI {normalized_mutual_info_score(*pair):.2f}"
    assert ax.get_title() == f"{scores}\n40 cells without a value left out"
    assert sum(int(text) for text in written(ax).values()) == 360


@pytest.mark.parametrize(
    "convert", [lambda x: x.astype(str), lambda x: x.cat.codes.astype(int), lambda x: x == "type 1"]
)
def test_other_kinds_of_columns(cells, convert):
    cells.obs["other"] = convert(cells.obs["cell_type"])
    table = shown(sctag.pl.confusion(cells, "other", normalize=None, show=False))
    assert sorted(table.columns) == sorted(set(cells.obs["other"].astype(str)))
    assert table.to_numpy().sum() == 400


def test_categories_without_cells_are_left_out(cells):
    cells.obs["cell_type"] = cells.obs["cell_type"].cat.add_categories("nobody")
    cells.obs.loc[cells.obs["sctag"] == "3", "cell_type"] = np.nan  # so that this cluster has none left
    table = shown(sctag.pl.confusion(cells, "cell_type", show=False))
    assert "nobody" not in table.columns
    assert "3" not in table.index


def test_numbers_are_left_out_where_they_do_not_fit(cells):
    _, ax = plt.subplots(figsize=(0.4, 0.4))
    sctag.pl.confusion(cells, "cell_type", ax=ax)
    assert not ax.texts
    _, ax = plt.subplots(figsize=(8, 8))
    sctag.pl.confusion(cells, "cell_type", ax=ax)
    assert {text.get_fontsize() for text in ax.texts} == {8}


@pytest.mark.parametrize("style", ["default", "dark_background"])
def test_numbers_read_on_their_field(cells, style):
    with plt.style.context(style):
        ax = sctag.pl.confusion(cells, "cell_type", cmap="Greys", show=False)
    for text in ax.texts:
        column, row = text.get_position()
        is_dark = ax.images[0].get_array()[row, column] > 0.6
        assert text.get_color() == ("white" if is_dark else "black")
    assert ax.images[0].get_cmap() == mpl.colormaps["Greys"]


# --- order ---


@pytest.mark.parametrize("shape", [(5, 5), (4, 5), (5, 4), (1, 4), (4, 1), (1, 1)])
def test_shuffled_blocks_come_back_on_the_diagonal(shape):
    rng = np.random.default_rng(1)
    counts = rng.integers(0, 3, shape) + 50 * np.eye(*shape, dtype=int)
    rows, columns = heavy_diagonal(counts[np.ix_(rng.permutation(shape[0]), rng.permutation(shape[1]))])
    assert sorted(rows) == list(range(shape[0]))
    assert sorted(columns) == list(range(shape[1]))
    shuffled = counts[np.ix_(rng.permutation(shape[0]), rng.permutation(shape[1]))]
    rows, columns = heavy_diagonal(shuffled)
    found = shuffled[np.ix_(rows, columns)] >= 50
    at = np.argwhere(found)
    assert len(at) == min(shape)
    assert (np.diff(at, axis=0) > 0).all()


def test_the_pairs_hold_most_cells():
    counts = np.array([[5, 4, 0], [5, 0, 1], [0, 3, 3]])
    rows, columns = heavy_diagonal(counts)
    best = max(counts[np.arange(3), list(order)].sum() for order in itertools.permutations(range(3)))
    assert np.trace(counts[np.ix_(rows, columns)]) == best


def test_what_is_left_over_stands_beside_its_pair():
    counts = np.array([[90, 0, 0], [0, 80, 5], [60, 0, 1], [0, 70, 2], [0, 1, 50], [0, 0, 0]])
    rows, columns = heavy_diagonal(counts)
    assert rows.tolist() == [0, 2, 1, 3, 4, 5]
    assert columns.tolist() == [0, 1, 2]
    assert [order.tolist() for order in heavy_diagonal(counts.T)] == [[0, 1, 2], [0, 2, 1, 3, 4, 5]]


def test_a_pair_that_shares_little_is_none():
    """Row 1 has no counterpart, though a column is left for it."""
    counts = np.array([[90, 20, 0], [80, 10, 0], [0, 0, 70]])
    rows, columns = heavy_diagonal(counts)
    assert rows.tolist() == [0, 1, 2]
    assert columns.tolist() == [0, 1, 2]
    rows, columns = heavy_diagonal(np.array([[90, 0, 0], [0, 70, 1], [80, 0, 0]]))
    assert rows.tolist() == [0, 2, 1]


# --- axes, and what is refused ---


def test_return_types(cells, monkeypatch):
    calls = []
    monkeypatch.setattr(plt, "show", lambda: calls.append(1))
    assert isinstance(sctag.pl.confusion(cells, "cell_type", show=False), Axes)
    assert isinstance(sctag.pl.confusion(cells, "cell_type", return_fig=True), Figure)
    figure, ax = plt.subplots()
    assert sctag.pl.confusion(cells, "cell_type", ax=ax, show=True) is None
    assert sctag.pl.confusion(cells, "cell_type", ax=ax, return_fig=True) is figure
    sc.settings.autoshow = False
    assert isinstance(sctag.pl.confusion(cells, "cell_type"), Axes)
    sc.settings.autoshow = True
    assert not calls
    assert sctag.pl.confusion(cells, "cell_type") is None
    assert calls == [1]


def test_axes_in_a_part_of_a_figure(cells):
    figure = plt.figure()
    ax = figure.subfigures(1, 2)[1].subplots()
    assert sctag.pl.confusion(cells, "cell_type", ax=ax, return_fig=True) is figure


def test_columns_of_a_file(cells, tmp_path):
    cells.write_h5ad(tmp_path / "cells.h5ad")
    back = sc.read_h5ad(tmp_path / "cells.h5ad")
    expected = shown(sctag.pl.confusion(cells, "cell_type", show=False))
    pd.testing.assert_frame_equal(shown(sctag.pl.confusion(back, "cell_type", show=False)), expected)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"other": "none"}, KeyError, r"other names 'none', which is no column of adata\.obs; there are \['sctag'"),
        ({"key": "none"}, KeyError, "key names 'none'"),
        ({"other": "depth"}, ValueError, r"other must name a column of categories.*'depth'.*holds numbers \(float64\)"),
        ({"other": "empty"}, ValueError, r"adata\.obs\['empty'\], which other names, has no value for any cell"),
        (
            {"key": "half", "other": "rest"},
            ValueError,
            r"No cell has a value in both adata\.obs\['half'\] and .*'rest'",
        ),
        ({"normalize": "row"}, ValueError, r"normalize must be one of \['columns', 'rows'\], got 'row'"),
    ],
)
def test_what_is_refused(cells, unchanged, options, error, match):
    cells.obs["depth"] = np.arange(400.0)
    cells.obs["empty"] = pd.Categorical([None] * 400)
    cells.obs["half"] = pd.Categorical(["a"] * 200 + [None] * 200)
    cells.obs["rest"] = pd.Categorical([None] * 200 + ["a"] * 200)
    with unchanged(cells), pytest.raises(error, match=match):
        sctag.pl.confusion(cells, **{"other": "cell_type"} | options)
    assert not plt.get_fignums()
    with pytest.raises(TypeError, match=r"sctag\.pl\.confusion needs an AnnData"):
        sctag.pl.confusion(cells.obs, "cell_type")
