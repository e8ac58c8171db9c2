"""The number of clusters found where some classes were left out, or all but one, beside Leiden's at resolution 1.

    OMP_NUM_THREADS=1 python docs/benchmarks/n_clusters.py run ../shared/data
    python docs/benchmarks/n_clusters.py table

Four random choices of classes of each set (from two to all but one, at least 100 cells), and, where an experiment gave
the labels (line, hashtag, sorting gate), each class of at least 30 cells alone: other labels are clusters of cells,
whose parts may be types, too. Genes are chosen anew in each. The CSV grows a row a run; rows that it holds are not run
again.
"""

import argparse
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from accuracy import LABELS, choose_genes

import sctag_tools as sctag

COLUMNS = ["set", "kind", "classes", "k_true", "n_obs", "sctag", "leiden"]
SUBSETS, FEWEST, FEWEST_OF_ONE = 4, 100, 30
BY_EXPERIMENT = {"BreastLines31_DropSeq", "CellHash_4lines", "Mix_celseq2_5cl", "Pollen", "Zheng_sorted2140"}


def choices(labels: pd.Series, name: str):
    """Which classes to keep: random ones, and each alone."""
    sizes = labels.value_counts().sort_index()
    rng = np.random.default_rng(sum(map(ord, name)))
    found = 0
    while found < SUBSETS:
        kept = rng.choice(sizes.index, rng.integers(2, len(sizes)), replace=False)
        if sizes[kept].sum() >= FEWEST:
            found += 1
            yield "some classes", sorted(kept)
    for one in sizes.index[sizes >= FEWEST_OF_ONE] if name in BY_EXPERIMENT else ():
        yield "one class", [one]


def numbers(adata: ad.AnnData) -> tuple[int, int]:
    """Clusters found by the default, and by Leiden."""
    adata.obs_names = [f"cell{i}" for i in range(adata.n_obs)]
    choose_genes(adata)
    sctag.pp.build_graph(adata)
    sctag.tl.sctag(adata, progress_bar=False)
    sc.pp.neighbors(adata, transformer="sklearn")
    sc.tl.leiden(adata, flavor="igraph", n_iterations=2, directed=False)
    return adata.obs["sctag"].nunique(), adata.obs["leiden"].nunique()


def run(options: argparse.Namespace) -> None:
    done = pd.read_csv(options.out) if options.out.exists() else pd.DataFrame(columns=COLUMNS)
    known = set(zip(done["set"], done["classes"], strict=True))
    for path in sorted(options.folder.glob("*.h5ad")):
        full = ad.read_h5ad(path)
        full = full[np.random.default_rng(0).permutation(full.n_obs)].copy()
        labels = full.obs.pop(LABELS).astype(str)
        for kind, classes in choices(labels, path.stem):
            if (path.stem, "; ".join(classes)) in known:
                continue
            adata = full[labels.isin(classes)].copy()
            row = [path.stem, kind, "; ".join(classes), len(classes), adata.n_obs, *numbers(adata)]
            table = pd.DataFrame([row], columns=COLUMNS)
            table.to_csv(options.out, mode="a", header=not options.out.exists(), index=False)
            print(*row, flush=True)


def table(options: argparse.Namespace) -> None:
    done = pd.read_csv(options.out)
    some, one = (done[done["kind"] == kind] for kind in ("some classes", "one class"))
    rows = {
        name: {
            "Spearman with the true number": some[name].corr(some["k_true"], method="spearman"),
            "|log2(found / true)|": np.log2(some[name] / some["k_true"]).abs().mean(),
            "one class: share with K = 1": (one[name] == 1).mean(),
            "one class: median K": one[name].median(),
        }
        for name in ("sctag", "leiden")
    }
    print(f"{len(some)} choices of classes, {len(one)} single classes")
    print(pd.DataFrame(rows).T.round(2).to_string())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("run")
    command.add_argument("folder", type=Path)
    command.set_defaults(call=run)
    commands.add_parser("table").set_defaults(call=table)
    options = parser.parse_args()
    options.call(options)


if __name__ == "__main__":
    main()
