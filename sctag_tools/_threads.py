"""Keeping the user's thread counts while libraries run that change them."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def threads_asked_for() -> int | None:
    """The number in ``OMP_NUM_THREADS``, None if there is none."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdigit() and int(first) else None


@contextmanager
def kept_thread_counts() -> Iterator[None]:
    """Put the thread counts of all loaded libraries back after the block.

    numba's OpenMP layer, which scanpy and umap run on, sets the thread count of the OpenMP library that torch shares,
    be torch loaded before it or after. One that was loaded in the block gets what ``OMP_NUM_THREADS`` would have given.
    """
    from threadpoolctl import ThreadpoolController

    before = {library.filepath: library.num_threads for library in ThreadpoolController().lib_controllers}
    try:
        yield
    finally:
        asked = threads_asked_for()
        for library in ThreadpoolController().lib_controllers:
            as_loaded = asked if asked and library.internal_api == "openmp" else library.num_threads
            n_threads = before.get(library.filepath, as_loaded)
            if library.num_threads != n_threads:
                library.set_num_threads(n_threads)
