"""Denoised expression: held-out counts beside a mean profile and scVI, and whether marker genes stay.

    OMP_NUM_THREADS=1 python docs/benchmarks/denoise.py run ../shared/data --sets Pollen MouseBladder_2100 --scvi
    python docs/benchmarks/denoise.py table

Each count is kept with probability 0.9 and held out else (binomial thinning), so that both parts are counts of the
same cells. Models learn from the first part; the score is the multinomial log-likelihood per held-out count, given how
many a cell has, over the 2,000 highly variable genes of the first part. "mean": every cell the mean profile. "scVI"
(group "benchmark"): its defaults, `get_normalized_expression`. "markers": of the 50 genes that most tell a cluster from
the rest in the counts (t-test of log-expression), the share that are among the 50 in the denoised layer, mean over
clusters. "fold changes": Spearman correlation over genes of each cluster's fold changes in counts and denoised, mean
over clusters. One CSV row a figure; a figure that the CSV holds is not computed again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from accuracy import prepare
from scipy import sparse
from scipy.stats import spearmanr

import sctag_tools as sctag

COLUMNS = ["set", "seed", "name", "value"]
KEPT, MARKERS = 0.9, 50


def thinned(adata: ad.AnnData, seed: int) -> tuple[ad.AnnData, sparse.csr_matrix]:
    """The cells with nine tenths of their counts, and the held-out counts."""
    counts = sparse.csr_matrix(adata.layers["counts"])
    kept = counts.copy()
    kept.data = np.random.default_rng(seed).binomial(counts.data.astype(np.int64), KEPT).astype(np.float32)
    part = ad.AnnData(kept, obs=adata.obs[[]], var=adata.var[[]])
    part.layers["counts"] = kept.copy()
    sc.pp.normalize_total(part, target_sum=1e4)
    sc.pp.log1p(part)
    sc.pp.highly_variable_genes(part, n_top_genes=min(2000, part.n_vars))
    return part, (counts - kept).tocsr()


def per_count(held_out: np.ndarray, expected: np.ndarray) -> float:
    """Mean log-likelihood of a held-out count, expected values scaled to shares."""
    shares = expected / expected.sum(axis=1, keepdims=True)
    return float((held_out * np.log(np.maximum(shares, 1e-12))).sum() / held_out.sum())


def by_scvi(adata: ad.AnnData, seed: int) -> np.ndarray:
    import scvi

    scvi.settings.seed = seed
    scvi.model.SCVI.setup_anndata(adata, layer="counts")
    model = scvi.model.SCVI(adata)
    model.train(accelerator="cpu", enable_progress_bar=False)
    return model.get_normalized_expression(n_samples=10, return_mean=True, return_numpy=True)


def markers(adata: ad.AnnData) -> pd.DataFrame:
    sc.tl.rank_genes_groups(adata, "sctag", method="t-test", n_genes=MARKERS)
    return pd.DataFrame(adata.uns["rank_genes_groups"]["names"])


def overlap(adata: ad.AnnData) -> float:
    """Mean over clusters of the share of markers that denoising keeps."""
    of_counts = markers(adata)
    adata.X = adata.layers["sctag_denoised"]
    del adata.uns["log1p"]
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    return float(np.mean([len({*of_counts[k]} & {*found}) / MARKERS for k, found in markers(adata).items()]))


def fold_changes(adata: ad.AnnData, layer: str) -> np.ndarray:
    """(n_clusters, n_genes) log of mean counts per 10,000 inside over outside each cluster."""
    x = np.asarray(sparse.csr_matrix(adata.layers[layer]).todense())
    x = 1e4 * x / x.sum(axis=1, keepdims=True)
    inside = [(adata.obs["sctag"] == k).to_numpy() for k in adata.obs["sctag"].cat.categories]
    return np.stack([np.log((x[rows].mean(axis=0) + 0.01) / (x[~rows].mean(axis=0) + 0.01)) for rows in inside])


def agreement(adata: ad.AnnData) -> float:
    pairs = zip(fold_changes(adata, "counts"), fold_changes(adata, "sctag_denoised"), strict=True)
    return float(np.mean([spearmanr(a, b).statistic for a, b in pairs]))


def figures(path: Path, seed: int, *, scvi: bool):
    part, held_out = thinned(prepare(path, seed)[0], seed)
    genes = part.var["highly_variable"].to_numpy()
    held_out = held_out[:, genes].toarray()
    sctag.pp.build_graph(part, random_state=seed)
    sctag.tl.sctag(part, random_state=seed, progress_bar=False)
    part = part[:, genes].copy()
    sctag.tl.denoise(part)
    profile = np.asarray(part.layers["counts"].sum(axis=0), dtype=float) + 1e-3
    yield "mean", per_count(held_out, np.broadcast_to(profile.reshape(1, -1), part.shape))
    yield "sctag-tools", per_count(held_out, part.layers["sctag_denoised"].astype(float))
    if scvi:
        yield "scVI", per_count(held_out, by_scvi(part.copy(), seed).astype(float))
    if part.obs["sctag"].nunique() > 1:
        yield "fold changes", agreement(part)
        yield "markers kept", overlap(part)


def run(options: argparse.Namespace) -> None:
    done = pd.read_csv(options.out) if options.out.exists() else pd.DataFrame(columns=COLUMNS)
    for path in sorted(options.folder.glob("*.h5ad")):
        held = set(done.loc[done["set"] == path.stem, "name"])
        wanted = {"mean", "sctag-tools", "fold changes", "markers kept"} | ({"scVI"} if options.scvi else set())
        if (options.sets and path.stem not in options.sets) or wanted <= held:
            continue
        for name, value in figures(path, 0, scvi=options.scvi and "scVI" not in held):
            if name in held:
                continue
            row = pd.DataFrame([(path.stem, 0, name, value)], columns=COLUMNS).round(4)
            row.to_csv(options.out, mode="a", header=not options.out.exists(), index=False)
            print(row.to_string(index=False, header=False), flush=True)


def table(options: argparse.Namespace) -> None:
    print("log-likelihood of a held-out count; share of markers kept\n")
    print(pd.read_csv(options.out).pivot_table(index="set", columns="name", values="value", sort=False).to_string())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("run")
    command.add_argument("folder", type=Path)
    command.add_argument("--sets", nargs="+", help="all by default")
    command.add_argument("--scvi", action="store_true")
    command.set_defaults(function=run)
    commands.add_parser("table").set_defaults(function=table)
    options = parser.parse_args()
    options.function(options)


if __name__ == "__main__":
    main()
