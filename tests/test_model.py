"""``sctag.ScTAG``: its vocabulary, its folder, and that it is ``sctag.tl.sctag`` in several calls."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest

import sctag_tools as sctag
from sctag_tools._core import store

TRAIN = {"pretrain_epochs": 3, "cluster_epochs": 2, "progress_bar": False}


@pytest.fixture(scope="module")
def _model_once(_graphed_once):
    model = sctag.ScTAG(_graphed_once.copy(), 3)
    model.train(**TRAIN)
    return model


@pytest.fixture
def model(_model_once):
    """A trained model; what it holds is not to be changed."""
    return _model_once


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


# --- vocabulary ---


def test_is_sctag_in_several_calls(model, clustered, same):
    np.testing.assert_array_equal(model.get_latent_representation(), clustered.obsm["X_sctag"])
    np.testing.assert_array_equal(model.predict(), clustered.obs["sctag"])
    proba = model.predict_proba()
    np.testing.assert_array_equal(proba, clustered.obsm["sctag_proba"])
    assert proba.index.tolist() == clustered.obs_names.tolist()
    assert proba.columns.tolist() == ["0", "1", "2"]
    assert (proba.dtypes == np.float32).all()
    same(model.history_, clustered.uns["sctag"]["history"])
    same(model.params_, clustered.uns["sctag"]["params"])


def test_training_reads_and_does_not_write(graphed, unchanged):
    with unchanged(graphed):
        model = sctag.ScTAG(graphed, 3)
        assert model.adata is graphed
        assert not model.is_trained_
        assert repr(model) == "ScTAG, not trained: 150 cells, 120 genes"
        assert model.train(**TRAIN) is None
        assert model.is_trained_
        assert repr(model) == "ScTAG: 3 clusters of 150 cells, 120 genes"


def test_what_is_returned_can_be_changed_without_harm(model):
    before = model.get_latent_representation(), model.predict_proba()
    model.get_latent_representation()[:] = 0
    changed = model.predict_proba()
    changed.iloc[:] = 0
    np.testing.assert_array_equal(model.get_latent_representation(), before[0])
    pd.testing.assert_frame_equal(model.predict_proba(), before[1])


def test_new_cells_are_asked_for_as_in_map_query(model, clustered, blobs, unchanged):
    query = blobs[:30].copy()
    mapped = sctag.tl.map_query(query, clustered, copy=True)
    with unchanged(query):
        latent, proba, labels = model.get_latent_representation(query), model.predict_proba(query), model.predict(query)
    np.testing.assert_array_equal(latent, mapped.obsm["X_sctag"])
    np.testing.assert_array_equal(proba, mapped.obsm["sctag_proba"])
    np.testing.assert_array_equal(labels, mapped.obs["sctag"])
    assert proba.index.tolist() == query.obs_names.tolist()
    query.layers["mine"], query.X = query.X.copy(), np.log1p(query.X)
    np.testing.assert_array_equal(model.predict(query, layer="mine"), labels)
    with pytest.raises(ValueError, match="looks log-normalised"):
        model.predict(query)
    with pytest.raises(TypeError, match=r"sctag\.ScTAG needs an AnnData"):
        model.predict(query.X)


@pytest.mark.parametrize(
    "ask",
    [
        lambda model: model.get_latent_representation(),
        lambda model: model.predict(),
        lambda model: model.predict_proba(),
        lambda model: model.history_,
        lambda model: model.params_,
        lambda model: model.save("nowhere"),
        lambda model: model.predict(model.adata),
    ],
)
def test_nothing_to_ask_for_before_training(graphed, tmp_path, monkeypatch, ask):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RuntimeError, match=r"not trained yet; call `model\.train\(\)` first"):
        ask(sctag.ScTAG(graphed, 3))
    assert not names_in(tmp_path)


def test_training_again_starts_anew(graphed, model):
    again = sctag.ScTAG(graphed, 3)
    again.train(random_state=1, **TRAIN)
    assert np.abs(again.get_latent_representation() - model.get_latent_representation()).max() > 1e-3
    again.train(**TRAIN)
    np.testing.assert_array_equal(again.get_latent_representation(), model.get_latent_representation())


def test_a_failed_run_leaves_what_an_earlier_one_found(graphed, monkeypatch):
    from sctag_tools._core import train

    def fails(*args):
        raise KeyboardInterrupt

    model = sctag.ScTAG(graphed, 3)
    model.train(**TRAIN)
    before = model.predict_proba()
    monkeypatch.setattr(train.Trainer, "_step", fails)
    with pytest.raises(KeyboardInterrupt):
        model.train(random_state=2, **TRAIN)
    pd.testing.assert_frame_equal(model.predict_proba(), before)
    fresh = sctag.ScTAG(graphed, 3)
    with pytest.raises(KeyboardInterrupt):
        fresh.train(**TRAIN)
    assert not fresh.is_trained_


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"n_clusters": 0}, ValueError, "n_clusters must be at least 1"),
        ({"n_clusters": 151}, ValueError, "n_clusters=151 exceeds the 150 cells"),
        ({"n_hidden": 0}, ValueError, "n_hidden must be at least 1"),
        ({"likelihood": "poisson"}, ValueError, "likelihood must be one of"),
        ({"neighbors_key": "none"}, KeyError, "There is no graph"),
        ({"layer": "none"}, KeyError, "layer='none'"),
        ({"batch_key": "none"}, KeyError, "batch_key='none'"),
        ({"check_values": 1}, TypeError, "check_values must be True or False"),
        ({"resolution": 0}, ValueError, "resolution must lie in"),
    ],
    ids=str,
)
def test_wrong_options_are_refused_when_it_is_made(graphed, unchanged, options, error, match):
    with unchanged(graphed), pytest.raises(error, match=match):
        sctag.ScTAG(graphed, **options)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"random_state": -1}, ValueError, "random_state"),
        ({"accelerator": "tpu"}, ValueError, "accelerator must be one of"),
        ({"pretrain_epochs": 1.5}, TypeError, "pretrain_epochs must be an integer"),
        ({"devices": 0}, ValueError, "devices must be at least 1"),
        ({"progress_bar": 0}, TypeError, "progress_bar must be True or False"),
    ],
    ids=str,
)
def test_wrong_options_of_training(graphed, options, error, match):
    model = sctag.ScTAG(graphed, 3)
    with pytest.raises(error, match=match):
        model.train(**options)
    assert not model.is_trained_


def test_no_anndata():
    with pytest.raises(TypeError, match=r"sctag\.ScTAG needs an AnnData"):
        sctag.ScTAG(np.ones((4, 4)))


# --- folders ---


def test_save_and_load(model, tmp_path, graphed, same):
    assert model.save(tmp_path / "a" / "b") is None
    back = sctag.ScTAG.load(tmp_path / "a" / "b")
    assert back.adata is None
    assert back.is_trained_
    assert repr(back) == repr(model)
    pd.testing.assert_frame_equal(back.predict_proba(), model.predict_proba())
    np.testing.assert_array_equal(back.predict(), model.predict())
    np.testing.assert_array_equal(back.get_latent_representation(), model.get_latent_representation())
    same(back.history_, model.history_)
    assert back.params_ == model.params_
    with pytest.raises(RuntimeError, match="holds no counts to train on"):
        back.train(**TRAIN)
    back.save(tmp_path / "again")
    for name in names_in(tmp_path / "again"):
        if name == store.ARRAYS:
            assert (tmp_path / "again" / name).stat().st_size == (tmp_path / "a" / "b" / name).stat().st_size
    pd.testing.assert_frame_equal(sctag.ScTAG.load(str(tmp_path / "again")).predict_proba(), model.predict_proba())


def test_load_with_the_cells(model, tmp_path, graphed):
    model.save(tmp_path / "model")
    assert sctag.ScTAG.load(tmp_path / "model", graphed).adata is graphed
    for other in (graphed[:-1].copy(), graphed[::-1].copy()):
        with pytest.raises(ValueError, match="does not hold the cells that the model was trained on"):
            sctag.ScTAG.load(tmp_path / "model", other)
    with pytest.raises(TypeError, match=r"sctag\.ScTAG\.load needs an AnnData"):
        sctag.ScTAG.load(tmp_path / "model", graphed.X)


@pytest.mark.parametrize("held", ["notes.txt", ".hidden", "model.json", "a folder"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_holds_something_is_left_alone(model, tmp_path, held, overwrite):
    if held == "a folder":
        (tmp_path / held).mkdir()
    else:
        (tmp_path / held).write_text("mine")
    with pytest.raises(FileExistsError, match=r"is not empty; name another folder\."):
        model.save(tmp_path, overwrite=overwrite)
    assert names_in(tmp_path) == [held]


def test_overwrite_replaces_the_model_and_nothing_else(model, tmp_path, graphed):
    model.save(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    other = sctag.ScTAG(graphed, 2)
    other.train(random_state=1, **TRAIN)
    with pytest.raises(FileExistsError, match=r"overwrite=True"):
        other.save(tmp_path)
    np.testing.assert_array_equal(sctag.ScTAG.load(tmp_path).predict(), model.predict())
    other.save(tmp_path, overwrite=True)
    np.testing.assert_array_equal(sctag.ScTAG.load(tmp_path).predict(), other.predict())
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert names_in(tmp_path) == ["model.json", "model.safetensors", "notes.txt"]


def test_a_file_is_no_folder(model, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="is a file; name a folder"):
        model.save(tmp_path / "file", overwrite=True)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("where", ["save_file", "_hash_of", "_hash_of_record", "write_text", "replace"])
def test_an_interrupted_save_leaves_no_half_model(model, tmp_path, monkeypatch, where):
    import pathlib

    import safetensors.numpy

    place = {"save_file": safetensors.numpy, "write_text": pathlib.Path, "replace": pathlib.Path}.get(where, store)
    was = getattr(place, where)

    def fails(*args, **kwargs):
        if where in {"save_file", "write_text"}:  # with something written already
            (args[1] if where == "save_file" else args[0]).write_bytes(b"half")
        raise KeyboardInterrupt

    for folder in (tmp_path / "new", tmp_path / "old"):
        if folder.name == "old":
            monkeypatch.setattr(place, where, was)
            model.save(folder)
        monkeypatch.setattr(place, where, fails)
        with pytest.raises(KeyboardInterrupt):
            model.save(folder, overwrite=True)
        monkeypatch.setattr(place, where, was)
    assert not names_in(tmp_path / "new")
    assert names_in(tmp_path / "old") == ["model.json", "model.safetensors"]
    np.testing.assert_array_equal(sctag.ScTAG.load(tmp_path / "old").predict(), model.predict())


def test_a_save_interrupted_between_its_two_files_is_told(model, tmp_path, monkeypatch, graphed):
    """The one moment that cannot be ruled out: the files are of two models, which their hashes tell."""
    import pathlib

    other = sctag.ScTAG(graphed, 2)
    other.train(random_state=1, **TRAIN)
    model.save(tmp_path)
    replace, moved = pathlib.Path.replace, []

    def once(path, target):
        if moved:
            raise KeyboardInterrupt
        moved.append(target)
        return replace(path, target)

    monkeypatch.setattr(pathlib.Path, "replace", once)
    with pytest.raises(KeyboardInterrupt):
        other.save(tmp_path, overwrite=True)
    monkeypatch.undo()
    assert names_in(tmp_path) == ["model.json", "model.safetensors"]
    with pytest.raises(ValueError, match="damaged"):
        sctag.ScTAG.load(tmp_path)
    other.save(tmp_path, overwrite=True)
    np.testing.assert_array_equal(sctag.ScTAG.load(tmp_path).predict(), other.predict())


# --- in AnnData ---


def test_from_anndata(model, clustered, short):
    found = sctag.ScTAG.from_anndata(clustered)
    assert found.adata is None
    pd.testing.assert_frame_equal(found.predict_proba(), model.predict_proba())
    assert found.params_ == model.params_
    sctag.tl.sctag(clustered, 2, key_added="other", **short)
    assert sctag.ScTAG.from_anndata(clustered, "other").predict_proba().shape == (150, 2)
    pd.testing.assert_frame_equal(sctag.ScTAG.from_anndata(clustered).predict_proba(), model.predict_proba())
    with pytest.raises(KeyError, match="no scTAG result 'third'"):
        sctag.ScTAG.from_anndata(clustered, "third")
    with pytest.raises(KeyError, match="no scTAG result 'sctag_neighbors'"):
        sctag.ScTAG.from_anndata(clustered, "sctag_neighbors")
    with pytest.raises(TypeError, match=r"sctag\.ScTAG\.from_anndata needs an AnnData"):
        sctag.ScTAG.from_anndata(clustered.uns)


def test_sctag_saves_what_the_class_saves(graphed, model, short, tmp_path, same):
    sctag.tl.sctag(graphed, 3, save=tmp_path / "function", **short)
    model.save(tmp_path / "class")
    function, by_class = (sctag.ScTAG.load(tmp_path / name).trained.pack() for name in ("function", "class"))
    same(function[0], by_class[0])
    for record in (function[1], by_class[1]):
        del record["run"]["seconds"]
    assert function[1] == by_class[1]
    kept = sctag.ScTAG.from_anndata(graphed).trained.pack()[0]
    same(dict(sorted(kept.items())), dict(sorted(by_class[0].items())))


def test_where_a_model_may_be_saved_is_known_before_the_run(graphed, unchanged, tmp_path, monkeypatch):
    from sctag_tools import _model

    def never(*args, **kwargs):
        pytest.fail("trained for nothing")

    monkeypatch.setattr(_model, "_fit", never)
    (tmp_path / "notes.txt").write_text("mine")
    with unchanged(graphed), pytest.raises(FileExistsError, match="is not empty"):
        sctag.tl.sctag(graphed, 3, save=tmp_path)


def test_a_model_that_is_not_stored(graphed, short, tmp_path, unchanged):
    sctag.tl.sctag(graphed, 3, store_model=False, save=tmp_path / "model", **short)
    assert "model" not in graphed.uns["sctag"]
    for call in (sctag.ScTAG.from_anndata, sctag.tl.denoise, lambda adata: sctag.tl.map_query(adata.copy(), adata)):
        with unchanged(graphed), pytest.raises(KeyError, match=r"'sctag' was made without its model.*folder"):
            call(graphed)
    query = graphed[:10].copy()
    sctag.tl.map_query(query, tmp_path / "model", key_added="mapped")
    sctag.tl.denoise(graphed, tmp_path / "model")
    assert np.isfinite(query.obsm["X_mapped"]).all()


def test_published_presets_keep_no_model_and_refuse_to_save(blobs, unchanged, tmp_path):
    adata = blobs
    sctag.pp.recipe_published(adata, n_top_genes=100)
    sctag.pp.build_graph(adata, use_rep="X_pca_published")
    options = {"preset": "reference", "n_top_genes": 100, **TRAIN}
    with unchanged(adata), pytest.raises(ValueError, match=r"makes no model.*leave out `save`"):
        sctag.tl.sctag(adata, 3, save=tmp_path / "model", **options)
    assert not (tmp_path / "model").exists()
    sctag.tl.sctag(adata, 3, **options)
    assert "model" not in adata.uns["sctag"]
    with pytest.raises(KeyError, match=r"made without its model \(a published preset"):
        sctag.ScTAG.from_anndata(adata)


def _leaves(tree, where=""):
    for key, value in tree.items():
        if hasattr(value, "items"):
            yield from _leaves(value, f"{where}/{key}")
        else:
            yield f"{where}/{key}", value


def test_uns_holds_only_plain_arrays_and_strings(clustered, tmp_path):
    """Any reader of h5ad can open the file, and nothing in it is code."""
    import h5py

    for name, value in _leaves(clustered.uns["sctag"]["model"]):
        assert isinstance(value, (np.ndarray, str)), name
        assert isinstance(value, str) or value.dtype in (np.float32, np.int64), name
    clustered.write_h5ad(tmp_path / "result.h5ad")
    with h5py.File(tmp_path / "result.h5ad") as file:
        kinds = {}
        file["uns/sctag"].visititems(
            lambda name, item: kinds.update({name: item.dtype}) if hasattr(item, "dtype") else None
        )
        model = {name: kind for name, kind in kinds.items() if name.startswith("model/")}
        assert len(model) > 20
        assert all(kind in (np.float32, np.int64, object) for kind in model.values()), model
        assert [name for name, kind in model.items() if kind.kind == "O"] == ["model/record"]
        assert h5py.check_string_dtype(file["uns/sctag/model/record"].dtype)


@pytest.mark.filterwarnings("ignore:Writing zarr v2 data will no longer be the default:UserWarning")
@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")
@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_the_kept_model_survives_files_and_copies(clustered, model, tmp_path, suffix, blobs):
    getattr(clustered, f"write_{suffix}")(tmp_path / f"result.{suffix}")
    back = getattr(anndata, f"read_{suffix}")(tmp_path / f"result.{suffix}")
    for adata in (back, back.copy(), back[:20].copy(), clustered[20:], anndata.concat([back], uns_merge="same")):
        found = sctag.ScTAG.from_anndata(adata)
        np.testing.assert_array_equal(found.get_latent_representation(), model.get_latent_representation())
        np.testing.assert_array_equal(found.predict_proba(blobs[:9].copy()), model.predict_proba(blobs[:9].copy()))
    found.save(tmp_path / "from_file")
    np.testing.assert_array_equal(sctag.ScTAG.load(tmp_path / "from_file").predict(), model.predict())


def test_numbers_that_a_file_gave_back_as_numpys_are_saved(clustered, tmp_path):
    params = clustered.uns["sctag"]["params"]
    assert {int, bool, float} <= {type(value) for value in params.values()}
    of_file = {name: value if value is None else np.array(value)[()] for name, value in params.items()}
    clustered.uns["sctag"]["params"] = of_file
    sctag.ScTAG.from_anndata(clustered).save(tmp_path / "model")
    assert sctag.ScTAG.load(tmp_path / "model").params_ == params


def test_the_number_of_clusters_that_was_chosen_comes_back(graphed, short, tmp_path, same):
    sctag.tl.sctag(graphed, save=tmp_path / "model", **short)
    back = sctag.ScTAG.load(tmp_path / "model")
    same(back.trained.run["n_clusters_curve"], graphed.uns["sctag"]["n_clusters_curve"])
    assert not back.params_["n_clusters_given"]


def test_options_given_as_numpys_numbers_can_be_saved(graphed, tmp_path):
    model = sctag.ScTAG(graphed, np.int64(3), n_latent=np.int32(4), mask_rate=np.float32(0.5), resolution=np.float64(1))
    model.train(**TRAIN | {"pretrain_epochs": np.int64(2)}, random_state=np.int64(3), learning_rate=np.float32(1e-3))
    model.save(tmp_path)
    assert sctag.ScTAG.load(tmp_path).params_ == model.params_


@pytest.mark.parametrize("names", [["1", "2"], ["\u00e9\u4e2d", 'a"b\\'], [" ", "x" * 300]])
def test_names_of_any_kind_come_back(graphed, short, tmp_path, names):
    graphed.var_names = [*names, *graphed.var_names[2:]]
    graphed.obs_names = [*names, *graphed.obs_names[2:]]
    sctag.tl.sctag(graphed, 3, save=tmp_path / "model", **short)
    trained = sctag.ScTAG.load(tmp_path / "model").trained
    assert trained.genes[:2] == trained.cells[:2] == names
    graphed.write_h5ad(tmp_path / "result.h5ad")
    trained = sctag.ScTAG.from_anndata(anndata.read_h5ad(tmp_path / "result.h5ad")).trained
    assert trained.genes[:2] == trained.cells[:2] == names


def test_the_users_random_states_neither_matter_nor_move(model, tmp_path, blobs):
    import random

    import torch

    expected = model.predict_proba(blobs)
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    model.save(tmp_path)
    back = sctag.ScTAG.load(tmp_path)
    pd.testing.assert_frame_equal(back.predict_proba(blobs), expected)
    assert random.getstate() == before[0]
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])
