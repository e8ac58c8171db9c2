"""The training loop: what is summed, what self-training aims at, and that no step waits for the device."""

import numpy as np
import psutil
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sctag_tools.train import data
from sctag_tools.train.trainer import Trainer


def test_history_is_the_weighted_sum(run):
    history = run(count_weight=2.0, graph_weight=0.5, cluster_weight=0.25).history
    cluster, graph = np.nan_to_num(history["cluster"]), np.nan_to_num(history["graph"])
    assert cluster.any()
    assert graph.any()
    np.testing.assert_allclose(history["loss"], 2 * history["multinomial"] + 0.5 * graph + 0.25 * cluster, rtol=1e-5)


def test_the_graph_is_decoded_in_the_last_part_of_pretraining_and_after(run):
    decoded = np.isfinite(run(graph_weight=0.5).history["graph"])
    n_pretraining = np.isnan(run(graph_weight=0.5).history["cluster"]).sum()
    start = int(np.ceil(0.7 * n_pretraining))
    np.testing.assert_array_equal(decoded, np.arange(len(decoded)) >= start)


def test_the_target_is_sharpened_from_the_networks_as_they_are(run, monkeypatch):
    """At the first step and at every 20th, from the mean assignment of that moment, for the rows of the minibatch."""
    step, assignment, assigned, seen = Trainer._step, Trainer.assignment, [], []

    def watched_assignment(trainer, latents):
        assigned.append(assignment(trainer, latents))
        return assigned[-1]

    def watched_step(trainer, module, optimizer, shares):
        if trainer._targets is not None:
            of_batch = np.concatenate([share.cluster_targets.numpy() for share in shares])
            seen.append((len(assigned), of_batch, trainer._targets.numpy().copy()))
        step(trainer, module, optimizer, shares)

    monkeypatch.setattr(Trainer, "assignment", watched_assignment)
    monkeypatch.setattr(Trainer, "_step", watched_step)
    run(pretrain_epochs=2, cluster_epochs=45, batch_size=90, graph_weight=0.0)  # a minibatch holds all cells
    assert [number for number, *_ in seen] == [1] * 20 + [2] * 20 + [3] * 5
    for number, of_batch, target in seen:
        q = assigned[number - 1].numpy().astype(float)
        p = q**2 / q.sum(axis=0)
        p /= p.sum(axis=1, keepdims=True)
        assert np.abs(p - q).max() > 0.01
        np.testing.assert_allclose(target, p, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(np.sort(of_batch, axis=0), np.sort(target, axis=0))
    assert np.abs(seen[0][2] - seen[-1][2]).max() > 1e-3


class _Watched(TorchDispatchMode):
    """Names of operations that move data to another device, or make the host wait for a result of one."""

    WAITING = (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero, torch.ops.aten.masked_select)

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        moves = func is torch.ops.aten._to_copy.default and (kwargs or {}).get("device") is not None
        by_mask = func is torch.ops.aten.index.Tensor and any(i is not None and i.dtype == torch.bool for i in args[1])
        if moves or by_mask or func.overloadpacket in self.WAITING:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("look", [lambda x: x.sum().item(), lambda x: x.to("meta"), lambda x: x[x > 0], bool])
def test_the_watch_sees_what_it_should(look):
    with _Watched() as mode:
        look(torch.ones(1))
    assert mode.found


@pytest.mark.parametrize(
    ("likelihood", "waits"),
    # Where counts are is looked up for each of two networks and two halves; the documentation names this exception.
    [("multinomial", []), ("zinb", ["aten.nonzero.default"] * 4)],
)
def test_no_step_waits_for_the_device_or_leaves_it(run, monkeypatch, likelihood, waits):
    step, found = Trainer._step, []

    def watched(*args):
        with _Watched() as mode:
            step(*args)
        found.append(mode.found)

    monkeypatch.setattr(Trainer, "_step", watched)
    run(graph_weight=0.0, likelihood=likelihood)
    assert len(found) > 8
    assert all(of_step == waits for of_step in found)


def test_inference_does_not_depend_on_how_many_rows_are_taken_at_once(run, result, monkeypatch):
    monkeypatch.setattr(data, "_ROWS_AT_ONCE", 7)
    parts = run()
    np.testing.assert_array_equal(parts.labels, result.labels)
    np.testing.assert_allclose(parts.latent, result.latent, rtol=1e-4, atol=1e-4 * np.abs(result.latent).max())


@pytest.mark.slow
def test_memory_does_not_grow_with_the_steps(run):
    process = psutil.Process()

    def resident_after(epochs):
        run(graph_weight=0.0, pretrain_epochs=epochs, cluster_epochs=0)
        return process.memory_info().rss

    resident_after(5)
    few, many = resident_after(100), resident_after(1000)  # 200 and 2,000 steps
    assert many < 1.05 * few
