"""As many threads as help: OpenMP's spin while they wait, which ruins them where other programs need the cores."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from threadpoolctl import threadpool_limits

from .._threads import threads_asked_for

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROWS, _INNER, _COLUMNS = 256, 2048, 128  # a product about as large as those of a training step
_SECONDS = 0.1
_CLEARLY = 1.2  # slower than one thread: what else runs is never quite the same


@contextmanager
def helpful_threads() -> Iterator[None]:
    """Run the block on a single thread if several are slower at the moment, and put the thread counts back after it.

    Beside one other busy program two spinning threads take many times as long as one. A number that the user chose in
    ``OMP_NUM_THREADS`` stands, also where numba, which scanpy runs on, has raised torch's since.
    """
    before, asked = torch.get_num_threads(), threads_asked_for()
    n_threads = min(before, asked) if asked else before
    if asked is None and before > 1 and _crowded(before):
        n_threads = 1
    if n_threads == before:
        yield
        return
    try:
        with threadpool_limits(n_threads):
            torch.set_num_threads(n_threads)
            yield
    finally:
        torch.set_num_threads(before)


def _crowded(n_threads: int) -> bool:
    """Whether ``n_threads`` are clearly slower than one, in a tenth of a second of products and element-wise work."""
    a, b = torch.ones(_ROWS, _INNER), torch.ones(_INNER, _COLUMNS)

    def work() -> float:
        began = time.perf_counter()
        (a @ b).relu_().sum(dim=1)
        a.mul(2).add_(1)
        return time.perf_counter() - began

    seconds = dict.fromkeys((n_threads, 1), 0.0)
    try:
        torch.set_num_threads(n_threads)
        work()  # threads start on first use
        while sum(seconds.values()) < _SECONDS:  # by turns: what else runs on the machine comes and goes
            for number in seconds:
                torch.set_num_threads(number)
                seconds[number] += work()
    finally:
        torch.set_num_threads(n_threads)
    return seconds[n_threads] > _CLEARLY * seconds[1]
