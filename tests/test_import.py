"""Importing costs little, and neither importing nor running changes what is not ours."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

HEAVY = (
    "torch", "torch_geometric", "lightning_fabric", "lightning", "pytorch_lightning", "lightning_utilities",
    "scanpy", "anndata", "sklearn", "numba", "umap", "matplotlib",
)  # fmt: skip

STATES = """
import hashlib, logging, os, pickle, random, sys, warnings

def states():
    import numpy as np

    found = {
        "python": hashlib.sha1(pickle.dumps(random.getstate())).hexdigest(),
        "numpy": hashlib.sha1(pickle.dumps(np.random.get_state())).hexdigest(),
        "warnings": list(warnings.filters),
        "showwarning": warnings.showwarning,
        "root handlers": list(logging.getLogger().handlers),
        "root level": logging.getLogger().level,
        "disabled": logging.root.manager.disable,
        "environment": dict(os.environ),
    }
    if "matplotlib" in sys.modules:
        import matplotlib

        # Read without resolving: an automatic backend that is not chosen yet is left unchosen.
        found["backend"] = str(dict.__getitem__(matplotlib.rcParams, "backend"))
    if "scanpy" in sys.modules:
        import scanpy as sc

        found |= {"verbosity": int(sc.settings.verbosity), "autoshow": sc.settings.autoshow}
    if "torch" in sys.modules:
        import torch

        found |= {
            "torch": hashlib.sha1(torch.get_rng_state().numpy().tobytes()).hexdigest(),
            "threads": torch.get_num_threads(),
            "interop threads": torch.get_num_interop_threads(),
            "dtype": torch.get_default_dtype(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "matmul": torch.get_float32_matmul_precision(),
            "anomaly": torch.is_anomaly_enabled(),
            "grad": torch.is_grad_enabled(),
        }
    return found

def compare(before, after):
    changed = {name: (before[name], after[name]) for name in before if before[name] != after[name]}
    assert not changed, changed
"""


def _run(code: str, **environment: str | None) -> str:
    """What is printed by a new interpreter, in which numba's number of threads is not torch's."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "2", **environment}
    env = {name: value for name, value in env.items() if value is not None}
    command = [sys.executable, "-W", "ignore", "-c", STATES + code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_loads_no_heavy_library():
    code = f"import sctag_tools, sctag_tools.cli\nprint([m for m in sys.modules if m.split('.')[0] in {HEAVY}])"
    assert _run(code).strip() == "[]"


def test_import_says_nothing_and_changes_nothing():
    out = _run("""
import numpy, scipy, pandas, anndata, typer  # third parties set filters of their own
before = states()
import sctag_tools, sctag_tools.cli
compare(before, states())
""")
    assert out == ""


def test_neither_a_run_nor_a_failed_one_changes_the_global_state():
    """The full main job: graph with PCA, number of clusters chosen, both phases, plots."""
    _run("""
import matplotlib
matplotlib.use("agg")
import numpy as np, scanpy as sc, sctag_tools as sctag
sc.settings.verbosity = 1
adata = sctag.datasets.pbmc68k_reduced()[:200].copy()
sctag.pp.build_graph(adata)
from sctag_tools.cluster import partitions
partitions._N_PARTITIONS = 40
import torch
assert torch.get_num_threads() == 1, "numba, which ran first, decided on torch's threads"

import torch_geometric, lightning_fabric, sklearn.mixture, pynndescent  # third parties set filters of their own
torch.manual_seed(5); np.random.seed(5); random.seed(5)
del adata.obsm["X_pca"]
before = states()
assert "threads" in before
sctag.pp.build_graph(adata)
sctag.tl.sctag(adata, n_networks=1, pretrain_epochs=3, cluster_epochs=2)
sctag.pl.embedding(adata, basis="pca", show=False)
sctag.pl.history(adata, show=False)
compare(before, states())
adata.X.data[0] = np.nan
try:
    sctag.tl.sctag(adata, 2, check_values=False, progress_bar=False)
except RuntimeError:
    compare(before, states())
else:
    raise AssertionError("NaN went through")
""")


def test_labels_do_not_depend_on_what_else_runs_where_no_number_of_threads_is_asked_for():
    _run(
        """
import subprocess, torch, numpy as np, sctag_tools as sctag
from anndata import AnnData
from sctag_tools.cluster import partitions
from sctag_tools.train.trainer import Trainer

partitions._N_PARTITIONS = 6
adata = AnnData(np.random.default_rng(0).poisson(3, (100, 40)).astype("float32"))
adata.uns["all"], adata.obsp["all"] = {"connectivities_key": "all"}, np.ones((100, 100))
step, threads, latents = Trainer._step, set(), []

def watched(*args):
    threads.add(torch.get_num_threads())
    step(*args)

Trainer._step = watched
for n_busy in (0, os.cpu_count()):
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n_busy)]
    try:
        sctag.tl.sctag(adata, 3, neighbors_key="all", n_networks=1, pretrain_epochs=3, cluster_epochs=2)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    latents.append(adata.obsm["X_sctag"])
assert threads == {torch.get_num_threads()}, threads
np.testing.assert_array_equal(*latents)
""",
        OMP_NUM_THREADS=None,
        OMP_WAIT_POLICY="passive",  # idle threads that spin make the crowd a long one
    )


@pytest.mark.parametrize(("own", "seen"), [(None, "PASSIVE"), ("active", "active")])
def test_threads_sleep_while_they_wait_unless_the_user_says_otherwise(own, seen):
    """The policy is read when OpenMP loads; with threads that spin, a run beside a busy program takes many minutes."""
    _run(
        f"""
import os, sys
import sctag_tools
assert os.environ["OMP_WAIT_POLICY"] == {seen!r}
with open("/proc/self/maps") as maps:
    assert "gomp" not in maps.read()  # not read before it was set
""",
        OMP_WAIT_POLICY=own,
    )


def test_no_file_is_left_in_the_temporary_folder(tmp_path):
    """PyG writes the code that it generates for a layer into one, for each process anew."""
    _run(
        """
import torch
from sctag_tools.nn.tag import TAGEncoder
from sctag_tools.published.net import PublishedNet
TAGEncoder(10, 4, 2, 1)
for true_hops in (True, False):
    PublishedNet(10, true_hops=true_hops, dropout=0.5)
""",
        TMPDIR=str(tmp_path),
    )
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_runs_in_threads_of_one_process_do_not_change_each_other():
    """Torch's generator is one for the process, and so is scanpy's verbosity."""
    _run(
        """
from concurrent.futures import ThreadPoolExecutor
import numpy as np, scanpy as sc, sctag_tools as sctag
from anndata import AnnData

def run(seed):
    adata = AnnData(np.random.default_rng(0).poisson(3, (80, 30)).astype("float32"))
    sctag.pp.build_graph(adata, random_state=seed)
    sctag.tl.sctag(adata, 3, random_state=seed, n_networks=1, pretrain_epochs=8, cluster_epochs=2, progress_bar=False)
    return adata.obsm["X_sctag"]

before = sc.settings.verbosity
alone = [run(seed) for seed in range(4)]
with ThreadPoolExecutor(4) as pool:
    together = list(pool.map(run, range(4)))
for one, other in zip(alone, together):
    np.testing.assert_array_equal(one, other)
assert sc.settings.verbosity == before
""",
        OMP_NUM_THREADS="1",
    )
