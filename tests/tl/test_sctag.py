"""``sctag.tl.sctag``: what it writes, what it refuses, and what it leaves alone."""

from __future__ import annotations

import sys
from dataclasses import replace

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from scipy import sparse

import sctag_tools as sctag
from sctag_tools.train import fit, launch
from sctag_tools.train.trainer import Trainer


def check_result(adata: AnnData, n_clusters: int | None = None, key: str = "sctag", n_latent: int = 15) -> None:
    """Everything the docstring promises of one result."""
    n = adata.n_obs
    latent, proba = adata.obsm[f"X_{key}"], adata.obsm[f"{key}_proba"]
    labels, confidence = adata.obs[key], adata.obs[f"{key}_confidence"]
    assert type(latent) is type(proba) is np.ndarray
    assert latent.dtype == proba.dtype == confidence.dtype == np.float32
    assert latent.shape == (n, n_latent)
    assert latent.flags.c_contiguous
    assert np.isfinite(latent).all()
    assert confidence.between(0, 1).all()

    assert isinstance(labels.dtype, pd.CategoricalDtype)
    found = list(labels.cat.categories)
    assert found == [str(i) for i in range(len(found))]
    assert not labels.isna().any()
    sizes = labels.value_counts()[found].to_numpy()
    assert (sizes > 0).all(), "a declared category is empty"
    assert (np.diff(sizes) <= 0).all(), "categories are not in order of size"
    if n_clusters is not None:
        assert len(found) == n_clusters

    assert proba.shape == (n, len(found))
    assert ((proba >= 0) & (proba <= 1)).all()
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(labels.cat.codes, proba.argmax(axis=1))

    record = adata.uns[key]
    assert {"params", "history", "stop", "seconds", "device", "versions"} <= set(record)
    assert record["params"]["n_clusters"] == len(found)
    assert set(record["history"]) == {"loss", "multinomial", "graph", "cluster"}
    assert len({len(curve) for curve in record["history"].values()}) == 1
    assert all(curve.dtype == np.float64 for curve in record["history"].values())
    assert np.isfinite(record["history"]["loss"]).all()
    assert set(record["stop"]) == {"pretraining", "clustering"}
    assert all(seconds >= 0 for seconds in record["seconds"].values())
    assert {"sctag-tools", "torch", "torch-geometric"} <= set(record["versions"])


@pytest.fixture(scope="module")
def chosen(_graphed_once):
    """``graphed`` with a run that chose the number of clusters and tells the groups apart; not to be changed."""
    adata = _graphed_once.copy()
    sctag.tl.sctag(adata, pretrain_epochs=60, cluster_epochs=10)
    return adata


# --- what is written ---


def test_writes_what_it_promises(clustered, graphed, same, drop_result):
    check_result(clustered, 3)
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
    drop_result(clustered)
    same(graphed, clustered)  # and nothing else


def test_the_number_of_clusters_is_chosen_and_the_groups_are_found(chosen):
    check_result(chosen, 3)
    record = chosen.uns["sctag"]
    assert not record["params"]["n_clusters_given"]
    numbers = record["n_clusters_curve"]["n_clusters"]
    np.testing.assert_array_equal(numbers, np.arange(2, len(numbers) + 2))
    assert record["n_clusters_curve"]["supported"].sum() == 2
    assert {name: values.shape for name, values in record["cluster_confidence"].items()} == dict.fromkeys(
        ("confidence", "merged", "split", "dissolved"), (3,)
    )
    assert record["cluster_confidence"]["confidence"].min() > 0.7
    assert sctag.metrics.ari(chosen.obs["group"], chosen.obs["sctag"]) > 0.9
    assert record["history"]["multinomial"][-10:].mean() < record["history"]["multinomial"][:10].mean()


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_round_trip(chosen, tmp_path, suffix):
    path = tmp_path / f"result.{suffix}"
    getattr(chosen, f"write_{suffix}")(path)
    back = getattr(anndata, f"read_{suffix}")(path)
    check_result(back)
    pd.testing.assert_frame_equal(chosen.obs, back.obs)
    for name in ("X_sctag", "sctag_proba"):
        np.testing.assert_array_equal(chosen.obsm[name], back.obsm[name])
    assert back.uns["sctag"]["params"] == chosen.uns["sctag"]["params"]
    for part in ("history", "n_clusters_curve", "cluster_confidence", "tree"):
        for name, curve in chosen.uns["sctag"][part].items():
            np.testing.assert_array_equal(back.uns["sctag"][part][name], curve)
            assert part != "tree" or back.uns["sctag"][part][name].dtype == curve.dtype
    graphs = [sctag.ScTAG(adata)._inputs.connectivities for adata in (chosen, back)]
    assert (graphs[0] != graphs[1]).nnz == 0  # the graph that was read back serves again


# --- randomness, and what is no input ---


def test_same_seed_same_result_whatever_the_users_random_states(graphed, clustered, short, same, own_random_states):
    with own_random_states():
        sctag.tl.sctag(graphed, 3, **short)
    for adata in (graphed, clustered):
        del adata.uns["sctag"]["seconds"]
    same(clustered, graphed)


def test_the_first_weights_depend_on_the_seed(graphed):
    untrained = {"pretrain_epochs": 0, "cluster_epochs": 0, "n_networks": 1}
    runs = [sctag.tl.sctag(graphed, 3, random_state=seed, copy=True, **untrained) for seed in (0, 1)]
    assert np.abs(runs[0].obsm["X_sctag"] - runs[1].obsm["X_sctag"]).max() > 1e-3


def test_a_seed_that_is_drawn_is_recorded(graphed, short):
    first, second = (sctag.tl.sctag(graphed, 3, random_state=None, copy=True, **short) for _ in range(2))
    seed = first.uns["sctag"]["params"]["random_state"]
    assert seed != second.uns["sctag"]["params"]["random_state"]
    sctag.tl.sctag(graphed, 3, random_state=seed, **short)
    np.testing.assert_array_equal(graphed.obsm["X_sctag"], first.obsm["X_sctag"])
    assert np.abs(second.obsm["X_sctag"] - first.obsm["X_sctag"]).max() > 1e-3


@pytest.mark.filterwarnings("ignore:No split")
def test_neither_labels_nor_names_nor_an_earlier_result_are_an_input(clustered, short):
    labeled, without = clustered.copy(), clustered.copy()
    labeled.obs["cell_type"] = labeled.obs["cell_type1"] = labeled.obs["group"]
    without.obs = pd.DataFrame(index=[f"cell{i}" for i in range(150)])
    del without.obsm["X_sctag"], without.obsm["sctag_proba"], without.uns["sctag"]
    for adata in (labeled, without):
        sctag.tl.sctag(adata, **short)
    np.testing.assert_array_equal(labeled.obsm["X_sctag"], without.obsm["X_sctag"])
    np.testing.assert_array_equal(labeled.obs["sctag"], without.obs["sctag"])


@pytest.mark.parametrize("resolution", [1.0, 3.0])
def test_one_cluster_is_explained(graphed, short, resolution):
    """With the numbers of the split that two clusters would make."""
    with pytest.warns(UserWarning, match="No split of these 150 cells is supported") as caught:
        sctag.tl.sctag(graphed, resolution=resolution, **short)
    (message,) = [str(warning.message) for warning in caught if warning.filename == __file__]
    curve = graphed.uns["sctag"]["n_clusters_curve"]
    limits = resolution / (resolution + 2 / 3), curve["least_separation"][0]
    for value, limit, form in zip(
        (curve["coassociation"][0], curve["separation"][0]), limits, (".2f", ".1f"), strict=True
    ):
        assert f"{value:{form}} " in message
        assert f"(limit {limit:{form}})" in message
    assert "`n_clusters=2` makes this split" in message
    sctag.tl.cut(graphed, 2)
    assert graphed.obs["sctag_cut"].nunique() == 2


def test_layer_genes_and_graph_reach_the_training(graphed, clustered, short):
    graphed.layers["mine"], graphed.X = graphed.X.copy(), graphed.X * 2
    graphed.uns["mine"] = dict(graphed.uns["sctag_neighbors"])
    numbers = {"random_state": np.int64(0), "n_latent": np.int32(15), "learning_rate": np.float64(2e-3)}
    sctag.tl.sctag(graphed, np.int64(3), layer="mine", neighbors_key="mine", mask_var=None, **numbers, **short)
    np.testing.assert_array_equal(graphed.obsm["X_sctag"], clustered.obsm["X_sctag"])
    weights = sparse.random(150, 150, 0.1, random_state=0, format="csr")
    graphed.obsp[graphed.uns["mine"]["connectivities_key"]] = weights + weights.T
    sctag.tl.sctag(graphed, 3, layer="mine", neighbors_key="mine", **short)
    assert np.abs(graphed.obsm["X_sctag"] - clustered.obsm["X_sctag"]).max() > 1e-2
    assert graphed.uns["sctag"]["params"]["neighbors_key"] == graphed.uns["sctag"]["params"]["counts"] == "mine"
    sctag.tl.sctag(graphed, 3, layer="mine", mask_var=np.arange(120) < 60, check_values=False, **short)
    assert graphed.uns["sctag"]["params"]["n_genes"] == 60


# --- names, reruns, copies, views ---


def test_two_runs_live_side_by_side(clustered, short, same, drop_result):
    clustered.obsm["X_sctag_umap"] = np.ones((150, 2))
    clustered.uns["sctag_colors"] = ["red", "green", "blue"]
    before = clustered.copy()
    sctag.tl.sctag(clustered, 2, key_added="other", random_state=1, **short)
    check_result(clustered, 2, "other")
    drop_result(clustered, "other")
    same(before, clustered)


def test_rerun_replaces_all_of_the_earlier_result_and_nothing_else(chosen, short, same, drop_result):
    adata = chosen.copy()
    for key in ("sctag", "other"):
        adata.obsm[f"X_{key}_umap"], adata.uns[f"{key}_colors"] = np.ones((150, 2)), ["red", "green", "blue"]
        adata.layers[f"{key}_denoised"] = adata.layers[f"{key}_denoised_dropout"] = np.ones((150, 120))
        adata.obs[f"{key}_novelty"] = 0.5
    before = adata.copy()
    sctag.tl.sctag(adata, 3, random_state=3, **short)
    assert adata.uns["sctag_colors"] == ["red", "green", "blue"]  # of as many clusters
    sctag.tl.sctag(adata, 4, random_state=3, n_latent=7, **short)
    check_result(adata, 4, n_latent=7)
    assert "n_clusters_curve" not in adata.uns["sctag"]
    for cells in (before, adata):
        drop_result(cells)
    for part in (before.layers, before.obsm, before.uns, before.obs):
        for name in ("sctag_denoised", "sctag_denoised_dropout", "X_sctag_umap", "sctag_colors", "sctag_novelty"):
            if name in part:
                del part[name]
    same(before, adata)


def test_results_do_not_share_memory_with_the_model(graphed, short):
    sctag.tl.sctag(graphed, 3, **short)
    before = sctag.ScTAG.from_anndata(graphed).get_latent_representation()
    for name in ("X_sctag", "sctag_proba"):
        graphed.obsm[name][:] = 0
    model = sctag.ScTAG.from_anndata(graphed)
    np.testing.assert_array_equal(model.get_latent_representation(), before)
    np.testing.assert_allclose(model.predict_proba().sum(axis=1), 1, rtol=1e-5)


def test_copy_leaves_the_input_also_a_view(graphed, unchanged, short):
    view = graphed[::2]
    with unchanged(view), unchanged(graphed):
        changed = sctag.tl.sctag(view, 2, copy=True, **short)  # silent: warnings are errors here
    check_result(changed, 2)


def test_view_becomes_actual_with_one_warning(graphed, unchanged, short):
    view = graphed[::2]
    with unchanged(view), pytest.raises(ValueError, match="n_clusters"):
        sctag.tl.sctag(view, 76)
    with unchanged(graphed), pytest.warns(UserWarning, match="view") as caught:
        assert sctag.tl.sctag(view, 2, **short) is None
    assert [warning.filename for warning in caught] == [__file__]  # the user's line
    assert not view.is_view
    check_result(view, 2)


# --- unusual graphs, cells and networks ---


@pytest.mark.filterwarnings("ignore:.* cells have no neighbor in the graph")
@pytest.mark.parametrize("kind", ["directed, isolated cells", "no edge", "separate groups"])
def test_unusual_graphs(graphed, short, kind):
    weights = sparse.random(150, 150, 0.05, random_state=0, format="lil")
    if kind == "directed, isolated cells":
        weights[:10] = weights[:, :10] = 0
    elif kind == "no edge":
        weights[:] = 0
    else:
        group = graphed.obs["group"].to_numpy()
        weights = graphed.obsp["sctag_neighbors_connectivities"].multiply(group[:, None] == group)
    graphed.obsp["sctag_neighbors_connectivities"] = sparse.csr_matrix(weights)
    sctag.tl.sctag(graphed, 3, **short)
    check_result(graphed, 3)


def test_unusual_cells_and_genes(graphed, short):
    x = graphed.X.toarray()
    x[:20] = 0
    x[np.arange(20), np.arange(20, 40)] = 1  # one count a cell
    x[20:60] = x[20]
    x[:, 0], x[20:, 1], x[:, 2:6] = 0, 4, 0
    x[[61, 60, 90, 149], [2, 3, 4, 5]] = [1, 7, 500, 1e5]  # genes in one cell
    adata = AnnData(x)
    sctag.pp.build_graph(adata)
    sctag.tl.sctag(adata, **short)
    check_result(adata)


@pytest.mark.filterwarnings("ignore:No split")
@pytest.mark.parametrize("n_clusters", [None, 1])
def test_all_cells_equal(n_clusters, short):
    adata = AnnData(np.tile(np.arange(1, 21, dtype=np.float32), (40, 1)), obsm={"X_rep": np.ones((40, 3))})
    sctag.pp.build_graph(adata, 5, use_rep="X_rep")
    sctag.tl.sctag(adata, n_clusters, **short)
    check_result(adata, n_clusters)


def test_fewer_distinct_cells_than_clusters(short):
    """Two kinds of cells cannot fill six clusters: said, and only real clusters are declared."""
    x = np.tile([[9, 0, 3, 1], [0, 9, 1, 3]], (20, 1)).astype(np.float32)
    adata = AnnData(x, uns={"pairs": {"connectivities_key": "pairs"}})
    adata.obsp["pairs"] = sparse.block_diag([np.ones((2, 2))] * 20, format="csr", dtype=np.float32)
    with pytest.warns(UserWarning, match="n_clusters=6 were asked for, but only 2 hold a cell") as caught:
        sctag.tl.sctag(adata, 6, neighbors_key="pairs", **short)
    assert [warning.filename for warning in caught] == [__file__]
    check_result(adata, 2)


@pytest.mark.filterwarnings("ignore:No split")
@pytest.mark.parametrize("n_clusters", [None, 1, 2])
def test_two_cells(blobs, short, n_clusters):
    two = blobs[:2].copy()
    with pytest.warns(UserWarning, match="n_neighbors=15 exceeds the 2 cells"):
        sctag.pp.build_graph(two)
    sctag.tl.sctag(two, n_clusters, **short)
    check_result(two, n_clusters)


@pytest.mark.filterwarnings("ignore:n_clusters=2 were asked for, but only 1")  # one hidden unit may die
@pytest.mark.filterwarnings("ignore:.* cells have no neighbor in the graph")
def test_smallest_network_no_training_and_one_cluster(graphed, short):
    few = graphed[:20].copy()
    sctag.tl.sctag(few, 2, n_latent=1, n_hidden=1, n_hops=0, batch_size=2, mask_rate=0, **short)
    assert len(few.uns["sctag"]["history"]["loss"]) == 5 * 10
    check_result(few, n_latent=1)
    sctag.tl.sctag(few, 1, pretrain_epochs=0, cluster_epochs=0)
    check_result(few, 1)
    assert (few.obs["sctag_confidence"] == 1).all()


# --- what is refused ---


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"n_clusters": 151}, ValueError, "n_clusters=151 exceeds the 150 cells"),
        ({"n_clusters": 301}, ValueError, "n_clusters must be at most 300, got 301"),
        ({"n_clusters": 0}, ValueError, "n_clusters must be at least 1, got 0"),
        ({"n_clusters": 3.0}, TypeError, "n_clusters must be an integer, got 3.0"),
        ({"n_clusters": True}, TypeError, "n_clusters must be an integer"),
        ({"random_state": np.random.default_rng(0)}, TypeError, "random_state must be an integer"),
        ({"accelerator": None}, ValueError, "accelerator must be one of .*'auto', 'cpu'.*got None"),
        ({"mask_rate": 1.0}, ValueError, r"mask_rate must lie in \[0.0, 0.99\]"),
        ({"learning_rate": True}, TypeError, "learning_rate must be a number"),
        ({"devices": 10_000}, ValueError, "cannot share minibatches"),
        ({"n_hop": 2}, TypeError, r"sctag\.tl\.sctag has no option 'n_hop'; did you mean 'n_hops'\?"),
        ({"layer": "none"}, KeyError, r"layer='none' is not in adata\.layers; there are"),
        ({"neighbors_key": None}, TypeError, "neighbors_key must be a non-empty string, got None"),
        ({"neighbors_key": "none"}, KeyError, r"no graph adata\.uns\['none'\]"),
        ({"mask_var": "none"}, ValueError, "mask_var='none'"),
        ({"check_values": 1}, TypeError, "check_values must be True or False, got 1"),
        ({"store_model": 0}, TypeError, "store_model must be True or False"),
        ({"copy": None}, TypeError, "copy must be True or False"),
        ({"n_top_genes": 500}, ValueError, "n_top_genes is for the published presets only"),
        ({"preset": "published"}, ValueError, "preset must be one of"),
        ({"key_added": ""}, TypeError, "key_added must be a non-empty string"),
        ({"key_added": "a/b"}, ValueError, "must not contain '/'"),
        ({"key_added": "sctag_neighbors"}, ValueError, "is the name of the graph"),
        # names of something else, which would be destroyed
        ({"key_added": "pca"}, ValueError, "something else under 'pca'; choose another"),
        ({"key_added": "scVI"}, ValueError, "something else under 'scVI'; choose another"),
        ({"key_added": "mine"}, ValueError, "something else under 'mine'; choose another"),
        ({"key_added": "group"}, ValueError, "something else under 'group'; choose another"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_wrong_options_are_refused_before_anything(graphed, unchanged, options, error, match):
    graphed.obsm["X_scVI"], graphed.obs["mine_confidence"] = np.zeros((150, 2)), 0.5
    with unchanged(graphed), pytest.raises(error, match=match):
        sctag.tl.sctag(graphed, **{"n_clusters": 3, **options})


def test_what_is_no_data(graphed):
    for thing in (np.zeros((5, 5)), None):
        with pytest.raises(TypeError, match=r"sctag\.tl\.sctag needs an AnnData, got .*mdata\['rna'\]"):
            sctag.tl.sctag(thing)
    with pytest.raises(ValueError, match="at least 2 cells, adata has 1"):
        sctag.tl.sctag(graphed[:1].copy())


def test_a_folder_that_cannot_be_written_costs_no_run(graphed, short, tmp_path, monkeypatch):
    def full(*_):
        msg = "no space left"
        raise OSError(msg)

    monkeypatch.setattr(sctag.ScTAG, "save", full)
    with pytest.raises(OSError, match="no space"):
        sctag.tl.sctag(graphed, 3, save=tmp_path / "model", **short)
    check_result(graphed, 3)


# --- interruptions: faults are injected into a real training step ---


@pytest.fixture
def steps(monkeypatch):
    """Counts training steps; ``steps(at, action)`` calls the action with the trainer after that step, from 1."""
    step, done, planned = Trainer._step, [], {}

    def watched(trainer, *args):
        step(trainer, *args)
        done.append(trainer)
        if len(done) in planned:
            planned[len(done)](trainer)

    monkeypatch.setattr(Trainer, "_step", watched)
    return planned.__setitem__


@pytest.mark.parametrize(("fixture", "at"), [("graphed", 1), ("clustered", 4)], ids=["pretraining", "clustering"])
def test_interrupted_runs_leave_no_trace(request, unchanged, short, steps, fixture, at):
    def interrupt(_):
        raise KeyboardInterrupt

    adata = request.getfixturevalue(fixture)
    steps(at, interrupt)
    with unchanged(adata), pytest.raises(KeyboardInterrupt):
        sctag.tl.sctag(adata, 4, **short)


@pytest.mark.parametrize("at", [3, 5], ids=["last of pretraining", "last of clustering"])
def test_weights_that_blow_up_after_the_last_check_are_found(graphed, unchanged, short, steps, at):
    """The loss is looked at before each update, so the last update needs a look of its own."""
    steps(at, lambda trainer: trainer.nets.networks[0].encoder.latent.bias.data.fill_(np.nan))
    with unchanged(graphed), pytest.raises(RuntimeError, match="non-finite"):
        sctag.tl.sctag(graphed, 3, **short)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_unchecked_nonsense_stops_with_the_step(graphed, unchanged, short, value):
    graphed.X.data[17] = value
    with unchanged(graphed), pytest.raises(RuntimeError, match=r"non-finite .* at step 1\. .*not raw counts"):
        sctag.tl.sctag(graphed, 3, check_values=False, **short)


def test_several_devices_are_passed_on(graphed, short, monkeypatch):
    asked = []

    def here(config, **arrays):
        asked.append((config.devices, config.precision))
        return fit.fit(config=replace(config, devices=1, precision="32-true"), **arrays)

    monkeypatch.setattr(launch, "fit_in_processes", here)
    sctag.tl.sctag(graphed, 3, devices=np.int64(2), precision="bf16-mixed", **short)
    assert asked == [(2, "bf16-mixed")]
    assert graphed.uns["sctag"]["params"]["devices"] == 2


# --- messages ---


@pytest.mark.parametrize(
    ("verbosity", "bar", "said", "on_stderr", "not_said"),
    [
        (0, True, [], [], ["finished"]),
        (1, True, [], ["Pretraining", "Clustering"], ["finished"]),
        (2, False, ["3 clusters", "(0:00:0"], [], ["'X_mine'"]),
        (3, False, ["'X_mine'", "'mine'", "'mine_proba'", "'mine_confidence'", "pretraining", "clustering"], [], []),
    ],
)
def test_verbosity_rules_what_is_said(graphed, short, capsys, verbosity, bar, said, on_stderr, not_said):
    sc.settings.logfile, sc.settings.verbosity = sys.stdout, verbosity
    sctag.tl.sctag(graphed, 3, key_added="mine", **(short | {"progress_bar": bar}))
    out, err = capsys.readouterr()
    assert all(part in out for part in said)
    assert all(part in err for part in on_stderr)
    assert not any(part in out for part in not_said)
    assert bool(out) == bool(said)
    assert bool(err) == bool(on_stderr)
