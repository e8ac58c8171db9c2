"""The published presets at the AnnData edge; their numerics are tested in tests/published."""

import numpy as np
import pytest

import sctag_tools as sctag

OPTIONS = {"n_top_genes": 100, "pretrain_epochs": 3, "cluster_epochs": 9, "progress_bar": False}


@pytest.fixture(scope="module")
def cells(_blobs_once):
    adata = _blobs_once.copy()
    sctag.pp.recipe_published(adata, n_top_genes=100)
    sctag.pp.build_graph(adata, use_rep="X_pca_published")
    return adata


def test_presets_write_what_the_default_writes_but_no_model(cells, own_random_states):
    latents = []
    for preset in ("reference", "paper"):
        with own_random_states():
            adata = sctag.tl.sctag(cells, 4, preset=preset, copy=True, **OPTIONS)
        latents.append(adata.obsm["X_sctag"])
        assert latents[-1].shape == (150, 15)
        assert latents[-1].dtype == adata.obs["sctag_confidence"].dtype == np.float32
        assert adata.obsm["sctag_proba"].shape == (150, adata.obs["sctag"].cat.categories.size)
        assert len(adata.uns["sctag"]["history"]["loss"]) == 12
        params = adata.uns["sctag"]["params"]
        expected = {"preset": preset, "n_genes": 100, "counts": "X", "random_state": 0}
        assert expected.items() <= params.items()
        assert "n_hops" not in params
        with pytest.raises(KeyError, match=r"made without its model \(a published preset"):
            sctag.ScTAG.from_anndata(adata)
    assert not np.allclose(*latents)


def test_the_recipe_marks_its_genes_and_refuses_empty_cells(cells, unchanged):
    assert cells.var["highly_variable_published"].sum() == 100
    assert cells.obsm["X_pca_published"].dtype == np.float32
    adata = cells.copy()
    adata.X = adata.X.toarray()
    adata.X[0] = 0
    with unchanged(adata), pytest.raises(ValueError, match="1 cells have no counts"):
        sctag.pp.recipe_published(adata)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"n_clusters": None}, "cannot choose the number of clusters"),
        ({"n_hops": 2}, "fixes the model"),
        ({"mask_var": None}, "chooses its genes itself"),
        ({"n_top_genes": 1}, "n_top_genes must be at least 2"),
        ({"batch_key": "donor"}, "knows no batches"),
        ({"devices": 2}, "in one process and in float32"),
        ({"precision": "bf16-mixed"}, "in one process and in float32"),
        ({"save": "model"}, r"makes no model.*leave out `save`"),
    ],
)
def test_what_a_preset_cannot_do_is_refused(cells, unchanged, tmp_path, monkeypatch, options, match):
    monkeypatch.chdir(tmp_path)
    with unchanged(cells), pytest.raises(ValueError, match=match):
        sctag.tl.sctag(cells, **{"n_clusters": 4, "preset": "paper", **OPTIONS, **options})
    assert not list(tmp_path.iterdir())
