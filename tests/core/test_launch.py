"""Several processes share a run: the same result as one, and an end with an error when one of them dies."""

import shutil
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from scipy import sparse
from sklearn.metrics import adjusted_rand_score

from sctag_tools._core.config import Config
from sctag_tools._core.fit import fit
from sctag_tools._core.launch import fit_in_processes

OPTIONS = {"random_state": 0, "accelerator": "cpu"}
# Uneven shares: of 33 rows of a batch and of 181 cells, one process has one more than the other.
CONFIG = Config(pretrain_epochs=4, cluster_epochs=2, batch_size=33, n_networks=2, n_hidden=32)


def cells():
    rng = np.random.default_rng(0)
    groups = np.arange(181) % 3
    profiles = rng.gamma(0.5, 2.0, size=(3, 60))
    counts = sparse.csr_matrix(rng.poisson(profiles[groups]).astype(np.float32))
    ring = sparse.csr_matrix(np.roll(np.eye(181), 3, axis=1) + np.roll(np.eye(181), -3, axis=1))
    return counts, np.asarray(counts.sum(axis=1)).ravel(), ring


def test_two_processes_find_what_one_does():
    one, two = fit(*cells(), 3, CONFIG, **OPTIONS), fit_in_processes(2, *cells(), 3, CONFIG, **OPTIONS)
    assert adjusted_rand_score(one.labels, two.labels) > 0.99
    assert one.history.keys() == two.history.keys()
    for name, values in one.history.items():  # means over shares of unequal size, weighted
        np.testing.assert_allclose(two.history[name], values, rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(two.latent, one.latent, atol=1e-3 * np.abs(one.latent).max())
    np.testing.assert_allclose(two.proba, one.proba, atol=1e-3)


@pytest.mark.slow
def test_an_error_in_a_process_comes_back():
    counts, totals, ring = cells()
    counts.data[0] = np.nan
    with pytest.raises(RuntimeError, match=r"2 processes ended early.*non-finite"):
        fit_in_processes(2, counts, totals, ring, 3, CONFIG, **OPTIONS)


def test_absent_devices_are_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(ValueError, match="devices=2 were asked for, but torch finds 1"):
        fit_in_processes(2, *cells(), 3, CONFIG, random_state=0, accelerator="cuda")


ENDLESS = """
from dataclasses import replace
from tests_of_launch import CONFIG, OPTIONS, cells
from sctag_tools._core.launch import fit_in_processes
fit_in_processes(2, *cells(), 3, replace(CONFIG, pretrain_epochs=10**6), **OPTIONS)
"""


@pytest.mark.slow
def test_a_killed_process_ends_the_run_with_an_error(tmp_path):
    shutil.copy(__file__, tmp_path / "tests_of_launch.py")
    run = subprocess.Popen([sys.executable, "-c", ENDLESS], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    try:
        workers = _wait_for_workers(run.pid)
        time.sleep(15)  # they are training by then, or about to
        workers[1].kill()
        _, errors = run.communicate(timeout=60)
    finally:
        run.kill()
    assert run.returncode == 1
    assert "RuntimeError: One of the 2 processes ended early" in errors
    assert not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers)


def _wait_for_workers(pid):
    for _ in range(120):
        found = [
            child for child in psutil.Process(pid).children(recursive=True)
            if "sctag_tools._core.launch" in child.cmdline()
        ]  # fmt: skip
        if len(found) == 2:
            return found
        time.sleep(0.5)
    pytest.fail("the processes did not start")
