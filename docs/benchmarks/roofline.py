"""What a training step costs, beside what the machine could do.

    OMP_NUM_THREADS=1 python docs/benchmarks/roofline.py ../shared/data/MouseBladder_2100.h5ad

Arithmetic of matrix products is counted by torch's FLOP counter in a step that runs; the rate that they could reach is
measured in the same process, on products of the same shapes. Bytes are those that a step cannot avoid: rows of the
data read once, parameters, gradients and Adam's two moments read and written.
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np
import torch
from accuracy import prepare
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

import sctag_tools as sctag
from sctag_tools.train import trainer as train

ROUNDS, STEPS = 7, 30


def seconds_of(work) -> float:
    """The median of a few rounds."""
    work()
    found = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return float(np.median(found))


def product_rate(shapes) -> float:
    """FLOP a second over products (rows, inner, columns) of these shapes."""
    pairs = [(torch.randn(m, k), torch.randn(k, n)) for m, k, n in shapes]
    flop = sum(2 * m * k * n for m, k, n in shapes)
    return flop / seconds_of(lambda: [a @ b for a, b in pairs])


def captured_step(path: Path):
    """A training step of the default on this set, as a function that can be called again."""
    adata, _ = prepare(path, 0)
    sctag.pp.build_graph(adata)
    original, caught = train.Trainer._step, []

    def catch(self, module, optimizer, parts):
        original(self, module, optimizer, parts)
        caught.append((self, module, optimizer, parts))

    train.Trainer._step = catch
    sctag.tl.sctag(adata, 8, pretrain_epochs=1, cluster_epochs=0, progress_bar=False)
    train.Trainer._step = original
    trainer, module, optimizer, parts = caught[-1]
    return trainer, parts, lambda: original(trainer, module, optimizer, parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    options = parser.parse_args()
    trainer, parts, step = captured_step(options.path)
    rows, hops, genes = parts[0].hops.shape
    networks, hidden = len(list(trainer.nets)), trainer.config.n_hidden

    with FlopCounterMode(display=False) as counter:
        step()
    flop = counter.get_total_flops()
    parameters = sum(weight.nbytes for weight in trainer.nets.parameters())
    data = sum(part.hops.nbytes + part.counts.numel() for part in parts)
    moved = data + parameters * 8  # weights, gradients and both moments, each read and written
    forward = [(rows, genes, hidden)] * hops + [(rows, hidden, genes)]
    backward = [(hidden, rows, genes)] * hops + [(rows, genes, hidden), (hidden, rows, genes)]
    peak = product_rate((forward + backward) * networks * len(parts))
    taken = seconds_of(step)
    print(f"{options.path.stem}: {parts[0].n_rows} cells a step in {len(parts)} parts, {genes} genes, ", end="")
    print(f"{hops - 1} hop, {networks} networks; torch {torch.__version__}, ", end="")
    print(f"{torch.get_num_threads()} of {os.cpu_count()} cores")
    print(f"products in a step             {flop / 1e9:8.2f} GFLOP")
    print(f"bytes that it must move        {moved / 1e6:8.1f} MB ({data / 1e6:.1f} of data)")
    print(f"rate of products of its shapes {peak / 1e9:8.1f} GFLOP/s, so at best {flop / peak * 1e3:.1f} ms a step")
    print(f"a step takes                   {taken * 1e3:8.1f} ms, {flop / taken / 1e9:.1f} GFLOP/s, ", end="")
    print(f"{flop / taken / peak:.0%} of that rate")

    with profile(activities=[ProfilerActivity.CPU]) as watched:
        for _ in range(STEPS):
            step()
    events = sorted(watched.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    print(f"\nthe ten costliest operations\n{'operation':<44}{'share':>8}{'ms a step':>11}")
    for event in events[:10]:
        share, spent = event.self_cpu_time_total / total, event.self_cpu_time_total / 1e3 / STEPS
        print(f"{event.key[:43]:<44}{share:>8.1%}{spent:>11.2f}")
    rest = sum(event.self_cpu_time_total for event in events[10:])
    print(f"{'all others':<44}{rest / total:>8.1%}{rest / 1e3 / STEPS:>11.2f}")


if __name__ == "__main__":
    main()
