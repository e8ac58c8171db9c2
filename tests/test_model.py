"""``sctag.ScTAG``: its vocabulary, its folder, and that it is ``sctag.tl.sctag`` in several calls."""

from __future__ import annotations

import contextlib
import pathlib

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import safetensors.numpy

import sctag_tools as sctag
from sctag_tools import _model
from sctag_tools.io import model_folder
from sctag_tools.io.model_format import pack
from sctag_tools.train.trainer import Trainer

TRAIN = {"pretrain_epochs": 3, "cluster_epochs": 2, "progress_bar": False}


@pytest.fixture(scope="module")
def model(_graphed_once):
    """A trained model; what it holds is not to be changed."""
    model = sctag.ScTAG(_graphed_once.copy(), 3)
    model.train(**TRAIN)
    return model


@pytest.fixture(scope="module")
def other(_graphed_once):
    """One of two clusters."""
    model = sctag.ScTAG(_graphed_once.copy(), 2)
    model.train(random_state=1, **TRAIN)
    return model


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


def test_training_reads_and_does_not_write_and_starts_over(graphed, unchanged, model, other):
    with unchanged(graphed):
        again = sctag.ScTAG(graphed, 3)
        assert again.adata is graphed
        assert not again.is_trained_
        assert repr(again) == "ScTAG, not trained: 150 cells, 120 genes"
        assert again.train(random_state=1, **TRAIN) is None
        assert again.is_trained_
        assert repr(again) == "ScTAG: 3 clusters of 150 cells, 120 genes"
    assert np.abs(again.get_latent_representation() - model.get_latent_representation()).max() > 1e-3
    again.train(max_epochs=3, **{name: TRAIN[name] for name in ("cluster_epochs", "progress_bar")})  # of scvi-tools
    np.testing.assert_array_equal(again.get_latent_representation(), model.get_latent_representation())


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
    with pytest.raises(ValueError, match="looks log-normalized"):
        model.predict(query)
    with pytest.raises(TypeError, match=r"sctag\.ScTAG needs an AnnData"):
        model.predict(query.X)


def test_nothing_to_ask_for_before_training(graphed, tmp_path):
    model = sctag.ScTAG(graphed, 3)
    asked = [
        model.get_latent_representation, model.predict, model.predict_proba, model.to_uns,
        lambda: model.history_, lambda: model.params_, lambda: model.clusters, lambda: model.predict(graphed),
        lambda: model.save(tmp_path / "model"),
    ]  # fmt: skip
    for ask in asked:
        with pytest.raises(RuntimeError, match=r"not trained yet; call `model\.train\(\)` first"):
            ask()
    assert not names_in(tmp_path)


def test_a_failed_run_leaves_what_an_earlier_one_found(clustered, monkeypatch):
    def fails(*args):
        raise KeyboardInterrupt

    fresh, trained = sctag.ScTAG(clustered, 3), sctag.ScTAG(clustered, 3)
    trained.train(**TRAIN)
    before = trained.predict_proba()
    monkeypatch.setattr(Trainer, "_step", fails)
    for model in (fresh, trained):
        with pytest.raises(KeyboardInterrupt):
            model.train(random_state=2, **TRAIN)
    pd.testing.assert_frame_equal(trained.predict_proba(), before)
    assert not fresh.is_trained_


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"n_clusters": 0}, ValueError, "n_clusters must be at least 1"),
        ({"n_clusters": 151}, ValueError, "n_clusters=151 exceeds the 150 cells"),
        ({"likelihood": "poisson"}, ValueError, "likelihood must be one of"),
        ({"resolution": 0}, ValueError, "resolution must lie in"),
        ({"devices": 1}, TypeError, r"sctag\.ScTAG has no option 'devices'"),
        ({"neighbors_key": "none"}, KeyError, "There is no graph"),
        ({"layer": "none"}, KeyError, "layer='none'"),
        ({"batch_key": "none"}, KeyError, "batch_key='none'"),
        ({"check_values": 1}, TypeError, "check_values must be True or False"),
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
        ({"pretrain_epochs": 1.5}, TypeError, "pretrain_epochs must be an integer"),
        ({"max_epochs": 2, "pretrain_epochs": 2}, TypeError, "two names of one option"),
        ({"max_epoch": 2}, TypeError, r"sctag\.ScTAG\.train has no option 'max_epoch'"),
        ({"n_hops": 2}, TypeError, r"sctag\.ScTAG\.train has no option 'n_hops'"),
        ({"devices": 200}, ValueError, "cannot share minibatches of 128 cells"),
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


def test_save_and_load(model, tmp_path, blobs, same, own_random_states):
    expected = model.predict_proba(blobs)
    with own_random_states():
        assert model.save(tmp_path / "a" / "b") is None
        back = sctag.ScTAG.load(str(tmp_path / "a" / "b"))
        pd.testing.assert_frame_equal(back.predict_proba(blobs), expected)
    assert back.adata is None
    assert back.is_trained_
    assert repr(back) == repr(model)
    pd.testing.assert_frame_equal(back.predict_proba(), model.predict_proba())
    np.testing.assert_array_equal(back.predict(), model.predict())
    same(back.history_, model.history_)
    assert back.params_ == model.params_
    with pytest.raises(RuntimeError, match="holds no counts to train on"):
        back.train(**TRAIN)
    back.save(tmp_path / "again")
    pd.testing.assert_frame_equal(sctag.ScTAG.load(tmp_path / "again").predict_proba(), model.predict_proba())


def test_load_with_the_cells(model, tmp_path, graphed):
    model.save(tmp_path / "model")
    assert sctag.ScTAG.load(tmp_path / "model", graphed).adata is graphed
    for cells in (graphed[:-1].copy(), graphed[::-1].copy()):
        with pytest.raises(ValueError, match="does not hold the cells that the model was trained on"):
            sctag.ScTAG.load(tmp_path / "model", cells)
    with pytest.raises(TypeError, match=r"sctag\.ScTAG\.load needs an AnnData"):
        sctag.ScTAG.load(tmp_path / "model", graphed.X)


@pytest.mark.parametrize("held", ["notes.txt", ".hidden", "model.json", "a folder"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_there_is_left_alone(model, tmp_path, held, overwrite):
    if held == "a folder":
        (tmp_path / held).mkdir()
    else:
        (tmp_path / held).write_text("mine")
        with pytest.raises(FileExistsError, match="is a file; name a folder"):
            model.save(tmp_path / held, overwrite=overwrite)
        assert (tmp_path / held).read_text() == "mine"
    with pytest.raises(FileExistsError, match=r"is not empty; name another folder\."):
        model.save(tmp_path, overwrite=overwrite)
    assert names_in(tmp_path) == [held]


def test_overwrite_replaces_the_model_and_nothing_else(model, other, tmp_path):
    model.save(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"overwrite=True"):
        other.save(tmp_path)
    np.testing.assert_array_equal(sctag.ScTAG.load(tmp_path).predict(), model.predict())
    other.save(tmp_path, overwrite=True)
    np.testing.assert_array_equal(sctag.ScTAG.load(tmp_path).predict(), other.predict())
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert names_in(tmp_path) == ["model.json", "model.safetensors", "notes.txt"]


@pytest.mark.parametrize("where", ["save_file", "_hash_of", "_hash_of_record", "write_text", "replace"])
def test_an_interrupted_save_leaves_no_half_model(model, tmp_path, monkeypatch, where):
    place = {"save_file": safetensors.numpy, "write_text": pathlib.Path, "replace": pathlib.Path}
    place = place.get(where, model_folder)

    def fails(*args, **kwargs):
        if where in {"save_file", "write_text"}:  # with something written already
            (args[1] if where == "save_file" else args[0]).write_bytes(b"half")
        raise KeyboardInterrupt

    model.save(tmp_path / "old")
    with monkeypatch.context() as patch:
        patch.setattr(place, where, fails)
        for name in ("new", "old"):
            with pytest.raises(KeyboardInterrupt):
                model.save(tmp_path / name, overwrite=True)
    assert not names_in(tmp_path / "new")
    assert names_in(tmp_path / "old") == ["model.json", "model.safetensors"]
    np.testing.assert_array_equal(sctag.ScTAG.load(tmp_path / "old").predict(), model.predict())


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("n_moved", [0, 1])
def test_a_save_that_is_killed_leaves_the_earlier_model_or_the_new_one(
    model, other, tmp_path, monkeypatch, first, n_moved
):
    """At each of the moments at which a file takes its name; nothing is tidied up after a kill."""
    if not first:
        model.save(tmp_path)
    replace, moved = pathlib.Path.replace, []

    def until(path, target):
        if len(moved) == n_moved:
            raise KeyboardInterrupt
        moved.append(target)
        return replace(path, target)

    with monkeypatch.context() as killed:
        killed.setattr(pathlib.Path, "replace", until)
        killed.setattr(pathlib.Path, "unlink", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            other.save(tmp_path, overwrite=True)
    assert len(names_in(tmp_path)) > (0 if first else 2)  # what was left behind
    if n_moved:
        np.testing.assert_array_equal(sctag.ScTAG.load(tmp_path).predict(), other.predict())
    elif not first:
        np.testing.assert_array_equal(sctag.ScTAG.load(tmp_path).predict(), model.predict())
    other.save(tmp_path, overwrite=True)  # and the same call can be made again
    np.testing.assert_array_equal(sctag.ScTAG.load(tmp_path).predict(), other.predict())


# --- in AnnData ---


def test_from_anndata(model, other, clustered):
    assert sctag.ScTAG.from_anndata(clustered).adata is None
    clustered.uns["other"] = {**clustered.uns["sctag"], "model": other.to_uns()}
    clustered.obsm["X_other"] = clustered.obsm["X_sctag"]
    for key, expected in {"sctag": model, "other": other}.items():
        found = sctag.ScTAG.from_anndata(clustered, key)
        pd.testing.assert_frame_equal(found.predict_proba(), expected.predict_proba())
    for key in ("third", "sctag_neighbors"):
        with pytest.raises(KeyError, match=f"no scTAG result '{key}'"):
            sctag.ScTAG.from_anndata(clustered, key)
    with pytest.raises(TypeError, match=r"sctag\.ScTAG\.from_anndata needs an AnnData"):
        sctag.ScTAG.from_anndata(clustered.uns)


def test_sctag_saves_what_the_class_saves_also_where_it_keeps_nothing(graphed, model, short, tmp_path, unchanged, same):
    sctag.tl.sctag(graphed, 3, store_model=False, save=tmp_path / "function", **short)
    packed = [pack(one.reference, one.registry) for one in (sctag.ScTAG.load(tmp_path / "function"), model)]
    for _, record in packed:
        del record["run"]["seconds"]
    same(*(dict(sorted(arrays.items())) for arrays, _ in packed))
    assert packed[0][1] == packed[1][1]
    assert "model" not in graphed.uns["sctag"]
    for call in (sctag.ScTAG.from_anndata, sctag.tl.denoise, lambda adata: sctag.tl.map_query(adata.copy(), adata)):
        with unchanged(graphed), pytest.raises(KeyError, match=r"'sctag' was made without its model.*folder"):
            call(graphed)


def test_where_a_model_may_be_saved_is_known_before_the_run(graphed, unchanged, tmp_path, monkeypatch):
    monkeypatch.setattr(_model.ScTAG, "train_with_config", lambda *_: pytest.fail("trained for nothing"))
    (tmp_path / "notes.txt").write_text("mine")
    with unchanged(graphed), pytest.raises(FileExistsError, match="is not empty"):
        sctag.tl.sctag(graphed, 3, save=tmp_path)


def _damage_shape(model):
    model["arrays"]["cells.latent"] = model["arrays"]["cells.latent"][:-1]


@pytest.mark.parametrize(
    "damage",
    [
        lambda model: model.pop("arrays"),
        lambda model: model.pop("record"),
        lambda model: model.update(record="{}"),
        lambda model: model.update(record="[1]"),
        lambda model: model.update(record="no json"),
        lambda model: model.update(record="[" * 100_000),
        lambda model: model.update(arrays=3),
        lambda model: model["arrays"].update(centroid_index="x"),
        lambda model: model["arrays"].pop("centroid_index"),
        _damage_shape,
    ],
)
def test_a_kept_model_that_was_damaged_is_refused(clustered, blobs, unchanged, damage):
    damage(clustered.uns["sctag"]["model"])
    with unchanged(blobs), pytest.raises(ValueError, match="damaged"):
        sctag.tl.map_query(blobs, clustered)


def _leaves(tree, where=""):
    for key, value in tree.items():
        if hasattr(value, "items"):
            yield from _leaves(value, f"{where}/{key}")
        else:
            yield f"{where}/{key}", value


def test_uns_holds_only_plain_arrays_and_strings(clustered, tmp_path):
    """Any reader of h5ad can open the file, and nothing in it is code."""
    for name, value in _leaves(clustered.uns["sctag"]["model"]):
        assert isinstance(value, (np.ndarray, str)), name
        assert isinstance(value, str) or value.dtype in (np.float32, np.int64), name
    clustered.write_h5ad(tmp_path / "result.h5ad")
    with h5py.File(tmp_path / "result.h5ad") as file:
        kinds = {}
        file["uns/sctag/model"].visititems(
            lambda name, item: kinds.update({name: item.dtype}) if hasattr(item, "dtype") else None
        )
        assert len(kinds) > 20
        assert all(kind in (np.float32, np.int64, object) for kind in kinds.values()), kinds
        assert [name for name, kind in kinds.items() if kind.kind == "O"] == ["record"]
        assert h5py.check_string_dtype(file["uns/sctag/model/record"].dtype)


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_the_kept_model_survives_files_and_copies(clustered, model, tmp_path, suffix, blobs):
    getattr(clustered, f"write_{suffix}")(tmp_path / f"result.{suffix}")
    back = getattr(anndata, f"read_{suffix}")(tmp_path / f"result.{suffix}")
    new = blobs[:9].copy()
    for adata in (back, back.copy(), back[:20].copy(), clustered[20:], anndata.concat([back], uns_merge="same")):
        found = sctag.ScTAG.from_anndata(adata)
        rows = clustered.obs_names.get_indexer(adata.obs_names)
        np.testing.assert_array_equal(found.get_latent_representation(), model.get_latent_representation()[rows])
        np.testing.assert_array_equal(found.predict_proba(new), model.predict_proba(new))
    found.save(tmp_path / "from_file")
    np.testing.assert_array_equal(sctag.ScTAG.load(tmp_path / "from_file").predict(), model.predict())


def test_numbers_that_are_numpys_are_saved(clustered, graphed, tmp_path):
    """Those that a file gave back, and those that options were given as."""
    params = clustered.uns["sctag"]["params"]
    assert {int, bool, float} <= {type(value) for value in params.values()}
    of_file = {name: value if value is None else np.array(value)[()] for name, value in params.items()}
    clustered.uns["sctag"]["params"] = of_file
    sctag.ScTAG.from_anndata(clustered).save(tmp_path / "of_file")
    assert sctag.ScTAG.load(tmp_path / "of_file").params_ == params
    model = sctag.ScTAG(graphed, np.int64(3), n_latent=np.int32(4), mask_rate=np.float32(0.5), resolution=np.float64(1))
    model.train(**TRAIN | {"pretrain_epochs": np.int64(2)}, random_state=np.int64(3), learning_rate=np.float32(1e-3))
    model.save(tmp_path / "given")
    assert sctag.ScTAG.load(tmp_path / "given").params_ == model.params_


@pytest.mark.filterwarnings("ignore:No split")
def test_names_of_any_kind_and_the_evidence_for_the_number_come_back(graphed, short, tmp_path, same):
    names = ["1", "2", "\u00e9\u4e2d", 'a"b\\', " ", "x" * 300]
    graphed.var_names = [*names, *graphed.var_names[len(names) :]]
    graphed.obs_names = [*names, *graphed.obs_names[len(names) :]]
    sctag.tl.sctag(graphed, save=tmp_path / "model", **short)
    graphed.write_h5ad(tmp_path / "result.h5ad")
    of_file = sctag.ScTAG.from_anndata(anndata.read_h5ad(tmp_path / "result.h5ad"))
    of_folder = sctag.ScTAG.load(tmp_path / "model")
    for model in (of_file, of_folder):
        assert model.registry.var_names[: len(names)] == model.registry.obs_names[: len(names)] == names
    same(of_folder.registry.run["n_clusters_curve"], {
        name: np.asarray(values, dtype=np.float64) for name, values in graphed.uns["sctag"]["n_clusters_curve"].items()
    })  # fmt: skip
    assert not of_folder.params_["n_clusters_given"]
    tree = graphed.uns["sctag"]["tree"]
    same(dict(sorted(tree.items())), dict(sorted(of_folder.registry.run["tree"].items())))
    assert tree["leaf"].dtype == np.uint16


# --- cells in another order ---


def test_a_model_from_an_anndata_answers_for_its_cells_in_their_order(clustered):
    """Labels in the order of training would be right for a quarter of the cells of a reversed object."""
    model = sctag.ScTAG.from_anndata(clustered)
    for cells in (slice(None, None, -1), slice(10, 90, 3)):
        part = clustered[cells].copy()
        of_part = sctag.ScTAG.from_anndata(part)
        assert of_part.predict().tolist() == part.obs["sctag"].tolist()
        np.testing.assert_array_equal(of_part.get_latent_representation(), part.obsm["X_sctag"])
        proba = of_part.predict_proba()
        assert proba.index.tolist() == part.obs_names.tolist()
        np.testing.assert_array_equal(proba.to_numpy(), part.obsm["sctag_proba"])
    assert model.predict().tolist() == clustered.obs["sctag"].tolist()


def test_a_model_from_an_anndata_with_other_cells_refuses_to_answer_for_them(clustered, blobs):
    clustered.obs_names = [f"new{name}" for name in clustered.obs_names]
    model = sctag.ScTAG.from_anndata(clustered)
    with pytest.raises(KeyError, match="150 cells were not among those that the model was trained on"):
        model.predict()
    assert len(model.predict(blobs)) == 150  # new cells are placed as ever


def test_an_interrupt_right_after_the_record_leaves_the_new_model(model, other, tmp_path, monkeypatch):
    model.save(tmp_path)
    replacing = model_folder.replacing

    @contextlib.contextmanager
    def interrupted(path):
        with replacing(path) as unfinished:
            yield unfinished
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(model_folder, "replacing", interrupted)
        with pytest.raises(KeyboardInterrupt):
            other.save(tmp_path, overwrite=True)
    np.testing.assert_array_equal(sctag.ScTAG.load(tmp_path).predict(), other.predict())

    def full(arrays, path):
        path.write_bytes(b"half")
        msg = "No space left on device"
        raise OSError(msg)

    with monkeypatch.context() as patch:  # and a further save that fails keeps it
        patch.setattr(safetensors.numpy, "save_file", full)
        with pytest.raises(OSError, match="No space"):
            model.save(tmp_path, overwrite=True)
    np.testing.assert_array_equal(sctag.ScTAG.load(tmp_path).predict(), other.predict())
