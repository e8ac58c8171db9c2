"""Placing cells that came later: beside clustering them together with the rest, scanpy's ingest, and a distance.

    OMP_NUM_THREADS=1 python docs/benchmarks/mapping.py run ../shared/data split --seeds 3
    OMP_NUM_THREADS=1 python docs/benchmarks/mapping.py run ../shared/data novelty
    python docs/benchmarks/mapping.py table

"split": a fifth of each class is the query, the rest the reference, whose genes, graph and model know nothing of the
query. Scored on the query's cells, number of clusters given: mapped; all cells clustered together; the reference's
clusters handed on by the rule of `sc.tl.ingest`. "novelty": each class of at least 50 cells is left out of the
reference of a split in turn, number of clusters not given; AUROC of the novelty for that class among the other query
cells, and of the distance to the 15th reference neighbor in the reference's PCA. Rows are shuffled and cells renamed
before a run. One CSV row a figure; what the CSV holds is not run again.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from accuracy import LABELS, choose_genes
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

import sctag_tools as sctag

COLUMNS = ["check", "set", "case", "name", "value"]
FEWEST = 50


def shuffled(path: Path, seed: int) -> tuple[ad.AnnData, pd.Series]:
    """The cells in a random order under neutral names, and their classes apart."""
    adata = ad.read_h5ad(path)
    adata = adata[np.random.default_rng(seed).permutation(adata.n_obs)].copy()
    adata.obs_names = [f"cell{i}" for i in range(adata.n_obs)]
    labels = adata.obs.pop(LABELS).astype(str)
    adata.obs = adata.obs[[]]
    return adata, labels


def a_fifth(labels: pd.Series, seed: int) -> np.ndarray:
    """(n_cells,) whether a cell is in the query: a fifth of each class."""
    rng = np.random.default_rng(seed)
    chosen = pd.Series(data=False, index=labels.index)
    for of_class in labels.groupby(labels).groups.values():
        chosen[rng.permutation(of_class)[: max(1, len(of_class) // 5)]] = True
    return chosen.to_numpy()


def reference_of(adata: ad.AnnData, n_clusters: int | None, seed: int) -> ad.AnnData:
    """Genes, graph and model from these cells alone."""
    adata = adata.copy()
    choose_genes(adata)
    sc.pp.pca(adata, n_comps=min(50, adata.n_obs - 1, int(adata.var["highly_variable"].sum()) - 1))
    sctag.pp.build_graph(adata, random_state=seed)
    sctag.tl.sctag(adata, n_clusters, random_state=seed, progress_bar=False)
    return adata


def logged(query: ad.AnnData) -> ad.AnnData:
    """The query as the reference was normalized."""
    query = query.copy()
    sc.pp.normalize_total(query, target_sum=1e4)
    sc.pp.log1p(query)
    return query


def positions(query: ad.AnnData, reference: ad.AnnData) -> np.ndarray:
    """The query in the reference's PCA."""
    genes = logged(query)[:, reference.var_names].X.toarray()
    return (genes - np.asarray(reference.X.mean(axis=0))) @ reference.varm["PCs"]


def ingested(query: ad.AnnData, reference: ad.AnnData) -> np.ndarray:
    """Clusters of the reference by the rule of `sc.tl.ingest`: what most of 15 neighbors in its PCA are.

    Called itself, scanpy 1.11 fails with pynndescent 0.7.
    """
    vote = KNeighborsClassifier(15).fit(reference.obsm["X_pca"], reference.obs["sctag"].astype(str))
    return vote.predict(positions(query, reference))


def split(path: Path, seed: int):
    adata, labels = shuffled(path, seed)
    is_query, k = a_fifth(labels, seed), labels.nunique()
    together = reference_of(adata, k, seed)
    reference, query = reference_of(adata[~is_query], k, seed), adata[is_query].copy()
    start = time.perf_counter()
    sctag.tl.map_query(query, reference)
    seconds = time.perf_counter() - start
    truth = labels[is_query]
    for name, found in {
        "mapped": query.obs["sctag"],
        "clustered together": together.obs["sctag"][is_query],
        "ingest": ingested(adata[is_query], reference),
    }.items():
        yield seed, f"ARI, {name}", sctag.metrics.ari(truth, found)
        yield seed, f"ACC, {name}", sctag.metrics.accuracy(truth, found)
    yield seed, "seconds a 1,000 query cells", 1000 * seconds / query.n_obs


def novelty(path: Path, seed: int):
    adata, labels = shuffled(path, seed)
    is_query, sizes = a_fifth(labels, seed), labels.value_counts().sort_index()
    for left_out in sizes.index[sizes >= FEWEST]:
        is_new = (labels == left_out).to_numpy()
        reference, query = reference_of(adata[~is_query & ~is_new], None, seed), adata[is_query | is_new].copy()
        sctag.tl.map_query(query, reference)
        truth = (labels[is_query | is_new] == left_out).to_numpy()
        distances, _ = (
            NearestNeighbors(n_neighbors=15).fit(reference.obsm["X_pca"]).kneighbors(positions(query, reference))
        )
        yield left_out, "AUROC, novelty", roc_auc_score(truth, query.obs["sctag_novelty"])
        yield left_out, "AUROC, distance", roc_auc_score(truth, distances[:, -1])
        above = (query.obs["sctag_novelty"] > 1).to_numpy()
        yield left_out, "share above 1, new", float(above[truth].mean())
        yield left_out, "share above 1, known", float(above[~truth].mean())


def run(options: argparse.Namespace) -> None:
    done = pd.read_csv(options.out) if options.out.exists() else pd.DataFrame(columns=COLUMNS)
    seeds = range(options.seeds if options.check == "split" else 1)
    for seed in seeds:
        for path in sorted(options.folder.glob("*.h5ad")):
            of_set = done[(done["check"] == options.check) & (done["set"] == path.stem)]
            if len(of_set) and (options.check == "novelty" or str(seed) in set(of_set["case"].astype(str))):
                continue
            for case, name, value in {"split": split, "novelty": novelty}[options.check](path, seed):
                row = pd.DataFrame([(options.check, path.stem, case, name, value)], columns=COLUMNS).round(4)
                row.to_csv(options.out, mode="a", header=not options.out.exists(), index=False)
                print(row.to_string(index=False, header=False), flush=True)


def table(options: argparse.Namespace) -> None:
    """Means over seeds, or over the classes left out, of each set and of all."""
    done = pd.read_csv(options.out)
    for check, of_check in done.groupby("check", sort=False):
        means = of_check.pivot_table(index="set", columns="name", values="value", sort=False)
        means.loc["mean"] = means.mean()
        print(f"{check}, {of_check.groupby('set')['case'].nunique().sum()} cases\n")
        print(means.round(3).to_markdown() if options.markdown else means.round(3).to_string(), "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("run")
    command.add_argument("folder", type=Path)
    command.add_argument("check", choices=["split", "novelty"])
    command.add_argument("--seeds", type=int, default=3)
    command.set_defaults(function=run)
    command = commands.add_parser("table")
    command.add_argument("--markdown", action="store_true")
    command.set_defaults(function=table)
    options = parser.parse_args()
    options.function(options)


if __name__ == "__main__":
    main()
