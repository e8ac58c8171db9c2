"""Score default runs on labelled sets: one CSV row a run, number of clusters given and not given.

    OMP_NUM_THREADS=1 python docs/benchmarks/accuracy.py DATA_FOLDER --out docs/benchmarks/accuracy.csv

DATA_FOLDER holds `.h5ad` files with raw counts in X and labels in `obs["cell_type"]`. Before a run the rows are
shuffled, the cells renamed and the labels taken out; they are joined again for scoring alone. Rows that the CSV holds
already are not run again. `--summary` prints the tables of the CSV instead of running anything; `--peers CSV` adds the
mean ARI of other methods, a file with the columns dataset, method, seed, k_true, k_pred and ARI (the names of methods
that were told the number of clusters end in `_k_given`).
"""

from __future__ import annotations

import argparse
import itertools
import resource
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc

import sctag_tools as sctag

LABELS = "cell_type"
COLUMNS = ["set", "k_given", "seed", "k_true", "k_found", "ARI", "NMI", "ACC", "cpu_s", "peak_mb"]


def prepare(path: Path, seed: int) -> tuple[ad.AnnData, pd.Series]:
    """The cells in random order and without names, as a scanpy user would bring them, and their labels."""
    adata = ad.read_h5ad(path)
    adata = adata[np.random.default_rng(seed).permutation(adata.n_obs)].copy()
    adata.obs_names = [f"cell{i}" for i in range(adata.n_obs)]
    labels = adata.obs.pop(LABELS)
    sc.pp.filter_genes(adata, min_cells=3)
    adata.layers["counts"] = adata.X.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.highly_variable_genes(adata, n_top_genes=min(2000, adata.n_vars))
    return adata, labels


def run(path: Path, seed: int, *, k_given: bool) -> dict[str, object]:
    """One default run, scored when it has finished."""
    adata, labels = prepare(path, seed)
    k_true = labels.nunique()
    start = time.process_time()
    sctag.pp.build_graph(adata, random_state=seed)
    sctag.tl.sctag(adata, k_true if k_given else None, random_state=seed, progress_bar=False)
    cpu = time.process_time() - start
    adata.obs[LABELS] = labels
    scores = {name: round(value, 4) for name, value in sctag.metrics.score(adata, LABELS).items()}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "set": path.stem, "k_given": k_given, "seed": seed, "k_true": k_true, "k_found": adata.obs["sctag"].nunique(),
        **scores, "cpu_s": round(cpu, 1), "peak_mb": round(peak),
    }  # fmt: skip


def summary(results: pd.DataFrame) -> str:
    """Mean and standard deviation over seeds, a table for each of the two protocols."""
    parts = []
    for k_given, group in results.groupby("k_given", sort=False):
        table = group.groupby("set")[["ARI", "NMI", "ACC", "k_found", "cpu_s"]].mean().round(3)
        table.insert(1, "ARI sd", group.groupby("set")["ARI"].std().round(3))
        table.insert(0, "K", group.groupby("set")["k_true"].first())
        log_ratio = np.log2(group["k_found"] / group["k_true"]).abs().mean()
        per_seed = group.groupby("seed")[["ARI", "NMI", "ACC"]].mean().agg(["mean", "std"]).round(3)
        parts.append(
            f"number of clusters {'given' if k_given else 'not given'} ({group['seed'].nunique()} seeds)\n{table}\n"
            f"mean over sets: ARI {per_seed.at['mean', 'ARI']} +- {per_seed.at['std', 'ARI']}, "
            f"NMI {per_seed.at['mean', 'NMI']}, ACC {per_seed.at['mean', 'ACC']}, |log2(K/true)| {log_ratio:.2f}"
        )
    return "\n\n".join(parts)


def peers(results: pd.DataFrame, path: Path) -> str:
    """Mean ARI over seeds beside that of other methods, told the number of clusters and not."""
    others = pd.read_csv(path)
    told = others["method"].str.endswith("_k_given")
    free = others[~told]
    log_ratio = np.log2(free["k_pred"] / free["k_true"]).abs()
    untold = (
        free.assign(log_ratio=log_ratio)
        .groupby("method")
        .agg(ARI=("ARI", "mean"), log_ratio=("log_ratio", "mean"), sets=("dataset", "nunique"))
    )
    others = others[told]
    table = others.groupby(["dataset", "method"])["ARI"].mean().unstack()
    table.insert(0, "sctag_tools", results[results["k_given"]].groupby("set")["ARI"].mean())
    common = table.dropna(axis=0, subset=["scvi_leiden_k_given"])
    table.loc["mean"], table.loc["mean with scVI"] = table.mean(), common.mean()
    return f"{table.round(3).T.to_string()}\n\nnot told the number of clusters\n{untold.round(3).to_string()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--summary", action="store_true")
    parser.add_argument("--peers", type=Path)
    options = parser.parse_args()
    done = pd.read_csv(options.out) if options.out.exists() else pd.DataFrame(columns=COLUMNS)
    if options.summary:
        print(summary(done))
        if options.peers:
            print(f"\n{peers(done, options.peers)}")
        return
    known = set(zip(done["set"], done["k_given"], done["seed"], strict=True))
    paths = sorted(options.folder.glob("*.h5ad"))
    for k_given, seed, path in itertools.product((True, False), range(options.seeds), paths):
        if (path.stem, k_given, seed) not in known:
            row = pd.DataFrame([run(path, seed, k_given=k_given)], columns=COLUMNS)
            row.to_csv(options.out, mode="a", header=not options.out.exists(), index=False)
            print(row.to_string(index=False, header=False), flush=True)


if __name__ == "__main__":
    main()
