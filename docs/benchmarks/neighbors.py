"""Time the exact and the approximate search, each in a fresh process: from what size should `pp.build_graph` switch?

    python docs/benchmarks/neighbors.py 20000 50000 100000

Points are 30 Gaussian groups in 50 dimensions. The approximate search is timed with numba's compilation, as a user
meets it.
"""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np

from sctag_tools.neighbors.search import find_neighbors


def one(n: int, metric: str, *, exact: bool) -> str:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(30, 50))[rng.integers(30, size=n)] * 2 + rng.normal(size=(n, 50))).astype(np.float32)
    wall, cpu = time.perf_counter(), time.process_time()
    find_neighbors(x, 15, metric=metric, random_state=0, exact=exact)
    return f"{time.perf_counter() - wall:8.1f} {time.process_time() - cpu:8.1f}"


def main() -> None:
    if sys.argv[1] == "--one":
        n, metric, exact = sys.argv[2:]
        print(one(int(n), metric, exact=exact == "exact"))
        return
    print(f"{'cells':>8} {'metric':>10} {'search':>12} {'wall s':>8} {'CPU s':>8}")
    for n in sys.argv[1:]:
        for metric in ("euclidean", "cosine"):
            for search in ("exact", "approximate"):
                command = [sys.executable, "-W", "ignore", __file__, "--one", n, metric, search]
                times = subprocess.run(command, check=True, capture_output=True, text=True).stdout.rstrip()
                print(f"{n:>8} {metric:>10} {search:>12} {times}", flush=True)


if __name__ == "__main__":
    main()
