"""The command in an empty folder, a finished run with its model, and runs without training where that is not tested."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from anndata import AnnData
from typer.testing import CliRunner

from sctag_tools._keys import ResultKeys
from sctag_tools.cli import app


class Command:
    """The command with some arguments: ``run`` gives what comes of it, the others say how it must end."""

    def run(self, *arguments: object):
        return CliRunner().invoke(app, [*map(str, arguments)])

    def succeeds(self, *arguments: object) -> str:
        """What was printed; nothing may have gone to stderr."""
        result = self.run(*arguments)
        assert result.exit_code == 0, result.output
        assert result.stderr == "", result.stderr
        return result.stdout

    def fails(self, *arguments: object, status: int = 1) -> str:
        """What went to stderr: one line. Nothing may have been printed or written."""
        before = set(Path().rglob("*"))
        result = self.run(*arguments)
        assert result.exit_code == status, result.output
        assert result.stdout == ""
        assert "Traceback" not in result.stderr
        if status == 1:
            assert result.stderr.startswith("Error: ")
            assert result.stderr.count("\n") == 1, result.stderr
        assert set(Path().rglob("*")) == before
        return result.stderr


@pytest.fixture(autouse=True)
def _in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def command() -> Command:
    return Command()


@pytest.fixture
def trained(monkeypatch) -> list[tuple[AnnData, dict[str, Any]]]:
    """The cells and options that the training was called with, while nothing is trained and drawn."""
    calls = []

    def sctag(adata: AnnData, **options: Any) -> None:
        calls.append((adata, options))
        found = SimpleNamespace(
            latent=np.zeros((adata.n_obs, 2), np.float32),
            proba=np.eye(2, dtype=np.float32)[np.arange(adata.n_obs) % 2],
            confidence=np.ones(adata.n_obs, np.float32),
        )
        ResultKeys(options["key_added"]).write(adata, found, {"params": {}, "history": {}})

    monkeypatch.setattr("sctag_tools.tl.sctag", sctag)
    for name in ("_add_umap", "_draw"):
        monkeypatch.setattr(f"sctag_tools.cli._extras.{name}", lambda *_: None)
    return calls


@pytest.fixture(scope="session")
def finished(_blobs_once, tmp_path_factory) -> tuple[Path, str]:
    """A folder with cells, the result and the model of a real run on them, and further cells; and what was printed."""
    folder = tmp_path_factory.mktemp("finished")
    with contextlib.chdir(folder):
        _blobs_once[:120].write_h5ad("reference.h5ad")
        _blobs_once[120:].write_h5ad("query.h5ad")
        Path("results").mkdir()
        out = Command().succeeds(
            *("run", "reference.h5ad", "--highly_genes", 60, "--n-neighbors", 8, "--n-clusters", 3, "--n-networks", 2),
            *("--pretrain_epochs", 4, "--maxiter", 3, "--seed", 4, "--label-key", "group", "--quiet"),
            *("--key", "mine", "--out", "results/mine.h5ad", "--save-model", "model"),
        )
    return folder, out
