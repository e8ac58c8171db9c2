"""A saved model: what comes back, in another process too; what is refused, with nothing run or allocated."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import pickle
import struct
import subprocess
import sys
import tracemalloc
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import sctag_tools as sctag
from sctag_tools._core import store

FUZZ = Path(__file__).resolve().parents[1] / "fuzz_store.py"
DAMAGED = r"The model is damaged: .*Save it anew"


@pytest.fixture(scope="module")
def model(_clustered_once):
    return sctag.ScTAG.from_anndata(_clustered_once)


@pytest.fixture(scope="module")
def _saved_once(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "saved"
    model.save(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def folder(_saved_once, tmp_path):
    """A folder of its own with the saved model."""
    for name, raw in _saved_once.items():
        (tmp_path / name).write_bytes(raw)
    return tmp_path


def sign(folder, **changes):
    """Change the record as ``changes`` say and make its hashes right, as someone would who knows the format."""
    path = folder / store.RECORD
    content = json.loads(path.read_bytes())
    for part, change in changes.items():
        target = content["model"]
        *parents, last = part.split("__")
        for parent in parents:
            target = target[parent]
        if change is KeyError:
            del target[last]
        else:
            target[last] = change
    seal(folder, content)


def seal(folder, content):
    content["arrays_sha256"] = hashlib.sha256((folder / store.ARRAYS).read_bytes()).hexdigest()
    content.pop("sha256", None)
    content["sha256"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    (folder / store.RECORD).write_text(json.dumps(content), encoding="utf-8")


def change_arrays(folder, change):
    arrays = load_file(folder / store.ARRAYS)
    change(arrays)
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / store.ARRAYS)
    sign(folder)


# --- what comes back ---


def test_the_folder_holds_two_files_with_the_same_rights(folder, model):
    model.save(folder / "another")
    assert {path.name for path in (folder / "another").iterdir()} == {"model.json", "model.safetensors"}
    assert len({path.stat().st_mode for path in (folder / "another").iterdir()}) == 1


def test_everything_comes_back_bit_for_bit(model, folder, same):
    back = sctag.ScTAG.load(folder)
    for ours, theirs in zip(model.trained.pack(), back.trained.pack(), strict=True):
        same(dict(sorted(ours.items())), dict(sorted(theirs.items())))
    assert back.trained.fitted.config == model.trained.fitted.config
    same(model.trained.run["history"], back.history_)
    assert back.params_ == model.params_
    for part in fields(model.trained.fitted.reference):
        a, b = (getattr(m.trained.fitted.reference, part.name) for m in (model, back))
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


ELSEWHERE = """
import sys, anndata, numpy as np, sctag_tools as sctag
model = sctag.ScTAG.load(sys.argv[1])
query = anndata.read_h5ad(sys.argv[2])
placed, _ = model.place(query)
sctag.tl.denoise(query, model, genes=["x3", "x70"])
np.savez(sys.argv[3], latent=model.get_latent_representation(), labels=model.predict(), proba=model.predict_proba(),
         placed=placed.latent, placed_proba=placed.proba, novelty=placed.novelty, sure=placed.confidence,
         denoised=query.layers["sctag_denoised"])
assert "pickle" not in {name for name in sys.argv}
"""


def test_another_process_finds_the_same_bit_for_bit(model, folder, blobs, tmp_path):
    query = blobs[::3].copy()
    query.write_h5ad(tmp_path / "query.h5ad")
    paths = [str(folder), str(tmp_path / "query.h5ad"), str(tmp_path / "found.npz")]
    subprocess.run([sys.executable, "-W", "ignore", "-c", ELSEWHERE, *paths], check=True, timeout=300)
    placed, _ = model.place(query)
    sctag.tl.denoise(query, model, genes=["x3", "x70"])
    here = {
        "latent": model.get_latent_representation(), "labels": model.predict(), "proba": model.predict_proba(),
        "placed": placed.latent, "placed_proba": placed.proba, "novelty": placed.novelty, "sure": placed.confidence,
        "denoised": query.layers["sctag_denoised"],
    }  # fmt: skip
    with np.load(paths[2]) as found:
        assert set(found) == set(here)
        for name, array in here.items():
            np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_loading_needs_no_pickle(folder, monkeypatch):
    def never(*args, **kwargs):
        pytest.fail("something was unpickled")

    sctag.ScTAG.load(folder)  # what is imported late is there
    for module, name in [(pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (np, "load")]:
        monkeypatch.setattr(module, name, never)
    import torch

    monkeypatch.setattr(torch, "load", never)
    sctag.ScTAG.load(folder)


# --- what is refused ---


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
@pytest.mark.parametrize("length", [0, 1, 8, 100, 0.5, -1])
def test_truncated_files_are_refused(folder, name, length):
    raw = (folder / name).read_bytes()
    (folder / name).write_bytes(raw[: int(len(raw) * length) if isinstance(length, float) else length])
    with pytest.raises(ValueError, match=DAMAGED):
        sctag.ScTAG.load(folder)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_missing_files_are_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"no model in .*: it has no {name}"):
        sctag.ScTAG.load(folder)


def test_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no model in"):
        sctag.ScTAG.load(tmp_path / "nowhere")


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "ref.h5ad").touch()
    with pytest.raises(
        FileNotFoundError, match=r"ref\.h5ad is a file, not the folder of a model; of a clustered AnnData"
    ):
        sctag.ScTAG.load(tmp_path / "ref.h5ad")


@pytest.mark.parametrize("share", [0.001, 0.3, 0.7, 0.999])
def test_a_single_bit_of_the_arrays(folder, share):
    raw = bytearray((folder / store.ARRAYS).read_bytes())
    raw[int(len(raw) * share)] ^= 1
    (folder / store.ARRAYS).write_bytes(raw)
    with pytest.raises(ValueError, match=r"model\.safetensors is not the file that was saved"):
        sctag.ScTAG.load(folder)


def test_an_altered_record(folder):
    path = folder / store.RECORD
    path.write_text(path.read_text().replace('"x3"', '"x3b"'))
    with pytest.raises(ValueError, match=r"model\.json is not as it was saved"):
        sctag.ScTAG.load(folder)


def test_the_arrays_of_another_model(folder, clustered, short):
    sctag.tl.sctag(clustered, 3, random_state=1, key_added="other", **short)
    sctag.ScTAG.from_anndata(clustered, "other").save(folder / "other")
    (folder / store.ARRAYS).write_bytes((folder / "other" / store.ARRAYS).read_bytes())
    with pytest.raises(ValueError, match="is not the file that was saved"):
        sctag.ScTAG.load(folder)


def test_a_newer_format_asks_for_an_update(folder):
    content = json.loads((folder / store.RECORD).read_bytes())
    seal(folder, content | {"format": 2, "something": "new"})
    with pytest.raises(ValueError, match=r"newer version \(format 2, this one reads 1\); update sctag-tools"):
        sctag.ScTAG.load(folder)


@pytest.mark.parametrize("number", [0, -1, True, 1.0, "1", None])
def test_no_format_of_ours(folder, number):
    seal(folder, json.loads((folder / store.RECORD).read_bytes()) | {"format": number})
    with pytest.raises(ValueError, match="no format number"):
        sctag.ScTAG.load(folder)


def test_json_of_another_encoding_is_refused(folder):
    path = folder / store.RECORD
    path.write_bytes(path.read_text().encode("utf-16"))
    with pytest.raises(ValueError, match="is no JSON"):
        sctag.ScTAG.load(folder)


@pytest.mark.parametrize("depth", [25, 500, 980, 985, 990, 992, 995, 2_000, 100_000])
@pytest.mark.parametrize("brackets", [("[", "]"), ('{"a": ', "}")], ids=["lists", "tables"])
def test_json_nested_without_end(folder, depth, brackets):
    path = folder / store.RECORD
    opening, closing = (bracket * depth for bracket in brackets)
    path.write_text(path.read_text().replace('"metric": "euclidean"', f'"metric": {opening}1{closing}'))
    with pytest.raises(ValueError, match=r"nested too deeply|is no JSON \(maximum recursion"):
        sctag.ScTAG.load(folder)


class Planted:
    ran = False

    def __reduce__(self):
        return exec, (f"import sys; sys.modules[{__name__!r}].Planted.ran = True",)


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_planted_pickle_never_runs(folder, name, protocol, signed):
    sys.modules[__name__] = sys.modules.get(__name__) or sys.modules[Planted.__module__]
    planted = pickle.dumps(Planted(), protocol=protocol)
    Planted.ran = False
    pickle.loads(planted)
    assert Planted.ran, "this pickle could not tell"
    Planted.ran = False
    for beside in ("model.pkl", "pytorch_model.bin", "__init__.py", "model.pt"):
        (folder / beside).write_bytes(planted)
    (folder / name).write_bytes(planted)
    if signed and name == store.ARRAYS:
        sign(folder)
    with pytest.raises(ValueError, match=DAMAGED):
        sctag.ScTAG.load(folder)
    assert not Planted.ran


def test_other_files_in_the_folder_are_not_looked_at(folder, model):
    sys.modules[__name__] = sys.modules.get(__name__) or sys.modules[Planted.__module__]
    Planted.ran = False
    (folder / "model.pkl").write_bytes(pickle.dumps(Planted()))
    (folder / "sctag_tools.py").write_text("raise SystemExit")
    np.testing.assert_array_equal(sctag.ScTAG.load(folder).predict(), model.predict())
    assert not Planted.ran


# --- what is refused although the hashes are right ---


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"genes": ["x0"]}, "its genes are not 120 names"),
        ({"genes": None}, "its genes are not"),
        ({"genes": [0] * 120}, "its genes are not"),
        ({"cells": ["c0"] * 151}, "its cells are not 150 names"),
        ({"cells": KeyError}, "its cells are not"),
        ({"batches": ["a", "b"]}, "its batches are not 1 names"),
        ({"batch_key": 1}, "batch_key is no name"),
        ({"batch_key": KeyError}, "batch_key is no name"),
        ({"use_rep": ["X"]}, "use_rep is no name"),
        ({"use_rep": KeyError}, "use_rep is no name"),
        ({"gain": "1"}, "gain is '1'"),
        ({"gain": -0.1}, "gain is"),
        ({"gain": True}, "gain is True"),
        ({"gain": float("nan")}, "gain is nan"),
        ({"gain": 1e300}, "gain is"),
        ({"gain": 10**400}, "gain is"),
        ({"n_neighbors": 0}, "n_neighbors is 0"),
        ({"n_neighbors": 151}, "too short"),
        ({"n_neighbors": 10**18}, "n_neighbors is"),
        ({"metric": "precomputed"}, "metric is 'precomputed'"),
        ({"metric": ["euclidean"]}, "metric is"),
        ({"config": {}}, "its options are not those of this version"),
        ({"config__n_hidden": 10**9}, r"'reference\.context' has shape"),
        ({"config__n_networks": 10**9}, "has shape"),
        ({"config__n_latent": 10**9}, "has shape"),
        ({"config__n_hops": 10**9}, "the weights are not those of its options"),
        ({"config__n_hops": 0}, "the weights are not those of its options"),
        ({"config__n_hops": -1}, "n_hops must be at least 0"),
        ({"config__n_hidden": 128.0}, "n_hidden must be an integer"),
        ({"config__n_hidden": None}, "n_hidden must be an integer"),
        ({"config__likelihood": "zinb"}, "the weights are not those of its options"),
        ({"config__likelihood": {}}, "likelihood must be one of"),
        ({"config__graph_weight": 0.1}, "the weights are not those of its options"),
        ({"config__learning_rate": 10**400}, "learning_rate must lie in"),
        ({"config__mask_rate": float("inf")}, "mask_rate must lie in"),
        ({"config__evil": 1}, "its options are not those of this version"),
        ({"config__n_hidden": KeyError}, "its options are not those of this version"),
        ({"run": None}, "record of its run is missing"),
        ({"run__params": []}, "record of its run is missing"),
        ({"run__history": [1]}, "its history is no table"),
        ({"run__history": {"loss": ["a"]}}, "something else than numbers"),
        ({"run__history": {"loss": [[1], [1, 2]]}}, "something else than numbers"),
        ({"run__history": {"loss": [10**400]}}, "something else than numbers"),
    ],
    ids=str,
)
def test_a_record_that_cannot_be(folder, changes, match):
    sign(folder, **changes)
    with pytest.raises(ValueError, match=match):
        sctag.ScTAG.load(folder)


def _set(name, value, where=0):
    def change(arrays):
        arrays[name] = arrays[name].copy()
        arrays[name].flat[where] = value

    return change


def _map(name, change):
    return lambda arrays: arrays.update({name: change(arrays[name])})


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda arrays: arrays.pop("columns"), "the array 'columns' is missing"),
        (lambda arrays: arrays.pop("reference.depth"), "is missing"),
        (lambda arrays: arrays.pop("weights.networks.0.centroids"), "the weights are not"),
        (lambda arrays: arrays.pop("weights.networks.1.encoder.hidden.bias"), "the weights are not"),
        (lambda arrays: arrays.update({"weights.evil": np.zeros(1, np.float32)}), "the weights are not"),
        (_map("gene_shares", lambda a: a.astype(np.float64)), "'gene_shares' is not of type float32"),
        (_map("columns", lambda a: a.astype(np.int32)), "'columns' is not of type int64"),
        (_map("weights.networks.0.encoder.hidden.bias", lambda a: a.astype(np.float16)), "not of type float32"),
        (_map("weights.networks.0.encoder.hidden.bias", lambda a: a[:-1]), "the weights are not"),
        (_map("weights.networks.0.centroids", lambda a: a[:0]), "the weights are not|numbered wrongly"),
        (_map("weights.networks.2.centroids", lambda a: a[:1]), "the weights are not"),
        (_map("reference.latent", lambda a: a[:-1]), r"'reference\.latent' has shape \(149, 15\), not \(150, 15\)"),
        (_map("reference.proba", lambda a: a.T), "has shape"),
        (_map("reference.context", lambda a: a.reshape(150, -1)), "has shape"),
        (_map("reference.unexplained", lambda a: a[:-1]), r"'reference\.unexplained' has shape"),
        (_map("reference.unexplained", lambda a: np.full_like(a, -1)), "no cell is left"),
        (_map("reference.confidence", lambda a: a[:0]), "has shape"),
        (_map("reference.position", lambda a: a[:, :0]), "has shape|too short"),
        (_map("scaling.means", lambda a: a[:1]), "has shape|too short"),
        (_map("scaling.means", lambda a: a[0]), "has shape"),
        (_map("scaling.spread", lambda a: a[0]), "has shape|not of type"),
        (_map("loadings", lambda a: a[:, :-1]), "has shape"),
        (_set("scaling.means", np.nan), "impossible values"),
        (_set("scaling.spread", np.nan), "impossible values"),
        (_set("reference.position", np.inf), "impossible values"),
        (_set("weights.networks.1.decoder.logit.weight", -np.inf, 7), "impossible values"),
        (_set("columns", 3), "numbered wrongly"),
        (_set("columns", -1), "numbered wrongly"),
        (_map("columns", np.zeros_like), "numbered wrongly"),
        (_set("reference.batches", 1), "batch number is out of range"),
        (_set("reference.batches", -1), "batch number is out of range"),
    ],
)
def test_arrays_that_cannot_be(folder, change, match):
    change_arrays(folder, change)
    with pytest.raises(ValueError, match=match):
        sctag.ScTAG.load(folder)


def test_a_gene_without_spread_may_be_infinite(folder):
    change_arrays(folder, _set("scaling.spread", np.inf))
    assert np.isinf(sctag.ScTAG.load(folder).trained.fitted.scaling.spread[0])


@pytest.mark.parametrize(
    "header",
    [
        {"columns": {"dtype": "I64", "shape": [2**40], "data_offsets": [0, 2**43]}},
        {"columns": {"dtype": "I64", "shape": [2**40], "data_offsets": [0, 24]}},
        {"columns": {"dtype": "I64", "shape": [2**63, 2**63], "data_offsets": [0, 24]}},
        {"columns": {"dtype": "I64", "shape": [-1], "data_offsets": [24, 0]}},
        {"columns": {"dtype": "O", "shape": [3], "data_offsets": [0, 24]}},
        {"columns": {"dtype": "BF16", "shape": [12], "data_offsets": [0, 24]}},
        {"columns": {"dtype": "F8_E4M3", "shape": [24], "data_offsets": [0, 24]}},
        {"spreads": {"dtype": "F32", "shape": [0, 2**60], "data_offsets": [0, 0]}},
        {},
        [],
    ],
    ids=str,
)
@pytest.mark.parametrize("length", [None, 0, 2**40, 2**64 - 1])
def test_headers_that_promise_more_than_there_is(folder, header, length):
    """Refused, and no more is allocated than a file of a few kilobytes may cost."""
    raw = json.dumps(header).encode()
    claimed = len(raw) if length is None else length
    (folder / store.ARRAYS).write_bytes(struct.pack("<Q", claimed) + raw + b"\x00" * 24)
    sign(folder)
    record = (folder / store.RECORD).stat().st_size
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=DAMAGED):
            sctag.ScTAG.load(folder)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 30 * record + 2**18


def test_loading_allocates_little_more_than_the_files(folder):
    sctag.ScTAG.load(folder)
    tracemalloc.start()
    try:
        sctag.ScTAG.load(folder)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2.5 * sum(path.stat().st_size for path in folder.iterdir()) + 2**20


def test_numbers_of_networks_that_do_not_exist_cost_nothing(folder):
    """A number alone must not make anything large, nor take long."""
    sign(folder, config__n_networks=10**7, config__n_hops=10**7, config__n_hidden=10**9)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="has shape"):
            sctag.ScTAG.load(folder)
        assert tracemalloc.get_traced_memory()[1] < 2.5 * sum(p.stat().st_size for p in folder.iterdir()) + 2**20
    finally:
        tracemalloc.stop()


# --- the fuzzer, briefly (tests/fuzz_store.py says how to run it at length) ---


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory):
    spec = importlib.util.spec_from_file_location("sctag_fuzz_store", FUZZ)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its pickles name it
    spec.loader.exec_module(module)
    models = module.tiny_models(tmp_path_factory.mktemp("tiny"))
    module.tiny_models = lambda folder: models
    return module


def test_two_thousand_altered_models_load_or_are_refused(fuzzer):
    outcomes = fuzzer.fuzz(2_000, seed=1)
    assert sum(outcomes.values()) == 2_000
    assert outcomes["loaded"] > 10, "nothing harmless among the changes"
    assert len(outcomes) > 25, "few of the checks are reached"


PARSE = store.parse_record


def _unpickles(raw):
    with contextlib.suppress(Exception):
        pickle.loads(raw)
    return PARSE(raw)


def _opens_more(folder):
    (folder / "model.pkl").open("rb").close()
    return {}, {}


@pytest.mark.parametrize(
    ("name", "wrong", "says"),
    [
        ("_hash_of_record", lambda content: content.get("sha256"), "an altered model was loaded"),
        ("_config_of", lambda record: record["config"]["n_hops"] + 1, "TypeError|KeyError|AttributeError"),
        ("parse_record", _unpickles, r"pickle\.find_class"),
        ("read", _opens_more, r"open .*model\.pkl"),
        ("parse_record", lambda raw: bytearray(2**27) and store.refuse("x"), "bytes allocated for files of"),
    ],
)
def test_the_fuzzer_notices(fuzzer, monkeypatch, name, wrong, says):
    """A loader that is wrong in any way that matters must not pass."""
    load, calls = sctag.ScTAG.load.__func__, []

    def breaking(cls, folder):
        calls.append(folder)
        if len(calls) == 4:  # three are to warm up
            monkeypatch.setattr(store, name, wrong)
        return load(cls, folder)

    monkeypatch.setattr(fuzzer.sctag.ScTAG, "load", classmethod(breaking))
    with pytest.raises(fuzzer.Failure, match=rf"(?s)execution \d+ of seed 0 .*({says})"):
        fuzzer.fuzz(3_000)
    fuzzer.Planted.ran = False
