"""``sctag.pl.tree``: leaves, splits and what is beside them agree with the tables and with the cells."""

from __future__ import annotations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import Figure
from scipy import sparse

import sctag_tools as sctag

COLORS = ["#ff0000", "#00ff00", "#0000ff"]


@pytest.fixture(scope="module")
def _run_once(_graphed_once):
    adata = _graphed_once.copy()
    sctag.tl.sctag(adata, pretrain_epochs=40, cluster_epochs=5)
    return adata


@pytest.fixture
def run(_run_once):
    """A run that chose three clusters, named and colored, and cuts of it."""
    adata = _run_once.copy()
    adata.obs["sctag"] = adata.obs["sctag"].cat.rename_categories(["effector memory T", "B", "NK"])
    adata.uns["sctag_colors"] = COLORS
    for n in (1, 2, 6, 25):
        sctag.tl.cut(adata, n, key_added=f"of_{n}")
    return adata


def texts(ax):
    """Columns of text beside the leaves, by title, from top to bottom."""
    (titles, *lines) = ({round(text.get_position()[0]): text.get_text() for text in found} for found in rows_of(ax))
    assert len({len(line) for line in lines}) == 1
    return {title: [line[at] for line in lines] for at, title in titles.items()}


def rows_of(ax):
    found = {}
    for text in ax.texts:
        is_title = text.xycoords == "axes fraction"
        found.setdefault(-1.0 if is_title else float(text.xy[1]), []).append(text)
    return [found[row] for row in sorted(found)]


def splits(ax):
    """Filled and hollow dots of splits of clusters, and of those within, as sets of (x, y)."""
    supported, within, others, others_within = (
        {tuple(np.round(point, 6)) for point in np.asarray(dots.get_offsets())} for dots in dots_of(ax)
    )
    return supported, others, within, others_within


def dots_of(ax):
    return [dots for dots in ax.collections if dots.get_label().startswith("_")]


@pytest.mark.parametrize("key", ["sctag", "of_1", "of_25"])
def test_leaves_show_the_table_also_of_a_file(run, unchanged, tmp_path, key):
    run.write_h5ad(tmp_path / "run.h5ad")
    adata = sc.read_h5ad(tmp_path / "run.h5ad")
    with unchanged(adata):
        ax = sctag.pl.tree(adata, key, show=False)
    shown, table = texts(ax), sctag.get.clusters_df(adata, key)
    assert list(shown) == ["cluster", "cells", "confidence\nof cells", "confidence\nof cluster"]
    assert sorted(shown["cluster"]) == sorted(table.index)
    table = table.loc[shown["cluster"]]
    assert shown["cells"] == [str(n) for n in table["n_cells"]]
    for title, name in (("of cells", "cell_confidence"), ("of cluster", "cluster_confidence")):
        assert shown[f"confidence\n{title}"] == [f"{value:.2f}" for value in table[name]]


@pytest.mark.parametrize("key", ["sctag", "of_2", "of_6", "of_25"])
def test_splits_are_those_of_the_table(run, key):
    ax = sctag.pl.tree(run, key, show=False)
    table = sctag.get.splits_df(run, key).iloc[: run.obs[key].nunique() - 1]
    supported, others, *within = splits(ax)
    assert (len(supported), len(others)) == (table["supported"].sum(), (~table["supported"]).sum())
    assert within == [set(), set()]
    of_root = min(supported | others)
    assert of_root[0] == pytest.approx(table["relative_coassociation"].iloc[0], abs=1e-5)
    assert ([text.get_text() for text in ax.get_legend().get_texts()]) == (
        ["supported split"] * bool(supported) + ["not supported"] * bool(others)
    )


def test_supported_dots_are_filled_and_others_hollow(run):
    with plt.style.context("dark_background"):
        ax = sctag.pl.tree(run, "of_6", n_below=3, show=False)
        front, back = to_rgba(mpl.rcParams["text.color"]), to_rgba(mpl.rcParams["axes.facecolor"])
    supported, _, others, others_within = dots_of(ax)
    assert tuple(supported.get_facecolor()[0]) == tuple(supported.get_edgecolor()[0]) == front
    assert tuple(others.get_facecolor()[0]) == back
    assert tuple(others.get_edgecolor()[0]) == front
    assert len(others_within.get_offsets()) == 3
    assert tuple(others_within.get_edgecolor()[0]) not in {front, back}


def test_a_resolution_of_a_cut_decides_what_is_supported(run):
    sctag.tl.cut(run, resolution=0.001, key_added="coarse")
    found = splits(sctag.pl.tree(run, "coarse", n_below=2, show=False))
    assert [len(part) for part in found] == [0, 0, 0, 2]
    found = splits(sctag.pl.tree(run, "of_1", n_below=2, show=False))
    assert [len(part) for part in found] == [0, 0, 2, 0]


@pytest.mark.parametrize("colors", [COLORS, None])
def test_branches_have_the_colors_of_the_clusters(run, unchanged, colors):
    run.uns.pop("sctag_colors")
    if colors:
        run.uns["sctag_colors"] = np.array(colors)
    expected = colors or [to_hex(color) for color in mpl.rcParams["axes.prop_cycle"].by_key()["color"][:3]]
    with unchanged(run):
        ax = sctag.pl.tree(run, show=False)
    order = [run.obs["sctag"].cat.categories.get_loc(name) for name in texts(ax)["cluster"]]
    swatches = {line.get_ydata().mean().round(): to_hex(line.get_color()) for line in ax.lines
                if line.get_linewidth() == 6}  # fmt: skip
    assert [swatches[row] for row in range(3)] == [expected[number] for number in order]


def test_a_branch_goes_from_its_parent_to_the_end(run):
    """Every split above another is left of it, and every cluster ends at the same place."""
    ax = sctag.pl.tree(run, "of_25", show=False)
    level = [line for line in ax.lines if len(set(line.get_ydata())) == 1]
    assert len(level) == 49
    assert all(start < end for start, end in (line.get_xdata() for line in level))
    assert sum(line.get_xdata()[1] == ax.get_xlim()[1] for line in level) == 25


def test_a_cluster_joined_from_several_parts_has_a_star(run):
    """Of three clusters, one of the two that the last split parts is joined with the one on the other side."""
    first, last = (sctag.get.splits_df(run).loc[i, ["clusters_left", "clusters_right"]].tolist() for i in (0, 1))
    alone = next(name for name in first if name in run.obs["sctag"].cat.categories)
    sctag.tl.cut(run, merge=[(alone, last[0])])
    ax = sctag.pl.tree(run, "sctag_cut", show=False)
    joined = set(run.obs["sctag_cut"].cat.categories) - {last[1]}
    assert set(texts(ax)["cluster"]) == {f"{joined.pop()} *", last[1]}
    assert "* joined from several parts of the tree" in ax.get_xlabel()
    sctag.tl.cut(run, merge=[last])
    ax = sctag.pl.tree(run, "sctag_cut", show=False)
    assert "*" not in "".join(texts(ax)["cluster"]) + ax.get_xlabel()


# --- beside the leaves ---


def bars(strip):
    """Rows of the bars, from top to bottom, each with (width, color) of its parts."""
    found = {}
    for bar in strip.patches:
        row = round(bar.get_y() + bar.get_height() / 2, 3)
        found.setdefault(row, []).append((bar.get_width(), to_hex(bar.get_facecolor())))
    return [found[row] for row in sorted(found)]


@pytest.mark.parametrize("dtype", ["category", "object", "bool"])
def test_shares_of_categories(run, unchanged, dtype):
    values = run.obs["group"].astype(str)
    run.obs["seen"] = values == "g1" if dtype == "bool" else values.astype(dtype)
    with unchanged(run):
        ax = sctag.pl.tree(run, color="seen", show=False)
    (strip,) = ax.child_axes
    names = sorted(set(run.obs["seen"].astype(str)))
    expected = pd.crosstab(run.obs["sctag"].astype(str), run.obs["seen"].astype(str), normalize="index")
    for cluster, row in zip(texts(ax)["cluster"], bars(strip), strict=True):
        np.testing.assert_allclose([width for width, _ in row], expected.loc[cluster, names])
    assert [text.get_text() for text in strip.get_legend().get_texts()] == names
    assert strip.get_title(loc="left") == "seen"


def test_cells_without_a_category_are_a_share_too(run):
    run.uns["group_colors"] = ["#111111", "#222222", "#333333"]
    run.obs.iloc[np.flatnonzero(run.obs["sctag"] == "B")[1:], 0] = np.nan
    ax = sctag.pl.tree(run, color="group", show=False)
    (strip,) = ax.child_axes
    row = bars(strip)[texts(ax)["cluster"].index("B")]
    assert [color for _, color in row] == [*run.uns["group_colors"], to_hex("lightgray")]
    n = (run.obs["sctag"] == "B").sum()
    assert row[3][0] == pytest.approx((n - 1) / n)


@pytest.mark.parametrize("convert", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
@pytest.mark.parametrize("name", ["x3", "depth"])
def test_means_of_numbers(run, name, convert):
    run.X = convert(run.X.toarray())
    run.obs["depth"] = np.arange(150.0)
    values = run.obs["depth"] if name == "depth" else run.to_df()["x3"]
    ax = sctag.pl.tree(run, color=name, show=False)
    means = values.groupby(run.obs["sctag"], observed=True).mean()[texts(ax)["cluster"]].to_numpy()
    (strip,) = ax.child_axes
    shown = (means - means.min()) / (means.max() - means.min())
    expected = [to_hex(mpl.colormaps["viridis"](value)) for value in shown]
    assert [color for ((_, color),) in bars(strip)] == expected
    assert strip.child_axes[0].get_ylabel() == f"mean of {name}"


def test_genes_are_taken_from_raw_as_by_scanpy(run):
    run.raw = run.copy()
    run.X = run.X * 0
    ax = sctag.pl.tree(run, color="x3", show=False)
    assert len({color for ((_, color),) in bars(ax.child_axes[0])}) > 1


def test_a_column_comes_before_a_gene_of_its_name(run):
    run.obs["x3"] = "a"
    ax = sctag.pl.tree(run, color="x3", show=False)
    assert [text.get_text() for text in ax.child_axes[0].get_legend().get_texts()] == ["a"]


# --- axes ---


def test_return_types(run, monkeypatch):
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(1))
    assert isinstance(sctag.pl.tree(run, show=False), Axes)
    assert isinstance(sctag.pl.tree(run, return_fig=True), Figure)
    sc.settings.autoshow = False
    assert isinstance(sctag.pl.tree(run), Axes)
    sc.settings.autoshow = True
    assert not shown
    assert sctag.pl.tree(run) is None
    assert len(shown) == 1


def test_given_axes_are_drawn_on_and_never_shown(run, monkeypatch):
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(1))
    figure, ax = plt.subplots()
    assert sctag.pl.tree(run, ax=ax, show=True) is None
    assert ax.lines
    assert sctag.pl.tree(run, ax=figure.add_subplot(), show=False) is figure.axes[-1]
    assert sctag.pl.tree(run, ax=figure.add_subplot(), return_fig=True) is figure
    assert not shown


@pytest.mark.parametrize("color", [None, "group", "x3"])
def test_text_beside_the_tree_stays_in_the_figure(run, color):
    def right(ax):
        ax.figure.draw_without_rendering()
        return ax.get_tightbbox().x1

    ax = sctag.pl.tree(run, color=color, show=False)
    assert right(ax) <= ax.figure.bbox.x1 + 1
    figure, ax = plt.subplots(figsize=(9, 3))
    edge = ax.get_window_extent().x1
    sctag.pl.tree(run, color=color, ax=ax)
    assert right(ax) == pytest.approx(edge, abs=2)
    size = figure.get_size_inches().tolist()
    assert size == [9, 3]


# --- what is refused ---


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"key": "none"}, KeyError, r"no scTAG result 'none'.*There are \['sctag'\]"),
        ({"key": "group"}, KeyError, "no scTAG result 'group'"),
        ({"color": "none"}, KeyError, r"color='none' is neither a column of adata\.obs nor a gene"),
        ({"n_below": -1}, ValueError, "n_below must be at least 0, got -1"),
        ({"n_below": 1.5}, TypeError, "n_below must be an integer"),
    ],
)
def test_what_is_refused(run, unchanged, options, error, match):
    with unchanged(run), pytest.raises(error, match=match):
        sctag.pl.tree(run, **options)
    assert not plt.get_fignums()


def test_results_without_a_tree(run, blobs):
    with pytest.raises(TypeError, match=r"sctag\.pl\.tree needs an AnnData, got dict"):
        sctag.pl.tree({})
    with pytest.raises(ValueError, match="clustered 150 cells, and adata has 149"):
        sctag.pl.tree(run[:149].copy())
    sctag.tl.map_query(blobs, run)
    with pytest.raises(ValueError, match="'sctag' was mapped from a reference, which alone has the tree"):
        sctag.pl.tree(blobs)
    del run.uns["sctag"]["tree"]
    with pytest.raises(ValueError, match="before runs kept their tree"):
        sctag.pl.tree(run)
