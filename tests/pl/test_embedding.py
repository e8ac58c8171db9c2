"""``sctag.pl.embedding``: scanpy's plot, by default of the UMAP of the latent."""

from __future__ import annotations

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
import scanpy as sc
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import sctag_tools as sctag


def _points(ax: Axes) -> np.ndarray:
    return np.asarray(ax.collections[0].get_offsets())


def test_default_is_the_umap_of_the_latent(clustered, same):
    sc.pp.neighbors(clustered, 10)
    clustered.obsm["X_umap"] = np.zeros((150, 2))
    before = clustered.copy()
    ax = sctag.pl.embedding(clustered, show=False)
    umap = clustered.obsm["X_sctag_umap"]
    assert umap.dtype == np.float32
    assert umap.shape == (150, 2)
    assert np.isfinite(umap).all()
    assert isinstance(ax, Axes)
    assert ax.get_title() == "sctag"
    assert ax.get_xlabel() == "sctag_umap1"
    np.testing.assert_allclose(np.sort(_points(ax), axis=0), np.sort(umap, axis=0), rtol=1e-5)
    assert len(clustered.uns["sctag_colors"]) == 3
    # nothing else was written: the user's own graph and UMAP stay
    del clustered.obsm["X_sctag_umap"], clustered.uns["sctag_colors"]
    same(before, clustered)


def test_umap_is_computed_once_and_said(clustered):
    log = io.StringIO()
    sc.settings.logfile, sc.settings.verbosity = log, 3
    sctag.pl.embedding(clustered, show=False)
    assert "UMAP" in log.getvalue()
    assert "'X_sctag_umap'" in log.getvalue()
    marked = clustered.obsm["X_sctag_umap"] = np.arange(300, dtype=np.float32).reshape(150, 2)
    sctag.pl.embedding(clustered, show=False)
    np.testing.assert_array_equal(clustered.obsm["X_sctag_umap"], marked)
    assert log.getvalue().count("computing the UMAP") == 1


def test_umap_is_that_of_the_latent_and_repeatable(clustered):
    other = clustered.copy()
    for adata in (clustered, other):
        sctag.pl.embedding(adata, show=False)
    np.testing.assert_array_equal(clustered.obsm["X_sctag_umap"], other.obsm["X_sctag_umap"])
    moved = clustered.copy()
    del moved.obsm["X_sctag_umap"]
    moved.obsm["X_sctag"] = np.random.default_rng(0).permutation(moved.obsm["X_sctag"])
    sctag.pl.embedding(moved, show=False)
    assert np.abs(moved.obsm["X_sctag_umap"] - clustered.obsm["X_sctag_umap"]).max() > 0.5


def test_other_key(clustered, short):
    sctag.tl.sctag(clustered, 2, key_added="other", **short)
    ax = sctag.pl.embedding(clustered, key="other", show=False)
    assert ax.get_title() == "other"
    assert "X_other_umap" in clustered.obsm
    assert "X_sctag_umap" not in clustered.obsm


@pytest.mark.parametrize("basis", ["pca", "X_pca", "sctag", "X_sctag"])
def test_basis_is_passed_through(clustered, basis):
    ax = sctag.pl.embedding(clustered, basis, show=False)
    name = basis if basis.startswith("X_") else f"X_{basis}"
    np.testing.assert_allclose(np.sort(_points(ax), axis=0), np.sort(clustered.obsm[name][:, :2], axis=0), rtol=1e-5)
    assert "X_sctag_umap" not in clustered.obsm


def test_keywords_are_those_of_scanpy(clustered):
    ax = sctag.pl.embedding(clustered, "pca", color="group", title="mine", size=30, legend_loc="on data", show=False)
    assert ax.get_title() == "mine"
    by_gene = sctag.pl.embedding(clustered, "pca", color="x3", cmap="magma", vmax=4, show=False)
    assert by_gene.collections[0].get_cmap().name == "magma"
    _, mine = plt.subplots()
    assert sctag.pl.embedding(clustered, "pca", ax=mine, show=False) is mine


def test_return_types_are_those_of_scanpy(clustered):
    assert isinstance(sctag.pl.embedding(clustered, "pca", show=False), Axes)
    several = sctag.pl.embedding(clustered, "pca", color=["sctag", "group"], show=False)
    assert [ax.get_title() for ax in several] == ["sctag", "group"]
    assert isinstance(sctag.pl.embedding(clustered, "pca", return_fig=True), Figure)
    assert sctag.pl.embedding(clustered, "pca", show=True) is None


def test_confidence_can_be_shown(clustered):
    ax = sctag.pl.embedding(clustered, "pca", color="sctag_confidence", show=False)
    assert ax.get_title() == "sctag_confidence"


def test_rerun_gets_a_new_umap(clustered, short):
    sctag.pl.embedding(clustered, show=False)
    before = clustered.obsm["X_sctag_umap"]
    sctag.tl.sctag(clustered, 2, random_state=5, **short)
    sctag.pl.embedding(clustered, show=False)
    assert np.abs(before - clustered.obsm["X_sctag_umap"]).max() > 1e-3
    assert len(clustered.uns["sctag_colors"]) == 2


@pytest.mark.filterwarnings("ignore:Spectral initialisation failed")  # umap, on a handful of cells
@pytest.mark.filterwarnings("ignore:k >= N.*:RuntimeWarning:scipy")  # scipy's eigsh, called by umap on these few
def test_few_cells(blobs, short):
    few = blobs[:8].copy()
    sctag.pp.build_graph(few, 4)
    sctag.tl.sctag(few, 2, **short)
    sctag.pl.embedding(few, show=False)
    assert few.obsm["X_sctag_umap"].shape == (8, 2)
    assert np.isfinite(few.obsm["X_sctag_umap"]).all()


def test_missing_result(graphed, unchanged):
    with unchanged(graphed), pytest.raises(KeyError, match=r"no scTAG result 'sctag'.*Run `sctag\.tl\.sctag"):
        sctag.pl.embedding(graphed)


def test_missing_key(clustered, unchanged):
    with unchanged(clustered), pytest.raises(KeyError, match=r"no scTAG result 'none'.*There are \['sctag'\].*`key=`"):
        sctag.pl.embedding(clustered, key="none")


def test_graph_is_no_result(clustered, unchanged):
    with unchanged(clustered), pytest.raises(KeyError, match="no scTAG result"):
        sctag.pl.embedding(clustered, key="sctag_neighbors")


def test_unknown_basis(clustered, unchanged):
    with unchanged(clustered), pytest.raises(KeyError, match="none"):
        sctag.pl.embedding(clustered, "none", show=False)
