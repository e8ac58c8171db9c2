"""``batch_key``: the graph draws on every batch, and the latent holds less of them."""

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse

import sctag_tools as sctag
from sctag_tools.train.preprocessing import GeneScaler, log_expression


@pytest.fixture
def batched():
    """Counts of 3 groups in 2 batches; each gene is up to twenty times higher in one batch, more than groups differ."""
    rng = np.random.default_rng(0)
    group, batch = np.repeat([0, 1, 2], 80), np.tile([0, 1], 120)
    rates = rng.gamma(2.0, 1.0, (3, 150))[group] * np.exp(rng.normal(0, 1.5, (2, 150)))[batch]
    adata = AnnData(rng.poisson(rates).astype(np.float32))
    adata.obs["group"], adata.obs["donor"] = group.astype(str), np.array(["a", "b"])[batch]
    return adata


def test_expression_is_centered_within_batches(batched):
    totals, batch_index = batched.X.sum(axis=1), np.tile([0, 1], 120)
    x = log_expression(sparse.csr_matrix(batched.X), totals)
    one = GeneScaler.fit(x).transform(x.copy())
    x = GeneScaler.fit(x, batch_index).transform(x, batch_index)
    for batch in (0, 1):
        np.testing.assert_allclose(x[batch_index == batch].mean(axis=0), 0, atol=0.05)  # but for the clipping
    assert np.abs(one[::2].mean(axis=0)).max() > 0.5


@pytest.mark.parametrize("likelihood", ["multinomial", pytest.param("zinb", marks=pytest.mark.slow)])
def test_batches_are_left_out_of_the_clusters(batched, likelihood):
    options = {"likelihood": likelihood, "n_networks": 1, "pretrain_epochs": 60, "progress_bar": False}
    sctag.pp.build_graph(batched)
    sctag.tl.sctag(batched, 3, key_added="without", **options)
    sctag.pp.build_graph(batched, batch_key="donor")
    sctag.tl.sctag(batched, 3, batch_key="donor", key_added="within", **options)
    groups = {key: sctag.metrics.ari(batched.obs["group"], batched.obs[key]) for key in ("without", "within")}
    assert groups["without"] < 0.6
    assert groups["within"] > 0.9
    assert batched.uns["within"]["params"]["batch_key"] == "donor"
    assert batched.uns["sctag_neighbors"]["params"]["batch_key"] == "donor"


def test_one_batch_is_none_and_a_small_one_is_named(batched):
    batched.obs["here"], batched.obs["lab"] = "here", np.where(np.arange(240) < 4, "few", "many")
    sctag.pp.build_graph(batched)
    sctag.pp.build_graph(batched, batch_key="here", key_added="of_one")
    assert (batched.obsp["of_one_distances"] != batched.obsp["sctag_neighbors_distances"]).nnz == 0
    assert sctag.ScTAG(batched, batch_key="here", neighbors_key="of_one")._inputs.batch_index is None
    sctag.pp.build_graph(batched, batch_key="lab")
    with pytest.warns(UserWarning, match=r"1 batches have fewer than 10 cells \('few' has 4\)") as caught:
        sctag.ScTAG(batched, batch_key="lab")
    assert [warning.filename for warning in caught] == [__file__]


def test_a_graph_and_a_run_that_differ_are_told(batched):
    sctag.pp.build_graph(batched)
    sctag.pp.build_graph(batched, batch_key="donor", key_added="within")
    sctag.pp.build_graph(batched, key_added="of_another_tool")
    batched.obsm["X_corrected"] = batched.obsm["X_pca"]
    with pytest.warns(UserWarning, match=r"built with no batch_key, and this run has batch_key='donor'"):
        sctag.ScTAG(batched, batch_key="donor")
    with pytest.warns(UserWarning, match=r"built with batch_key='donor', and this run has no batch_key"):
        sctag.ScTAG(batched, neighbors_key="within")
    # what may be corrected without saying so is left alone: warnings are errors here
    sctag.ScTAG(batched, batch_key="donor", neighbors_key="of_another_tool")
    sctag.pp.build_graph(batched, use_rep="X_corrected")
    sctag.ScTAG(batched, batch_key="donor")


def test_what_is_refused(batched, unchanged):
    sctag.pp.build_graph(batched)
    batched.obs["gaps"] = batched.obs["donor"].where(batched.obs["donor"] == "a")
    batched.obs["each"] = batched.obs_names
    with unchanged(batched):
        for function in (sctag.pp.build_graph, sctag.tl.sctag):
            with pytest.raises(KeyError, match=r"batch_key='none' is no column of adata\.obs"):
                function(batched, batch_key="none")
            with pytest.raises(ValueError, match=r"adata\.obs\['gaps'\] lacks the batch of 120 cells"):
                function(batched, batch_key="gaps")
            with pytest.raises(ValueError, match="batch_key='each': every cell has a batch of its own"):
                function(batched, batch_key="each")
        with pytest.raises(ValueError, match="preset='paper' knows no batches"):
            sctag.tl.sctag(batched, 3, preset="paper", batch_key="donor")
