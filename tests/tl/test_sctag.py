"""``sctag.tl.sctag``: what it writes, what it reads, what it refuses, and what it leaves alone."""

from __future__ import annotations

import io
import sys

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from scipy import sparse

import sctag_tools as sctag
from sctag_tools._core import train

SLOTS = {"obs": ["{}", "{}_confidence"], "obsm": ["X_{}", "{}_proba"], "uns": ["{}"]}


def _log(adata: AnnData) -> None:
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)


def _graph_only(x: np.ndarray, n_neighbors: int = 6) -> AnnData:
    """Counts with a graph that does not come from them."""
    adata = AnnData(np.asarray(x, dtype=np.float32))
    adata.obsm["X_rep"] = np.random.default_rng(2).normal(size=(len(x), 4)).astype(np.float32)
    sctag.pp.build_graph(adata, n_neighbors, use_rep="X_rep")
    return adata


def _check_result(adata: AnnData, n_clusters: int | None = None, key: str = "sctag", n_latent: int = 15) -> None:
    """Everything the docstring promises of one result."""
    n = adata.n_obs
    latent, proba = adata.obsm[f"X_{key}"], adata.obsm[f"{key}_proba"]
    labels, confidence = adata.obs[key], adata.obs[f"{key}_confidence"]
    assert type(latent) is np.ndarray
    assert latent.dtype == np.float32
    assert latent.shape == (n, n_latent)
    assert latent.flags.c_contiguous
    assert np.isfinite(latent).all()

    assert isinstance(labels.dtype, pd.CategoricalDtype)
    found = list(labels.cat.categories)
    assert found == [str(i) for i in range(len(found))]
    assert not labels.isna().any()
    sizes = labels.value_counts()[found].to_numpy()
    assert (sizes > 0).all(), "a declared category is empty"
    assert (np.diff(sizes) <= 0).all(), "categories are not in order of size"
    if n_clusters is not None:
        assert len(found) == n_clusters

    assert type(proba) is np.ndarray
    assert proba.dtype == np.float32
    assert proba.shape == (n, len(found))
    assert ((proba >= 0) & (proba <= 1)).all()
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(labels.cat.codes, proba.argmax(axis=1))
    assert confidence.dtype == np.float32
    assert confidence.between(0, 1).all()

    record = adata.uns[key]
    assert {"params", "history", "stop", "seconds", "device", "versions"} <= set(record)
    assert record["params"]["n_clusters"] == len(found)
    assert set(record["history"]) == {"loss", "multinomial", "graph", "cluster"}
    lengths = {len(curve) for curve in record["history"].values()}
    assert len(lengths) == 1
    assert all(curve.dtype == np.float64 for curve in record["history"].values())
    assert np.isfinite(record["history"]["loss"]).all()
    assert set(record["stop"]) == {"pretraining", "clustering"}
    assert all(seconds >= 0 for seconds in record["seconds"].values())
    assert {"sctag-tools", "torch", "torch-geometric"} <= set(record["versions"])


# --- what is written ---


def test_writes_what_it_promises(clustered, graphed, same):
    _check_result(clustered, 3)
    params = clustered.uns["sctag"]["params"]
    expected = {
        "n_clusters": 3, "n_clusters_given": True, "counts": "X", "mask_var": "all", "n_genes": 120,
        "neighbors_key": "sctag_neighbors", "random_state": 0, "accelerator": "auto", "n_hops": 1, "n_networks": 3,
        "n_hidden": 128, "n_latent": 15, "pretrain_epochs": 3, "cluster_epochs": 2,
    }  # fmt: skip
    assert expected.items() <= params.items()
    assert clustered.uns["sctag"]["device"].split(":")[0] in ("cpu", "cuda")
    assert len(clustered.uns["sctag"]["history"]["loss"]) == 5  # one step an epoch at 150 cells
    assert np.isnan(clustered.uns["sctag"]["history"]["cluster"]).tolist() == [True] * 3 + [False] * 2
    assert "n_clusters_curve" not in clustered.uns["sctag"]
    # and nothing else
    for slot, names in SLOTS.items():
        for name in names:
            part = getattr(clustered, slot)
            del part[name.format("sctag")]
    same(graphed, clustered)


def test_number_of_clusters_is_chosen(graphed, short):
    sctag.tl.sctag(graphed, **(short | {"pretrain_epochs": 40}))
    _check_result(graphed)
    curve = graphed.uns["sctag"]["n_clusters_curve"]
    assert not graphed.uns["sctag"]["params"]["n_clusters_given"]
    np.testing.assert_array_equal(curve["n_clusters"], np.arange(2, len(curve["n_clusters"]) + 2))
    assert graphed.uns["sctag"]["params"]["n_clusters"] == 1 + curve["supported"].sum()


def test_finds_the_groups(graphed):
    sctag.tl.sctag(graphed, 3, pretrain_epochs=60, cluster_epochs=25)
    assert sctag.metrics.ari(graphed.obs["group"], graphed.obs["sctag"]) > 0.9
    history = graphed.uns["sctag"]["history"]
    assert history["multinomial"][-10:].mean() < history["multinomial"][:10].mean()


def test_labels_are_never_an_input(graphed, short):
    """The same result with the labels dropped, shuffled, or with other names."""
    without = graphed.copy()
    del without.obs["group"]
    without.obs_names = [f"cell{i}" for i in range(150)]
    graphed.obs["cell_type"] = graphed.obs["cell_type1"] = graphed.obs["group"]
    for adata in (graphed, without):
        sctag.tl.sctag(adata, **short)
    np.testing.assert_array_equal(graphed.obsm["X_sctag"], without.obsm["X_sctag"])
    np.testing.assert_array_equal(graphed.obs["sctag"], without.obs["sctag"])


def test_every_format_gives_the_same(graphed, as_format, clustered, unchanged, short):
    graphed.X = as_format(graphed.X)
    kept = type(graphed.X), graphed.X.dtype
    before = graphed.X.copy()
    sctag.tl.sctag(graphed, 3, **short)
    assert (type(graphed.X), graphed.X.dtype) == kept
    assert abs(graphed.X - before).sum() == 0
    np.testing.assert_array_equal(graphed.obsm["X_sctag"], clustered.obsm["X_sctag"])
    np.testing.assert_array_equal(graphed.obs["sctag"], clustered.obs["sctag"])


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
# anndata 0.12 writes zarr's format 2 until told otherwise; zarr 3 has no specification for consolidated metadata
@pytest.mark.filterwarnings("ignore:Writing zarr v2 data will no longer be the default:UserWarning")
@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")
def test_round_trip(graphed, short, tmp_path, suffix):
    sctag.tl.sctag(graphed, **short)
    path = tmp_path / f"result.{suffix}"
    getattr(graphed, f"write_{suffix}")(path)
    back = getattr(anndata, f"read_{suffix}")(path)
    _check_result(back)
    pd.testing.assert_frame_equal(graphed.obs, back.obs)
    for name in ("X_sctag", "sctag_proba"):
        np.testing.assert_array_equal(graphed.obsm[name], back.obsm[name])
    assert back.uns["sctag"]["params"] == graphed.uns["sctag"]["params"]
    for part in ("history", "n_clusters_curve"):
        for name, curve in graphed.uns["sctag"][part].items():
            np.testing.assert_array_equal(back.uns["sctag"][part][name], curve)
    sctag.tl.sctag(back, key_added="again", **short)  # and the graph that was read back serves again
    np.testing.assert_array_equal(back.obsm["X_again"], graphed.obsm["X_sctag"])


# --- names, reruns, copies, views ---


def test_two_runs_live_side_by_side(clustered, short, same):
    clustered.obsm["X_sctag_umap"] = np.ones((150, 2))
    clustered.uns["sctag_colors"] = ["red", "green", "blue"]
    before = clustered.copy()
    sctag.tl.sctag(clustered, 2, key_added="other", random_state=1, **short)
    _check_result(clustered, 2, "other")
    for slot, names in SLOTS.items():
        for name in names:
            part = getattr(clustered, slot)
            del part[name.format("other")]
    same(before, clustered)


def test_a_seed_that_is_drawn_is_recorded(graphed, short):
    first, second = (sctag.tl.sctag(graphed, 3, random_state=None, copy=True, **short) for _ in range(2))
    seed = first.uns["sctag"]["params"]["random_state"]
    assert seed != second.uns["sctag"]["params"]["random_state"]
    again = sctag.tl.sctag(graphed, 3, random_state=seed, copy=True, **short)
    np.testing.assert_array_equal(again.obsm["X_sctag"], first.obsm["X_sctag"])
    assert np.abs(second.obsm["X_sctag"] - first.obsm["X_sctag"]).max() > 1e-3


def test_colours_of_as_many_clusters_are_kept(clustered, short):
    clustered.uns["sctag_colors"] = ["red", "green", "blue"]
    sctag.tl.sctag(clustered, 3, random_state=3, **short)
    assert list(clustered.uns["sctag_colors"]) == ["red", "green", "blue"]


def test_results_do_not_share_memory_with_the_model(graphed, short):
    sctag.tl.sctag(graphed, 3, **short)
    before = sctag.ScTAG.from_anndata(graphed).get_latent_representation().copy()
    for name in ("X_sctag", "sctag_proba"):
        graphed.obsm[name][:] = 0
    reference = sctag.ScTAG.from_anndata(graphed).trained.fitted.reference
    np.testing.assert_array_equal(sctag.ScTAG.from_anndata(graphed).get_latent_representation(), before)
    np.testing.assert_allclose(reference.proba.sum(axis=1), 1, rtol=1e-5)


def test_a_confidence_of_the_users_is_not_replaced(graphed, short, unchanged):
    graphed.obs["sctag_confidence"] = 0.5
    with unchanged(graphed), pytest.raises(ValueError, match="holds something else under 'sctag'"):
        sctag.tl.sctag(graphed, 3, **short)


def test_a_graph_that_was_cut_apart_is_told(graphed, short):
    with pytest.warns(
        UserWarning, match=r"\d+ of 15 cells have no neighbour in the graph 'sctag_neighbors'; if it was"
    ):
        sctag.tl.sctag(graphed[::10].copy(), 2, **short)


def test_rerun_replaces_its_own_slots_alone(clustered, short, same):
    sctag.tl.sctag(clustered, 2, key_added="other", **short)
    for key in ("sctag", "other"):
        clustered.obsm[f"X_{key}_umap"] = np.ones((150, 2))
        clustered.uns[f"{key}_colors"] = ["red", "green", "blue"]
    clustered.obsm["X_umap"] = np.zeros((150, 2))
    before = clustered.copy()
    sctag.tl.sctag(clustered, 4, random_state=3, n_latent=7, **short)
    _check_result(clustered, 4, n_latent=7)
    assert "X_sctag_umap" not in clustered.obsm
    assert "sctag_colors" not in clustered.uns
    for adata in (before, clustered):
        for slot, names in SLOTS.items():
            for name in names:
                part = getattr(adata, slot)
                del part[name.format("sctag")]
    del before.obsm["X_sctag_umap"], before.uns["sctag_colors"]
    # columns of obs keep their place; entries of the others are compared by name
    assert list(before.obs) == list(clustered.obs)
    assert set(before.uns) == set(clustered.uns)
    assert set(before.obsm) == set(clustered.obsm)
    same(before, clustered)


def test_rerun_forgets_the_curve_of_a_choice(graphed, short):
    sctag.tl.sctag(graphed, **short)
    assert "n_clusters_curve" in graphed.uns["sctag"]
    sctag.tl.sctag(graphed, 2, **short)
    assert "n_clusters_curve" not in graphed.uns["sctag"]


def test_copy_leaves_the_input(graphed, clustered, unchanged, short):
    with unchanged(graphed):
        changed = sctag.tl.sctag(graphed, 3, copy=True, **short)
    _check_result(changed, 3)
    np.testing.assert_array_equal(changed.obsm["X_sctag"], clustered.obsm["X_sctag"])
    assert sctag.tl.sctag(graphed, 3, **short) is None


def test_view_becomes_actual_with_one_warning(graphed, unchanged, short):
    view = graphed[::2]
    with unchanged(graphed), pytest.warns(UserWarning, match="view") as caught:
        sctag.tl.sctag(view, 2, **short)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert not view.is_view
    _check_result(view, 2)


def test_copy_of_a_view_is_silent(graphed, short):
    view = graphed[::2]
    changed = sctag.tl.sctag(view, 2, copy=True, **short)
    assert view.is_view
    _check_result(changed, 2)


def test_a_view_that_fails_stays_a_view(graphed, unchanged):
    view = graphed[::2]
    with unchanged(view), pytest.raises(ValueError, match="n_clusters"):
        sctag.tl.sctag(view, 76)


# --- randomness ---


def test_same_seed_same_result(graphed, short, same):
    first, second = (sctag.tl.sctag(graphed, copy=True, random_state=11, **short) for _ in range(2))
    for adata in (first, second):
        del adata.uns["sctag"]["seconds"]
    same(first, second)


def test_other_seed_other_latent(graphed, clustered, short):
    sctag.tl.sctag(graphed, 3, random_state=1, **short)
    assert np.abs(graphed.obsm["X_sctag"] - clustered.obsm["X_sctag"]).max() > 1e-3


def test_run_on_its_own_result_gives_the_same(clustered, short):
    before = clustered.copy()
    sctag.tl.sctag(clustered, 3, **short)
    np.testing.assert_array_equal(before.obsm["X_sctag"], clustered.obsm["X_sctag"])
    np.testing.assert_array_equal(before.obs["sctag"], clustered.obs["sctag"])


def test_the_users_random_states_neither_matter_nor_move(graphed, clustered, short):
    import random

    import torch

    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    sctag.tl.sctag(graphed, 3, **short)
    assert random.getstate() == before[0]
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])
    np.testing.assert_array_equal(graphed.obsm["X_sctag"], clustered.obsm["X_sctag"])


# --- which counts ---


def test_counts_in_x(graphed, short):
    graphed.layers["counts"] = graphed.X * 2
    sctag.tl.sctag(graphed, 3, **short)
    assert graphed.uns["sctag"]["params"]["counts"] == "X"


def test_counts_in_the_layer_when_x_is_logged(graphed, clustered, short):
    graphed.layers["counts"] = graphed.X.copy()
    _log(graphed)
    log = io.StringIO()
    sc.settings.logfile, sc.settings.verbosity = log, 2
    sctag.tl.sctag(graphed, 3, **short)
    assert "adata.layers['counts']" in log.getvalue()
    assert graphed.uns["sctag"]["params"]["counts"] == "counts"
    np.testing.assert_array_equal(graphed.obsm["X_sctag"], clustered.obsm["X_sctag"])


def test_given_layer_comes_first(graphed, clustered, short):
    graphed.layers["raw"] = graphed.X.copy()
    graphed.layers["counts"] = graphed.X * 3
    graphed.X = graphed.X * 2
    sctag.tl.sctag(graphed, 3, layer="raw", **short)
    assert graphed.uns["sctag"]["params"]["counts"] == "raw"
    np.testing.assert_array_equal(graphed.obsm["X_sctag"], clustered.obsm["X_sctag"])


def test_no_x_at_all(graphed, clustered, short):
    graphed.layers["counts"] = graphed.X.copy()
    graphed.X = None
    sctag.tl.sctag(graphed, 3, **short)
    np.testing.assert_array_equal(graphed.obsm["X_sctag"], clustered.obsm["X_sctag"])


def test_integers_need_no_unlogged_uns(graphed, short):
    """``uns["log1p"]`` says nothing about an X that holds counts again."""
    graphed.uns["log1p"] = {"base": None}
    sctag.tl.sctag(graphed, 3, **short)
    _check_result(graphed, 3)


@pytest.mark.parametrize("has_uns", [True, False])
def test_logged_x_is_refused(graphed, unchanged, has_uns):
    _log(graphed)
    if not has_uns:
        del graphed.uns["log1p"]
    match = r"adata\.X looks log-normalised.*adata\.layers\['counts'\] = adata\.X\.copy\(\).*layer="
    with unchanged(graphed), pytest.raises(ValueError, match=match):
        sctag.tl.sctag(graphed, 3)


def test_counts_in_raw_are_pointed_at(graphed, unchanged, short):
    graphed.raw = graphed.copy()
    _log(graphed)
    match = r"adata\.X looks log-normalised.*adata\.raw holds counts .*`adata = adata\.raw\.to_adata\(\)`.*check_values"
    with unchanged(graphed), pytest.raises(ValueError, match=match):
        sctag.tl.sctag(graphed, 3)
    graphed = graphed.raw.to_adata()
    sctag.tl.sctag(graphed, 3, **short)
    _check_result(graphed, 3)


def test_counts_in_raw_are_pointed_at_where_x_is_scaled(graphed):
    graphed.raw = graphed.copy()
    graphed.X = graphed.X.toarray() - graphed.X.mean()
    match = r"adata\.X holds negative values.*`adata = adata\.raw\.to_adata\(\)` takes them\.$"
    with pytest.raises(ValueError, match=match):
        sctag.tl.sctag(graphed, 3)


def test_a_raw_without_counts_is_not_pointed_at(graphed):
    _log(graphed)
    graphed.raw = graphed.copy()
    with pytest.raises(ValueError, match=r"looks log-normalised, raw counts are needed\. Keep the raw counts"):
        sctag.tl.sctag(graphed, 3)


def test_logged_x_of_large_values_is_refused(graphed, unchanged):
    """``uns["log1p"]`` alone says it, whatever the values."""
    _log(graphed)
    graphed.X = graphed.X * 10
    with unchanged(graphed), pytest.raises(ValueError, match="looks log-normalised"):
        sctag.tl.sctag(graphed, 3)


def test_logged_layers_are_refused(graphed, unchanged):
    _log(graphed)
    graphed.layers["counts"] = graphed.X.copy()
    graphed.layers["mine"] = graphed.X.copy()
    with unchanged(graphed), pytest.raises(ValueError, match=r"adata\.layers\['counts'\] looks log-normalised"):
        sctag.tl.sctag(graphed, 3)
    with unchanged(graphed), pytest.raises(ValueError, match=r"adata\.layers\['mine'\] looks log-normalised"):
        sctag.tl.sctag(graphed, 3, layer="mine")


def test_corrected_counts_warn_and_run(graphed, short):
    graphed.X.data = graphed.X.data * 0.93 + 0.01
    assert graphed.X.max() > 20
    with pytest.warns(UserWarning, match=r"adata\.X holds non-integer values.*SoupX") as caught:
        sctag.tl.sctag(graphed, 3, **short)
    assert [w.filename for w in caught] == [__file__], "the warning points elsewhere than at the user's line"
    _check_result(graphed, 3)


def test_corrected_counts_without_check_are_silent(graphed, short):
    graphed.X.data = graphed.X.data * 0.93
    sctag.tl.sctag(graphed, 3, check_values=False, **short)
    _check_result(graphed, 3)


def test_logged_data_without_check_run(graphed, short):
    _log(graphed)
    sctag.tl.sctag(graphed, 3, check_values=False, **short)
    _check_result(graphed, 3)


@pytest.mark.parametrize("kind", ["csr", "dense"])
@pytest.mark.parametrize(
    ("value", "match"), [(-1, "negative values"), (np.nan, "NaN or infinite"), (np.inf, "NaN or infinite")]
)
@pytest.mark.parametrize("layer", [None, "mine"])
def test_impossible_counts_are_refused(graphed, unchanged, kind, value, match, layer):
    graphed.X.data[17] = value
    graphed.X = graphed.X.toarray() if kind == "dense" else graphed.X
    where = r"adata\.X"
    if layer:
        graphed.layers["mine"] = graphed.X.copy()
        where = r"adata\.layers\['mine'\]"
    with unchanged(graphed), pytest.raises(ValueError, match=rf"{where} holds {match}.*Keep the raw counts"):
        sctag.tl.sctag(graphed, 3, layer=layer)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_unchecked_nonsense_stops_with_the_step(graphed, unchanged, value):
    graphed.X.data[17] = value
    with unchanged(graphed), pytest.raises(RuntimeError, match=r"non-finite .* at step 1; .*not raw counts"):
        sctag.tl.sctag(graphed, 3, check_values=False)


def test_raw_is_ignored(graphed, clustered, short):
    graphed.raw = graphed[:, :50]
    sctag.tl.sctag(graphed, 3, **short)
    np.testing.assert_array_equal(graphed.obsm["X_sctag"], clustered.obsm["X_sctag"])


def test_size_factors_are_over_all_genes(graphed, short):
    """Counts in genes that are not chosen change the result, since totals change."""
    mask = np.arange(120) < 60
    base = sctag.tl.sctag(graphed, 3, mask_var=mask, copy=True, **short)
    x = graphed.X.toarray()
    x[:40, 119] += 500
    graphed.X = x
    sctag.tl.sctag(graphed, 3, mask_var=mask, **short)
    assert np.abs(base.obsm["X_sctag"] - graphed.obsm["X_sctag"]).max() > 1e-3


# --- which genes ---


def test_mask_var_in_all_its_forms(graphed, short):
    mask = np.arange(120) % 2 == 0
    graphed.var["highly_variable"] = mask
    graphed.var["mine"] = mask
    runs = {
        "highly_variable": {},
        "mine": {"mask_var": "mine"},
        "array": {"mask_var": mask},
    }
    for name, options in runs.items():
        sctag.tl.sctag(graphed, 3, key_added=f"by_{name}", **options, **short)
        assert graphed.uns[f"by_{name}"]["params"]["mask_var"] == name
        assert graphed.uns[f"by_{name}"]["params"]["n_genes"] == 60
        np.testing.assert_array_equal(graphed.obsm[f"X_by_{name}"], graphed.obsm["X_by_highly_variable"])


def test_mask_var_none_takes_all(graphed, clustered, short):
    graphed.var["highly_variable"] = np.arange(120) < 30
    sctag.tl.sctag(graphed, 3, mask_var=None, **short)
    assert graphed.uns["sctag"]["params"]["n_genes"] == 120
    np.testing.assert_array_equal(graphed.obsm["X_sctag"], clustered.obsm["X_sctag"])


@pytest.mark.parametrize(
    ("mask", "match"),
    [
        ("none", r"mask_var='none' is no column of adata\.var"),
        ("numbers", "gene mask 'numbers' must be boolean, got int64"),
        (np.arange(120), "gene mask 'array' must be boolean"),
        (np.ones(119, dtype=bool), r"gene mask has shape \(119,\), but adata has 120 genes"),
        (np.ones((120, 1), dtype=bool), "gene mask has shape"),
        (np.zeros(120, dtype=bool), "gene mask 'array' selects no gene"),
        (5, "gene mask 'array' must be boolean"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_wrong_masks_are_refused(graphed, unchanged, mask, match):
    graphed.var["numbers"] = np.arange(120)
    with unchanged(graphed), pytest.raises(ValueError, match=match):
        sctag.tl.sctag(graphed, 3, mask_var=mask)


def test_many_genes_without_a_mask_warn(short):
    rng = np.random.default_rng(0)
    adata = _graph_only(rng.poisson(0.5, (30, 5001)))
    tiny = {**short, "pretrain_epochs": 1, "cluster_epochs": 1, "n_hidden": 4, "n_hops": 1}
    with pytest.warns(UserWarning, match=r"All 5001 genes.*sc\.pp\.highly_variable_genes\(adata, n_top") as caught:
        sctag.tl.sctag(adata, 2, **tiny)
    assert [w.filename for w in caught] == [__file__], "the warning points elsewhere than at the user's line"
    sctag.tl.sctag(adata, 2, mask_var=None, **tiny)  # asked for: no warning


# --- which graph ---


def test_any_graph_in_scanpys_layout(graphed, short):
    sc.pp.neighbors(graphed, 10)
    sctag.tl.sctag(graphed, 3, neighbors_key="neighbors", **short)
    _check_result(graphed, 3)
    assert graphed.uns["sctag"]["params"]["neighbors_key"] == "neighbors"


def test_equal_graphs_give_equal_results(graphed, clustered, short):
    graphed.uns["mine"] = {"connectivities_key": "my_weights"}
    graphed.obsp["my_weights"] = sparse.csc_array(graphed.obsp["sctag_neighbors_connectivities"].astype(np.float64))
    sctag.tl.sctag(graphed, 3, neighbors_key="mine", **short)
    np.testing.assert_allclose(graphed.obsm["X_sctag"], clustered.obsm["X_sctag"], rtol=1e-3, atol=1e-4)


def test_the_graph_matters(graphed, clustered, short):
    weights = sparse.random(150, 150, 0.1, random_state=0, format="csr")
    graphed.obsp["random"] = weights + weights.T
    graphed.uns["random"] = {"connectivities_key": "random"}
    sctag.tl.sctag(graphed, 3, neighbors_key="random", **short)
    assert np.abs(graphed.obsm["X_sctag"] - clustered.obsm["X_sctag"]).max() > 1e-2


@pytest.mark.filterwarnings("ignore:.* cells have no neighbour in the graph")
def test_directed_graph_and_isolated_cells(graphed, short):
    weights = sparse.random(150, 150, 0.05, random_state=0, format="lil")
    weights[:10] = 0
    weights[:, :10] = 0
    graphed.obsp["odd"] = sparse.csr_matrix(weights)
    graphed.uns["odd"] = {"connectivities_key": "odd"}
    sctag.tl.sctag(graphed, 3, neighbors_key="odd", **short)
    _check_result(graphed, 3)


@pytest.mark.filterwarnings("ignore:.* cells have no neighbour in the graph")
def test_a_graph_without_any_edge(graphed, short):
    graphed.obsp["odd"] = sparse.csr_matrix((150, 150), dtype=np.float32)
    graphed.uns["odd"] = {"connectivities_key": "odd"}
    sctag.tl.sctag(graphed, 3, neighbors_key="odd", **short)
    _check_result(graphed, 3)


def test_disconnected_graph(graphed, short):
    keep = graphed.obs["group"].cat.codes.to_numpy()
    weights = graphed.obsp["sctag_neighbors_connectivities"].tocoo()
    inside = keep[weights.row] == keep[weights.col]
    parts = (weights.data[inside], (weights.row[inside], weights.col[inside]))
    graphed.obsp["sctag_neighbors_connectivities"] = sparse.csr_matrix(parts, shape=weights.shape)
    sctag.tl.sctag(graphed, 3, **short)
    _check_result(graphed, 3)


def test_no_graph(blobs, unchanged):
    match = r"no graph adata\.uns\['sctag_neighbors'\]\. Run `sctag\.pp\.build_graph\(adata\)` first"
    with unchanged(blobs), pytest.raises(KeyError, match=match):
        sctag.tl.sctag(blobs, 3)


def test_unknown_neighbors_key(graphed, unchanged):
    with unchanged(graphed), pytest.raises(KeyError, match=r"'mine'.*sctag\.pp\.build_graph"):
        sctag.tl.sctag(graphed, 3, neighbors_key="mine")


def test_something_else_under_the_neighbors_key(graphed, unchanged):
    graphed.uns["log1p"] = {"base": None}
    with unchanged(graphed), pytest.raises(KeyError, match=r"sctag\.pp\.build_graph"):
        sctag.tl.sctag(graphed, 3, neighbors_key="log1p")


def test_graph_whose_matrix_is_gone(graphed, unchanged):
    del graphed.obsp["sctag_neighbors_connectivities"]
    with unchanged(graphed), pytest.raises(KeyError, match=r"sctag\.pp\.build_graph"):
        sctag.tl.sctag(graphed, 3)


@pytest.mark.parametrize("value", [np.nan, -0.5, np.inf])
def test_impossible_weights(graphed, unchanged, value):
    graphed.obsp["sctag_neighbors_connectivities"].data[3] = value
    with unchanged(graphed), pytest.raises(ValueError, match="negative or non-finite weights; rebuild"):
        sctag.tl.sctag(graphed, 3)


# --- unusual cells and genes ---


def test_constant_genes_and_genes_in_one_cell(graphed, short):
    x = graphed.X.toarray()
    x[:, 0] = 0
    x[:, 1] = 4
    x[:, 2:6] = 0
    x[[3, 60, 90, 149], [2, 3, 4, 5]] = [1, 7, 500, 1e5]
    graphed.X = sparse.csr_matrix(x)
    sctag.tl.sctag(graphed, 3, **short)
    _check_result(graphed, 3)


def test_cells_with_one_count(graphed, short):
    x = graphed.X.toarray()
    x[:20] = 0
    x[np.arange(20), np.arange(20)] = 1
    graphed.X = sparse.csr_matrix(x)
    sctag.tl.sctag(graphed, 3, **short)
    _check_result(graphed, 3)


def test_duplicated_cells(graphed, short):
    x = graphed.X.toarray()
    x[:60] = x[0]
    graphed.X = x
    del graphed.obsm["X_pca"]
    sctag.pp.build_graph(graphed)
    sctag.tl.sctag(graphed, **short)
    _check_result(graphed)


def test_more_clusters_than_groups_of_cells_are_refused(short, unchanged):
    adata = AnnData(np.random.default_rng(0).poisson(3, (302, 20)).astype(np.float32))
    sctag.pp.build_graph(adata, 5, use_rep="X")
    with unchanged(adata), pytest.raises(ValueError, match="n_clusters=301 exceeds the 300 that are told apart"):
        sctag.tl.sctag(adata, 301, **short)


@pytest.mark.parametrize("n_clusters", [None, 1])
def test_all_cells_equal(n_clusters, short):
    adata = AnnData(np.tile(np.arange(1, 21, dtype=np.float32), (40, 1)), obsm={"X_rep": np.ones((40, 3))})
    sctag.pp.build_graph(adata, 5, use_rep="X_rep")
    sctag.tl.sctag(adata, n_clusters, **short)
    _check_result(adata, n_clusters)


def test_fewer_distinct_cells_than_clusters(short):
    """Two kinds of cells cannot fill six clusters: said, and only real clusters are declared."""
    x = np.tile([[9, 0, 3, 1], [0, 9, 1, 3]], (20, 1)).astype(np.float32)
    adata = AnnData(x, obsm={"X_rep": x})
    x_graph = sparse.block_diag([np.ones((2, 2))] * 20, format="csr", dtype=np.float32)
    adata.obsp["pairs"], adata.uns["pairs"] = x_graph, {"connectivities_key": "pairs"}
    with pytest.warns(UserWarning, match="n_clusters=6 were asked for, but only 2 hold a cell") as caught:
        sctag.tl.sctag(adata, 6, neighbors_key="pairs", **short)
    assert [w.filename for w in caught] == [__file__]
    _check_result(adata, 2)


@pytest.mark.parametrize("n_clusters", [None, 1, 2])
def test_two_cells(blobs, short, n_clusters):
    two = blobs[:2].copy()
    with pytest.warns(UserWarning, match="n_neighbors=15 exceeds the 2 cells"):
        sctag.pp.build_graph(two)
    sctag.tl.sctag(two, n_clusters, **short)
    _check_result(two, n_clusters)


def test_one_cluster(graphed, short):
    sctag.tl.sctag(graphed, 1, **short)
    _check_result(graphed, 1)
    assert (graphed.obs["sctag_confidence"] == 1).all()


@pytest.mark.filterwarnings("ignore:n_clusters=2 were asked for, but only 1")  # one hidden unit may die
@pytest.mark.filterwarnings("ignore:.* cells have no neighbour in the graph")
def test_smallest_network(graphed, short):
    few = graphed[:20].copy()
    sctag.tl.sctag(few, 2, n_latent=1, n_hidden=1, n_hops=0, batch_size=2, mask_rate=0, **short)
    assert len(few.uns["sctag"]["history"]["loss"]) == 5 * 10
    _check_result(few, n_latent=1)


def test_no_training_at_all(graphed):
    sctag.tl.sctag(graphed, 3, pretrain_epochs=0, cluster_epochs=0)
    _check_result(graphed, 3)


def test_cell_without_counts_is_refused(graphed, unchanged):
    x = graphed.X.toarray()
    x[[20, 31]] = 0
    graphed.X = sparse.csr_matrix(x)
    match = r"2 cells have no counts \(the first is row 20\); run `sc\.pp\.filter_cells\(adata, min_counts=1\)`"
    with unchanged(graphed), pytest.raises(ValueError, match=match):
        sctag.tl.sctag(graphed, 3)


def test_cell_without_counts_in_the_chosen_genes_warns(graphed, short):
    x = graphed.X.toarray()
    x[[20, 31], :60] = 0
    graphed.X = sparse.csr_matrix(x)
    with pytest.warns(UserWarning, match="2 cells have no counts in the chosen genes") as caught:
        sctag.tl.sctag(graphed, 3, mask_var=np.arange(120) < 60, **short)
    assert [w.filename for w in caught] == [__file__]
    _check_result(graphed, 3)


# --- what is refused ---


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"n_clusters": 151}, ValueError, "n_clusters=151 exceeds the 150 cells"),
        ({"n_clusters": 0}, ValueError, "n_clusters must be at least 1, got 0"),
        ({"n_clusters": -2}, ValueError, "n_clusters must be at least 1"),
        ({"n_clusters": 3.0}, TypeError, "n_clusters must be an integer, got 3.0"),
        ({"n_clusters": "3"}, TypeError, "n_clusters must be an integer, got '3'"),
        ({"n_clusters": True}, TypeError, "n_clusters must be an integer"),
        ({"layer": "none"}, KeyError, r"layer='none' is not in adata\.layers; there are"),
        ({"key_added": ""}, TypeError, "key_added must be a non-empty string"),
        ({"key_added": 5}, TypeError, "key_added must be a non-empty string, got 5"),
        ({"neighbors_key": None}, TypeError, "neighbors_key must be a non-empty string, got None"),
        ({"key_added": "sctag_neighbors"}, ValueError, "is the name of the graph"),
        ({"accelerator": "tpu"}, ValueError, "accelerator must be one of .*'auto', 'cpu'.*got 'tpu'"),
        ({"accelerator": None}, ValueError, "accelerator must be one of"),
        ({"random_state": -1}, ValueError, "random_state must be at least 0"),
        ({"random_state": 1.5}, TypeError, "random_state must be an integer"),
        ({"random_state": np.random.default_rng(0)}, TypeError, "random_state must be an integer"),
        ({"n_hops": -1}, ValueError, "n_hops must be at least 0"),
        ({"n_hops": 1.0}, TypeError, "n_hops must be an integer"),
        ({"n_hidden": 0}, ValueError, "n_hidden must be at least 1"),
        ({"n_latent": 0}, ValueError, "n_latent must be at least 1"),
        ({"n_latent": "15"}, TypeError, "n_latent must be an integer"),
        ({"mask_rate": 1.0}, ValueError, r"mask_rate must lie in \[0.0, 0.99\]"),
        ({"mask_rate": "0.5"}, TypeError, "mask_rate must be a number"),
        ({"count_weight": -1}, ValueError, "count_weight must lie in"),
        ({"count_weight": np.inf}, ValueError, "count_weight must"),
        ({"graph_weight": np.nan}, ValueError, "graph_weight must lie in"),
        ({"cluster_weight": None}, TypeError, "cluster_weight must be a number"),
        ({"learning_rate": 0}, ValueError, "learning_rate must lie in"),
        ({"learning_rate": 10**400}, ValueError, "learning_rate must lie in"),
        ({"learning_rate": True}, TypeError, "learning_rate must be a number"),
        ({"batch_size": 1}, ValueError, "batch_size must be at least 2"),
        ({"batch_size": 2.0}, TypeError, "batch_size must be an integer"),
        ({"pretrain_epochs": -1}, ValueError, "pretrain_epochs must be at least 0"),
        ({"pretrain_epochs": "many"}, TypeError, "pretrain_epochs must be an integer"),
        ({"cluster_epochs": 1.5}, TypeError, "cluster_epochs must be an integer"),
        ({"check_values": 1}, TypeError, "check_values must be True or False, got 1"),
        ({"progress_bar": "no"}, TypeError, "progress_bar must be True or False"),
        ({"copy": None}, TypeError, "copy must be True or False"),
        ({"devices": 0}, ValueError, "devices"),
        ({"devices": 1.5}, TypeError, "devices"),
        ({"devices": 10_000}, ValueError, "cannot share batches"),
        ({"devices": 2, "graph_weight": 0.1}, ValueError, "graph_weight"),
        ({"precision": "16"}, ValueError, "precision"),
        ({"n_top_genes": 500}, ValueError, "n_top_genes is of the published presets alone"),
        ({"key_added": "a/b"}, ValueError, "must not contain '/'"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_wrong_options_are_refused_before_anything(graphed, unchanged, options, error, match):
    with unchanged(graphed), pytest.raises(error, match=match):
        sctag.tl.sctag(graphed, **{"n_clusters": 3, **options})


def test_integers_and_floats_of_numpy_are_welcome(graphed, clustered, short):
    options = {"random_state": np.int64(0), "n_latent": np.int32(15), "learning_rate": np.float64(2e-3)}
    sctag.tl.sctag(graphed, np.int64(3), **options, **short)
    np.testing.assert_array_equal(graphed.obsm["X_sctag"], clustered.obsm["X_sctag"])


@pytest.mark.parametrize("taken", ["sctag_neighbors", "pca", "neighbors"])
def test_results_never_take_the_name_of_something_else(graphed, unchanged, short, taken):
    """A key that names another tool's entry of uns would destroy it."""
    sc.pp.neighbors(graphed, 5)
    graphed.uns["mine"] = dict(graphed.uns["sctag_neighbors"])
    with unchanged(graphed), pytest.raises(ValueError, match=f"'{taken}'.*choose another"):
        sctag.tl.sctag(graphed, 3, key_added=taken, neighbors_key="mine", **short)


def test_another_tools_latent_is_kept(graphed, unchanged, short):
    graphed.obsm["X_scVI"] = np.zeros((150, 2))
    with unchanged(graphed), pytest.raises(ValueError, match="something else under 'scVI'; choose another"):
        sctag.tl.sctag(graphed, 3, key_added="scVI", **short)


def test_a_second_run_leaves_nothing_of_the_first(clustered, short):
    mapped = clustered.copy()
    del mapped.uns["sctag"], mapped.obsm["X_sctag"], mapped.obsm["sctag_proba"]
    del mapped.obs["sctag"], mapped.obs["sctag_confidence"]
    sctag.tl.map_query(mapped, clustered)
    sctag.tl.denoise(mapped, clustered)
    assert "sctag_novelty" in mapped.obs
    assert "sctag_denoised" in mapped.layers
    sctag.tl.sctag(mapped, 3, **short)
    assert "sctag_novelty" not in mapped.obs
    assert "sctag_denoised" not in mapped.layers


def test_a_folder_that_cannot_be_written_costs_no_run(graphed, short, tmp_path, monkeypatch):
    def full(*_):
        msg = "no space left"
        raise OSError(msg)

    monkeypatch.setattr(sctag.ScTAG, "save", full)
    with pytest.raises(OSError, match="no space"):
        sctag.tl.sctag(graphed, 3, save=tmp_path / "model", **short)
    assert "sctag" in graphed.obs


def test_names_of_genes_that_occur_twice_are_told(graphed, short):
    graphed.var_names = ["x0", *graphed.var_names[:-1]]
    with pytest.warns(UserWarning, match=r"cannot place new cells.*var_names_make_unique"):
        sctag.tl.sctag(graphed, 3, **short)


@pytest.mark.parametrize("bad", [None, np.nan])
def test_the_graphs_representation_may_be_sparse_but_not_broken(graphed, short, unchanged, bad):
    graphed.obsm["X_rep"] = sparse.csr_matrix(graphed.obsm["X_pca"])
    sctag.pp.build_graph(graphed, use_rep="X_rep")
    if bad is None:
        sctag.tl.sctag(graphed, 3, **short)
        return
    graphed.obsm["X_rep"][0, 0] = bad
    with unchanged(graphed), pytest.raises(ValueError, match="'X_rep' holds NaN or infinite"):
        sctag.tl.sctag(graphed, 3, **short)


def test_one_cell(graphed, unchanged):
    one = graphed[:1].copy()
    with unchanged(one), pytest.raises(ValueError, match="at least 2 cells, adata has 1"):
        sctag.tl.sctag(one)


@pytest.mark.parametrize("thing", [np.zeros((5, 5)), None, {"rna": 1}])
def test_no_anndata(thing):
    with pytest.raises(TypeError, match=r"sctag\.tl\.sctag needs an AnnData, got .*mdata\['rna'\]"):
        sctag.tl.sctag(thing)


def test_empty_x_without_counts(graphed, unchanged):
    graphed.X = None
    with unchanged(graphed), pytest.raises(ValueError, match=r"adata\.X is empty; name the layer"):
        sctag.tl.sctag(graphed, 3)


# --- interruptions: faults are injected into a real training step ---


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, MemoryError])
@pytest.mark.parametrize("at_step", [1, 4], ids=["pretraining", "clustering"])
@pytest.mark.parametrize("fixture", ["graphed", "clustered"])
def test_interrupted_runs_leave_no_trace(request, unchanged, short, monkeypatch, error, at_step, fixture):
    adata = request.getfixturevalue(fixture)
    step, steps = train.Trainer._step, []

    def failing(self, *args):
        steps.append(1)
        if len(steps) == at_step:
            raise error
        return step(self, *args)

    monkeypatch.setattr(train.Trainer, "_step", failing)
    with unchanged(adata), pytest.raises(error):
        sctag.tl.sctag(adata, 4, **short)
    assert len(steps) == at_step


@pytest.mark.parametrize("at_step", [3, 5], ids=["last of pretraining", "last of clustering"])
def test_weights_that_blow_up_after_the_last_check_are_found(graphed, unchanged, short, monkeypatch, at_step):
    """The loss is looked at before each update, so the last update needs a look of its own."""
    import torch

    step, steps = train.Trainer._step, []

    def poisoned(self, *args):
        steps.append(1)
        said = step(self, *args)
        if len(steps) == at_step:
            with torch.no_grad():
                self.nets.networks[0].encoder.latent.bias.fill_(np.nan)
        return said

    monkeypatch.setattr(train.Trainer, "_step", poisoned)
    with unchanged(graphed), pytest.raises(RuntimeError, match="non-finite"):
        sctag.tl.sctag(graphed, 3, **short)


def test_several_devices_are_passed_on(graphed, short, monkeypatch):
    from sctag_tools._core import launch
    from sctag_tools._core.fit import fit

    asked = []

    def here(devices, *args, **options):
        asked.append((devices, options["precision"]))
        return fit(*args, **options)

    monkeypatch.setattr(launch, "fit_in_processes", here)
    sctag.tl.sctag(graphed, 3, devices=np.int64(2), precision="bf16-mixed", **short)
    assert asked == [(2, "bf16-mixed")]
    assert graphed.uns["sctag"]["params"]["devices"] == 2


# --- messages ---


def test_silent_at_verbosity_zero(graphed, short, capfd):
    sctag.tl.sctag(graphed, 3, **(short | {"progress_bar": True}))
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_progress_bars_go_to_stderr(graphed, short, capsys):
    sc.settings.verbosity = 1
    sctag.tl.sctag(graphed, 3, **(short | {"progress_bar": True}))
    out, err = capsys.readouterr()
    assert out == ""
    assert "Pretraining" in err
    assert "Clustering" in err
    sctag.tl.sctag(graphed, 3, **short)
    assert capsys.readouterr() == ("", "")


def test_hints_name_the_slots_and_the_stages(graphed, short, capsys):
    sc.settings.logfile, sc.settings.verbosity = sys.stdout, 3
    sctag.tl.sctag(graphed, 3, key_added="mine", **short)
    said = capsys.readouterr().out
    for name in ("'X_mine'", "'mine'", "'mine_proba'", "'mine_confidence'", "pretraining", "clustering", "(0:00:0"):
        assert name in said
    sc.settings.verbosity = 2
    sctag.tl.sctag(graphed, 3, key_added="mine", **short)
    said = capsys.readouterr().out
    assert "3 clusters" in said
    assert "'X_mine'" not in said
