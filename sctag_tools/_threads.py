"""Keep the user's thread counts while libraries run that change them."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# Random generators, thread counts and verbosity of other libraries belong to the whole process, so that runs in several
# threads of one process wait for each other. One thread may enter again.
ONE_AT_A_TIME = threading.RLock()
if hasattr(os, "register_at_fork"):  # a child has no thread that could give it back

    def _renew() -> None:
        ONE_AT_A_TIME._at_fork_reinit()  # type: ignore[attr-defined]

    os.register_at_fork(after_in_child=_renew)


def requested_threads() -> int | None:
    """The number in ``OMP_NUM_THREADS``, or None."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdigit() and int(first) else None


@contextmanager
def keep_thread_counts() -> Iterator[None]:
    """Restore the thread counts of all loaded libraries after the block.

    scanpy and umap run on numba, whose OpenMP layer changes the thread count of the OpenMP library that torch shares.
    A library that is loaded inside the block gets the number in ``OMP_NUM_THREADS``, if there is one.
    """
    from threadpoolctl import ThreadpoolController

    with ONE_AT_A_TIME:
        before = {library.filepath: library.num_threads for library in ThreadpoolController().lib_controllers}
        try:
            yield
        finally:
            requested = requested_threads()
            for library in ThreadpoolController().lib_controllers:
                as_loaded = requested if requested and library.internal_api == "openmp" else library.num_threads
                n_threads = before.get(library.filepath, as_loaded)
                if library.num_threads != n_threads:
                    library.set_num_threads(n_threads)
