"""Keeping the user's thread counts while libraries run that change them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def kept_thread_counts() -> Iterator[None]:
    """Put the thread counts of all loaded libraries back after the block.

    numba's OpenMP layer, which scanpy and umap run on, sets the thread count of the OpenMP library that torch shares.
    """
    from threadpoolctl import ThreadpoolController

    before = [(library, library.num_threads) for library in ThreadpoolController().lib_controllers]
    try:
        yield
    finally:
        for library, n_threads in before:
            if library.num_threads != n_threads:
                library.set_num_threads(n_threads)
