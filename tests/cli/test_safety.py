"""No earlier result is harmed, no half file has a final name, and what fails late costs nothing done before."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
from anndata import AnnData

import sctag_tools as sctag

SHORT = ("--quiet", "--pretrain-epochs", 2, "--maxiter", 1, "--n-clusters", 3, "--n-networks", 1, "--highly-genes", 50)


@pytest.fixture
def data(blobs: AnnData) -> Path:
    blobs.write_h5ad("blobs.h5ad")
    return Path("blobs.h5ad")


def digest(path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def hidden() -> list[str]:
    return [path.name for path in Path().rglob(".*")]


@pytest.mark.parametrize("what", ["_save", "_add_umap", "_draw"])
def test_what_fails_after_the_clustering_is_told_and_costs_nothing_else(data, command, trained, monkeypatch, what):
    """On a full disk, say: the result is written before, and the other steps are done."""
    done = []
    for name in ("_save", "_add_umap", "_draw"):
        monkeypatch.setattr(f"sctag_tools.cli._extras.{name}", lambda *_, name=name, **__: done.append(name))

    def fail(*_, **__):
        msg = "No space left on device"
        raise OSError(msg)

    monkeypatch.setattr(f"sctag_tools.cli._extras.{what}", fail)
    result = command.run("run", data, "--save", "model")
    assert result.exit_code == 1
    named = {"_save": "the model in model", "_add_umap": "the UMAP", "_draw": "the picture blobs_sctag.png"}[what]
    assert result.stderr == (
        f"Error: {named} could not be made (No space left on device). The clusters are safe in blobs_sctag.h5ad.\n"
    )
    assert "sctag" in anndata.read_h5ad("blobs_sctag.h5ad").obs
    expected = {"_save": ["_add_umap", "_draw"], "_add_umap": ["_save"], "_draw": ["_save", "_add_umap"]}
    assert done == expected[what]
    assert named.split()[-1] not in result.stdout.splitlines()[-1]


@pytest.mark.parametrize("command_name", ["run", "map"])
def test_a_result_that_cannot_be_written_leaves_the_earlier_one(finished, command, trained, monkeypatch, command_name):
    folder, _ = finished
    Path("out.h5ad").write_bytes((folder / "results" / "mine.h5ad").read_bytes())
    before, write, sizes = digest("out.h5ad"), AnnData.write_h5ad, []

    def fill_the_disk(adata, path, *args, **kwargs):
        write(adata, path, *args, **kwargs)
        sizes.append(adata.n_obs * adata.n_vars)
        if len(sizes) == 3:  # after both trials
            msg = "No space left on device"
            raise OSError(msg)

    monkeypatch.setattr(AnnData, "write_h5ad", fill_the_disk)
    query = folder / "query.h5ad"
    options = {"run": ["run", query], "map": ["map", query, "--model", folder / "model"]}[command_name]
    result = command.run(*options, "--out", "out.h5ad")
    assert (result.exit_code, result.stderr) == (1, "Error: No space left on device\n")
    assert digest("out.h5ad") == before
    assert not hidden()


def test_what_no_result_file_can_hold_is_refused_before_the_work(data, command, trained):
    """A column as SeuratDisk leaves it, in raw; and a name of ours that is taken."""
    adata = anndata.read_h5ad(data)
    adata.raw = adata.copy()
    adata.write_h5ad("seurat.h5ad")
    with h5py.File("seurat.h5ad", "r+") as file:
        table = file["raw/var"]
        table.copy("_index", "features")
        table.attrs["_index"] = "features"
        table.attrs["column-order"] = np.array(["_index"], dtype=h5py.string_dtype())
    said = command.fails("run", "seurat.h5ad")
    assert "A result file could not hold what the input holds" in said
    assert "_index" in said
    assert not trained
    mixed = anndata.read_h5ad(data)
    mixed.obs["mixed"] = [1, "a", *[None] * (mixed.n_obs - 2)]
    with pytest.raises(TypeError):
        mixed.write_h5ad("mixed.h5ad")


def test_the_model_folder_is_no_result_and_is_replaced_only_if_asked(data, command, trained, finished):
    assert "--save names the result" in command.fails("run", data, "--out", "a.h5ad", "--save", "a.h5ad")
    folder = finished[0] / "model"
    assert "`--overwrite`" in command.fails("run", data, "--save", folder)
    assert not trained


def test_an_earlier_model_is_replaced_with_overwrite(data, command):
    for seed in (0, 1):
        result = command.run("run", data, *SHORT, "--save", "model", "--seed", seed, *(["--overwrite"] * seed))
        assert result.exit_code == 0, result.stderr
    assert sctag.ScTAG.load("model").params_["random_state"] == 1


def test_a_hard_link_to_the_input_keeps_the_input(data, command, trained):
    os.link(data, "other_name.h5ad")
    before = digest(data)
    command.succeeds("run", data, "--out", "other_name.h5ad")
    assert digest(data) == before
    assert "sctag" in anndata.read_h5ad("other_name.h5ad").obs


def test_a_result_that_is_open_elsewhere_is_replaced(data, command, trained):
    command.succeeds("run", data)
    held = anndata.read_h5ad("blobs_sctag.h5ad", backed="r")
    before = held.X[:5].toarray()
    command.succeeds("run", data, "--key", "again")
    np.testing.assert_array_equal(held.X[:5].toarray(), before)
    held.file.close()
    assert "again" in anndata.read_h5ad("blobs_sctag.h5ad").obs


def test_two_runs_onto_one_result_leave_one_of_them(data, command):
    command.run("run", data, *SHORT, "--out", "both.h5ad")
    run = [sys.executable, "-m", "sctag_tools", "run", str(data), *map(str, SHORT), "--out", "both.h5ad"]
    both = [
        subprocess.Popen([*run, "--seed", str(seed)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for seed in (5, 6)
    ]
    assert [one.wait(300) for one in both] == [0, 0]
    assert anndata.read_h5ad("both.h5ad").uns["sctag"]["params"]["random_state"] in {5, 6}
    assert not [name for name in hidden() if "unfinished" in name]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_killed_at_any_moment_harms_nothing(data, command, number):
    """Under a final name lies the earlier result or the new one, whole; the input is what it was."""
    assert command.run("run", data, *SHORT, "--out", "out.h5ad", "--save", "model").exit_code == 0
    before = digest(data)
    run = [sys.executable, "-m", "sctag_tools", "run", str(data), *map(str, SHORT), "--out", "out.h5ad"]
    run += ["--save", "model", "--overwrite", "--seed", "9"]
    start = time.perf_counter()
    subprocess.run(run, check=True, capture_output=True)
    whole = time.perf_counter() - start
    for moment in np.linspace(0.3, 1.0, 12):
        process = subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(moment * whole)
        process.send_signal(number)
        process.wait(60)
        assert digest(data) == before
        assert anndata.read_h5ad("out.h5ad").obs["sctag"].notna().all()
        assert len(sctag.ScTAG.load("model").predict()) == 150
        assert Path("out.png").read_bytes().endswith(b"IEND\xaeB`\x82")


def test_the_checkpoint_stays_until_the_result_is_in_its_file(data, command, monkeypatch):
    def full(*_):
        msg = "No space left on device"
        raise OSError(msg)

    with monkeypatch.context() as patch:
        patch.setattr("sctag_tools.cli._run.write_result", full)
        assert command.run("run", data, *SHORT, "--checkpoint", "state").exit_code == 1
    assert Path("state/training.pt").exists()
    result = command.run("run", data, *SHORT, "--checkpoint", "state")
    assert result.exit_code == 0, result.stderr
    assert not Path("state").exists()
