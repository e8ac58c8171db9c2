"""``sctag.pl.tree``: leaves, splits and what is beside them agree with the tables and with the cells."""

from __future__ import annotations

import itertools

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
    for text in (text for text in ax.texts if text not in genes_of(ax)):
        is_title = text.xycoords == "axes fraction"
        found.setdefault(-1.0 if is_title else float(text.xy[1]), []).append(text)
    return [found[row] for row in sorted(found)]


def genes_of(ax):
    return [text for text in ax.texts if text.get_fontstyle() == "italic"]


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


# --- genes above the branches ---


def rank(adata, key="sctag", **options):
    """Rank the genes, with 0 for NaN, so that ``unchanged`` can compare it."""
    sctag.tl.rank_genes_splits(adata, key, expected=False, **options)
    ranking = adata.uns[f"{key}_splits"]
    for name in ("pvals", "pvals_adj", "logfoldchanges_expected"):
        ranking[name] = np.zeros_like(ranking[name])


def drawn_sides(ax):
    """Each side of each drawn split of clusters, by where its branch starts and its row, and the other side.

    Followed along the lines: a vertical one is a split, the level ones that start there are its sides.
    """
    names = [name.removesuffix(" *").split("+") for name in texts(ax)["cluster"]]
    lines = [line.get_xydata().round(6) for line in ax.lines if line.get_color() != "0.55" and line.get_linewidth() < 6]
    level = [(tuple(line[0]), tuple(line[1])) for line in lines if line[0, 1] == line[1, 1]]
    across = [line for line in lines if line[0, 1] != line[1, 1]]

    def below(end):
        sides = [line for line in across if line[0, 0] == end[0] and line[0, 1] < end[1] < line[1, 1]]
        if not sides:
            return set(names[round(end[1])])
        return set().union(*(below(end) for start, end in level for point in sides[0] if start == tuple(point)))

    found = {}
    for line in across:
        one, other = (below(next(end for start, end in level if start == tuple(point))) for point in line)
        found |= {tuple(line[0]): (one, other), tuple(line[1]): (other, one)}
    return found


def shown_genes(ax):
    """The genes of each text with one, by where it stands."""
    ax.figure.draw_without_rendering()
    found = {tuple(np.round(text.get_position(), 6)): text.get_text().replace("\n", " ") for text in genes_of(ax)}
    return {place: text.split(", ") for place, text in found.items() if text}


def ranked_genes(adata, key, n_genes):
    """The best genes of each comparison, by its two sides."""
    table = adata.uns[f"{key}_splits"]["comparisons"]
    for name, row in table.iterrows():
        genes = sc.get.rank_genes_groups_df(adata, name, key=f"{key}_splits")
        sides = (frozenset(row[side].split("+")) for side in ("clusters", "clusters_reference"))
        yield tuple(sides), genes.loc[genes["scores"] > 0, "names"].head(n_genes).tolist()


@pytest.mark.parametrize("key", ["sctag", "of_2", "of_6"])
def test_genes_are_those_of_the_side_against_the_other_also_of_a_file(run, unchanged, tmp_path, key):
    rank(run, key)
    run.write_h5ad(tmp_path / "run.h5ad")
    adata = sc.read_h5ad(tmp_path / "run.h5ad")
    with unchanged(adata):
        ax = sctag.pl.tree(adata, key, n_genes=2, show=False)
    ax.figure.set_size_inches(60, 9)  # room for all
    sides, expected = drawn_sides(ax), dict(ranked_genes(run, key, 2))
    assert len(sides) == len(expected) == 2 * (run.obs[key].nunique() - 1)
    found = {tuple(map(frozenset, sides[place])): genes for place, genes in shown_genes(ax).items()}
    assert found == {pair: genes for pair, genes in expected.items() if genes}


def test_each_gene_is_on_the_side_where_it_is_higher(run):
    rank(run, "of_6", mask_var=run.var_names == "x3")
    ax = sctag.pl.tree(run, "of_6", n_genes=3, show=False)
    ax.figure.set_size_inches(60, 9)
    found = {tuple(map(frozenset, drawn_sides(ax)[place])) for place in shown_genes(ax)}
    shares = run.to_df().div(run.to_df().sum(axis=1), axis=0)["x3"]
    assert len(found) == 5
    for side, other in found:
        assert (other, side) not in found
        of_side, of_other = (shares[run.obs["of_6"].isin(names)] for names in (side, other))
        assert of_side.mean() > of_other.mean()


def test_no_genes_by_default(run):
    rank(run)
    assert not genes_of(sctag.pl.tree(run, show=False))


def test_one_cluster_has_no_genes_and_needs_no_ranking(run):
    assert not genes_of(sctag.pl.tree(run, "of_1", n_genes=3, n_below=2, show=False))


def test_splits_within_clusters_have_no_genes(run):
    rank(run, "of_2")
    ax = sctag.pl.tree(run, "of_2", n_genes=2, n_below=4, show=False)
    assert len(genes_of(ax)) == 2


def test_splits_across_a_joined_cluster_have_no_genes(graphed):
    """Two of six clusters are joined, any two. Only sides that were compared as they are drawn have genes."""
    adata, n_without = graphed, 0
    sctag.tl.sctag(adata, 6, pretrain_epochs=10, cluster_epochs=2)
    for pair in itertools.combinations(adata.obs["sctag"].cat.categories, 2):
        sctag.tl.cut(adata, merge=[pair], key_added="joined")
        rank(adata, "joined")
        ax = sctag.pl.tree(adata, "joined", n_genes=1, show=False)
        ax.figure.set_size_inches(60, 9)
        sides, compared = drawn_sides(ax), dict(ranked_genes(adata, "joined", 1))
        drawn = {place: tuple(map(frozenset, pair)) for place, pair in sides.items()}
        assert shown_genes(ax) == {place: compared[pair] for place, pair in drawn.items() if compared.get(pair)}
        n_without += len(set(drawn.values()) - set(compared))
        plt.close("all")
    assert n_without > 10


def test_a_ranking_of_other_clusters_is_refused(run, unchanged):
    again = (
        r"part other clusters than those of 'of_6' now; run `sctag\.tl\.rank_genes_splits\(adata, key='of_6'\)` again"
    )
    rank(run, "of_6")
    original = run.uns["of_6_splits"]
    assert genes_of(sctag.pl.tree(run, "of_6", n_genes=1, show=False))
    plt.close("all")
    changes = [("node", 0, original["comparisons"]["node"].iloc[0] + 1), ("n_cells", 2, 1), ("clusters", 1, "x")]
    stale = [original["comparisons"].copy() for _ in changes]
    for table, (column, row, value) in zip(stale, changes, strict=True):
        table.iloc[row, table.columns.get_loc(column)] = value
    rank(run)
    for table in [*stale, original["comparisons"].iloc[:-1], run.uns["sctag_splits"]["comparisons"]]:
        run.uns["of_6_splits"] = {**original, "comparisons": table}
        with unchanged(run), pytest.raises(ValueError, match=again):
            sctag.pl.tree(run, "of_6", n_genes=1)
    assert not plt.get_fignums()


def test_renamed_clusters_need_a_new_ranking(run):
    rank(run)
    run.obs["sctag"] = run.obs["sctag"].cat.rename_categories({"B": "plasma"})
    with pytest.raises(ValueError, match="part other clusters than those of 'sctag' now"):
        sctag.pl.tree(run, n_genes=1)


def boxes(ax):
    """Where genes are drawn, each with the end of its branch, in pixels."""
    ends = {tuple(line.get_xydata()[0].round(6)): line.get_xydata()[1] for line in ax.lines
            if line.get_xydata()[0, 1] == line.get_xydata()[1, 1]}  # fmt: skip
    for text in genes_of(ax):
        if text.get_text():
            end = ax.transData.transform(ends[tuple(np.round(text.get_position(), 6))])
            yield text.get_window_extent(), ax.transData.transform(text.get_position()), end


@pytest.mark.parametrize("size", [None, (9, 5), (6, 3)])
@pytest.mark.parametrize("prefix", ["", "ENSG00000187634."])
def test_genes_keep_to_the_room_above_their_branch(run, size, prefix):
    """They overlap neither each other nor a line, whatever size the figure has in the end, and none is cut."""
    run.var_names = [f"{prefix}{name}" for name in run.var_names]
    rank(run, "of_25")
    ax = sctag.pl.tree(run, "of_25", n_genes=4, color="group", show=False)
    if size:
        ax.figure.set_size_inches(size)
    found = shown_genes(ax)
    assert set().union(*found.values()) <= set(run.var_names)
    assert size or len(found) > (10 if prefix else 20)
    drawn = list(boxes(ax))
    lines = [ax.transData.transform(line.get_xydata()) for line in ax.lines]
    for i, (box, start, end) in enumerate(drawn):
        assert start[0] < box.x0 < box.x1 < end[0]
        assert start[1] < box.y0 < box.y1 < ax.get_window_extent().y1  # below the legend
        assert not any(box.overlaps(other) for other, *_ in drawn[:i])
        for (x0, y0), (x1, y1) in lines:
            is_apart = max(x0, x1) < box.x0 or min(x0, x1) > box.x1 or max(y0, y1) < box.y0 or min(y0, y1) > box.y1
            assert is_apart


def test_genes_are_wrapped_and_never_cut():
    from sctag_tools.pl._fitted_names import wrapped

    names = ["CD3D", "LYZ", "HLA-DRA", "NKG7"]
    assert wrapped(names, 40, 1, len) == "CD3D, LYZ, HLA-DRA, NKG7"
    assert wrapped(names, 23, 1, len) == "CD3D, LYZ, HLA-DRA"
    assert wrapped(names, 13, 3, len) == "CD3D, LYZ,\nHLA-DRA, NKG7"
    assert wrapped(names, 12, 2, len) == "CD3D, LYZ,\nHLA-DRA"
    assert wrapped(names, 6, 4, len) == "CD3D,\nLYZ"  # not NKG7 in place of a better one
    assert wrapped(names, 3, 4, len) == wrapped(names, 40, 0, len) == ""


def test_names_of_genes_are_no_formulas_and_have_the_color_of_the_style(run):
    run.var_names = [rf"$\frac{name}$" for name in run.var_names]
    rank(run)
    with plt.style.context("dark_background"):
        ax = sctag.pl.tree(run, n_genes=1, show=False)
        assert {text.get_color() for text in genes_of(ax)} == {mpl.rcParams["text.color"]}
        assert set().union(*shown_genes(ax).values()) <= set(run.var_names)


def test_genes_in_given_axes(run):
    rank(run)
    figure, (ax, beside) = plt.subplots(1, 2, figsize=(14, 4), layout="constrained")
    sctag.pl.tree(run, ax=ax, n_genes=2, show=False)
    sctag.pl.tree(run, ax=beside, n_genes=2, color="group", show=False)  # which takes room from the first
    assert shown_genes(ax)
    assert figure.get_size_inches().tolist() == [14, 4]
    assert all(box.x1 < end[0] for one in (ax, beside) for box, _, end in boxes(one))


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
        ({"n_genes": -1}, ValueError, "n_genes must be at least 0, got -1"),
        ({"n_genes": True}, TypeError, "n_genes must be an integer"),
        ({"n_genes": 2}, KeyError, r"sctag_splits.*run `sctag\.tl\.rank_genes_splits\(adata, key='sctag'\)` first"),
        ({"n_genes": 2, "key": "of_6"}, KeyError, r"`sctag\.tl\.rank_genes_splits\(adata, key='of_6'\)` first"),
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
