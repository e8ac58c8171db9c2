"""A run shared by several processes on one machine: started, watched and ended by torch's elastic agent.

Each process is a fresh interpreter, so that scripts need no ``__main__`` guard and notebooks may call it. A process
that dies takes the others with it, and the run ends with an error; if the caller dies, they end too.
"""

import logging
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .config import Config
from .result import FitResult

_INPUTS, _RESULT = "inputs.pickle", "result.pickle"  # in a folder that only the user may open


def fit_alone_or_in_processes(config: Config, **arrays: Any) -> FitResult:
    """:func:`.fit.fit` in this process, or in ``config.devices`` processes."""
    if config.devices > 1:
        return fit_in_processes(config, **arrays)
    from .fit import fit

    return fit(config=config, **arrays)


def fit_in_processes(config: Config, **arrays: Any) -> FitResult:
    """:func:`.fit.fit` with these arguments in ``config.devices`` processes; returns what it returns.

    Raises ValueError if there are not as many devices, RuntimeError if a process failed or was killed; the others are
    ended first.
    """
    devices = config.devices
    _require_devices(devices, config.accelerator)
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    with tempfile.TemporaryDirectory(prefix="sctag_") as name:
        folder = Path(name)
        with (folder / _INPUTS).open("wb") as file:
            pickle.dump((config, arrays), file, protocol=5)
        launch = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=devices,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint=str(folder / "rendezvous"),
            rdzv_configs={"store_type": "file"},  # a port could be reached by others
            local_addr="127.0.0.1",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=str(folder)),
        )
        with _keep_signals():
            try:
                elastic_launch(launch, sys.executable)("-m", __name__, str(folder))
            except ChildFailedError as error:
                reported = error.get_first_failure()[1].message
                reason = reported["message"] if isinstance(reported, dict) else reported
                msg = f"One of the {devices} processes ended early, the others were stopped: {reason}"
                raise RuntimeError(msg) from error
            except SignalException as error:
                if error.sigval == signal.SIGINT:
                    raise KeyboardInterrupt from error
                raise
        with (folder / _RESULT).open("rb") as file:
            result: FitResult = pickle.load(file)
        return result


def _require_devices(devices: int, accelerator: str) -> None:
    import torch

    from .runtime import resolve_accelerator

    if sys.platform == "win32":
        msg = "Several processes are not supported on Windows; use devices=1."
        raise ValueError(msg)
    found = {"cpu": devices, "mps": 1}.get(resolve_accelerator(accelerator), torch.cuda.device_count())
    if found < devices:
        msg = f"devices={devices} were asked for, but torch finds {found}; use fewer, or accelerator='cpu'."
        raise ValueError(msg)


@contextmanager
def _keep_signals() -> Iterator[None]:
    """Put back what the elastic agent leaves behind: its signal handlers, and a variable that lists them."""
    listed = "TORCHELASTIC_SIGNALS_TO_HANDLE"
    before, variable = {number: signal.getsignal(number) for number in signal.valid_signals()}, os.environ.get(listed)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                if handler is not None and signal.getsignal(number) is not handler:
                    signal.signal(number, handler)
        if variable is None:
            os.environ.pop(listed, None)


def _work(folder: Path) -> None:
    """What each process does."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's handler would wait for the process it talks to
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    import torch

    from .fit import fit

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it reports each process that joins
    with (folder / _INPUTS).open("rb") as file:
        config, arrays = pickle.load(file)
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // config.devices))
    result = fit(config=config, **arrays)
    if os.environ["RANK"] == "0":
        with (folder / _RESULT).open("wb") as file:
            pickle.dump(result, file, protocol=5)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    from torch.distributed.elastic.multiprocessing.errors import record

    record(_work)(Path(sys.argv[1]))
