"""The device and torch's global state during a run, which are afterwards what they were before."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from .._threads import ONE_AT_A_TIME, requested_threads


def resolve_accelerator(accelerator: str) -> str:
    """A Fabric accelerator from the user's choice; "auto" takes a CUDA device if there is one, never MPS."""
    has_cuda, has_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if accelerator == "auto":
        return "cuda" if has_cuda else "cpu"
    found = {"cpu": True, "gpu": has_cuda or has_mps, "cuda": has_cuda, "mps": has_mps}
    if not found[accelerator]:
        msg = f"accelerator={accelerator!r} was asked for, but torch finds none; use 'auto' or 'cpu'."
        raise ValueError(msg)
    return accelerator


@dataclass
class StageTimer:
    """Wall seconds of each stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time the block."""
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start


@contextmanager
def own_torch_state(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's generators of the CPU and ``device`` for the block; gradients on, new tensors float32 on the CPU."""
    generator = {"cuda": torch.cuda, "mps": torch.mps}.get(device.type)
    with ExitStack() as kept:
        kept.enter_context(ONE_AT_A_TIME)
        dtype = torch.get_default_dtype()
        kept.enter_context(torch.random.fork_rng([]))
        kept.enter_context(torch.inference_mode(mode=False))
        kept.enter_context(torch.enable_grad())
        for kind in {"cpu", device.type} & {"cpu", "cuda"}:  # Fabric has its own precision
            kept.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":  # entered only then, since it slows every call
            kept.enter_context(torch.device("cpu"))
        if device.type == "cuda":  # its generator is that of the current device
            kept.enter_context(torch.cuda.device(device))
        before = None if generator is None else generator.get_rng_state()
        torch.set_default_dtype(torch.float32)
        torch.default_generator.manual_seed(int(seed))
        if generator is not None:
            generator.manual_seed(int(seed))
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
            if generator is not None:
                generator.set_rng_state(before)


def get_random_state(device: torch.device) -> Tensor:
    """State of torch's generator of a device."""
    generator = {"cuda": torch.cuda, "mps": torch.mps}.get(device.type)
    state: Tensor = torch.get_rng_state() if generator is None else generator.get_rng_state()
    return state


def set_random_state(state: Tensor, device: torch.device) -> None:
    """Put it back; that of another kind of device is left out."""
    generator = {"cuda": torch.cuda, "mps": torch.mps}.get(device.type)
    if len(state) == len(get_random_state(device)):
        (torch.set_rng_state if generator is None else generator.set_rng_state)(state)


@contextmanager
def own_threads() -> Iterator[None]:
    """At most as many threads as ``OMP_NUM_THREADS`` asks for.

    numba, which scanpy runs on, raises torch's number above it. The number of threads decides how sums round; so it
    depends on the machine and on this variable, never on what else runs.
    """
    before, requested = torch.get_num_threads(), requested_threads()
    if requested is None or requested >= before:
        yield
        return
    try:
        with threadpool_limits(requested):
            torch.set_num_threads(requested)
            yield
    finally:
        torch.set_num_threads(before)
