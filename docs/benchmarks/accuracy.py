"""The lab: run configurations on labeled sets, one CSV row a run, number of clusters given and not given.

    python docs/benchmarks/accuracy.py run DATA_FOLDER --configurations default "no graph" --seeds 5 --jobs 2
    python docs/benchmarks/accuracy.py tables --peers docs/benchmarks/peers.csv
    python docs/benchmarks/accuracy.py change docs/benchmarks/version_0_1.csv

DATA_FOLDER holds `.h5ad` files with raw counts in X and labels in `obs["cell_type"]`. Before a run the rows are
shuffled, the cells renamed and the labels taken out; they are joined again for scoring alone (protocol.md). Each run
has a process of its own with one thread; rows that the CSV holds already are not run again. `tables` prints what the
documentation shows; `--peers` adds the scores of other methods, a CSV with the columns dataset, method, seed, k_true,
k_pred, ARI and NMI (the names of methods that were told the number of clusters end in `_k_given`). `change` holds the
default's runs against earlier ones of the same sets and seeds.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import resource
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import pandas as pd

HERE = Path(__file__).parent
LABELS = "cell_type"
COLUMNS = [
    "set", "configuration", "k_given", "seed", "k_true", "k_found", "ARI", "NMI", "ACC", "cpu_s", "peak_mb"
]  # fmt: skip
CONFIGURATIONS: dict[str, dict[str, object]] = {
    "default": {},
    "no graph": {"n_hops": 0, "graph_weight": 0.0},
    "3 hops": {"n_hops": 3},
    "graph decoded": {"graph_weight": 0.1},
    "ZINB": {"likelihood": "zinb"},
    "one network": {"n_networks": 1},
    "nothing masked": {"mask_rate": 0.0},
    "no self-training": {"cluster_epochs": 0},
}


def prepare(path: Path, seed: int):
    """The cells in random order and without names, as a scanpy user would bring them, and their labels."""
    import anndata as ad
    import numpy as np

    adata = ad.read_h5ad(path)
    adata = adata[np.random.default_rng(seed).permutation(adata.n_obs)].copy()
    adata.obs_names = [f"cell{i}" for i in range(adata.n_obs)]
    labels = adata.obs.pop(LABELS)
    choose_genes(adata)
    return adata, labels


def choose_genes(adata) -> None:
    """What a scanpy user does before clustering."""
    import scanpy as sc

    sc.pp.filter_genes(adata, min_cells=3)
    adata.layers["counts"] = adata.X.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.highly_variable_genes(adata, n_top_genes=min(2000, adata.n_vars))


def run_one(path: Path, configuration: str, seed: int, *, k_given: bool) -> dict[str, object]:
    """One run from the graph to the labels, scored when it has finished."""
    import sctag_tools as sctag

    adata, labels = prepare(path, seed)
    k_true = labels.nunique()
    start = time.process_time()
    sctag.pp.build_graph(adata, random_state=seed)
    sctag.tl.sctag(
        adata, k_true if k_given else None, random_state=seed, progress_bar=False, **CONFIGURATIONS[configuration]
    )
    cpu = time.process_time() - start
    adata.obs[LABELS] = labels
    scores = {name: round(value, 4) for name, value in sctag.metrics.score(adata, LABELS).items()}
    return {
        "set": path.stem, "configuration": configuration, "k_given": k_given, "seed": seed, "k_true": k_true,
        "k_found": adata.obs["sctag"].nunique(), **scores, "cpu_s": round(cpu, 1),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }  # fmt: skip


def run(options: argparse.Namespace) -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = "1"
    done = pd.read_csv(options.out) if options.out.exists() else pd.DataFrame(columns=COLUMNS)
    known = set(zip(done["set"], done["configuration"], done["k_given"], done["seed"], strict=True))
    paths = sorted(options.folder.glob("*.h5ad"))
    protocols = [kind == "given" for kind in options.k]
    wanted = itertools.product(range(options.seeds), options.configurations, protocols, paths)
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, mp_context=fresh, max_tasks_per_child=options.runs_per_process) as pool:
        runs = [
            pool.submit(run_one, path, configuration, seed, k_given=k_given)
            for seed, configuration, k_given, path in wanted
            if (path.stem, configuration, k_given, seed) not in known
        ]
        for finished in as_completed(runs):
            row = pd.DataFrame([finished.result()], columns=COLUMNS)
            row.to_csv(options.out, mode="a", header=not options.out.exists(), index=False)
            print(row.to_string(index=False, header=False), flush=True)


def by_set(results: pd.DataFrame) -> str:
    """Of one configuration: mean and standard deviation over seeds, a table for each of the two protocols."""
    import numpy as np

    parts = []
    for k_given, group in results.groupby("k_given", sort=False):
        table = group.groupby("set")[["ARI", "NMI", "ACC", "k_found", "cpu_s", "peak_mb"]].mean().round(3)
        table.insert(1, "ARI sd", group.groupby("set")["ARI"].std().round(3))
        table.insert(0, "K", group.groupby("set")["k_true"].first())
        ratio = np.log2(group["k_found"] / group["k_true"]).abs()
        per_seed = group.groupby("seed")[["ARI", "NMI", "ACC"]].mean().agg(["mean", "std"]).round(3)
        parts.append(
            f"number of clusters {'given' if k_given else 'not given'} ({group['seed'].nunique()} seeds)\n"
            f"{table.to_string()}\nmean over sets: ARI {per_seed.at['mean', 'ARI']} ± {per_seed.at['std', 'ARI']}, "
            f"NMI {per_seed.at['mean', 'NMI']}, ACC {per_seed.at['mean', 'ACC']}, |log2(K/true)| "
            f"{ratio.groupby(group['set']).mean().mean():.2f}"
        )
    return "\n\n".join(parts)


def ablation(results: pd.DataFrame) -> str:
    """One row a configuration: mean ARI, and its change from the default on the seeds that it has."""
    results = results[results["k_given"]]
    per_seed = results.groupby(["configuration", "seed"])["ARI"].mean().unstack(level=0)
    rows = {}
    for name in (name for name in CONFIGURATIONS if name in per_seed):
        change = (per_seed[name] - per_seed["default"]).dropna()
        seeds = list(change.index)
        chosen = results[(results["configuration"] == name) & results["seed"].isin(seeds)]
        rows[name] = {
            "seeds": len(seeds), "mean": per_seed.loc[seeds, name].mean(), "change": change.mean(),
            "sd": change.std(), **chosen.groupby("set")["ARI"].mean(),
        }  # fmt: skip
    table = pd.DataFrame(rows).T.astype({"seeds": int})
    title = "number of clusters given, ARI, and its change from the default on the same seeds"
    return f"{title}\n{table.round(3).to_string(na_rep='')}"


def beside_peers(results: pd.DataFrame, path: Path) -> str:
    """Mean ARI over seeds beside that of other methods, told the number of clusters and not."""
    import numpy as np

    peers = pd.read_csv(path)
    peers = peers[~peers["method"].str.contains("pretrained|spectral_start")]
    told = peers["method"].str.endswith("_k_given")
    parts = []
    for k_given, others in ((True, peers[told]), (False, peers[~told])):
        table = others.groupby(["dataset", "method"])["ARI"].mean().unstack()
        table.insert(0, "sctag_tools", results[results["k_given"] == k_given].groupby("set")["ARI"].mean())
        gain = table["sctag_tools"] - table.drop(columns="sctag_tools").max(axis=1)
        table.loc["mean of its sets"] = table.mean()
        table.loc["sctag_tools on these"] = [
            table["sctag_tools"].iloc[:-1][table[name].iloc[:-1].notna()].mean() for name in table
        ]
        if not k_given:
            ratio = np.log2(others["k_pred"] / others["k_true"]).abs()
            table.loc["|log2(K/true)|"] = ratio.groupby(others["method"]).mean()
        parts.append(
            f"number of clusters {'given' if k_given else 'not given'}\n{table.round(3).T.to_string(na_rep='')}\n"
            f"least gain over the best of the others on a set: {gain.min():.3f} ({gain.idxmin()})"
        )
    return "\n\n".join(parts)


def tables(options: argparse.Namespace) -> None:
    results = pd.read_csv(options.out)
    default = results[results["configuration"] == "default"]
    print(by_set(default))
    if options.peers:
        print(f"\n{beside_peers(default, options.peers)}")
    if results["configuration"].nunique() > 1:
        print(f"\n{ablation(results)}")


def change(options: argparse.Namespace) -> None:
    keys = ["set", "k_given", "seed"]
    runs = {"before": pd.read_csv(options.before), "after": pd.read_csv(options.out)}
    scores = {name: table[table["configuration"] == "default"].set_index(keys)["ARI"] for name, table in runs.items()}
    paired = pd.DataFrame(scores).dropna()
    paired["change"] = paired["after"] - paired["before"]
    for k_given, group in paired.groupby("k_given", sort=False):
        of_seeds = group.groupby("seed").mean()
        of_sets = group.groupby("set").mean()
        print(f"ARI, number of clusters {'given' if k_given else 'not given'} ({len(of_seeds)} seeds)")
        print(of_sets.round(3).to_string())
        print(f"mean over sets: {of_seeds['before'].mean():.3f}, {of_seeds['after'].mean():.3f}, ", end="")
        print(f"change {of_seeds['change'].mean():+.3f} ± {of_seeds['change'].std():.3f}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "accuracy.csv")
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("run")
    command.add_argument("folder", type=Path)
    command.add_argument("--configurations", nargs="+", choices=CONFIGURATIONS, default=["default"])
    command.add_argument("--k", nargs="+", choices=["given", "estimated"], default=["given", "estimated"])
    command.add_argument("--seeds", type=int, default=5)
    command.add_argument("--jobs", type=int, default=1)
    command.add_argument(
        "--runs-per-process", type=int, default=1,
        help="more save imports and compilation, but the peak is then that of all runs of the process so far",
    )  # fmt: skip
    command.set_defaults(call=run)
    command = commands.add_parser("tables")
    command.add_argument("--peers", type=Path)
    command.set_defaults(call=tables)
    command = commands.add_parser("change")
    command.add_argument("before", type=Path)
    command.set_defaults(call=change)
    options = parser.parse_args()
    options.call(options)


if __name__ == "__main__":
    main()
