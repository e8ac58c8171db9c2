"""How time, memory and accuracy change with the number of cells.

    python docs/benchmarks/growth.py ../shared/data/Kang_ifnb2800.h5ad --cells 8000 16000 32000 64000 100000 128000
    python docs/benchmarks/growth.py ../shared/data/Kang_ifnb2800.h5ad --cells 8000 128000 --seeds 1 2
    python docs/benchmarks/growth.py ../shared/data/Kang_ifnb2800.h5ad --steps 200 2000

Cells are drawn from a real set with replacement and given Poisson noise around their counts; 1,000 highly variable
genes, or as many as `--genes` says; the number of clusters is given. The seed draws cells, noise and the run. Each run
has a fresh process; the clock starts after highly variable genes were chosen. With `--steps`, resident memory after so
many steps at 8,000 cells instead.
"""

import argparse
import itertools
import os
import resource
import subprocess
import sys
import time
from pathlib import Path


def draw(path: Path, n_cells: int, seed: int, n_genes: int):
    import anndata as ad
    import numpy as np
    import scanpy as sc
    from scipy import sparse

    source = ad.read_h5ad(path)
    sc.pp.filter_genes(source, min_cells=3)
    chosen = source.copy()
    sc.pp.normalize_total(chosen, target_sum=1e4)
    sc.pp.log1p(chosen)
    sc.pp.highly_variable_genes(chosen, n_top_genes=n_genes)
    source = source[:, chosen.var["highly_variable"]].copy()
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, source.n_obs, n_cells)
    mean = sparse.csr_matrix(source.X)[cells]
    counts = mean.copy()
    counts.data = rng.poisson(mean.data).astype(np.float32)
    counts.eliminate_zeros()
    adata = ad.AnnData(counts)
    adata.obs_names = [f"cell{i}" for i in range(n_cells)]
    labels = source.obs["cell_type"].to_numpy()[cells]
    kept = np.asarray(counts.sum(axis=1)).ravel() > 0
    adata, labels = adata[kept].copy(), labels[kept]
    adata.layers["counts"] = adata.X.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    return adata, labels


def resident_mb() -> float:
    import psutil

    return psutil.Process().memory_info().rss / 2**20


def one(path: Path, n_cells: int, seed: int, n_genes: int) -> None:
    from sklearn.metrics import adjusted_rand_score

    import sctag_tools as sctag

    adata, labels = draw(path, n_cells, seed, n_genes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    began, cpu = time.perf_counter(), time.process_time()
    sctag.pp.build_graph(adata, random_state=seed)
    graph = time.perf_counter() - began
    sctag.tl.sctag(adata, len(set(labels)), random_state=seed, progress_bar=False)
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    seconds = adata.uns["sctag"]["seconds"]
    score = adjusted_rand_score(labels, adata.obs["sctag"])
    stages = "".join(f"{value:10.1f}" for value in (graph, *seconds.values()))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{n_cells:>8}{seed:>5}{wall:>8.1f}{cpu:>8.1f}{before:>9.2f}{peak:>9.2f}{score:>7.3f}{stages}")


def memory(path: Path, steps: list[int]) -> None:
    import sctag_tools as sctag

    adata, _ = draw(path, 8_000, 0, 1_000)
    sctag.pp.build_graph(adata)
    a_step = 8_000 // 256
    for wanted in steps:
        sctag.tl.sctag(adata, 8, pretrain_epochs=round(wanted / a_step), cluster_epochs=0, progress_bar=False)
        print(f"resident memory after a run of {wanted} steps: {resident_mb():.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--cells", type=int, nargs="+", default=[8_000, 16_000, 32_000, 64_000, 100_000, 128_000])
    parser.add_argument("--steps", type=int, nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--genes", type=int, default=1_000)
    parser.add_argument("--one", type=int, nargs=2, metavar=("CELLS", "SEED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(options.path, *options.one, options.genes)
        return
    if options.steps:
        memory(options.path, options.steps)
        return
    what = f"{options.genes} genes; seconds, memory in GB before the graph and at the peak"
    print(f"{os.cpu_count()} cores, {options.path.stem}, {what}", flush=True)
    head = "".join(f"{name:>10}" for name in ("graph", "hops", "pretrain", "consensus", "cluster", "model"))
    print(f"{'cells':>8}{'seed':>5}{'wall':>8}{'cpu':>8}{'before':>9}{'peak':>9}{'ARI':>7}{head}", flush=True)
    for n_cells, seed in itertools.product(options.cells, options.seeds):
        of_run = ["--genes", str(options.genes), "--one", str(n_cells), str(seed)]
        subprocess.run([sys.executable, __file__, str(options.path), *of_run], check=True)


if __name__ == "__main__":
    main()
