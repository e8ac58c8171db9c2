"""``sctag.tl.cut``: clusters that join or part those of the run, with names, colors and confidence that go on."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import time

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import torch
from anndata import AnnData

import sctag_tools as sctag
from sctag_tools.cluster.hierarchy import Hierarchy
from sctag_tools.cluster.pieces import Pieces
from sctag_tools.cluster.tree import CoassociationTree
from sctag_tools.nn.self_training import soft_assignment

SLOTS = {"obs": ["", "_confidence"], "obsm": ["_proba"], "uns": ["", "_colors"]}


@pytest.fixture(scope="module")
def _run_once(_graphed_once):
    adata = _graphed_once.copy()
    sctag.tl.sctag(adata, 6, pretrain_epochs=30, cluster_epochs=5)
    adata.uns["sctag_colors"] = ["#ff0000", "#00ff00", "#0000ff", "#111111", "tab:blue", "#333333"]
    return adata


@pytest.fixture
def run(_run_once):
    """A run into six clusters, with colors."""
    return _run_once.copy()


def parts_of(adata, key="sctag_cut"):
    """Names of the pieces of each new cluster."""
    return {name: name.split("+") for name in adata.obs[key].cat.categories}


def check_cut(adata, key="sctag_cut", of="sctag"):
    """What the docstring promises of any cut."""
    old, new = adata.obs[of], adata.obs[key]
    proba, confidence = adata.obsm[f"{key}_proba"], adata.obs[f"{key}_confidence"]
    categories, old_categories = list(new.cat.categories), list(old.cat.categories)
    assert set(new) == set(categories)
    assert proba.dtype == confidence.dtype == np.float32
    assert proba.shape == (adata.n_obs, len(categories))
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-5)
    assert confidence.between(0, 1).all()
    assert adata.uns[key]["params"]["cut_of"] == of
    assert adata.uns[key]["params"]["n_clusters"] == len(categories)
    assert {len(values) for values in adata.uns[key]["cluster_confidence"].values()} == {len(categories)}
    found = pd.crosstab(old, new)
    for name, pieces in parts_of(adata, key).items():
        assert {piece.split(",")[0] for piece in pieces} == set(found.index[found[name] > 0])
        numbers = [[old_categories.index(first), *rest] for first, *rest in (piece.split(",") for piece in pieces)]
        assert numbers == sorted(numbers)
        if name in old_categories:
            assert (old == name).equals(new == name)
    for name in old_categories:
        sizes = {}
        for new_name, pieces in parts_of(adata, key).items():
            sizes |= {piece: found.loc[name, new_name] for piece in pieces if re.fullmatch(rf"{name},\d+", piece)}
        assert sorted(sizes) == [f"{name},{i}" for i in range(len(sizes))]
        assert list(dict(sorted(sizes.items())).values()) == sorted(sizes.values(), reverse=True)
    first = [[old_categories.index(name), *rest] for name, *rest in (c.split("+")[0].split(",") for c in categories)]
    assert first == sorted(first)


# --- what is cut ---


def test_with_nothing_asked_it_is_the_run_itself(run, same):
    tree, before = run.uns["sctag"]["tree"], run.copy()
    assert (tree["leaf"] != tree["consensus_leaf"]).any(), "self-training has moved no cell"
    assert sctag.tl.cut(run) is None
    check_cut(run)
    assert run.obs["sctag_cut"].tolist() == run.obs["sctag"].tolist()
    np.testing.assert_array_equal(run.obsm["sctag_cut_proba"], run.obsm["sctag_proba"])
    np.testing.assert_array_equal(run.obs["sctag_cut_confidence"], run.obs["sctag_confidence"])
    same(run.uns["sctag_cut"]["cluster_confidence"], run.uns["sctag"]["cluster_confidence"])
    assert run.uns["sctag_cut_colors"] == run.uns["sctag_colors"]
    for part, ends in SLOTS.items():
        for end in ends:
            del getattr(run, part)[f"sctag_cut{end}"]
    same(before, run)  # and nothing else was written


@pytest.mark.parametrize("n_clusters", [1, 2, 4, 6, 7, 9, 14])
def test_a_number_of_clusters(run, n_clusters):
    sctag.tl.cut(run, n_clusters)
    check_cut(run)
    categories = list(run.obs["sctag_cut"].cat.categories)
    assert len(categories) == n_clusters == run.uns["sctag_cut"]["params"]["n_clusters_asked"]
    assert ("+" in "".join(categories)) == (n_clusters < 6)
    assert ("," in "".join(categories)) == (n_clusters > 6)


def test_finer_cuts_part_coarser_ones(run):
    for n in (3, 8, 12):
        sctag.tl.cut(run, n, key_added=f"of_{n}")
    for coarse, fine in (("of_3", "of_8"), ("of_8", "of_12"), ("of_3", "of_12")):
        assert run.obs.groupby(fine, observed=True)[coarse].nunique().max() == 1


@pytest.mark.filterwarnings("ignore:No split")
def test_a_resolution_is_that_of_a_run(graphed, short):
    sctag.tl.sctag(graphed, resolution=1.5, **short)
    sctag.tl.cut(graphed, resolution=1.5, key_added="own")
    assert graphed.obs["own"].tolist() == graphed.obs["sctag"].tolist()
    sctag.tl.cut(graphed, resolution=0.001)
    check_cut(graphed)
    assert list(graphed.obs["sctag_cut"].cat.categories) == ["+".join(graphed.obs["sctag"].cat.categories)]
    assert graphed.uns["sctag_cut"]["params"]["resolution"] == 0.001


@pytest.mark.parametrize("n_clusters", [None, 20])
def test_small_clusters_are_merged(run, n_clusters):
    sctag.tl.cut(run, n_clusters, min_cells=12)
    check_cut(run)
    sizes = run.obs["sctag_cut"].value_counts()
    assert sizes.min() >= 12
    assert len(sizes) > 2
    sctag.tl.cut(run, n_clusters, min_cells=1000)
    assert list(run.obs["sctag_cut"].cat.categories) == ["0+1+2+3+4+5"]


def test_named_clusters_are_joined(run):
    sctag.tl.cut(run, merge=[("5", "1"), ("0", "2", "3")], key_added="joined")
    check_cut(run, "joined")
    expected = run.obs["sctag"].map({"0": "0+2+3", "2": "0+2+3", "3": "0+2+3", "1": "1+5", "5": "1+5", "4": "4"})
    assert run.obs["joined"].tolist() == expected.tolist()
    assert list(run.obs["joined"].cat.categories) == ["0+2+3", "1+5", "4"]
    sums = run.obsm["sctag_proba"]
    expected = np.stack([sums[:, [0, 2, 3]].sum(1), sums[:, [1, 5]].sum(1), sums[:, 4]], axis=1)
    np.testing.assert_allclose(run.obsm["joined_proba"], expected, rtol=1e-5)
    assert run.uns["joined"]["params"]["merge"] == ["5+1", "0+2+3"]


def test_names_given_by_the_user_go_on(run):
    run.obs["sctag"] = run.obs["sctag"].cat.rename_categories({"0": "T", "1": "B", "2": "NK"})
    sctag.tl.cut(run, merge=[("NK", "T")])
    assert list(run.obs["sctag_cut"].cat.categories) == ["T+NK", "B", "3", "4", "5"]
    sctag.tl.cut(run, 12)
    check_cut(run)
    assert {"T,0", "T,1"} <= set(run.obs["sctag_cut"])


# --- soft assignment and confidence ---


def test_parts_share_the_column_of_their_cluster_as_self_training_would(run):
    sctag.tl.cut(run, 9)
    labels, proba = run.obs["sctag_cut"], run.obsm["sctag_cut_proba"]
    categories, latent = list(labels.cat.categories), torch.tensor(run.obsm["X_sctag"])
    means = torch.stack([latent[(labels == name).to_numpy()].mean(0) for name in categories])
    scale = float((latent - means[labels.cat.codes.to_numpy().astype(int)]).numpy().std())
    for number, name in enumerate(run.obs["sctag"].cat.categories):
        mine = [i for i, each in enumerate(categories) if each.split(",")[0] == name]
        expected = run.obsm["sctag_proba"][:, [number]] * soft_assignment(latent, means[mine], scale).numpy()
        np.testing.assert_allclose(proba[:, mine], expected, rtol=1e-4)
    assert (proba.argmax(axis=1) == labels.cat.codes).mean() > 0.8


def test_confidence_tells_real_clusters_from_pieces_of_them(graphed):
    sctag.tl.sctag(graphed, 3, pretrain_epochs=60, cluster_epochs=10)
    sctag.tl.cut(graphed, 12)
    assert graphed.obs["sctag_cut_confidence"].mean() < graphed.obs["sctag_confidence"].mean() - 0.1
    of_clusters = [graphed.uns[key]["cluster_confidence"]["confidence"].mean() for key in ("sctag_cut", "sctag")]
    assert of_clusters[0] < of_clusters[1] - 0.1


# --- pieces, by hand ---


def test_pieces_by_hand():
    """Old 0 is parted, a small part of it joined with 2; old 1 stays; leaf 4 has no cells."""
    old, new, n_cells = np.array([0, 0, 0, 1, 1, 2]), np.array([7, 4, 4, 0, 7, 7]), np.array([5, 9, 2, 6, 0, 8])
    pieces = Pieces.from_labels(old, new, n_cells)
    assert pieces.names(["a", "b", "c"]) == ["a,0", "a,1+c", "b"]
    assert pieces.heirs() == [0, 2, 1]
    assert pieces.n_cells.tolist() == [11, 5, 6, 8]
    assert pieces.of_leaf.tolist() == [1, 0, 0, 2, 0, 3]
    assert pieces.new.tolist() == [0, 1, 2, 1]


# --- colors ---


def test_colors_go_on_and_new_ones_are_new(run):
    old = dict(zip(run.obs["sctag"].cat.categories, run.uns["sctag_colors"], strict=True))
    sctag.tl.cut(run, 9)
    colors = dict(zip(run.obs["sctag_cut"].cat.categories, run.uns["sctag_cut_colors"], strict=True))
    assert len(set(colors.values())) == 9
    for name, color in colors.items():
        inherits = "," not in name or name.endswith(",0")
        assert (color == old[name.split(",")[0]]) == inherits
        assert inherits or color in sc.pl.palettes.default_20
    assert "#1f77b4" not in colors.values()  # which is tab:blue
    sctag.tl.cut(run, merge=[("1", "5")])
    assert run.uns["sctag_cut_colors"] == [old[name] for name in ("0", "1", "2", "3", "4")]


@pytest.mark.parametrize("colors", [None, ["#ff0000"]])
def test_without_colors_of_the_run_none_are_written_and_old_ones_go(run, colors):
    sctag.tl.cut(run, 9)
    run.uns.pop("sctag_colors")
    if colors:
        run.uns["sctag_colors"] = colors
    sctag.tl.cut(run, 8)
    assert "sctag_cut_colors" not in run.uns


# --- files, orders, keys ---


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_files_hold_the_tree_and_the_cut(run, tmp_path, same, suffix):
    sctag.tl.cut(run, 9, min_cells=3)
    getattr(run, f"write_{suffix}")(tmp_path / f"run.{suffix}")
    back = getattr(anndata, f"read_{suffix}")(tmp_path / f"run.{suffix}")
    sctag.tl.cut(back, 9, min_cells=3, key_added="again")
    check_cut(back, "again")
    assert back.uns["sctag_cut"]["params"] == run.uns["sctag_cut"]["params"] == back.uns["again"]["params"]
    for end in ("", "_confidence"):
        assert back.obs[f"again{end}"].tolist() == run.obs[f"sctag_cut{end}"].tolist()
    np.testing.assert_array_equal(back.obsm["again_proba"], run.obsm["sctag_cut_proba"])
    assert list(back.uns["again_colors"]) == run.uns["sctag_cut_colors"]


def test_cells_in_another_order_are_found_by_their_names(run):
    sctag.tl.cut(run, 9)
    shuffled = run[np.random.default_rng(0).permutation(run.n_obs)].copy()
    sctag.tl.cut(shuffled, 9, key_added="again")
    for end in ("", "_confidence"):
        assert shuffled.obs[f"again{end}"].tolist() == shuffled.obs[f"sctag_cut{end}"].tolist()
    shuffled.obs_names = [f"other_{i}" for i in range(run.n_obs)]
    with pytest.raises(ValueError, match=r"no longer holds the clusters of the run.*reordered"):
        sctag.tl.cut(shuffled, 9)
    del shuffled.uns["sctag"]["model"]
    with pytest.raises(ValueError, match=r"no longer holds the clusters of the run.*reordered"):
        sctag.tl.cut(shuffled, 9)
    run.obs_names = shuffled.obs_names
    sctag.tl.cut(run, 9, key_added="again")  # renamed alone
    assert run.obs["again"].tolist() == run.obs["sctag_cut"].tolist()


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
@pytest.mark.filterwarnings("ignore:invalid value encountered in divide:RuntimeWarning")  # PCA of cells that are alike
@pytest.mark.parametrize(("n", "n_leaves"), [(2, 1), (2, 2), (5, 5)])
def test_very_few_cells(n, n_leaves, suffix, tmp_path):
    adata = AnnData(np.full((n, 8), 3, dtype=np.float32) + (n_leaves > 1) * np.eye(n, 8, dtype=np.float32))
    adata.uns["all"], adata.obsp["all"] = {"connectivities_key": "all"}, np.ones((n, n))
    sctag.tl.sctag(adata, 1, neighbors_key="all", pretrain_epochs=1, cluster_epochs=1, progress_bar=False)
    getattr(adata, f"write_{suffix}")(tmp_path / f"run.{suffix}")
    back = getattr(anndata, f"read_{suffix}")(tmp_path / f"run.{suffix}")
    assert len(back.uns["sctag"]["tree"]["coassociation"]) == n_leaves - 1
    sctag.tl.cut(back, n_leaves, key_added="leaves")
    check_cut(back, "leaves")
    sctag.tl.cut(back, n_leaves, min_cells=9)
    assert back.obs["sctag_cut"].tolist() == ["0"] * n


def test_runs_and_cuts_stay_apart(run, short, same):
    sctag.tl.sctag(run, 2, key_added="two", store_model=False, **short)
    before = run.copy()
    changed = sctag.tl.cut(run, 5, key="two", copy=True)
    same(before, run)
    check_cut(changed, "two_cut", "two")
    sctag.tl.cut(changed, 4, key_added="two_cut")
    assert changed.uns["two_cut"]["params"]["cut_of"] == "sctag"
    sctag.tl.sctag(changed, 2, key_added="two_cut", **short)  # a run may take the place of a cut
    assert changed.obsm["X_two_cut"].shape == (150, 15)
    with pytest.raises(ValueError, match="something else under 'two_cut'"):
        sctag.tl.cut(changed, 4, key_added="two_cut")


def test_a_view_becomes_a_copy(run):
    view = run[:, :50]
    with pytest.warns(UserWarning, match="view"):
        sctag.tl.cut(view, 4)
    check_cut(view)
    assert "sctag_cut" not in run.obs


def test_a_cut_has_no_latent_of_its_own(run):
    sctag.tl.cut(run, 9)
    for function in (sctag.tl.umap, sctag.tl.cut, sctag.tl.denoise):
        with pytest.raises(KeyError, match="'sctag_cut' is a cut of the scTAG result 'sctag'; name that one"):
            function(run, key="sctag_cut")


def test_the_log_names_what_was_written(run):
    sc.settings.logfile, sc.settings.verbosity = (log := io.StringIO()), 3
    sctag.tl.cut(run, 9)
    assert "cutting the tree of 'sctag'" in log.getvalue()
    for slot in ("9 clusters", "'sctag_cut'", "'sctag_cut_proba'", "'sctag_cut_confidence'"):
        assert slot in log.getvalue()


# --- what is refused ---


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"key": "none"}, KeyError, r"no scTAG result 'none'.*There are \['sctag'\]"),
        ({"n_clusters": 0}, ValueError, "n_clusters must be at least 1"),
        ({"n_clusters": 2.5}, TypeError, "n_clusters must be an integer"),
        ({"n_clusters": 151}, ValueError, r"n_clusters must be at most \d+, the leaves of the tree, got 151"),
        ({"resolution": 0}, ValueError, "resolution must lie in"),
        ({"min_cells": 0}, ValueError, "min_cells must be at least 1"),
        ({"n_clusters": 3, "merge": [("1", "2")]}, ValueError, "Give one of .* not n_clusters and merge"),
        ({"n_clusters": 3, "resolution": 1.0}, ValueError, "not n_clusters and resolution"),
        ({"merge": [("1", "6")]}, ValueError, r"merge names \['6'\], which are no clusters; there are \['0', '1'"),
        ({"merge": [("1", "2"), ("2", "3")]}, ValueError, "merge names a cluster twice"),
        ({"merge": ("1", "2")}, TypeError, r"as in \[\('1', '5'\)\], got \('1', '2'\)"),
        ({"merge": [(1, 2)]}, TypeError, "merge must be groups of names"),
        ({"key_added": "a/b"}, ValueError, "key_added must not contain"),
        ({"key_added": "sctag"}, ValueError, "something else under 'sctag'"),
        ({"key_added": "group"}, ValueError, "something else under 'group'"),
        ({"key_added": "sctag_neighbors"}, ValueError, "something else under 'sctag_neighbors'"),
        ({"copy": 1}, TypeError, "copy must be True or False"),
    ],
    ids=str,
)
def test_what_is_refused(run, unchanged, options, error, match):
    with unchanged(run), pytest.raises(error, match=match):
        sctag.tl.cut(run, **options)


def merged_by_hand(adata):
    adata.obs["sctag"] = adata.obs["sctag"].astype(str).replace({"1": "0"}).astype("category")


def reordered_names(adata):
    adata.obs["sctag"] = adata.obs["sctag"].cat.reorder_categories(list("102345"))


def one_cell_moved(adata):
    adata.obs.iloc[0, adata.obs.columns.get_loc("sctag")] = "5" if adata.obs["sctag"].iloc[0] != "5" else "4"


def damaged(adata):
    adata.uns["sctag"]["tree"]["children"][0] = 0


def of_version_0_1(adata):
    del adata.uns["sctag"]["tree"]


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (merged_by_hand, ValueError, "no longer holds the clusters of the run"),
        (one_cell_moved, ValueError, "no longer holds the clusters of the run"),
        (reordered_names, ValueError, "no longer holds the clusters of the run, in their order"),
        (damaged, ValueError, r"\['tree'\] is damaged .*run `sctag.tl.sctag\(adata\)` again"),
        (of_version_0_1, ValueError, "before runs kept their tree; run"),
        (lambda adata: adata.obs.pop("sctag"), KeyError, r"adata\.obs\['sctag'\] is missing"),
        (lambda adata: adata.obsm.pop("sctag_proba"), KeyError, r"adata\.obsm\['sctag_proba'\] is missing"),
    ],
)
def test_results_that_have_changed(run, unchanged, change, error, match):
    change(run)
    with unchanged(run), pytest.raises(error, match=match):
        sctag.tl.cut(run, 4)


def test_fewer_cells_and_results_without_a_tree(run, blobs, graphed):
    with pytest.raises(ValueError, match=r"clustered 150 cells, and adata has 149\. Cut it in the object"):
        sctag.tl.cut(run[:149].copy(), 4)
    sctag.tl.map_query(blobs, run)
    with pytest.raises(ValueError, match="'sctag' was mapped from a reference, which alone has the tree"):
        sctag.tl.cut(blobs, 4)
    sctag.tl.sctag(graphed, 3, preset="reference", pretrain_epochs=1, cluster_epochs=1, n_top_genes=60)
    with pytest.raises(ValueError, match="preset='reference', which makes no tree"):
        sctag.tl.cut(graphed, 4)


# --- cost ---


def test_it_needs_no_torch(run, tmp_path):
    run.write_h5ad(tmp_path / "run.h5ad")
    code = (
        "import sys, anndata, sctag_tools as sctag; adata = anndata.read_h5ad(sys.argv[1]);"
        "sctag.tl.cut(adata, 9); print(adata.obs['sctag_cut'].nunique(), 'torch' in sys.modules)"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "run.h5ad")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == ["9", "False"]


def test_a_hundred_thousand_cells_take_less_than_a_second():
    rng, n, n_leaves = np.random.default_rng(0), 100_000, 300
    leaf = np.r_[np.arange(n_leaves), rng.integers(0, n_leaves, n - n_leaves)]
    trees = [
        CoassociationTree.from_leaves(
            rng.integers(0, 40, (6, n_leaves))[:, np.arange(n_leaves) // 2], np.arange(n_leaves)
        )
        for _ in range(22)
    ]
    first, small = trees[0], trees[1:]
    nothing = np.full(n_leaves - 1, np.nan)
    whole = CoassociationTree(leaf, first.children, first.coassociation, first.cohesion)
    kept = Hierarchy(
        leaf, leaf, first.children, first.coassociation, nothing, nothing, nothing, whole.sizes(),
        np.array(whole.split_order()), np.stack([each.children for each in small]),
        np.stack([each.coassociation for each in small]),
    )  # fmt: skip
    labels = kept.cut(20)[leaf]
    adata = AnnData(shape=(n, 0), uns={"sctag": {"params": {}, "history": {}, "tree": kept.arrays()}})
    adata.obs["sctag"] = pd.Categorical(labels.astype(str), categories=[str(i) for i in range(20)])
    adata.obsm["X_sctag"] = rng.normal(size=(n, 15)).astype(np.float32)
    adata.obsm["sctag_proba"] = np.eye(20, dtype=np.float32)[labels]
    sctag.tl.cut(adata, 20)  # imports what it needs
    start = time.process_time()
    sctag.tl.cut(adata, 40, min_cells=100)
    assert time.process_time() - start < 1
    assert 20 < adata.obs["sctag_cut"].nunique() <= 40
