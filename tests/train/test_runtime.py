"""Threads that hurt are not used, those of the user are, and all are put back."""

import pytest
import torch

from sctag_tools._core import threads


@pytest.fixture
def two_threads(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("crowded", "used"), [(True, 1), (False, 2)])
def test_one_thread_where_two_are_slower(two_threads, monkeypatch, crowded, used):
    monkeypatch.setattr(threads, "_crowded", lambda _: crowded)
    with threads.helpful_threads():
        assert torch.get_num_threads() == used
    assert torch.get_num_threads() == 2


def test_threads_are_put_back_after_an_error(two_threads, monkeypatch):
    monkeypatch.setattr(threads, "_crowded", lambda _: True)
    with pytest.raises(KeyError), threads.helpful_threads():
        raise KeyError
    assert torch.get_num_threads() == 2


def test_the_users_number_stands(two_threads, monkeypatch):
    monkeypatch.setattr(threads, "_crowded", lambda _: True)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with threads.helpful_threads():
        assert torch.get_num_threads() == 2


def test_a_number_that_another_library_raised_is_lowered_again(two_threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1,1")
    with threads.helpful_threads():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("slow", [1, 2])
def test_the_slower_number_is_recognised(two_threads, monkeypatch, slow):
    clock = [0.0]

    def later():
        clock[0] += 0.01 if torch.get_num_threads() == slow else 0.001
        return clock[0]

    monkeypatch.setattr(threads.time, "perf_counter", later)
    assert threads._crowded(2) == (slow == 2)
    assert torch.get_num_threads() == 2
