"""As many threads as help: OpenMP's spin while they wait, which ruins them where other programs need the cores."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from threadpoolctl import threadpool_limits

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROWS, _INNER, _COLUMNS = 256, 2048, 128  # a product about as large as those of a training step
_ROUNDS = 8


@contextmanager
def helpful_threads() -> Iterator[None]:
    """Run the block on a single thread if several are slower at the moment, and put the thread counts back after it.

    Beside one other busy program two spinning threads take many times as long as one. A number that the user chose in
    ``OMP_NUM_THREADS`` stands. Sums are split in the same way whatever the number, so that results do not depend on it.
    """
    n_threads = torch.get_num_threads()
    if n_threads == 1 or "OMP_NUM_THREADS" in os.environ or not _crowded(n_threads):
        yield
        return
    try:
        with threadpool_limits(1):
            torch.set_num_threads(1)
            yield
    finally:
        torch.set_num_threads(n_threads)


def _crowded(n_threads: int) -> bool:
    """Whether ``n_threads`` are slower than one, in a tenth of a second of products and element-wise work."""
    a, b = torch.ones(_ROWS, _INNER), torch.ones(_INNER, _COLUMNS)
    seconds = dict.fromkeys((n_threads, 1), 0.0)
    try:
        for _ in range(_ROUNDS):  # by turns: what else runs on the machine comes and goes
            for number in seconds:
                torch.set_num_threads(number)
                began = time.perf_counter()
                for _ in range(2):
                    (a @ b).relu_().sum(dim=1)
                    a.mul(2).add_(1)
                seconds[number] += time.perf_counter() - began
    finally:
        torch.set_num_threads(n_threads)
    return seconds[n_threads] > seconds[1]
