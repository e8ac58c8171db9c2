"""The published presets at the AnnData edge; their numerics are tested in tests/core/test_published.py."""

import numpy as np
import pytest
from typer.testing import CliRunner

import sctag_tools as sctag
from sctag_tools.cli import app

SHORT = {"pretrain_epochs": 3, "cluster_epochs": 9, "progress_bar": False}


@pytest.fixture(scope="module")
def cells():
    adata = sctag.datasets.pbmc68k_reduced()[:150].copy()
    sctag.pp.recipe_published(adata, n_top_genes=100)
    sctag.pp.build_graph(adata, use_rep="X_pca_published")
    return adata


@pytest.mark.parametrize("preset", ["reference", "paper"])
def test_presets_write_what_the_default_writes(cells, preset):
    adata = cells.copy()
    sctag.tl.sctag(adata, 4, preset=preset, n_top_genes=100, **SHORT)
    assert adata.obsm["X_sctag"].shape == (150, 15)
    assert adata.obsm["sctag_proba"].shape == (150, adata.obs["sctag"].cat.categories.size)
    assert len(adata.uns["sctag"]["history"]["loss"]) == 12
    params = adata.uns["sctag"]["params"]
    assert params["preset"] == preset
    assert params["n_genes"] == 100
    assert "n_hops" not in params


def test_the_presets_differ(cells):
    latents = [
        sctag.tl.sctag(cells, 4, preset=preset, n_top_genes=100, copy=True, **SHORT).obsm["X_sctag"]
        for preset in ("reference", "paper")
    ]
    assert not np.allclose(*latents)


def test_recipe_marks_its_genes(cells):
    assert cells.var["highly_variable_published"].sum() == 100
    assert cells.obsm["X_pca_published"].dtype == np.float32


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"n_clusters": None}, "cannot choose the number of clusters"),
        ({"n_hops": 2}, "fixes the model"),
        ({"mask_var": None}, "chooses its genes itself"),
        ({"n_top_genes": 1}, "n_top_genes must be at least 2"),
        ({"preset": "published"}, "preset must be one of"),
        ({"batch_key": "donor"}, "knows no batches"),
        ({"devices": 2}, "in one process and in float32"),
        ({"precision": "bf16-mixed"}, "in one process and in float32"),
    ],
)
def test_what_a_preset_cannot_do_is_refused(cells, options, match):
    with pytest.raises(ValueError, match=match):
        sctag.tl.sctag(cells, **{"n_clusters": 4, "preset": "reference", **SHORT, **options})
    assert "sctag" not in cells.uns


def test_recipe_refuses_empty_cells(cells):
    adata = cells.copy()
    adata.X = adata.X.toarray()
    adata.X[0] = 0
    with pytest.raises(ValueError, match="1 cells have no counts"):
        sctag.pp.recipe_published(adata)


@pytest.mark.filterwarnings("ignore:.*set_bad.*")  # matplotlib, through scanpy's colour maps
def test_command_takes_the_preset(tmp_path, monkeypatch, cells):
    monkeypatch.chdir(tmp_path)
    cells.write_h5ad("cells.h5ad")
    command = ["run", "cells.h5ad", "--preset", "reference", "--highly_genes", "100", "--n-clusters", "4", "--quiet"]
    result = CliRunner().invoke(app, [*command, "--pretrain_epochs", "2", "--maxiter", "9"])
    assert result.exit_code == 0, result.output
    written = sctag.read("cells_sctag.h5ad").uns["sctag"]["params"]
    assert (written["preset"], written["n_genes"]) == ("reference", 100)
