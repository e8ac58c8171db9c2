"""The device that is taken, and threads: as many as the user asks for, then as many as before."""

import contextlib

import pytest
import torch

from sctag_tools.train.runtime import own_threads, resolve_accelerator


def test_auto_never_takes_mps_and_an_absent_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert [resolve_accelerator(name) for name in ("auto", "cpu", "mps", "gpu")] == ["cpu", "cpu", "mps", "gpu"]
    with pytest.raises(ValueError, match="'cuda' was asked for"):
        resolve_accelerator("cuda")


@pytest.mark.parametrize(("requested", "used"), [(None, 2), ("1,1", 1), ("2", 2), ("7", 2)])
def test_threads_are_lowered_to_the_users_number_and_put_back(monkeypatch, requested, used):
    """numba calls OpenMP as torch does here, which raises torch's number above ``OMP_NUM_THREADS``."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if requested is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", requested)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with contextlib.suppress(KeyError), own_threads():
            assert torch.get_num_threads() == used
            raise KeyError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
