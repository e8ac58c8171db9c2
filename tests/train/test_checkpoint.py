"""A run that was ended goes on from its checkpoint, and ends as if nothing had happened."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import anndata
import numpy as np
import pytest
import torch

import sctag_tools as sctag
from sctag_tools.train import features, trainer
from sctag_tools.train.checkpoint import Checkpoint

OPTIONS = {"n_networks": 2, "pretrain_epochs": 8, "cluster_epochs": 2, "progress_bar": False}
FILE = "training.pt"


class Ended(Exception):
    """What ends a run here; nothing is tidied up after a kill either."""


@pytest.fixture
def ended(monkeypatch):
    """Ends the next run right after it has saved its state so many times, every three steps and after the last."""
    monkeypatch.setattr(trainer, "SAVE_EVERY", 3)

    def run(adata, folder, times, **options):
        save, done = Checkpoint.save, []

        def saves(checkpoint, state):
            save(checkpoint, state)
            done.append(state["step"])
            if len(done) == times:
                raise Ended

        with monkeypatch.context() as patch:
            patch.setattr(Checkpoint, "save", saves)
            with pytest.raises(Ended):
                sctag.tl.sctag(adata, 3, checkpoint=folder, **(OPTIONS | options))
        return done

    return run


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("options", [{}, {"likelihood": "zinb", "n_hops": 2}, {"graph_weight": 0.1}, {"mask_rate": 0}])
def test_it_ends_as_an_undisturbed_run(graphed, ended, same, tmp_path, times, options):
    undisturbed = sctag.tl.sctag(graphed, 3, copy=True, **(OPTIONS | options))
    assert ended(graphed, tmp_path / "state", times, **options)[:2] == [3, 6][:times]
    assert "sctag" not in graphed.uns
    sctag.tl.sctag(graphed, 3, checkpoint=tmp_path / "state", **(OPTIONS | options))
    for adata in (graphed, undisturbed):
        del adata.uns["sctag"]["seconds"], adata.uns["sctag"]["model"]
    same(graphed, undisturbed)
    assert not (tmp_path / "state").exists()


def test_large_data_go_on_as_well(graphed, ended, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "_MAX_DENSE_BYTES", 0)
    undisturbed = sctag.tl.sctag(graphed, 3, copy=True, **OPTIONS)
    ended(graphed, tmp_path / "state", 2)
    sctag.tl.sctag(graphed, 3, checkpoint=tmp_path / "state", **OPTIONS)
    np.testing.assert_array_equal(graphed.obsm["X_sctag"], undisturbed.obsm["X_sctag"])


def test_no_step_is_done_twice(graphed, ended, tmp_path, monkeypatch):
    ended(graphed, tmp_path, 2)
    steps, step = [], trainer.Trainer._step
    monkeypatch.setattr(trainer.Trainer, "_step", lambda *args: (steps.append(1), step(*args))[1])
    sctag.tl.sctag(graphed, 3, checkpoint=tmp_path, **OPTIONS)
    assert len(steps) == 2 + 2  # the last two of eight, and those of the clustering


@pytest.mark.parametrize("change", ["cells", "graph", "seed", "option"])
def test_a_checkpoint_of_another_run_is_refused(graphed, ended, tmp_path, unchanged, change):
    ended(graphed, tmp_path, 1)
    options = {"seed": {"random_state": 1}, "option": {"n_latent": 7}}.get(change, {})
    if change == "cells":
        graphed.X[0, 0] += 1
    if change == "graph":
        graphed.obsp["sctag_neighbors_connectivities"].data[0] *= 0.5
    with unchanged(graphed), pytest.raises(ValueError, match="on other data, with other options, another seed"):
        sctag.tl.sctag(graphed, 3, checkpoint=tmp_path, **(OPTIONS | options))
    assert (tmp_path / FILE).exists()


class Evil:
    """What a pickle could do."""

    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


@pytest.mark.parametrize("content", [b"", b"nonsense", "half", "pickle", "torch"])
def test_a_damaged_checkpoint_is_refused_and_executes_nothing(graphed, ended, tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    ended(graphed, tmp_path, 1)
    path = tmp_path / FILE
    if content == "half":
        content = path.read_bytes()[: path.stat().st_size // 2]
    if content == "torch":
        torch.save({"fingerprint": Evil()}, path)
    else:
        path.write_bytes(pickle.dumps(Evil()) if content == "pickle" else content)
    with pytest.raises(ValueError, match=r"is damaged .*delete it to start anew"):
        sctag.tl.sctag(graphed, 3, checkpoint=tmp_path, **OPTIONS)
    assert not Path("executed").exists()


def test_other_files_of_the_folder_stay(graphed, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    sctag.tl.sctag(graphed, 3, checkpoint=tmp_path, **OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_what_cannot_be_is_refused_before_the_work(graphed, tmp_path, unchanged):
    (tmp_path / "file").touch()
    with unchanged(graphed), pytest.raises(FileExistsError, match="is a file; name a folder"):
        sctag.tl.sctag(graphed, 3, checkpoint=tmp_path / "file")
    with unchanged(graphed), pytest.raises(ValueError, match="not for the published presets"):
        sctag.tl.sctag(graphed, 3, checkpoint=tmp_path / "state", preset="paper")


@pytest.mark.slow
def test_a_killed_process_goes_on_on_one_process(graphed, ended, tmp_path, monkeypatch):
    """The state of two processes is that of one."""
    undisturbed = sctag.tl.sctag(graphed, 3, copy=True, **OPTIONS)
    ended(graphed, tmp_path / "state", 1)
    sctag.tl.sctag(graphed, 3, checkpoint=tmp_path / "state", devices=2, **OPTIONS)
    assert (graphed.obs["sctag"].astype(str) == undisturbed.obs["sctag"].astype(str)).mean() > 0.98


@pytest.mark.slow
def test_kills_at_any_moment_of_the_command(tmp_path):
    """However often it is killed, with the state of a half-finished step or none: the labels are those of one run."""
    adata = sctag.datasets.pbmc68k_reduced()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    before = (tmp_path / "cells.h5ad").read_bytes()
    run = [sys.executable, "-m", "sctag_tools", "run", "cells.h5ad", "--quiet", "--highly-genes", "200"]
    subprocess.run([*run, "--out", "whole.h5ad"], cwd=tmp_path, check=True, capture_output=True)
    command = [*run, "--out", "killed.h5ad", "--checkpoint", "state"]
    rng, n_killed = np.random.default_rng(0), 0
    for _ in range(12):
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(4, 14))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        n_killed += 1
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert n_killed > 2
    found, whole = (anndata.read_h5ad(tmp_path / name) for name in ("killed.h5ad", "whole.h5ad"))
    assert found.obs["sctag"].tolist() == whole.obs["sctag"].tolist()
    assert not (tmp_path / "state").exists()
    assert (tmp_path / "cells.h5ad").read_bytes() == before
