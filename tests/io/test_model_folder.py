"""A saved model: what comes back, in another process too, and files that are refused with nothing of them run."""

from __future__ import annotations

import contextlib
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest

import sctag_tools as sctag
from sctag_tools.io import model_folder, model_format
from sctag_tools.io.model_folder import ARRAYS, RECORD
from sctag_tools.io.model_format import pack

DAMAGED = r"The model is damaged: .*Save it again"

# --- what comes back ---


def test_everything_comes_back_bit_for_bit(any_model, tmp_path, same):
    any_model.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"model.json", "model.safetensors"}
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1
    back = sctag.ScTAG.load(tmp_path)
    for ours, theirs in zip(
        pack(any_model.reference, any_model.registry), pack(back.reference, back.registry), strict=True
    ):
        same(dict(sorted(ours.items())), dict(sorted(theirs.items())))
    same(any_model.history, back.history)
    assert back.params_ == any_model.params_


ELSEWHERE = """
import sys, numpy as np, sctag_tools as sctag
sys.path.insert(0, sys.argv[1])
from fuzz_store import tiny_cells
model = sctag.ScTAG.load(sys.argv[2])
placed, _ = model.place(tiny_cells())
expected = model.reference.expected_proportions(placed.latents, model.reference.cells.batch_index)
np.savez(sys.argv[3], own=model.get_latent_representation(), expected=expected, **vars(placed))
"""


def test_another_process_finds_the_same_bit_for_bit(fuzzer, model, folder, tmp_path):
    tests, found = str(fuzzer.Path(fuzzer.__file__).parent), tmp_path / "found.npz"
    command = [sys.executable, "-W", "ignore", "-c", ELSEWHERE, tests, str(folder), str(found)]
    subprocess.run(command, check=True, timeout=300)
    placed, _ = model.place(fuzzer.tiny_cells())
    expected = model.reference.expected_proportions(placed.latents, model.reference.cells.batch_index)
    here = {"own": model.get_latent_representation(), "expected": expected, **vars(placed)}
    with np.load(found) as there:
        assert set(there) == set(here)
        for name, array in here.items():
            np.testing.assert_array_equal(there[name], array, err_msg=name)


def test_loading_needs_no_pickle_and_looks_at_no_other_file(fuzzer, folder, model, monkeypatch):
    import torch

    def never(*args, **kwargs):
        pytest.fail("something was unpickled")

    for beside in ("model.pkl", "pytorch_model.bin", "__init__.py", "model.pt"):
        (folder / beside).write_bytes(pickle.dumps(fuzzer.Planted()))
    (folder / "sctag_tools.py").write_text("raise SystemExit")
    sctag.ScTAG.load(folder)  # what is imported late is there
    for module, name in [(pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (np, "load"), (torch, "load")]:
        monkeypatch.setattr(module, name, never)
    np.testing.assert_array_equal(sctag.ScTAG.load(folder).predict(), model.predict())
    assert not fuzzer.Planted.ran


# --- what is refused ---


@pytest.mark.parametrize("name", [RECORD, ARRAYS])
def test_truncated_and_missing_files_are_refused(folder, name):
    raw = (folder / name).read_bytes()
    for length in (0, 1, 8, 100, len(raw) // 2, len(raw) - 1):
        (folder / name).write_bytes(raw[:length])
        with pytest.raises(ValueError, match=DAMAGED):
            sctag.ScTAG.load(folder)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"no model in .*: it has no {name}"):
        sctag.ScTAG.load(folder)


def test_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no model in"):
        sctag.ScTAG.load(tmp_path / "nowhere")
    (tmp_path / "ref.h5ad").touch()
    with pytest.raises(FileNotFoundError, match=r"ref\.h5ad is a file, not the folder of a model.*clustered AnnData"):
        sctag.ScTAG.load(tmp_path / "ref.h5ad")


def test_a_single_bit_of_the_arrays_and_the_arrays_of_another_model(fuzzer, folder, tmp_path):
    raw = (folder / ARRAYS).read_bytes()
    fuzzer.tiny_models()[0].save(tmp_path / "other")
    wrong = [(tmp_path / "other" / ARRAYS).read_bytes()]
    for share in (0.001, 0.3, 0.7, 0.999):
        flipped = bytearray(raw)
        flipped[int(len(raw) * share)] ^= 1
        wrong.append(bytes(flipped))
    for arrays in wrong:
        (folder / ARRAYS).write_bytes(arrays)
        with pytest.raises(ValueError, match=r"model\.safetensors is not the file that was saved"):
            sctag.ScTAG.load(folder)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda text: text.replace('"donor"', '"donors"').encode(), r"model\.json is not as it was saved"),
        (lambda text: text.encode("utf-16"), "is no JSON"),
        (lambda text: b"[1]", r"model\.json is no table"),
    ],
)
def test_an_altered_record(folder, change, match):
    (folder / RECORD).write_bytes(change((folder / RECORD).read_text()))
    with pytest.raises(ValueError, match=match):
        sctag.ScTAG.load(folder)


def test_a_newer_format_asks_for_an_update(folder, seal):
    content = json.loads((folder / RECORD).read_bytes())
    for newer in (content | {"format": 3, "some": "news"}, content | {"model": content["model"] | {"format": 3}}):
        seal(newer)
        with pytest.raises(ValueError, match=r"newer version \(format 3, this one reads 2\); update sctag-tools"):
            sctag.ScTAG.load(folder)


@pytest.mark.parametrize("number", [0, -1, True, 1.0, "1", None])
def test_no_format_of_ours(folder, seal, number):
    content = json.loads((folder / RECORD).read_bytes())
    for altered in (content | {"format": number}, content | {"model": content["model"] | {"format": number}}):
        seal(altered)
        with pytest.raises(ValueError, match="its format is"):
            sctag.ScTAG.load(folder)


@pytest.mark.parametrize("depth", [25, 500, 980, 985, 990, 992, 995, 2_000, 100_000])
@pytest.mark.parametrize("brackets", [("[", "]"), ('{"a": ', "}")], ids=["lists", "tables"])
def test_json_nested_without_end(folder, depth, brackets):
    opening, closing = (bracket * depth for bracket in brackets)
    text = (folder / RECORD).read_text()
    (folder / RECORD).write_text(text.replace('"metric": "euclidean"', f'"metric": {opening}1{closing}'))
    with pytest.raises(ValueError, match=r"nested too deeply|is no JSON \(maximum recursion"):
        sctag.ScTAG.load(folder)


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize(("name", "sealed"), [(RECORD, False), (ARRAYS, False), (ARRAYS, True)])
def test_a_planted_pickle_never_runs(fuzzer, folder, seal, name, protocol, sealed):
    planted = pickle.dumps(fuzzer.Planted(), protocol=protocol)
    pickle.loads(planted)
    assert fuzzer.Planted.ran, "this pickle could not tell"
    fuzzer.Planted.ran = False
    (folder / name).write_bytes(planted)
    if sealed:
        seal()
    with pytest.raises(ValueError, match=DAMAGED):
        sctag.ScTAG.load(folder)
    assert not fuzzer.Planted.ran


# --- the fuzzer, briefly (tests/fuzz_store.py says how to run it at length) ---


def test_a_thousand_altered_models_load_or_are_refused(fuzzer):
    outcomes = fuzzer.fuzz(1_000, seed=1)
    assert sum(outcomes.values()) == 1_000
    assert outcomes["loaded"] > 10, "nothing harmless among the changes"
    assert len(outcomes) > 25, "few of the checks are reached"


PARSE = model_folder.parse_record


def _unpickles(raw):
    with contextlib.suppress(Exception):
        pickle.loads(raw)
    return PARSE(raw)


def _opens_more(folder):
    (folder / "model.pkl").open("rb").close()
    return {}, {}


@pytest.mark.parametrize(
    ("module", "name", "wrong", "says"),
    [
        (model_folder, "_hash_of_record", lambda content: content.get("sha256"), "an altered model was loaded"),
        (model_format, "_config", lambda record: record["config"]["n_hops"] + 1, "TypeError|KeyError|AttributeError"),
        (model_folder, "parse_record", _unpickles, r"pickle\.find_class"),
        (model_folder, "read", _opens_more, r"open .*model\.pkl"),
        (model_folder, "parse_record", lambda raw: bytearray(2**27) and model_folder.refuse("x"), "bytes allocated"),
    ],
)
def test_the_fuzzer_notices(fuzzer, monkeypatch, module, name, wrong, says):
    """A loader that is wrong in any way that matters must not pass."""
    load, calls = sctag.ScTAG.load.__func__, []

    def breaking(cls, folder):
        calls.append(folder)
        if len(calls) == 5:  # four are to warm up
            monkeypatch.setattr(module, name, wrong)
        return load(cls, folder)

    monkeypatch.setattr(fuzzer.sctag.ScTAG, "load", classmethod(breaking))
    with pytest.raises(fuzzer.Failure, match=rf"(?s)execution \d+ of seed 0 .*({says})"):
        fuzzer.fuzz(3_000)
    fuzzer.Planted.ran = False
