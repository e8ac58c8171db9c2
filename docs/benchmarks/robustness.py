"""How far results can be trusted: agreement between runs, confidence, rare cells, one class alone, batches.

    OMP_NUM_THREADS=1 python docs/benchmarks/robustness.py DATA_FOLDER agreement --out docs/benchmarks/robustness.csv
    OMP_NUM_THREADS=1 python docs/benchmarks/robustness.py DATA_FOLDER rare batch homogeneous

DATA_FOLDER and protocol are those of accuracy.py; the number of clusters is not given but for scores against labels.
"agreement": ARI between two seeds, and between all cells and a random 90 %; calibration of the confidence (expected
calibration error against the share of cells that keep their cluster), and its AUROC for cells in a wrong cluster with
the number given. "rare": F1 of the cluster that holds B cells thinned to 1 % (at least 20). "batch": Kang_ifnb2800
with and without the stimulation as `batch_key`. "homogeneous": Poisson counts from the mean profile of a set.
"continuum": cells spread evenly over a line, a cycle or a fork. One CSV row a figure; a set that the CSV holds is not
run again; without a check the CSV is summed up.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from accuracy import LABELS, choose_genes, prepare
from scipy import sparse
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import roc_auc_score

import sctag_tools as sctag

COLUMNS = ["check", "set", "seed", "name", "value"]
SAME_CLUSTER = 0.75  # Jaccard index (Hennig 2007)


def cluster(adata: ad.AnnData, n_clusters: int | None, seed: int, batch_key: str | None = None) -> ad.AnnData:
    adata = adata.copy()
    sctag.pp.build_graph(adata, random_state=seed, batch_key=batch_key)
    sctag.tl.sctag(adata, n_clusters, random_state=seed, batch_key=batch_key, progress_bar=False)
    return adata


def kept(first: pd.Series, second: pd.Series) -> np.ndarray:
    """Whether each cell is in the same cluster of both, clusters matched one to one for most cells."""
    table = pd.crosstab(first.astype(str), second.astype(str))
    rows, columns = linear_sum_assignment(-table.to_numpy())
    partner = dict(zip(table.index[rows], table.columns[columns], strict=True))
    return (first.astype(str).map(partner) == second.astype(str)).to_numpy()


def overlap(first: pd.Series, second: pd.Series) -> np.ndarray:
    """Largest Jaccard index of each cluster of the first with one of the second."""
    table = pd.crosstab(first, second).to_numpy()
    return (table / (table.sum(1)[:, None] + table.sum(0) - table)).max(axis=1)


def calibration_error(confidence: np.ndarray, happened: np.ndarray, n_bins: int = 10) -> float:
    """Mean over cells of |confidence - share that happened| of their bin."""
    bins = np.clip((confidence * n_bins).astype(int), 0, n_bins - 1)
    gaps = [
        abs(confidence[bins == i].mean() - happened[bins == i].mean()) * (bins == i).mean()
        for i in range(n_bins)
        if (bins == i).any()
    ]
    return float(sum(gaps))


def agreement(folder: Path, seed: int, held: set[str]):
    for path in (path for path in sorted(folder.glob("*.h5ad")) if path.stem not in held):
        adata, labels = prepare(path, seed)
        first, second = cluster(adata, None, 2 * seed), cluster(adata, None, 2 * seed + 1)
        chosen = np.random.default_rng(seed).random(adata.n_obs) < 0.9
        part = cluster(adata[chosen], None, 2 * seed + 1)
        same, same_part = (
            kept(first.obs["sctag"], second.obs["sctag"]),
            kept(first.obs["sctag"][chosen], part.obs["sctag"]),
        )
        confidence = first.obs["sctag_confidence"].to_numpy()
        yield path.stem, "ARI between seeds", sctag.metrics.ari(first.obs["sctag"], second.obs["sctag"])
        yield path.stem, "ARI with 90 %", sctag.metrics.ari(first.obs["sctag"][chosen], part.obs["sctag"])
        yield path.stem, "calibration error, seeds", calibration_error(confidence, same)
        yield path.stem, "calibration error, 90 %", calibration_error(confidence[chosen], same_part)
        back = overlap(first.obs["sctag"], second.obs["sctag"]) >= SAME_CLUSTER
        yield path.stem, "clusters that come back", back.mean()
        if 0 < back.mean() < 1:
            auroc = roc_auc_score(back, first.uns["sctag"]["cluster_confidence"]["confidence"])
            yield path.stem, "AUROC of clusters that come back", auroc
        given = cluster(adata, labels.nunique(), seed)
        wrong = ~kept(labels, given.obs["sctag"])
        if wrong.sum() >= 20:
            auroc = roc_auc_score(wrong, -given.obs["sctag_confidence"])
            yield path.stem, "AUROC of wrong cells", auroc


def rare(folder: Path, seed: int, held: set[str]):
    for name in sorted({"Kang_ifnb2800", "Zheng_sorted2140"} - held):
        full = ad.read_h5ad(folder / f"{name}.h5ad")
        is_b = full.obs[LABELS].astype(str).str.lower().str.startswith("b").to_numpy()  # activated ones among them
        wanted = max(20, round(0.01 * (~is_b).sum() / 0.99))
        rng = np.random.default_rng(seed)
        few = rng.choice(np.flatnonzero(is_b), wanted, replace=False)
        adata = full[np.sort(np.concatenate([np.flatnonzero(~is_b), few]))].copy()
        b = full.obs_names[few]
        choose_genes(adata)
        truth = pd.Series(adata.obs_names.isin(b), index=adata.obs_names)
        adata.obs = adata.obs[[]]
        labels = cluster(adata, None, seed).obs["sctag"]
        scores = [
            2 * (truth & (labels == k)).sum() / (truth.sum() + (labels == k).sum()) for k in labels.cat.categories
        ]
        yield name, f"F1 of {wanted} B cells", max(scores)


def batch(folder: Path, seed: int, held: set[str]):
    if held:
        return
    names = ad.read_h5ad(folder / "Kang_ifnb2800.h5ad", backed="r").obs_names
    adata, labels = prepare(folder / "Kang_ifnb2800.h5ad", seed)
    order = np.random.default_rng(seed).permutation(adata.n_obs)
    adata.obs["stimulation"] = [name.rsplit("_", 1)[1] for name in names[order]]
    for key in (None, "stimulation"):
        for n_clusters in (labels.nunique(), None):
            found = cluster(adata, n_clusters, seed, key).obs["sctag"]
            told = "given" if n_clusters else "not given"
            yield (
                "Kang_ifnb2800",
                f"ARI, {'with' if key else 'without'} batch_key, K {told}",
                sctag.metrics.ari(labels, found),
            )


def homogeneous(folder: Path, seed: int, held: set[str]):
    for path in (path for path in sorted(folder.glob("*.h5ad")) if path.stem not in held):
        full = ad.read_h5ad(path)
        largest = full.obs[LABELS] == full.obs[LABELS].value_counts().index[0]
        for name, counts, is_overdispersed in (
            ("Poisson", full.X[:1500], False),
            ("negative binomial", full[largest].X[:1500], True),
        ):
            drawn = one_profile(counts.tocsr(), np.random.default_rng(seed), is_overdispersed=is_overdispersed)
            adata = ad.AnnData(drawn)
            choose_genes(adata)
            yield (
                path.stem,
                f"clusters in {name} counts of one profile",
                cluster(adata, None, seed).obs["sctag"].nunique(),
            )


def one_profile(counts: sparse.csr_matrix, rng: np.random.Generator, *, is_overdispersed: bool) -> sparse.csr_matrix:
    """Counts with the totals of these cells, and the mean (and by moments the dispersion) of each gene."""
    totals = np.asarray(counts.sum(axis=1)).ravel()
    share = np.asarray(counts.sum(axis=0)).ravel() / totals.sum()
    squares = (totals**2).sum() * share**2
    excess = np.asarray(counts.multiply(counts).sum(axis=0)).ravel() - 2 * share * (counts.T @ totals) + squares
    dispersion = np.clip((excess - totals.sum() * share) / np.maximum(squares, 1e-12), 1e-6, 5)  # var = m + d m^2
    rows = []
    for total in totals:
        mean = total * share
        if is_overdispersed:
            mean = mean * rng.gamma(1 / dispersion) * dispersion
        rows.append(sparse.csr_matrix(rng.poisson(mean).astype(np.float32)))
    return sparse.vstack(rows, format="csr")


def continuum(_folder: Path, seed: int, held: set[str]):
    """Poisson counts of 2,000 cells x 400 genes, spread evenly over a line, a cycle or a fork of three arms."""
    for shape in sorted({"cycle", "fork", "line"} - held):
        rng = np.random.default_rng(seed)
        place, log_mean = rng.uniform(0, 1, (2000, 1)), rng.normal(0, 1, 400)
        if shape == "line":
            log_rate = log_mean + (place - 0.5) * rng.normal(0, 1.5, 400)
        elif shape == "cycle":
            log_rate = log_mean + 0.8 * np.cos(2 * np.pi * (place - rng.uniform(0, 1, 400)))
        else:
            log_rate = log_mean + place * rng.normal(0, 1.2, (3, 400))[np.arange(2000) % 3]
        rates = np.exp(log_rate)
        adata = ad.AnnData(sparse.csr_matrix(rng.poisson(3000 * rates / rates.sum(axis=1, keepdims=True)), dtype="f4"))
        choose_genes(adata)
        found = cluster(adata, None, seed).obs
        yield shape, "clusters in a continuum", found["sctag"].nunique()
        yield shape, "mean confidence in a continuum", found["sctag_confidence"].mean()


CHECKS = {
    "agreement": agreement, "rare": rare, "batch": batch, "homogeneous": homogeneous, "continuum": continuum,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=" ".join(CHECKS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    options = parser.parse_args()
    if not set(options.checks) <= CHECKS.keys():
        parser.error(f"checks are {', '.join(CHECKS)}")
    done = pd.read_csv(options.out) if options.out.exists() else pd.DataFrame(columns=COLUMNS)
    for check in options.checks:
        for seed in range(options.seeds):
            held = set(done.loc[(done["check"] == check) & (done["seed"] == seed), "set"])
            for name, what, value in CHECKS[check](options.folder, seed, held):
                row = pd.DataFrame([(check, name, seed, what, value)], columns=COLUMNS).round(4)
                row.to_csv(options.out, mode="a", header=not options.out.exists(), index=False)
                print(row.to_string(index=False, header=False), flush=True)
    done = pd.read_csv(options.out)
    print(done.groupby(["check", "name", "set"])["value"].agg(["mean", "min", "max", "count"]).round(3).to_string())


if __name__ == "__main__":
    main()
