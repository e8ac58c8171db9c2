"""Several processes share a run: the same result as one, and an end with an error when one of them dies."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import psutil
import pytest
from scipy import sparse
from sklearn.metrics import adjusted_rand_score

from sctag_tools.cluster import partitions
from sctag_tools.mapping.reference import NeighborSettings
from sctag_tools.train.config import Config
from sctag_tools.train.fit import fit
from sctag_tools.train.launch import fit_in_processes

# Uneven shares: of 33 rows of a minibatch and of 61 cells, one process has one more than the other.
CONFIG = Config(
    n_clusters=3, pretrain_epochs=4, cluster_epochs=2, batch_size=33, n_networks=2, n_hidden=16, accelerator="cpu"
)
TWO = replace(CONFIG, devices=2)


def cells():
    rng = np.random.default_rng(0)
    groups = np.arange(61) % 3
    profiles = rng.gamma(0.5, 2.0, size=(3, 40))
    counts = sparse.csr_matrix(rng.poisson(profiles[groups]).astype(np.float32) + 1)
    ring = sparse.csr_matrix(np.roll(np.eye(61), 3, axis=1) + np.roll(np.eye(61), -3, axis=1))
    return {"counts": counts, "totals": np.asarray(counts.sum(axis=1)).ravel(), "connectivities": ring}


@pytest.fixture
def _all_partitions(monkeypatch):
    """As many as the other processes draw, which know nothing of every_test.py."""
    monkeypatch.setattr(partitions, "_N_PARTITIONS", 300)


@pytest.mark.usefixtures("_all_partitions")
def test_two_processes_find_what_one_does():
    handlers, environment = {n: signal.getsignal(n) for n in signal.valid_signals()}, dict(os.environ)
    given = {**cells(), "neighbor_settings": NeighborSettings()}
    one, two = fit(config=CONFIG, **given), fit_in_processes(TWO, **given)
    assert {n: signal.getsignal(n) for n in signal.valid_signals()} == handlers
    assert dict(os.environ) == environment
    assert one.history.keys() == two.history.keys()
    for name, values in one.history.items():  # means over shares of unequal size, weighted
        np.testing.assert_allclose(two.history[name], values, rtol=1e-5, err_msg=name)
    # One process adds up the same halves: but for the last bits of the read-out there is no difference.
    np.testing.assert_allclose(two.latent, one.latent, atol=1e-5 * np.abs(one.latent).max())
    np.testing.assert_allclose(two.proba, one.proba, atol=1e-5)
    np.testing.assert_array_equal(two.labels, one.labels)
    for name, array in one.reference.state.items():
        np.testing.assert_allclose(two.reference.state[name], array, atol=1e-5, err_msg=name)


@pytest.mark.slow
@pytest.mark.usefixtures("_all_partitions")
def test_three_processes_stop_where_one_does():
    """Clusters chosen, training that ends by itself, batches, shares of unequal size."""
    config = replace(CONFIG, n_clusters=None, pretrain_epochs=20, cluster_epochs=None)
    given = {**cells(), "batch_index": np.arange(61) % 2}
    one, three = fit(config=config, **given), fit_in_processes(replace(config, devices=3), **given)
    assert one.proba.shape == three.proba.shape
    assert adjusted_rand_score(one.labels, three.labels) > 0.99
    assert one.stop_reasons == three.stop_reasons
    assert len(one.history["loss"]) == len(three.history["loss"])


@pytest.mark.slow
def test_an_error_in_a_process_comes_back():
    given = cells()
    given["counts"].data[0] = np.nan
    with pytest.raises(
        RuntimeError, match=r"2 processes ended early.*: RuntimeError: The training became non-finite.*"
    ) as error:
        fit_in_processes(TWO, **given)
    assert "callstack" not in str(error.value)


def test_absent_devices_are_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(ValueError, match="devices=2 were asked for, but torch finds 1"):
        fit_in_processes(replace(TWO, accelerator="cuda"), **cells())


ENDLESS = """
from dataclasses import replace
from tests_of_launch import TWO, cells
from sctag_tools.train.launch import fit_in_processes
fit_in_processes(replace(TWO, pretrain_epochs=10**6), **cells())
"""


@pytest.fixture
def endless(tmp_path):
    """A run in two processes that would never end, and these processes."""
    shutil.copy(__file__, tmp_path / "tests_of_launch.py")
    run = subprocess.Popen([sys.executable, "-c", ENDLESS], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    workers = []
    try:
        workers = _wait_for_workers(run.pid)
        time.sleep(15)  # they are training by then, or about to
        yield run, workers
    finally:
        for process in (run, *workers):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        run.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("end", ["a worker is killed", "an interrupt", "the caller is killed"])
def test_no_process_outlives_the_others(endless, end):
    run, workers = endless
    if end == "a worker is killed":
        workers[1].kill()
        _, errors = run.communicate(timeout=60)
        assert run.returncode == 1
        assert "RuntimeError: One of the 2 processes ended early" in errors
    elif end == "an interrupt":
        run.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in run.communicate(timeout=20)[1]
    else:
        run.kill()
        run.wait()
        psutil.wait_procs(workers, timeout=10)
    assert not [one for one in workers if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def _wait_for_workers(pid):
    for _ in range(120):
        found = [
            child for child in psutil.Process(pid).children(recursive=True)
            if "sctag_tools.train.launch" in child.cmdline()
        ]  # fmt: skip
        if len(found) == 2:
            return found
        time.sleep(0.5)
    pytest.fail("the processes did not start")
