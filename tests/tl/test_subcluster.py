"""``sctag.tl.subcluster``: some clusters opened, with genes, graph and networks of their own; the others stay."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from scipy import sparse

import sctag_tools as sctag

N_GENES = 150


def _nested_counts(seed=0, n=(120, 90, 80)):
    """Two far groups, the second of which is two groups that differ in ten genes only."""
    rng = np.random.default_rng(seed)
    kind = rng.permutation(np.repeat(np.arange(3), n))
    means = np.full((3, N_GENES), 1.0)
    means[0, :40] = 8.0
    means[1:, 40:80] = 8.0
    means[2, 80:95] = 7.0
    counts = rng.poisson(means[kind] * rng.lognormal(0, 0.2, (len(kind), 1)))
    obs = pd.DataFrame({"kind": pd.Categorical([f"k{i}" for i in kind])}, index=[f"c{i}" for i in range(len(kind))])
    return AnnData(sparse.csr_matrix(counts, dtype=np.float32), obs=obs)


@pytest.fixture(scope="module")
def _nested_once():
    adata = _nested_counts()
    sctag.pp.build_graph(adata)
    sctag.tl.sctag(adata, 2, pretrain_epochs=30, cluster_epochs=5, progress_bar=False)
    adata.uns["sctag_colors"] = ["#ff0000", "#00ff00"]
    return adata


@pytest.fixture
def nested(_nested_once):
    """A run into two clusters, the larger of which holds two groups."""
    return _nested_once.copy()


@pytest.fixture
def quick():
    """Options of a run where the labels do not matter."""
    return {"n_networks": 1, "pretrain_epochs": 3, "cluster_epochs": 2, "progress_bar": False}


# --- what is found ---


def test_a_cluster_of_two_groups_is_parted_and_the_other_stays(nested, same):
    before = nested.copy()
    assert sctag.tl.subcluster(nested, "0", pretrain_epochs=60, progress_bar=False) is None
    found = nested.obs["sctag_sub"]
    assert list(found.cat.categories) == ["0,0", "0,1", "1"]
    table = pd.crosstab(nested.obs["kind"], found)
    assert table.loc["k0", "1"] == 120
    assert table.loc["k1", "0,0"] >= 85
    assert table.loc["k2", "0,1"] >= 75
    assert nested.uns["sctag_sub_colors"][::2] == ["#ff0000", "#00ff00"]
    for part, names in {
        "obs": ["sctag_sub", "sctag_sub_confidence"], "obsm": ["X_sctag_sub"], "uns": ["sctag_sub", "sctag_sub_colors"],
    }.items():  # fmt: skip
        for name in names:
            del getattr(nested, part)[name]
    same(before, nested)  # nothing else was written


def test_the_run_is_the_one_that_a_user_would_make(nested, quick):
    """Own genes, PCA, graph and networks of these cells, with the counts and the seed of the call."""
    sctag.tl.subcluster(nested, "0", 2, n_top_genes=60, n_neighbors=8, random_state=3, **quick)
    own = AnnData(nested.X[(nested.obs["sctag"] == "0").to_numpy()])
    own.layers["counts"] = own.X.copy()
    sc.pp.normalize_total(own, target_sum=1e4)
    sc.pp.log1p(own)
    sc.pp.highly_variable_genes(own, n_top_genes=60)
    sc.pp.pca(own, n_comps=50, random_state=3)
    sctag.pp.build_graph(own, 8, random_state=3)
    sctag.tl.sctag(own, 2, layer="counts", random_state=3, **quick)
    opened = (nested.obs["sctag"] == "0").to_numpy()
    np.testing.assert_array_equal(nested.obsm["X_sctag_sub"][opened], own.obsm["X_sctag"])
    assert np.isnan(nested.obsm["X_sctag_sub"][~opened]).all()
    assert nested.obs["sctag_sub"][opened].tolist() == [f"0,{label}" for label in own.obs["sctag"]]
    np.testing.assert_array_equal(nested.obs["sctag_sub_confidence"][opened], own.obs["sctag_confidence"])
    np.testing.assert_array_equal(nested.obs["sctag_sub_confidence"][~opened], nested.obs["sctag_confidence"][~opened])
    for name, values in nested.uns["sctag_sub"]["cluster_confidence"].items():
        of_old, of_own = (uns["sctag"]["cluster_confidence"][name] for uns in (nested.uns, own.uns))
        np.testing.assert_array_equal(values, [*of_own, of_old[1]])
    params = nested.uns["sctag_sub"]["params"]
    assert params["sub_of"] == "sctag"
    assert params["groups"] == ["0"]
    assert params["n_genes"] == 60
    assert (params["n_top_genes"], params["n_neighbors"], params["counts"]) == (60, 8, "X")


def test_several_clusters_are_taken_together(nested, quick):
    nested.obs["sctag"] = nested.obs["sctag"].cat.rename_categories(["T cells", "B cells"])
    sctag.tl.subcluster(nested, ["B cells", "T cells"], 3, **quick)
    sizes = nested.obs["sctag_sub"].value_counts()
    assert list(nested.obs["sctag_sub"].cat.categories) == [f"T cells+B cells,{i}" for i in range(3)]
    assert sizes.tolist() == sizes[nested.obs["sctag_sub"].cat.categories].tolist()
    assert nested.uns["sctag_sub"]["params"]["groups"] == ["T cells", "B cells"]
    assert nested.uns["sctag_sub_colors"][0] == "#ff0000"
    assert len(set(nested.uns["sctag_sub_colors"])) == 3


def test_a_middle_cluster_of_a_cut_is_opened_in_its_place(nested, quick):
    sctag.tl.cut(nested, 4)
    names = list(nested.obs["sctag_cut"].cat.categories)
    sctag.tl.subcluster(nested, names[1], 2, key="sctag_cut", key_added="deeper", **quick)
    assert list(nested.obs["deeper"].cat.categories) == [names[0], f"{names[1]},0", f"{names[1]},1", *names[2:]]
    assert nested.uns["deeper"]["params"]["sub_of"] == "sctag_cut"
    sctag.tl.subcluster(nested, f"{names[1]},0", 2, key="deeper", **quick)  # and what was opened is opened again
    assert f"{names[1]},0,1" in nested.obs["deeper_sub"].cat.categories
    assert not np.isnan(nested.uns["deeper_sub"]["cluster_confidence"]["confidence"]).any()


@pytest.mark.parametrize("groups", ["1", ["0", "1"]])
def test_one_cloud_is_not_parted_and_the_best_candidate_is_named(groups, quick):
    rng = np.random.default_rng(1)
    adata = AnnData(rng.poisson(3, (150, 60)).astype(np.float32))
    sctag.pp.build_graph(adata)
    sctag.tl.sctag(adata, 2, **quick)
    with pytest.warns(UserWarning, match=r"one cluster.*best candidate.*limit 0\.60.*n_clusters=2") as caught:
        sctag.tl.subcluster(adata, groups, progress_bar=False)
    assert [warning.filename for warning in caught] == [__file__]
    assert list(adata.obs["sctag_sub"].cat.categories) == (["0", "1"] if groups == "1" else ["0+1"])
    # One cluster would be sure of itself, which says nothing: what was known stays.
    np.testing.assert_array_equal(adata.obs["sctag_sub_confidence"], adata.obs["sctag_confidence"])
    confidence = adata.uns["sctag_sub"]["cluster_confidence"]["confidence"]
    old = adata.uns["sctag"]["cluster_confidence"]["confidence"]
    np.testing.assert_array_equal(confidence, old if groups == "1" else [np.nan])


# --- what goes in and out ---


@pytest.mark.parametrize("where", ["X", "layer", "backed"])
@pytest.mark.parametrize("kind", [np.asarray, sparse.csc_matrix, sparse.csr_array])
def test_counts_of_any_kind_give_the_same(nested, quick, tmp_path, where, kind):
    expected = sctag.tl.subcluster(nested, "0", 2, copy=True, **quick).obs["sctag_sub"].tolist()
    assert "sctag_sub" not in nested.obs
    adata = nested.copy()
    adata.X = kind(adata.X.toarray().astype("int64" if where == "X" else "float32"))
    if where == "layer":
        adata.layers["counts"] = adata.X
        adata.X = np.log1p(nested.X.toarray())
        adata.uns["sctag"]["params"]["counts"] = "counts"
    if where == "backed":
        adata.write_h5ad(tmp_path / "run.h5ad")
        adata = sc.read_h5ad(tmp_path / "run.h5ad", backed="r+")
    sctag.tl.subcluster(adata, "0", 2, **quick)
    assert adata.obs["sctag_sub"].tolist() == expected


def test_batches_are_those_of_the_run(nested, quick):
    nested.obs["donor"] = np.where(np.arange(nested.n_obs) % 2, "a", "b")
    sctag.pp.build_graph(nested, batch_key="donor")
    sctag.tl.sctag(nested, 2, batch_key="donor", **quick)
    sctag.tl.subcluster(nested, "0", 2, **quick)
    assert nested.uns["sctag_sub"]["params"]["batch_key"] == "donor"
    assert "batch_key" in nested.uns["sctag"]["params"]


def test_a_file_keeps_it_and_tables_and_plots_show_it(nested, quick, tmp_path):
    sctag.tl.subcluster(nested, "0", **(quick | {"pretrain_epochs": 60}))
    nested.write_h5ad(tmp_path / "sub.h5ad")
    nested.write_zarr(tmp_path / "sub.zarr")
    for adata in (sc.read_h5ad(tmp_path / "sub.h5ad"), anndata.read_zarr(tmp_path / "sub.zarr")):
        table = sctag.get.clusters_df(adata, "sctag_sub")
        assert table["n_cells"].sum() == adata.n_obs
        assert table["cluster_confidence"].between(0, 1).all()
        sctag.pl.n_clusters(adata, key="sctag_sub", show=False)
        sctag.pl.history(adata, key="sctag_sub", show=False)
    sctag.pl.embedding(nested, key="sctag_sub", show=False)
    opened = (nested.obs["sctag"] == "0").to_numpy()
    assert np.isfinite(nested.obsm["X_sctag_sub_umap"][opened]).all()
    assert np.isnan(nested.obsm["X_sctag_sub_umap"][~opened]).all()


def test_clusters_of_the_users_own_making_are_opened_too(nested, quick):
    """Their confidence as a whole is not known; a category without a cell is none."""
    nested.obs["sctag"] = pd.Categorical(nested.obs["kind"], categories=["none", "k0", "k1", "k2"])
    sctag.tl.subcluster(nested, ["k1", "k2"], 2, **quick)
    assert list(nested.obs["sctag_sub"].cat.categories) == ["k0", "k1+k2,0", "k1+k2,1"]
    confidence = nested.uns["sctag_sub"]["cluster_confidence"]["confidence"]
    assert np.isnan(confidence).tolist() == [True, False, False]


def test_an_earlier_one_is_replaced(nested, quick):
    sctag.tl.subcluster(nested, "0", 3, **quick)
    sctag.tl.umap(nested, key="sctag_sub")
    sctag.tl.subcluster(nested, "1", 2, **quick)
    assert list(nested.obs["sctag_sub"].cat.categories) == ["0", "1,0", "1,1"]
    assert "X_sctag_sub_umap" not in nested.obsm
    assert len(nested.uns["sctag_sub_colors"]) == 3


# --- what is refused ---


@pytest.mark.parametrize(("change", "error", "match"), [
    ({"groups": "9"}, ValueError, r"groups names \['9'\].*there are \['0', '1'\]"),
    ({"groups": ["0", "0"]}, ValueError, "each once"),
    ({"groups": []}, ValueError, "must name clusters"),
    ({"groups": 0}, TypeError, "groups must be a name or a list of names, such as '0', got 0"),
    ({"groups": ["0", 1]}, TypeError, "groups must be a name"),
    ({"key": "leiden"}, KeyError, "no scTAG result 'leiden'"),
    ({"key_added": "sctag"}, ValueError, "something else under 'sctag'"),
    ({"key_added": "kind"}, ValueError, "something else under 'kind'"),
    ({"n_clusters": 400}, ValueError, "at most 300"),
    ({"n_clusters": 250}, ValueError, "exceeds the 1[67]. cells"),
    ({"n_top_genes": 1}, ValueError, "n_top_genes must be at least 2"),
    ({"n_neighbors": 1.5}, TypeError, "n_neighbors must be an integer"),
    ({"n_network": 1}, TypeError, "did you mean 'n_networks'"),
])  # fmt: skip
def test_bad_input_is_refused_before_anything_is_changed(nested, unchanged, change, error, match):
    call = {"groups": "0", **change}
    with unchanged(nested), pytest.raises(error, match=match):
        sctag.tl.subcluster(nested, **call)


def test_logged_values_in_place_of_the_counts_are_refused(nested, unchanged):
    nested.X = np.log1p(nested.X.toarray()) / 3
    with unchanged(nested), pytest.raises(ValueError, match="raw counts are needed"):
        sctag.tl.subcluster(nested, "0")


def test_other_tools_say_what_it_is(nested, quick, unchanged):
    sctag.tl.subcluster(nested, "0", 2, **quick)
    with unchanged(nested), pytest.raises(ValueError, match=r"tl\.subcluster.*keeps no tree"):
        sctag.tl.cut(nested, key="sctag_sub")
    with unchanged(nested), pytest.raises(KeyError, match=r"keeps no model; name.*'sctag'.*obs=\['sctag_sub'\]"):
        sctag.tl.denoise(nested, key="sctag_sub")


# --- real cells ---


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:No split")
def test_natural_killer_cells_part_from_t_cells_and_one_cell_line_stays_whole(real_sets):
    adata = sctag.datasets.pbmc68k_reduced()
    sctag.pp.build_graph(adata)
    sctag.tl.sctag(adata, progress_bar=False)
    largest = adata.obs.loc[adata.obs["bulk_labels"] == "CD56+ NK", "sctag"].mode()[0]
    sctag.tl.subcluster(adata, largest, progress_bar=False)
    killers = adata.obs.loc[adata.obs["bulk_labels"] == "CD56+ NK", "sctag_sub"]
    helpers = adata.obs.loc[adata.obs["bulk_labels"].isin(["CD4+/CD25 T Reg", "CD4+/CD45RO+ Memory"]), "sctag_sub"]
    assert killers.value_counts(normalize=True).max() > 0.9
    assert (helpers == killers.mode()[0]).mean() < 0.2

    lines = sc.read_h5ad(real_sets / "Mix_celseq2_5cl.h5ad")
    lines.uns["sctag"] = {"params": {"counts": "X"}, "history": {}}  # the lines themselves in place of clusters
    lines.obs["sctag"], lines.obs["sctag_confidence"] = lines.obs["cell_type"], np.float32(1)
    lines.obsm["X_sctag"] = np.zeros((lines.n_obs, 2), dtype=np.float32)
    whole = 0
    for line in lines.obs["cell_type"].cat.categories:
        sctag.tl.subcluster(lines, line, progress_bar=False)
        whole += line in lines.obs["sctag_sub"].cat.categories
    assert whole >= 4


def test_confidences_are_not_given_to_other_clusters(nested, quick, unchanged):
    """Where categories were reordered, those of the result as a whole are not known to be of which."""
    nested.obs["sctag"] = nested.obs["sctag"].cat.reorder_categories(["1", "0"])
    sctag.tl.subcluster(nested, "0", 2, **quick)
    assert np.isnan(nested.uns["sctag_sub"]["cluster_confidence"]["confidence"][0])
    del nested.obs["sctag_confidence"]
    with unchanged(nested), pytest.raises(KeyError, match="sctag_confidence'\\] is missing"):
        sctag.tl.subcluster(nested, "0", 2, **quick)
