"""``sctag.get``: the tables agree with the cells, with the evidence that the run kept, and with cuts of its tree."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc

import sctag_tools as sctag

OF_CLUSTERS = [
    "n_cells", "share", "cell_confidence", "cell_confidence_p10", "cluster_confidence", "merged", "split", "dissolved",
    "sibling", "dprime", "null_dprime",
]  # fmt: skip


@pytest.fixture(scope="module")
def _run_once(_graphed_once):
    adata = _graphed_once.copy()
    sctag.tl.sctag(adata, pretrain_epochs=60, cluster_epochs=10)
    return adata


@pytest.fixture
def run(_run_once):
    """A run that chose three clusters, and a cut of it into six."""
    adata = _run_once.copy()
    sctag.tl.cut(adata, 6, key_added="six")
    return adata


@pytest.mark.parametrize("key", ["sctag", "six"])
def test_numbers_of_clusters_are_those_of_their_cells(run, unchanged, key):
    with unchanged(run):
        table = sctag.get.clusters_df(run, key)
    assert list(table.columns) == OF_CLUSTERS
    assert table.index.tolist() == run.obs[key].cat.categories.tolist()
    for name, row in table.iterrows():
        confidence = run.obs[f"{key}_confidence"][run.obs[key] == name].to_numpy()
        assert (row["n_cells"], row["share"]) == (len(confidence), len(confidence) / 150)
        assert row["cell_confidence"] == pytest.approx(confidence.mean(), rel=1e-5)
        assert row["cell_confidence_p10"] == pytest.approx(np.quantile(confidence, 0.1), rel=1e-5)
    kept = run.uns[key]["cluster_confidence"]
    np.testing.assert_array_equal(table["cluster_confidence"], kept["confidence"])
    np.testing.assert_array_equal(table[["merged", "split", "dissolved"]].T, [kept[x] for x in table.columns[5:8]])


def test_a_cluster_and_its_sibling_are_one_in_a_coarser_cut(run):
    table, splits = sctag.get.clusters_df(run, "six"), sctag.get.splits_df(run, "six")
    sctag.tl.cut(run, 5)
    (joined,) = (
        found for _, cells in run.obs.groupby("sctag_cut", observed=True) if len(found := set(cells["six"])) == 2
    )
    one, other = sorted(joined)
    assert (table.loc[one, "sibling"], table.loc[other, "sibling"]) == (other, one)
    last = splits.loc[4]
    assert {last["clusters_left"], last["clusters_right"]} == joined
    assert table.loc[one, "dprime"] == table.loc[other, "dprime"] == last["dprime"]
    assert table.loc[one, "null_dprime"] == last["null_dprime"]


def test_splits_are_those_that_the_run_tested(run):
    splits, curve = sctag.get.splits_df(run), run.uns["sctag"]["n_clusters_curve"]
    assert len(splits) == len(curve["n_clusters"]) > 100
    np.testing.assert_array_equal(splits["relative_coassociation"], curve["coassociation"])
    np.testing.assert_array_equal(splits["dprime"], curve["separation"])
    np.testing.assert_array_equal(splits["null_dprime"], curve["least_separation"])
    np.testing.assert_array_equal(splits["supported"], curve["supported"])
    assert splits["coassociation"].between(0, 1).all()
    assert splits.loc[0, "n_cells_left"] + splits.loc[0, "n_cells_right"] == 150
    assert splits["node"].is_unique


def test_sides_name_their_clusters(run):
    splits, sizes = sctag.get.splits_df(run), run.obs["sctag"].value_counts()
    for _, row in splits.iloc[:2].iterrows():  # the two that make three clusters
        for side in ("left", "right"):
            assert row[f"n_cells_{side}"] == sizes[row[f"clusters_{side}"].split("+")].sum()
    within = splits.iloc[2:]
    assert (within["clusters_left"] == within["clusters_right"]).all()
    assert set(within["clusters_left"]) == {"0", "1", "2"}


def test_support_is_at_the_resolution_of_the_result(run):
    sctag.tl.cut(run, resolution=0.001, key_added="coarse")
    assert sctag.get.splits_df(run)["supported"].sum() == 2
    assert sctag.get.splits_df(run, "coarse")["supported"].sum() == 0
    alone = sctag.get.clusters_df(run, "coarse")
    assert alone.loc["0+1+2", "sibling"] == ""
    assert np.isnan(alone.loc["0+1+2", ["dprime", "null_dprime"]].astype(float)).all()


def test_files_give_the_same(run, tmp_path):
    run.write_h5ad(tmp_path / "run.h5ad")
    back = anndata.read_h5ad(tmp_path / "run.h5ad")
    for function in (sctag.get.clusters_df, sctag.get.splits_df):
        for key in ("sctag", "six"):
            pd.testing.assert_frame_equal(function(run, key), function(back, key))


def test_results_without_a_tree(run, blobs):
    sctag.tl.map_query(blobs, run)
    blobs.obs["sctag"] = pd.Categorical(["0"] * 150, categories=["0", "1", "2"])
    table = sctag.get.clusters_df(blobs)
    assert list(table.columns) == OF_CLUSTERS[:4]
    assert table["n_cells"].tolist() == [150, 0, 0]
    with pytest.raises(ValueError, match="was mapped from a reference, which alone has the tree"):
        sctag.get.splits_df(blobs)
    del run.uns["sctag"]["tree"]
    assert list(sctag.get.clusters_df(run).columns) == OF_CLUSTERS[:8]
    with pytest.raises(ValueError, match="before runs kept their tree"):
        sctag.get.splits_df(run)


@pytest.mark.parametrize("function", ["clusters_df", "splits_df"])
def test_what_is_refused(run, unchanged, function):
    get = getattr(sctag.get, function)
    with pytest.raises(KeyError, match=r"no scTAG result 'none'.*There are \['sctag'\]"):
        get(run, "none")
    with pytest.raises(TypeError, match=rf"sctag\.get\.{function} needs an AnnData"):
        get(run.obs)
    with unchanged(run), pytest.raises(ValueError, match="clustered 150 cells, and adata has 10"):
        get(run[:10])
    del run.uns["sctag"]["model"]  # with the names of the cells
    for key in ("sctag", "six"):
        with pytest.raises(ValueError, match=r"obs\['sctag'\] no longer holds the clusters of the run.*reordered"):
            get(run[::-1], key)
    del run.obsm["X_sctag"]
    with pytest.raises(KeyError, match="no scTAG result 'sctag'"):
        get(run, "six")


def test_top_genes_are_those_of_the_ranking(clustered, tmp_path):
    assert "top_genes" not in sctag.get.clusters_df(clustered)
    sctag.tl.rank_genes_splits(clustered)
    clustered.write_h5ad(tmp_path / "ranked.h5ad")
    for adata in (clustered, sc.read_h5ad(tmp_path / "ranked.h5ad")):
        found = sctag.get.clusters_df(adata)["top_genes"]
        comparisons = adata.uns["sctag_splits"]["comparisons"]
        for name, genes in found.items():
            (group,) = comparisons.index[comparisons["clusters"] == name]
            ranked = sc.get.rank_genes_groups_df(adata, group, key="sctag_splits").head(5)
            assert genes == ", ".join(ranked["names"][ranked["scores"] > 0])
        assert found.str.len().gt(0).all()
    clustered.obs["sctag"] = clustered.obs["sctag"].cat.rename_categories(["a", "b", "c"])
    assert sctag.get.clusters_df(clustered)["top_genes"].tolist() == ["", "", ""]
