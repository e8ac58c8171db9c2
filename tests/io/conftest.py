"""Folders with a tiny model, and ways to change them as someone would who knows the format."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from pathlib import Path

import pytest

from sctag_tools.io.model_folder import ARRAYS, RECORD

FUZZ = Path(__file__).resolve().parents[1] / "fuzz_store.py"


@pytest.fixture(scope="session")
def fuzzer():
    """tests/fuzz_store.py, whose models are trained once."""
    spec = importlib.util.spec_from_file_location("sctag_fuzz_store", FUZZ)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its pickles name it
    spec.loader.exec_module(module)
    models = module.tiny_models()
    module.tiny_models = lambda: models
    return module


@pytest.fixture(scope="session", params=["plain", "full"])
def any_model(fuzzer, request):
    """A tiny trained model, and one with all that a model can have."""
    return fuzzer.tiny_models()[request.param == "full"]


@pytest.fixture(scope="session")
def model(fuzzer):
    """The one with two networks, two hops, a graph decoder, batches, and a representation of its own."""
    return fuzzer.tiny_models()[1]


@pytest.fixture
def folder(model, tmp_path):
    """Where ``model`` is saved."""
    model.save(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.fixture
def seal(folder):
    """Makes the hashes right, of the record as it is or of other content."""

    def write(content=None):
        content = json.loads((folder / RECORD).read_bytes()) if content is None else content
        content["arrays_sha256"] = hashlib.sha256((folder / ARRAYS).read_bytes()).hexdigest()
        content.pop("sha256", None)
        content["sha256"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        (folder / RECORD).write_text(json.dumps(content), encoding="utf-8")

    return write
