"""Wall time, CPU time and memory of the default beside what a user would run instead, in one run.

    python docs/benchmarks/speed.py ../shared/data --sets MouseBladder_2100 CITE_CBMC_top2000 --repeats 3

Every run has a fresh process, which prints what its imports and what its work took; methods alternate, so that a slow
minute of the machine meets all of them. The clock starts after highly variable genes were chosen and ends with labels,
compilation included. Methods:

sctag   `sctag.pp.build_graph` and `sctag.tl.sctag` with default options, number of clusters not given
leiden  `sc.pp.pca`, `sc.pp.neighbors` (exact: scanpy 1.11 fails with pynndescent 0.7 above 8,192 cells) and
        `sc.tl.leiden` (igraph, two iterations)
dense   the same networks trained on all cells at once with a dense adjacency; a few steps are timed and scaled to 310
scvi    `scvi.model.SCVI`, neighbors and Leiden; 20 epochs are timed and scaled to scvi-tools' own default number

scvi-tools is no dependency: `pip install --group benchmark`, in an environment of its own if wished (`--scvi-python`).
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

METHODS = ("sctag", "leiden", "dense", "scvi")
STEPS = 310  # of the default: 250 of pretraining and at most 60 of clustering
DENSE_STEPS, SCVI_EPOCHS = 3, 20


class Clock:
    """Wall and CPU time so far; `extra` holds what was scaled up from a part that was timed."""

    def __init__(self) -> None:
        self.began, self.extra = self.now(), (0.0, 0.0)

    @staticmethod
    def now() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()

    def scale(self, since: tuple[float, float], factor: float) -> None:
        """Count the time `since` then `factor` times."""
        self.extra = tuple((now - then) * (factor - 1) for now, then in zip(self.now(), since, strict=True))

    def read(self) -> list[float]:
        return [now - then + more for now, then, more in zip(self.now(), self.began, self.extra, strict=True)]


def run_sctag(adata, _clock: Clock) -> None:
    import sctag_tools as sctag

    sctag.pp.build_graph(adata)
    sctag.tl.sctag(adata, progress_bar=False)


def run_leiden(adata, _clock: Clock) -> None:
    import scanpy as sc

    sc.pp.pca(adata)
    sc.pp.neighbors(adata, transformer="sklearn")
    sc.tl.leiden(adata, flavor="igraph", n_iterations=2, directed=False)


def run_scvi(adata, clock: Clock) -> None:
    import scanpy as sc
    import scvi

    adata = adata[:, adata.var["highly_variable"]].copy()
    scvi.model.SCVI.setup_anndata(adata, layer="counts")
    model = scvi.model.SCVI(adata)
    since = clock.now()
    model.train(max_epochs=SCVI_EPOCHS, accelerator="cpu", enable_progress_bar=False)
    clock.scale(since, min(round(20_000 / adata.n_obs * 400), 400) / SCVI_EPOCHS)
    adata.obsm["X_scVI"] = model.get_latent_representation()
    sc.pp.neighbors(adata, use_rep="X_scVI", transformer="sklearn")
    sc.tl.leiden(adata, flavor="igraph", n_iterations=2, directed=False)


def run_dense(adata, clock: Clock) -> None:
    """Three networks as in the default, all cells in every step, hops by products with an n x n matrix."""
    import scanpy as sc
    import torch
    import torch.nn.functional as F  # noqa: N812

    genes = adata.var["highly_variable"].to_numpy()
    sc.pp.pca(adata)
    sc.pp.neighbors(adata, transformer="sklearn")
    a = torch.from_numpy(adata.obsp["connectivities"].toarray())
    scale = a.sum(1).rsqrt()
    a = scale[:, None] * a * scale
    x = adata.X[:, genes].toarray() if hasattr(adata.X, "toarray") else adata.X[:, genes]
    x = torch.from_numpy((x - x.mean(0)) / (x.std(0) + 1e-6)).float()
    counts = adata.layers["counts"][:, genes]
    counts = torch.from_numpy(counts.toarray() if hasattr(counts, "toarray") else counts).float()
    nets = [
        {
            name: torch.nn.Linear(*shape)
            for name, shape in {
                "own": (len(x.T), 128), "hop": (len(x.T), 128), "latent": (128, 15), "back": (15, 128),
                "logit": (128, len(x.T)),
            }.items()
        }
        for _ in range(3)
    ]  # fmt: skip
    parameters = [weight for net in nets for layer in net.values() for weight in layer.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=2e-3)
    since = clock.now()
    for _ in range(DENSE_STEPS):
        loss = 0
        for net in nets:
            masked = F.dropout(x, 0.8)
            latent = net["latent"](F.relu(net["own"](masked) + net["hop"](a @ masked)))
            logits = net["logit"](F.relu(net["back"](latent)))
            loss = loss - (counts * logits.log_softmax(1)).sum(1).div(counts.sum(1).clamp(min=1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    clock.scale(since, STEPS / DENSE_STEPS)


def one(method: str, path: Path) -> None:
    """Run a method on a set in this process and print what it took."""
    import importlib

    from accuracy import prepare

    began, cpu = time.perf_counter(), time.process_time()
    for module in {"sctag": ["sctag_tools"], "scvi": ["scanpy", "scvi"]}.get(method, ["scanpy"]):
        importlib.import_module(module)
    imports, imports_cpu = time.perf_counter() - began, time.process_time() - cpu
    adata, _ = prepare(path, 0)
    clock = Clock()
    globals()[f"run_{method}"](adata, clock)
    wall, cpu = clock.read()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"imports": imports, "imports_cpu": imports_cpu, "wall": wall, "cpu": cpu, "peak_mb": peak}))


def compare(options: argparse.Namespace) -> None:
    import pandas as pd

    rows = []
    for repeat in range(options.repeats):
        for name in options.sets:
            for method in options.methods:
                if method in {"dense", "scvi"} and repeat >= options.slow_repeats:
                    continue
                python = options.scvi_python if method == "scvi" else sys.executable
                command = [python, __file__, str(options.folder), "--one", method, name]
                done = subprocess.run(command, check=False, capture_output=True, text=True)
                if done.returncode:
                    sys.exit(f"{method} on {name}:\n{done.stderr}")
                rows.append({"set": name, "method": method, **json.loads(done.stdout.splitlines()[-1])})
    table = pd.DataFrame(rows).groupby(["set", "method"], sort=False).median()
    table["wall / sctag"] = table["wall"] / table["wall"].xs("sctag", level="method").reindex(table.index, level="set")
    names = ("sctag-tools", "scanpy", "torch", "numpy", "numba")
    print(", ".join(f"{name} {version(name)}" for name in names), f"Python {platform.python_version()}", sep=", ")
    print(f"{os.cpu_count()} cores, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'not set')}; seconds, medians")
    print(table.round({"peak_mb": 0}).round(2).to_string())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", nargs="+", default=["MouseBladder_2100"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--slow-repeats", type=int, default=1, help="of dense and scvi")
    parser.add_argument("--scvi-python", default=sys.executable)
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "SET"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(options.one[0], options.folder / f"{options.one[1]}.h5ad")
    else:
        compare(options)


if __name__ == "__main__":
    main()
