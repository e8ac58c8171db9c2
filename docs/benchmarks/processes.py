"""Runs that share work, or a machine.

    OMP_NUM_THREADS=1 python docs/benchmarks/processes.py ../shared/data/MouseBladder_2100.h5ad --seeds 3
    python docs/benchmarks/processes.py ../shared/data/MouseBladder_2100.h5ad --beside

The first compares the clusters that two processes find together (gloo, loopback) with those of one. The second times
one run, and two at once, each in a process of its own and with the threads that the environment gives.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from accuracy import prepare


def together(path: Path, seeds: int) -> None:
    from sklearn.metrics import adjusted_rand_score

    import sctag_tools as sctag

    print(f"{path.stem}: one process beside two")
    print(f"{'seed':>5}{'ARI':>8}{'clusters':>10}{'one, s':>9}{'two, s':>9}")
    for seed in range(seeds):
        adata, _ = prepare(path, seed)
        sctag.pp.build_graph(adata, random_state=seed)
        seconds = []
        for devices, key in ((1, "one"), (2, "two")):
            began = time.perf_counter()
            sctag.tl.sctag(adata, devices=devices, random_state=seed, key_added=key, progress_bar=False)
            seconds.append(time.perf_counter() - began)
        score = adjusted_rand_score(adata.obs["one"], adata.obs["two"])
        print(f"{seed:>5}{score:>8.3f}{adata.obs['one'].nunique():>10}{seconds[0]:>9.1f}{seconds[1]:>9.1f}", flush=True)


def one_run(path: Path) -> None:
    import sctag_tools as sctag

    adata, _ = prepare(path, 0)
    sctag.pp.build_graph(adata)
    sctag.tl.sctag(adata, progress_bar=False)


def beside(path: Path) -> None:
    def seconds(n_runs: int) -> float:
        command = [sys.executable, __file__, str(path), "--one"]
        began = time.perf_counter()
        runs = [subprocess.Popen(command) for _ in range(n_runs)]
        for process in runs:
            if process.wait():
                sys.exit("a run failed")
        return time.perf_counter() - began

    alone, both = seconds(1), seconds(2)
    threads = {name: os.environ.get(name, "not set") for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")}
    print(f"{path.stem}, {os.cpu_count()} cores, {threads}: one run {alone:.1f} s, two at once {both:.1f} s, ", end="")
    print(f"ratio {both / alone:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--beside", action="store_true")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one_run(options.path)
    elif options.beside:
        beside(options.path)
    else:
        together(options.path, options.seeds)


if __name__ == "__main__":
    main()
