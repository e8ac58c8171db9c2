"""``sctag.pl.embedding``: scanpy's plot, by default of the UMAP of the latent."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import sctag_tools as sctag


def _check_points(ax: Axes, expected: np.ndarray) -> None:
    drawn = np.asarray(ax.collections[0].get_offsets())
    np.testing.assert_allclose(np.sort(drawn, axis=0), np.sort(expected[:, :2], axis=0), rtol=1e-5)


@pytest.fixture
def twice(clustered: AnnData) -> AnnData:
    """``clustered`` with a second result, named ``"other"``."""
    clustered.uns["other"], clustered.obsm["X_other"] = clustered.uns["sctag"], clustered.obsm["X_sctag"][:, :3]
    clustered.obs["other"] = clustered.obs["sctag"]
    return clustered


@pytest.mark.parametrize("options", [{}, {"key": "other"}])
def test_a_missing_umap_is_computed_by_tl_umap(twice, same, options):
    key = options.get("key", "sctag")
    expected = sctag.tl.umap(twice, copy=True, **options)
    ax = sctag.pl.embedding(twice, show=False, **options)
    _check_points(ax, twice.obsm[f"X_{key}_umap"])
    assert ax.get_title() == key
    assert ax.get_xlabel() == f"{key}_umap1"
    assert len(twice.uns.pop(f"{key}_colors")) == 3
    same(expected, twice)


def test_an_existing_umap_is_drawn_as_it_is(twice, unchanged):
    twice.uns["other_colors"] = ["red", "green", "blue"]
    twice.obsm["X_other_umap"] = np.arange(300, dtype=np.float32).reshape(150, 2)
    with unchanged(twice):
        ax = sctag.pl.embedding(twice, key="other", show=False)
    _check_points(ax, twice.obsm["X_other_umap"])


@pytest.mark.parametrize("basis", ["pca", "X_pca", "sctag", "X_sctag"])
def test_basis_is_passed_through(clustered, basis):
    ax = sctag.pl.embedding(clustered, basis, show=False)
    _check_points(ax, clustered.obsm[f"X_{basis.removeprefix('X_')}"])
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
    several = sctag.pl.embedding(clustered, "pca", color=["sctag", "sctag_confidence"], show=False)
    assert [ax.get_title() for ax in several] == ["sctag", "sctag_confidence"]
    assert isinstance(sctag.pl.embedding(clustered, "pca", return_fig=True), Figure)
    assert sctag.pl.embedding(clustered, "pca", show=True) is None


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"key": "none"}, r"no scTAG result 'none'.*There are \['sctag'\].*`key=`"),
        ({"key": "none", "basis": "pca"}, "no scTAG result 'none'"),
        ({"key": "none", "color": "group"}, "no scTAG result 'none'"),
        ({"key": "sctag_neighbors"}, "no scTAG result"),
        ({"basis": "none"}, "none"),
    ],
)
def test_what_is_not_there(clustered, unchanged, options, match):
    with unchanged(clustered), pytest.raises(KeyError, match=match):
        sctag.pl.embedding(clustered, show=False, **options)


def test_no_result_is_needed_for_a_basis_and_a_color(graphed):
    assert sctag.pl.embedding(graphed, "pca", color="group", show=False).get_title() == "group"
    with pytest.raises(KeyError, match=r"no scTAG result 'sctag'.*Run `sctag\.tl\.sctag"):
        sctag.pl.embedding(graphed)


@pytest.fixture
def mapped(blobs, short):
    """A reference with a UMAP, and mapped cells."""
    reference, query = blobs[:110].copy(), blobs[110:].copy()
    sctag.pp.build_graph(reference)
    sctag.tl.sctag(reference, 3, **short)
    sctag.tl.map_query(query, reference)
    reference.obsm["X_sctag_umap"] = np.random.default_rng(0).normal(size=(110, 2)).astype(np.float32)
    return reference, query


def test_mapped_cells_are_drawn_on_their_gray_reference(mapped, unchanged):
    reference, query = mapped
    query.obsm["X_sctag_umap"] = np.zeros((40, 2), dtype=np.float32)  # of these cells alone
    with unchanged(reference):
        ax = sctag.pl.embedding(query, reference=reference, show=False)
    expected = sctag.tl.umap(query, reference=reference, copy=True).obsm["X_sctag_umap"]
    colored, *_, gray = ax.collections
    np.testing.assert_allclose(np.sort(colored.get_offsets(), axis=0), np.sort(expected, axis=0), rtol=1e-5)
    np.testing.assert_allclose(gray.get_offsets(), reference.obsm["X_sctag_umap"], rtol=1e-5)
    assert gray.get_zorder() < colored.get_zorder()
    assert gray.get_facecolor()[0, :3].tolist() == [0.8, 0.8, 0.8]
    left, right = ax.get_xlim()
    assert left < reference.obsm["X_sctag_umap"][:, 0].min() < reference.obsm["X_sctag_umap"][:, 0].max() < right


def test_on_a_reference_it_returns_what_scanpys_plots_return(mapped, monkeypatch):
    reference, query = mapped
    axes = sctag.pl.embedding(query, reference=reference, color=["sctag", "group", "x3"], show=False)
    assert [len(ax.collections[-1].get_offsets()) for ax in axes] == [110] * 3
    assert isinstance(sctag.pl.embedding(query, reference=reference, return_fig=True), Figure)
    _, mine = plt.subplots()
    assert sctag.pl.embedding(query, reference=reference, ax=mine, show=False) is mine
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(1))
    assert sctag.pl.embedding(query, reference=reference, show=True) is None
    assert shown == [1]


def test_a_basis_of_the_users_and_a_reference_do_not_go_together(mapped, unchanged):
    reference, query = mapped
    with unchanged(query), pytest.raises(ValueError, match="basis and reference"):
        sctag.pl.embedding(query, "pca", reference=reference)
