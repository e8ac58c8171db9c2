"""Importing costs little, and neither importing nor running changes what is not ours."""

from __future__ import annotations

import os
import subprocess
import sys

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


def _run(code: str) -> str:
    command = [sys.executable, "-W", "ignore", "-c", STATES + code]
    # numba's threads differ from those that the tests give torch: what one sets must not leak into the other
    env = {**os.environ, "NUMBA_NUM_THREADS": "2"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_loads_no_heavy_library():
    code = f"import sctag_tools\nprint(sorted(m for m in sys.modules if m.split('.')[0] in {HEAVY}))"
    assert _run(code).strip() == "[]"


def test_cli_module_loads_no_heavy_library():
    code = f"import sctag_tools.cli\nprint(sorted(m for m in sys.modules if m.split('.')[0] in {HEAVY}))"
    assert _run(code).strip() == "[]"


def test_import_says_nothing_and_changes_nothing():
    out = _run("""
import numpy, scipy, pandas, anndata, typer  # third parties set filters of their own
before = states()
import sctag_tools, sctag_tools.cli
compare(before, states())
""")
    assert out == ""


def test_a_run_changes_no_global_state():
    """The full main job: graph with PCA, number of clusters chosen, both phases, plots."""
    _run("""
import matplotlib
matplotlib.use("agg")
import scanpy as sc, torch, torch_geometric, sklearn.mixture, pynndescent  # third parties set filters of their own
sc.settings.verbosity = 1
torch.set_num_threads(1)
torch.manual_seed(5); numpy_state = __import__("numpy").random.seed(5); random.seed(5)
import lightning_fabric
before = states()
import sctag_tools as sctag
adata = sctag.datasets.pbmc68k_reduced()[:200].copy()
sctag.pp.build_graph(adata)
sctag.tl.sctag(adata, pretrain_epochs=3, cluster_epochs=2)
sctag.pl.embedding(adata, basis="pca", show=False)
sctag.pl.history(adata, show=False)
assert "torch" in before
compare(before, states())
""")


def test_a_failed_run_changes_no_global_state():
    _run("""
import scanpy as sc, torch, torch_geometric, lightning_fabric, sklearn.mixture
import numpy as np
torch.set_num_threads(1)
before = states()
import sctag_tools as sctag
from anndata import AnnData
adata = AnnData(np.random.default_rng(0).poisson(3, (40, 30)).astype("float32"))
adata.obsm["X_rep"] = np.random.default_rng(0).normal(size=(40, 5))
sctag.pp.build_graph(adata, use_rep="X_rep")
adata.X[0, 0] = np.nan
try:
    sctag.tl.sctag(adata, 2, check_values=False, progress_bar=False)
except RuntimeError:
    compare(before, states())
else:
    raise AssertionError("NaN went through")
""")


def test_the_number_of_threads_that_was_asked_for_reaches_torch_when_numba_runs_first():
    code = (
        "import scanpy as sc, sctag_tools as sctag\n"
        "adata = sctag.datasets.pbmc68k_reduced()\n"
        "sctag.pp.build_graph(adata)\n"
        "import torch\n"
        "assert torch.get_num_threads() == 1, torch.get_num_threads()\n"
    )
    env = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "2"}
    command = [sys.executable, "-W", "ignore", "-c", code]
    found = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
