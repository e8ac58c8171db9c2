"""The command in an empty folder, a finished run with its model, and runs without training where that is not tested."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anndata import AnnData
from typer.testing import CliRunner

from sctag_tools._keys import ResultKeys
from sctag_tools.cli import app


def _invoke(*arguments: object):
    return CliRunner().invoke(app, [*map(str, arguments)])


def _succeeds(*arguments: object) -> str:
    """What was printed; nothing may have gone to stderr."""
    result = _invoke(*arguments)
    assert result.exit_code == 0, result.output
    assert result.stderr == "", result.stderr
    return result.stdout


@pytest.fixture(autouse=True)
def _in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def invoke() -> Callable[..., Any]:
    return _invoke


@pytest.fixture
def succeeds() -> Callable[..., str]:
    return _succeeds


@pytest.fixture
def fails() -> Callable[..., str]:
    """Runs a command that must fail: one line on stderr, nothing on stdout, no file written."""

    def check(*arguments: object, status: int = 1) -> str:
        before = set(Path().rglob("*"))
        result = _invoke(*arguments)
        assert result.exit_code == status, result.output
        assert result.stdout == ""
        assert "Traceback" not in result.stderr
        if status == 1:
            assert result.stderr.startswith("Error: ")
            assert result.stderr.count("\n") == 1, result.stderr
        assert set(Path().rglob("*")) == before
        return result.stderr

    return check


@pytest.fixture
def trained(monkeypatch) -> list[tuple[AnnData, dict[str, Any]]]:
    """The cells and options that the training was called with, while nothing is trained and drawn."""
    calls = []

    def sctag(adata: AnnData, **options: Any) -> None:
        calls.append((adata, options))
        ResultKeys(options["key_added"]).write(
            adata,
            latent=np.zeros((adata.n_obs, 2), np.float32),
            proba=np.eye(2, dtype=np.float32)[np.arange(adata.n_obs) % 2],
            confidence=np.ones(adata.n_obs, np.float32),
            categories=["0", "1"],
            record={"params": {}, "history": {}},
        )

    monkeypatch.setattr("sctag_tools.tl.sctag", sctag)
    monkeypatch.setattr("sctag_tools.cli._run._draw", lambda *_: None)
    return calls


@pytest.fixture(scope="session")
def finished(_blobs_once, tmp_path_factory) -> tuple[Path, str]:
    """A folder with cells, the result and the model of a real run on them, and further cells; and what was printed."""
    folder = tmp_path_factory.mktemp("finished")
    with contextlib.chdir(folder):
        _blobs_once[:120].write_h5ad("reference.h5ad")
        _blobs_once[120:].write_h5ad("query.h5ad")
        Path("results").mkdir()
        out = _succeeds(
            *("run", "reference.h5ad", "--highly_genes", 60, "--n-neighbors", 8, "--n-clusters", 3, "--n-networks", 2),
            *("--pretrain_epochs", 4, "--maxiter", 3, "--seed", 4, "--label-key", "group", "--quiet"),
            *("--key", "mine", "--out", "results/mine.h5ad", "--save-model", "model"),
        )
    return folder, out
