"""Equal seeds give equal clusters, whatever else the machine does.

    env -u OMP_NUM_THREADS python docs/benchmarks/determinism.py ../shared/data/MouseBladder_2100.h5ad --seeds 3

For each seed the default runs twice, each time in a process of its own: once alone, once beside a process that keeps
every core busy. The number of clusters is not given. Prints how many cells differ, and ends with 1 if any does.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from accuracy import prepare

BUSY = "import torch\na = torch.ones(2000, 2000)\nwhile True:\n    a @ a"


def one_run(path: Path, seed: int, out: Path) -> None:
    import sctag_tools as sctag

    adata, _ = prepare(path, seed)
    sctag.pp.build_graph(adata, random_state=seed)
    sctag.tl.sctag(adata, random_state=seed, progress_bar=False)
    np.save(out, adata.obs["sctag"].astype(int).to_numpy())


def labels_of(path: Path, seed: int, *, busy: bool) -> np.ndarray:
    beside = subprocess.Popen([sys.executable, "-c", BUSY]) if busy else None
    try:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "labels.npy"
            subprocess.run([sys.executable, __file__, str(path), "--one", str(seed), str(out)], check=True)
            return np.load(out)
    finally:
        if beside is not None:
            beside.kill()
            beside.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one_run(options.path, int(options.one[0]), Path(options.one[1]))
        return
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    print(f"{options.path.stem}, {os.cpu_count()} cores, OMP_NUM_THREADS {threads}")
    print(f"{'seed':>5}{'clusters':>10}{'cells that differ':>19}")
    total = 0
    for seed in range(options.seeds):
        alone, beside = (labels_of(options.path, seed, busy=busy) for busy in (False, True))
        differ = int((alone != beside).sum())
        total += differ
        print(f"{seed:>5}{len(np.unique(alone)):>10}{differ:>19}", flush=True)
    sys.exit(total > 0)


if __name__ == "__main__":
    main()
