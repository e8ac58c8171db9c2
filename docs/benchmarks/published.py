"""Run the published method, as its code is and with each defect alone, on labeled sets: one CSV row a run.

    OMP_NUM_THREADS=1 python docs/benchmarks/published.py run DATA_FOLDER --sets Pollen Mix_celseq2_5cl
    python docs/benchmarks/published.py table
    python docs/benchmarks/published.py compare ORIGINAL_LOSSES_CSV RESULTS_CSV
    OMP_NUM_THREADS=1 python docs/benchmarks/published.py cost DATA_FOLDER

DATA_FOLDER holds `.h5ad` files with raw counts in X and labels in `obs["cell_type"]`, which are taken out and join a
finished run for its scoring alone. Every run is told the number of clusters, as the published code must be.
"reference" is the published code, "paper" what the paper describes, and "paper, ..." the paper's method with one
defect of the code put back; methods that pretrain alike do it once, and each row's time has all of it. `run` leaves
out rows that the CSV holds; with `--out`, `table` and `compare` read other files. `compare` draws our losses over those
of original runs; `cost` times epochs.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import resource
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import torch
from scipy import sparse

from sctag_tools import metrics
from sctag_tools.neighbors.search import find_neighbors
from sctag_tools.published.fit import binary_graph, fit_published, spectral_start
from sctag_tools.published.losses import ZINBTarget
from sctag_tools.published.net import Adjacency, PublishedNet
from sctag_tools.published.recipe import N_NEIGHBORS, published_inputs
from sctag_tools.published.settings import PAPER, REFERENCE, PublishedSettings
from sctag_tools.published.train import FullBatchTrainer
from sctag_tools.train.config import Config
from sctag_tools.train.runtime import own_torch_state

if TYPE_CHECKING:
    from collections.abc import Iterator

LABELS = "cell_type"
HERE = Path(__file__).parent
CPU = torch.device("cpu")
PRETRAIN_EPOCHS, CLUSTER_EPOCHS = 1000, 300
DEFECTS = {
    "one hop": {"hops": "reference"},
    "no dropout": {"dropout": False},
    "ZINB of z-scores": {"likelihood": "scaled"},
    "fixed centroids": {"trained_centroids": False},
    "KL(Q||P)": {"divergence": "q_from_p"},
    "labels of the last refresh": {"labels": "last_refresh"},
}
METHODS = {
    "reference": REFERENCE,
    "paper": PAPER,
    **{f"paper, {name}": replace(PAPER, **switch) for name, switch in DEFECTS.items()},
}
COLUMNS = ["set", "method", "seed", "K", "start_ARI", "ARI", "NMI", "ACC", "zinb", "adjacency", "cpu_s", "peak_mb"]
LOSS_COLUMNS = ["dataset", "seed", "phase", "epoch", "zinb", "adjacency", "kl"]


class Inputs:
    """One set as the published preprocessing leaves it, cells in random order; labels apart."""

    def __init__(self, path: Path, seed: int) -> None:
        adata = ad.read_h5ad(path)
        adata = adata[np.random.default_rng(seed).permutation(adata.n_obs)]
        counts = adata.X.tocsr().astype(np.float32)
        inputs = published_inputs(counts, seed)
        self.labels = adata.obs[LABELS].to_numpy()[inputs.cells]
        self.x, self.size_factors = inputs.x, inputs.size_factors
        self.counts = counts[inputs.cells][:, inputs.genes]
        found = find_neighbors(inputs.pca, N_NEIGHBORS, metric="euclidean", random_state=seed).indices
        self.distances = sparse.csr_matrix(
            (np.ones(found.size), found.ravel(), np.arange(0, found.size + 1, N_NEIGHBORS)), shape=(len(found),) * 2
        )

    @property
    def n_clusters(self) -> int:
        return len(np.unique(self.labels))

    def fit(self, settings, **options):
        config = Config(n_clusters=self.n_clusters, **options)
        counts = {"counts": self.counts, "size_factors": self.size_factors}
        return fit_published(self.x, self.distances, config, settings, **counts)


def pretraining_of(method: str) -> tuple[object, ...]:
    """What decides how a method pretrains; those that agree in it share the work."""
    settings = METHODS[method]
    return settings.hops, settings.dropout, settings.likelihood, settings.symmetric_graph


def losses_of(history: dict[str, np.ndarray], epochs: int) -> pd.DataFrame:
    """Losses at the epochs that the original runs noted: each tenth of pretraining, then each refresh."""
    pretraining = [("pretrain", epoch, epoch - 1) for epoch in range(10, epochs + 1, 10)]
    clustering = [("cluster", epoch, epochs + epoch) for epoch in range(0, len(history["loss"]) - epochs, 8)]
    rows = [
        (phase, epoch, history["zinb"][at], history["graph"][at], history["cluster"][at])
        for phase, epoch, at in pretraining + clustering
    ]
    return pd.DataFrame(rows, columns=LOSS_COLUMNS[2:])


def run_group(path: Path, methods: list[str], seed: int) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """Full-length runs of methods that pretrain alike, which is done once: the row of each, and its losses."""
    inputs = Inputs(path, seed)
    start = spectral_start(binary_graph(inputs.distances), inputs.n_clusters)
    began = time.process_time()
    with own_torch_state(seed, CPU):
        trainer = trainer_of(inputs, METHODS[methods[0]])
        trainer.pretrain(PRETRAIN_EPOCHS)
        random_state = torch.get_rng_state()
        pretraining = time.process_time() - began
        for method in methods:
            began = time.process_time()
            torch.set_rng_state(random_state)
            labels, history = cluster(trainer, start, METHODS[method])
            row = {
                "set": path.stem, "method": method, "seed": seed, "K": inputs.n_clusters,
                "start_ARI": metrics.ari(inputs.labels, start), "ARI": metrics.ari(inputs.labels, labels),
                "NMI": metrics.nmi(inputs.labels, labels), "ACC": metrics.accuracy(inputs.labels, labels),
                "zinb": history["zinb"][-1], "adjacency": history["graph"][-1],
                "cpu_s": round(pretraining + time.process_time() - began, 1),
                "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            }  # fmt: skip
            losses = losses_of(history, PRETRAIN_EPOCHS).assign(dataset=path.stem, seed=seed)
            yield pd.DataFrame([row], columns=COLUMNS).round(5), losses[LOSS_COLUMNS].round(7)


def trainer_of(inputs: Inputs, settings: PublishedSettings) -> FullBatchTrainer:
    net = PublishedNet(inputs.x.shape[1], true_hops=settings.hops == "true", dropout=settings.dropout)
    graph = binary_graph(inputs.distances, symmetric=settings.symmetric_graph)
    if settings.likelihood == "counts":
        target = ZINBTarget.from_counts(inputs.counts, inputs.size_factors, CPU)
    else:
        target = ZINBTarget.from_scaled(inputs.x, CPU)
    return FullBatchTrainer(net, inputs.x, Adjacency.from_scipy(graph, CPU), target, progress=False)


def cluster(trainer: FullBatchTrainer, start: np.ndarray, settings: PublishedSettings):
    """Labels and losses of a run that goes on from a pretrained trainer, which stays as it was."""
    own = copy.copy(trainer)
    own.net, own.history = copy.deepcopy(trainer.net), copy.deepcopy(trainer.history)
    refreshed, final = own.cluster(
        start, CLUSTER_EPOCHS,
        trained_centroids=settings.trained_centroids, p_from_q=settings.divergence == "p_from_q",
    )  # fmt: skip
    proba = refreshed if settings.labels == "last_refresh" else final
    return proba.argmax(dim=1).numpy(), own.history


def append(table: pd.DataFrame, path: Path) -> None:
    table.to_csv(path, mode="a", header=not path.exists(), index=False)


def run(options: argparse.Namespace) -> None:
    losses_path = options.out.with_name(f"{options.out.stem}_losses.csv")
    done = pd.read_csv(options.out) if options.out.exists() else pd.DataFrame(columns=COLUMNS)
    known = set(zip(done["set"], done["method"], done["seed"], strict=True))
    for name, seed in itertools.product(options.sets, range(options.seeds)):
        wanted = sorted((method for method in options.methods if (name, method, seed) not in known), key=pretraining_of)
        for _, group in itertools.groupby(wanted, key=pretraining_of):
            for row, losses in run_group(options.folder / f"{name}.h5ad", list(group), seed):
                append(row, options.out)
                if row["method"].item() == "reference":
                    append(losses, losses_path)
                print(row.to_string(index=False, header=False), flush=True)


def table(options: argparse.Namespace) -> None:
    """Mean ARI over seeds, its standard deviation, one row a set; our default from accuracy.csv beside."""
    ours = pd.read_csv(HERE / "accuracy.csv")
    ours = ours[(ours["configuration"] == "default") & ours["k_given"]].assign(method="default")
    done = pd.read_csv(options.out)
    done = pd.concat([done, ours[ours["set"].isin(done["set"])]])
    cells = done.groupby(["method", "set"])["ARI"].agg(["mean", "std", "count"])
    spread = cells["std"].map(" ± {:.3f}".format).where(cells["count"] > 1, "")
    cells["text"] = cells["mean"].map("{:.3f}".format) + spread + cells["count"].map(" ({})".format)
    table = cells["text"].unstack(level="method")
    order = [method for method in METHODS if method in table]
    print(table[["default", *order]].T.fillna("not run").to_string())


def compare(options: argparse.Namespace) -> None:
    """The last losses and scores beside the original's, and a figure of both histories."""
    ours = pd.read_csv(options.out.with_name(f"{options.out.stem}_losses.csv"))
    theirs = pd.read_csv(options.original)
    last = ours.merge(theirs, on=["dataset", "phase", "epoch"], suffixes=(" ours", " original"))
    last = last.groupby(["dataset", "phase", "epoch"]).mean(numeric_only=True).groupby(level=[0, 1]).tail(1)
    for name in ("zinb", "adjacency"):
        last[f"{name} ratio"] = last[f"{name} ours"] / last[f"{name} original"]
    print(last.filter(regex="zinb|adjacency").round(4).to_string(), "\n")
    print(_beside(pd.read_csv(options.out), pd.read_csv(options.results)).to_string())
    _draw(ours, theirs).savefig(HERE.parent / "images" / "published_losses.png", dpi=110)


def _beside(done: pd.DataFrame, peers: pd.DataFrame) -> pd.DataFrame:
    done = done[done["method"] == "reference"]
    parts = {}
    for column, peer in {"start_ARI": "sctag_original_spectral_start_k_given", "ARI": "sctag_original_k_given"}.items():
        original = peers[peers["method"] == peer].groupby("dataset")["ARI"].agg(["mean", "std"])
        parts[f"{column} original"], parts[f"{column} original sd"] = original["mean"], original["std"]
        parts[f"{column} ours"] = done.groupby("set")[column].mean()
        parts[f"{column} ours sd"] = done.groupby("set")[column].std()
    return pd.DataFrame(parts).dropna(subset=["ARI original", "ARI ours"]).round(3)


def _draw(ours: pd.DataFrame, theirs: pd.DataFrame):
    from matplotlib import pyplot as plt

    sets = sorted(set(ours["dataset"]) & set(theirs["dataset"]))
    figure, axes = plt.subplots(2, len(sets), figsize=(4 * len(sets), 5.5), sharex=True, squeeze=False)
    for (row, loss), (column, name) in itertools.product(enumerate(("zinb", "adjacency")), enumerate(sets)):
        axis = axes[row, column]
        for runs, style in ((theirs, {"color": "0.6", "lw": 3}), (ours, {"color": "C1", "lw": 1})):
            for seed, history in runs[runs["dataset"] == name].groupby("seed"):
                epochs = history["epoch"] + 1000 * (history["phase"] == "cluster")
                label = ("original code" if runs is theirs else 'preset="reference"') if seed == 0 else None
                axis.plot(epochs, history[loss], label=label, **style)
        axis.set(ylabel=f"{loss} loss", title=name if row == 0 else None, xlabel="epoch" if row else None)
        axis.axvline(1000, color="0.8", lw=0.8, zorder=0)
        if loss == "adjacency":
            axis.set_yscale("log")
    axes[0, 0].legend(frameon=False)
    figure.tight_layout()
    return figure


def cost(options: argparse.Namespace) -> None:
    """CPU seconds an epoch at 2,100 cells x 500 genes; the median of several rounds, and the least."""
    inputs = Inputs(options.folder / "MouseBladder_2100.h5ad", 0)

    def seconds(pretraining: int, clustering: int) -> float:
        began = time.process_time()
        inputs.fit(REFERENCE, pretrain_epochs=pretraining, cluster_epochs=clustering)
        return time.process_time() - began

    seconds(1, 1)
    rounds = []
    for _ in range(options.rounds):
        base, more, clusters = seconds(2, 0), seconds(42, 0), seconds(2, 40)
        rounds.append(((more - base) / 40, (clusters - base) / 40))
    for name, values in zip(("pretraining", "clustering"), np.transpose(rounds), strict=True):
        print(f"{name}: {np.median(values):.3f} CPU s an epoch (least {values.min():.3f}, {options.rounds} rounds)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("run")
    command.add_argument("folder", type=Path)
    command.add_argument("--sets", nargs="+", required=True)
    command.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    command.add_argument("--seeds", type=int, default=3)
    command.set_defaults(call=run)
    commands.add_parser("table").set_defaults(call=table)
    command = commands.add_parser("compare")
    command.add_argument("original", type=Path)
    command.add_argument("results", type=Path)
    command.set_defaults(call=compare)
    command = commands.add_parser("cost")
    command.add_argument("folder", type=Path)
    command.add_argument("--rounds", type=int, default=3)
    command.set_defaults(call=cost)
    options = parser.parse_args()
    options.call(options)


if __name__ == "__main__":
    main()
