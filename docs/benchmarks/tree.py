"""What the tree of a run holds beside its own clusters: other cuts, and clusters opened with a run of their own.

    OMP_NUM_THREADS=1 python docs/benchmarks/tree.py run ../shared/data --seeds 3
    python docs/benchmarks/tree.py tables cut open lymphocytes lines

``run`` clusters each set by the rules of protocol.md, the number of clusters not given, and adds to ``tree.csv``:

- ``cut``: the best ARI of all cuts of the tree into 2 to 60 clusters, and the best of Leiden at 20 resolutions from
  .1 to 4, on the neighbors of the same 2,000 genes.
- ``open``: the run is cut into half as many clusters, and each that holds 100 cells or more is opened by
  ``tl.subcluster``. Beside it stands Leiden at resolution 1 with genes, PCA and neighbors of the same cells. The ARI is
  the mean over these clusters, weighted by their cells.
- ``lymphocytes``: all T and natural killer cells of Zheng_sorted2140 as one cluster, opened likewise.
- ``lines``: each cell line of Mix_celseq2_5cl as a cluster, opened likewise.

Labels score the finished runs, and make the clusters that the last two open.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from accuracy import choose_genes, prepare

OUT = Path(__file__).with_name("tree.csv")
CUTS = range(2, 61)
RESOLUTIONS = np.geomspace(0.1, 4, 20)
MIN_CELLS = 100


def leiden(adata, resolutions, seed: int) -> list[pd.Series]:
    """Clusters at each resolution, as scanpy's users make them."""
    import scanpy as sc

    sc.pp.pca(adata, n_comps=min(50, adata.n_obs - 1), random_state=seed)
    sc.pp.neighbors(adata, random_state=seed, transformer="sklearn")
    found = []
    for resolution in resolutions:
        sc.tl.leiden(adata, resolution, random_state=seed, flavor="igraph", n_iterations=2, directed=False)
        found.append(adata.obs["leiden"].copy())
    return found


def leiden_of_cells(adata, cells, seed: int) -> pd.Series:
    """Leiden at resolution 1 on these cells alone, with their own genes."""
    from anndata import AnnData

    part = AnnData(adata.layers["counts"][cells], obs=adata.obs.loc[cells, []])
    choose_genes(part)
    return leiden(part, [1.0], seed)[0]


def opened(adata, labels: pd.Series, key: str, groups, seed: int) -> list[dict[str, object]]:
    """Scores inside each of these clusters."""
    import sctag_tools as sctag

    rows = []
    for group in groups:
        cells = adata.obs[key].isin([group] if isinstance(group, str) else group).to_numpy()
        sctag.tl.subcluster(adata, group, key=key, random_state=seed, progress_bar=False, key_added="opened")
        ours, theirs = adata.obs.loc[cells, "opened"], leiden_of_cells(adata, cells, seed)
        rows.append(
            {
                "n_cells": int(cells.sum()),
                "n_labels": labels[cells].nunique(),
                "ours": sctag.metrics.ari(labels[cells], ours),
                "n_ours": ours.nunique(),
                "leiden": sctag.metrics.ari(labels[cells], theirs),
                "n_leiden": theirs.nunique(),
            }
        )
    return rows


def run_set(path: Path, seed: int) -> list[dict[str, object]]:
    import sctag_tools as sctag

    adata, labels = prepare(path, seed)
    sctag.pp.build_graph(adata, random_state=seed)
    sctag.tl.sctag(adata, random_state=seed, progress_bar=False)
    cuts = []
    for n_clusters in CUTS:
        sctag.tl.cut(adata, n_clusters)
        cuts.append((sctag.metrics.ari(labels, adata.obs["sctag_cut"]), n_clusters))
    others = [(sctag.metrics.ari(labels, each), each.nunique()) for each in leiden(adata.copy(), RESOLUTIONS, seed)]
    (ours, n_ours), (theirs, n_theirs) = max(cuts), max(others)
    row = {"n_cells": adata.n_obs, "n_labels": labels.nunique(), "ours": ours, "n_ours": n_ours}
    rows = [{"what": "cut", **row, "leiden": theirs, "n_leiden": n_theirs}]
    sctag.tl.cut(adata, max(2, round(adata.obs["sctag"].nunique() / 2)))
    sizes = adata.obs["sctag_cut"].value_counts()
    large = [name for name in adata.obs["sctag_cut"].cat.categories if sizes[name] >= MIN_CELLS]
    rows += [{"what": "open", **each} for each in opened(adata, labels, "sctag_cut", large, seed)]
    if path.stem in {"Zheng_sorted2140", "Mix_celseq2_5cl"}:
        adata.obs["sctag_cut"] = labels.astype("category")
        names = list(adata.obs["sctag_cut"].cat.categories)
        is_mix = path.stem.startswith("Mix")
        groups = names if is_mix else [[name for name in names if name not in {"bcells", "monocytes"}]]
        what = "lines" if is_mix else "lymphocytes"
        rows += [{"what": what, **each} for each in opened(adata, labels, "sctag_cut", groups, seed)]
    return [{"set": path.stem, "seed": seed, **each} for each in rows]


def run(options: argparse.Namespace) -> None:
    warnings.simplefilter("ignore")
    done = pd.read_csv(options.out) if options.out.exists() else pd.DataFrame(columns=["set", "seed"])
    for seed in range(options.seeds):
        for path in sorted(options.data.glob("*.h5ad")):
            if ((done["set"] == path.stem) & (done["seed"] == seed)).any():
                continue
            done = (
                pd.concat([done, pd.DataFrame(run_set(path, seed))]) if len(done) else pd.DataFrame(run_set(path, seed))
            )
            done.round(4).to_csv(options.out, index=False)
            print(path.stem, seed, flush=True)


def tables(options: argparse.Namespace) -> None:
    found = pd.read_csv(options.out)
    by_run = found.groupby(["what", "set", "seed"]).apply(_scores, include_groups=False)
    for what in options.what:
        table = by_run.loc[what].groupby("set").mean()
        print(f"{what}, {found['seed'].nunique()} seeds")
        print(f"{'set':<26}{'sctag-tools':>12}{'Leiden':>9}{'clusters':>10}{'Leiden':>9}")
        for name, row in [*table.iterrows(), ("mean", table.mean())]:
            print(f"{name:<26}{row.ours:>12.3f}{row.leiden:>9.3f}{row.n_ours:>10.1f}{row.n_leiden:>9.1f}")


def _scores(rows: pd.DataFrame) -> pd.Series:
    """Means over the clusters of a run, weighted by their cells."""
    columns = ["ours", "leiden", "n_ours", "n_leiden"]
    return pd.Series(np.average(rows[columns], axis=0, weights=rows["n_cells"]), columns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    commands = parser.add_subparsers(required=True)
    running = commands.add_parser("run")
    running.add_argument("data", type=Path)
    running.add_argument("--seeds", type=int, default=3)
    running.set_defaults(function=run)
    printing = commands.add_parser("tables")
    printing.add_argument("what", nargs="*", default=["cut", "open", "lymphocytes", "lines"])
    printing.set_defaults(function=tables)
    options = parser.parse_args()
    options.function(options)


if __name__ == "__main__":
    main()
