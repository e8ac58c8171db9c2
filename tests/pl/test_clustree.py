"""``sctag.pl.clustree``: rows of clusters, lines by the share of the lower cluster's cells, few crossings."""

from __future__ import annotations

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import Figure

import sctag_tools as sctag
from sctag_tools.pl._clustree import arrange, crossings, places


@pytest.fixture
def cells():
    """300 cells in nine clusters, in four that are made of these, and in three that are not."""
    rng = np.random.default_rng(0)
    fine = rng.integers(0, 9, 300)
    adata = AnnData(shape=(300, 0))
    adata.obs["fine"] = pd.Categorical([f"f{number}" for number in fine])
    adata.obs["coarse"] = pd.Categorical([f"c{number}" for number in np.array([3, 0, 2, 1, 0, 3, 2, 1, 0])[fine]])
    adata.obs["other"] = pd.Categorical([f"o{number}" for number in rng.integers(0, 3, 300)])
    return adata


KEYS = ["fine", "other", "coarse"]  # from coarse to fine: other, coarse, fine


def nodes_of(ax):
    """Name, place, area and color of each node, by row."""
    names = {tuple(np.round(text.xy, 6)): " ".join(text.get_text().split()) for text in ax.texts}
    rows = [each for each in ax.collections if len(each.get_offsets()) and each.get_label() != "lines"
            and not isinstance(each.get_paths(), type(None)) and each.get_sizes().size]  # fmt: skip
    return [
        {
            names[tuple(np.round(place, 6))]: (place[0], area, to_hex(color))
            for place, area, color in zip(each.get_offsets(), each.get_sizes(), each.get_facecolor(), strict=True)
        }
        for each in rows
    ]


def lines_of(ax):
    """Ends, width and color of the lines below each row."""
    return [
        {
            (path.vertices[0][0].round(6), path.vertices[-1][0].round(6)): (width, to_hex(color))
            for path, width, color in zip(each.get_paths(), each.get_linewidths(), each.get_edgecolors(), strict=True)
        }
        for each in ax.collections
        if isinstance(each, PathCollection) and not each.get_sizes().size
    ]


@pytest.mark.parametrize("min_share", [0.0, 0.1, 0.35, 1.0])
def test_lines_are_the_shares_of_the_lower_clusters(cells, unchanged, min_share):
    with unchanged(cells):
        ax = sctag.pl.clustree(cells, KEYS, min_share=min_share, show=False)
    nodes, lines = nodes_of(ax), lines_of(ax)
    order = ["other", "coarse", "fine"]
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        f"{key}\n{n} clusters" for key, n in zip(order, (3, 4, 9), strict=True)
    ]
    for row, (upper, lower) in enumerate(itertools.pairwise(order)):
        shares = pd.crosstab(cells.obs[upper], cells.obs[lower], normalize="columns").stack()
        shares = shares[(shares > 0) & (shares >= min_share)]
        assert len(lines[row]) == len(shares)
        for (above, below), share in shares.items():
            (start, _, color), (end, *_) = nodes[row][above], nodes[row + 1][below]
            width, line_color = lines[row][round(start, 6), round(end, 6)]
            assert width == pytest.approx(3.5 * share)
            assert line_color == color


def test_areas_are_cells(cells):
    (_, fine) = nodes_of(sctag.pl.clustree(cells, ["coarse", "fine"], show=False))
    sizes = cells.obs["fine"].value_counts()
    ratios = [fine[name][1] / n for name, n in sizes.items()]
    np.testing.assert_allclose(ratios, 1600 / 300)


def test_small_clusters_can_be_seen(cells):
    cells.obs["fine"] = cells.obs["fine"].cat.add_categories("tiny")
    cells.obs.iloc[0, 0] = "tiny"
    (_, fine) = nodes_of(sctag.pl.clustree(cells, ["coarse", "fine"], show=False))
    assert fine["tiny"][1] == 36


def test_colors_are_those_of_the_clusters(cells):
    cells.uns["coarse_colors"] = ["#ff0000", "#00ff00", "#0000ff", "#ffff00"]
    (coarse, fine) = nodes_of(sctag.pl.clustree(cells, ["coarse", "fine"], show=False))
    assert [coarse[f"c{i}"][2] for i in range(4)] == cells.uns["coarse_colors"]
    cycle = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    assert [fine[f"f{i}"][2] for i in range(9)] == [to_hex(color) for color in cycle[:9]]
    assert "fine_colors" not in cells.uns


def test_colors_follow_their_categories_when_one_is_empty(cells):
    cells.uns["coarse_colors"] = ["#ff0000", "#00ff00", "#0000ff", "#ffff00"]
    left = cells[cells.obs["coarse"] != "c1"].copy()
    left.obs["coarse"] = left.obs["coarse"].astype(str).astype(pd.CategoricalDtype(["c0", "c1", "c2", "c3"]))
    left.uns["coarse_colors"] = cells.uns["coarse_colors"]
    (coarse, _) = nodes_of(sctag.pl.clustree(left, ["coarse", "fine"], show=False))
    assert {name: color for name, (_, _, color) in coarse.items()} == {
        "c0": "#ff0000", "c2": "#0000ff", "c3": "#ffff00",
    }  # fmt: skip


def test_cells_without_a_cluster_are_on_no_line(cells):
    cells.obs.loc[cells.obs["fine"] == "f1", "coarse"] = np.nan
    cells.obs.iloc[:20, 0] = np.nan
    ax = sctag.pl.clustree(cells, ["coarse", "fine"], min_share=0, show=False)
    (coarse, fine), (lines,) = nodes_of(ax), lines_of(ax)
    assert fine["f1"][0] not in {end for _, end in lines}
    assert coarse["c0"][1] == pytest.approx(1600 * (cells.obs["coarse"] == "c0").sum() / 300)


def test_names_are_in_the_node_if_they_fit_else_below_it(cells):
    cells.obs["coarse"] = cells.obs["coarse"].cat.rename_categories({"c0": "0", "c1": "CD8+ effector memory T"})
    with plt.style.context("dark_background"):
        ax = sctag.pl.clustree(cells, ["coarse", "fine"], show=False)
    by_name = {" ".join(text.get_text().split()): text for text in ax.texts}
    inside, below = by_name["0"], by_name["CD8+ effector memory T"]
    assert inside.get_va() == "center"
    assert inside.get_color() in {"black", "white"}
    assert (below.get_va(), to_rgba(below.get_color())) == ("top", to_rgba("white"))
    assert below.get_text().split("\n") == ["CD8+", "effector", "memory T"]


def test_a_single_cluster(cells):
    cells.obs["all"] = "everything"
    ax = sctag.pl.clustree(cells, ["fine", "all"], show=False)
    assert ax.get_yticklabels()[0].get_text() == "all\n1 cluster"
    assert len(lines_of(ax)[0]) == 9
    assert nodes_of(ax)[0]["everything"][:2] == (pytest.approx(4, abs=1.5), 1600)


def test_cuts_of_one_run_have_one_line_to_each_cluster(clustered, tmp_path):
    for n in (2, 5, 12):
        sctag.tl.cut(clustered, n, key_added=f"of_{n}")
    clustered.write_h5ad(tmp_path / "run.h5ad")
    adata = sc.read_h5ad(tmp_path / "run.h5ad")
    lines = lines_of(sctag.pl.clustree(adata, ["of_2", "sctag", "of_5", "of_12"], show=False))
    assert [len(row) for row in lines] == [3, 5, 12]
    for row in lines:
        assert {width for width, _ in row.values()} == {3.5}
        ends = sorted(row)  # by the upper end, then by the lower: no two lines cross
        assert [end for _, end in ends] == sorted(end for _, end in ends)


# --- order and places ---


def crossings_by_hand(weight, upper, lower):
    lines = [(list(upper).index(i), list(lower).index(j), weight[i, j]) for i, j in np.argwhere(weight)]
    return sum(a[2] * b[2] for a, b in itertools.combinations(lines, 2) if (a[0] - b[0]) * (a[1] - b[1]) < 0)


def test_crossings_by_hand():
    rng = np.random.default_rng(0)
    weight = rng.random((4, 6)) * (rng.random((4, 6)) < 0.5)
    upper, lower = rng.permutation(4), rng.permutation(6)
    assert crossings(weight, upper, lower) == pytest.approx(crossings_by_hand(weight, upper, lower))


def test_a_tree_is_drawn_without_crossings():
    parents = np.array([2, 0, 1, 0, 2, 3, 1, 3, 0])
    first = np.eye(2)[[1, 0, 1, 0]].T
    second = np.eye(4)[parents].T
    orders = arrange([first, second])
    assert sum(crossings(weight, *orders[i : i + 2]) for i, weight in enumerate([first, second])) == 0
    assert [sorted(order) for order in orders] == [list(range(n)) for n in (2, 4, 9)]


@pytest.mark.parametrize("seed", range(5))
def test_places_are_apart_in_order_and_within_the_last_row(seed):
    rng = np.random.default_rng(seed)
    weights = [rng.random((n, m)) * (rng.random((n, m)) < 0.4) for n, m in ((3, 6), (6, 7))]
    orders, sizes = [rng.permutation(n) for n in (3, 6, 7)], [rng.random(n) * 100 for n in (3, 6, 7)]
    x = places(weights, orders, sizes)
    assert x[2][orders[2]].tolist() == list(range(7))
    for row, order in zip(x, orders, strict=True):
        assert (np.diff(row[order]) >= 1 - 1e-9).all()
        assert -1e-9 <= row.min() <= row.max() <= 6 + 1e-9


def test_a_node_is_above_those_it_leads_to():
    weight = np.eye(2)[[0, 0, 0, 1]].T
    (upper, _) = places([weight], [np.arange(2), np.arange(4)], [np.ones(2), np.array([2.0, 1, 1, 5])])
    np.testing.assert_allclose(upper, [0.75, 3])


# --- axes, and what is refused ---


def test_return_types(cells, monkeypatch):
    calls = []
    monkeypatch.setattr(plt, "show", lambda: calls.append(1))
    assert isinstance(sctag.pl.clustree(cells, KEYS, show=False), Axes)
    assert isinstance(sctag.pl.clustree(cells, KEYS, return_fig=True), Figure)
    figure, ax = plt.subplots()
    assert sctag.pl.clustree(cells, KEYS, ax=ax, show=True) is None
    assert sctag.pl.clustree(cells, KEYS, ax=ax, return_fig=True) is figure
    sc.settings.autoshow = False
    assert isinstance(sctag.pl.clustree(cells, KEYS), Axes)
    sc.settings.autoshow = True
    assert not calls
    assert sctag.pl.clustree(cells, KEYS) is None
    assert calls == [1]


@pytest.mark.parametrize("layout", [None, "constrained"])
def test_the_legend_stays_in_the_figure(cells, layout):
    figure, ax = plt.subplots(layout=layout)
    sctag.pl.clustree(cells, KEYS, ax=ax)
    figure.draw_without_rendering()
    assert ax.get_tightbbox().x1 <= figure.bbox.x1


@pytest.mark.parametrize(
    ("keys", "options", "error", "match"),
    [
        ("fine", {}, TypeError, r"keys must be names of several columns, as in \['sctag', 'sctag_cut'\], got 'fine'"),
        (["fine"], {}, ValueError, r"at least two columns, each once, got \['fine'\]"),
        (["fine", "fine"], {}, ValueError, "each once"),
        (["fine", "none"], {}, KeyError, r"keys names 'none', which is no column of adata\.obs; there are \['fine'"),
        (["fine", "depth"], {}, ValueError, "keys must name a column of categories"),
        (KEYS, {"min_share": 1.1}, ValueError, r"min_share must lie in \[0, 1\]"),
        (KEYS, {"min_share": "a"}, TypeError, "min_share must be a number"),
    ],
)
def test_what_is_refused(cells, unchanged, keys, options, error, match):
    cells.obs["depth"] = np.arange(300.0)
    with unchanged(cells), pytest.raises(error, match=match):
        sctag.pl.clustree(cells, keys, **options)
    assert not plt.get_fignums()
    with pytest.raises(TypeError, match=r"sctag\.pl\.clustree needs an AnnData"):
        sctag.pl.clustree(cells.obs, KEYS)
