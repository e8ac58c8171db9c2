"""Training on arrays: it learns, repeats itself, stops when told, and leaves the global state alone."""

import numpy as np
import psutil
import pytest
import torch
from scipy import sparse
from sklearn.metrics import adjusted_rand_score
from torch.utils._python_dispatch import TorchDispatchMode

from sctag_tools._core import train
from sctag_tools._core.config import Config
from sctag_tools._core.fit import by_size, fit, of_columns
from sctag_tools._core.neighbors import find_neighbors
from sctag_tools._core.train import resolve_accelerator

SHORT = {"pretrain_epochs": 3, "cluster_epochs": 2, "batch_size": 64, "graph_weight": 0.1, "n_networks": 2}


@pytest.fixture(scope="module")
def cells():
    """Counts of 180 cells in 3 groups, their totals, a kNN graph, and the groups."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(3), 60)
    profiles = rng.gamma(0.5, 2.0, size=(3, 100))
    counts = sparse.csr_matrix(rng.poisson(profiles[groups] * rng.uniform(0.5, 2, size=(180, 1))).astype(np.float32))
    found = find_neighbors(np.log1p(counts.toarray()), 10, metric="euclidean", random_state=0)
    edges = sparse.csr_matrix((np.ones(180 * 9), (np.repeat(np.arange(180), 9), found.indices[:, 1:].ravel())))
    return counts, np.asarray(counts.sum(axis=1)).ravel(), edges.maximum(edges.T).tocsr(), groups


def run(cells, n_clusters=3, *, seed=0, precision="32-true", **options):
    return fit(*cells[:3], n_clusters, Config(**{**SHORT, **options}), random_state=seed, precision=precision)


def test_losses_fall_and_clusters_are_found(cells):
    result = run(cells, pretrain_epochs=40, cluster_epochs=10)
    assert adjusted_rand_score(cells[3], result.labels) > 0.95
    for term in ("multinomial", "graph"):
        assert np.mean(result.history[term][-10:]) < 0.95 * np.mean(result.history[term][:5])


def test_results_have_the_promised_shapes(cells):
    result = run(cells)
    assert result.latent.shape == (180, 15)
    assert result.latent.dtype == result.proba.dtype == np.float32
    np.testing.assert_allclose(result.proba.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(result.labels, result.proba.argmax(axis=1))
    sizes = np.bincount(result.labels)
    assert (sizes > 0).all()
    assert (np.diff(sizes) <= 0).all()


def test_epochs_that_are_given_are_run(cells):
    result = run(cells, pretrain_epochs=4, cluster_epochs=3)
    steps = 180 // 32
    assert len(result.history["loss"]) == 7 * steps
    assert np.isnan(result.history["cluster"]).sum() == 4 * steps
    assert set(result.stops.values()) == {"all steps done"}


def test_training_ends_by_itself(cells):
    result = run(cells, pretrain_epochs=2, cluster_epochs=None)
    assert result.stops["clustering"] == "converged"
    assert len(result.history["loss"]) < 2 * (180 // 32) + 60


def test_same_seed_same_result_other_seed_another(cells):
    one, again, other = run(cells), run(cells), run(cells, seed=1)
    np.testing.assert_array_equal(one.latent, again.latent)
    np.testing.assert_array_equal(one.labels, again.labels)
    assert not np.allclose(one.latent, other.latent)


def test_history_is_the_weighted_sum(cells):
    history = run(cells, count_weight=2.0, graph_weight=0.5, cluster_weight=0.25).history
    cluster = np.nan_to_num(history["cluster"])
    np.testing.assert_allclose(
        history["loss"], 2 * history["multinomial"] + 0.5 * history["graph"] + 0.25 * cluster, rtol=1e-5
    )


def test_global_random_states_are_left_alone(cells):
    torch.manual_seed(7)
    np.random.seed(7)  # noqa: NPY002
    before, numpy_before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    run(cells)
    assert torch.equal(torch.random.get_rng_state(), before)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002


def test_what_torch_was_told_elsewhere_does_not_matter(cells):
    expected = run(cells).latent
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad():
            np.testing.assert_array_equal(run(cells).latent, expected)
            assert not torch.is_grad_enabled()
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_runs_inside_inference_mode(cells):
    expected = run(cells).latent
    with torch.inference_mode():
        np.testing.assert_array_equal(run(cells).latent, expected)
        assert torch.is_inference_mode_enabled()


def test_another_default_device_does_not_matter(cells):
    """First weights drawn elsewhere would come from a generator that is not seeded; "meta" draws none at all."""
    expected = run(cells).latent
    with torch.device("meta"):
        np.testing.assert_array_equal(run(cells).latent, expected)
        assert torch.empty(0).device.type == "meta"


def test_a_schedulers_variables_are_not_ours(cells, monkeypatch):
    """Many ask a scheduler for cores as tasks, which Fabric takes for processes that it should share the work with."""
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_JOB_NAME", "job")
    assert run(cells).proba.shape[1] > 1


def test_more_clusters_than_distinct_cells_leaves_none_empty(cells):
    counts, totals, graph, _ = cells
    rows = np.zeros(180, dtype=int)
    same = counts[rows], totals[rows], graph
    result = fit(*same, 3, Config(**SHORT, n_hops=0), random_state=0)
    assert result.proba.shape[1] == 1


def test_duplicate_entries_are_added_up(cells):
    counts = cells[0].copy()
    twice = sparse.csr_matrix(
        (np.repeat(counts.data / 2, 2), np.repeat(counts.indices, 2), counts.indptr * 2), shape=counts.shape
    )
    assert not twice.has_canonical_format
    one, other = run(cells), run((twice, *cells[1:]))
    np.testing.assert_allclose(other.history["loss"], one.history["loss"], rtol=1e-6)
    assert not twice.has_canonical_format  # the input stays as it is


def test_impossible_counts_end_with_the_step_and_the_cause(cells):
    counts = cells[0].copy()
    counts.data[0] = np.nan
    with pytest.raises(RuntimeError, match=r"non-finite \(.*multinomial.*\) at step \d+.*not raw counts"):
        fit(counts, cells[1], cells[2], 3, Config(**SHORT), random_state=0)


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("n_hops", -1, ValueError),
        ("n_hops", 1.5, TypeError),
        ("n_latent", 0, ValueError),
        ("n_hidden", True, TypeError),
        ("batch_size", 1, ValueError),
        ("mask_rate", 1.0, ValueError),
        ("mask_rate", "0.8", TypeError),
        ("graph_weight", -0.1, ValueError),
        ("learning_rate", float("nan"), ValueError),
        ("pretrain_epochs", -1, ValueError),
    ],
)
def test_options_out_of_range_are_named(option, value, error):
    with pytest.raises(error, match=option):
        Config(**{option: value})


def test_auto_never_takes_mps(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_accelerator("auto") == "cpu"
    assert resolve_accelerator("mps") == "mps"


def test_an_absent_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="'cuda' was asked for"):
        resolve_accelerator("cuda")


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


def _watch_steps(monkeypatch):
    step, found = train.Trainer._step, []

    def watched(*args):
        with _Watched() as mode:
            step(*args)
        found.append(mode.found)

    monkeypatch.setattr(train.Trainer, "_step", watched)
    return found


def test_no_step_waits_for_the_device_or_leaves_it(cells, monkeypatch):
    found = _watch_steps(monkeypatch)
    run(cells, graph_weight=0.0)
    assert len(found) > 8
    assert not any(found)


def test_a_zinb_looks_up_where_counts_are(cells, monkeypatch):
    """The exception that the documentation names, and the proof that the watch sees something."""
    found = _watch_steps(monkeypatch)
    run(cells, graph_weight=0.0, likelihood="zinb")
    assert all(of_step == ["aten.nonzero.default"] * 4 for of_step in found)  # two networks, two halves of the batch


@pytest.mark.parametrize("look", [lambda x: x.sum().item(), lambda x: x.to("meta"), lambda x: x[x > 0], bool])
def test_the_watch_sees_what_it_should(look):
    with _Watched() as mode:
        look(torch.ones(1))
    assert mode.found


def test_inference_does_not_depend_on_how_many_rows_are_taken_at_once(cells, monkeypatch):
    whole = run(cells)
    monkeypatch.setattr(train, "_ROWS_AT_ONCE", 7)
    parts = run(cells)
    np.testing.assert_array_equal(parts.labels, whole.labels)
    np.testing.assert_allclose(parts.latent, whole.latent, rtol=1e-4, atol=1e-4 * np.abs(whole.latent).max())


def test_numbers_of_equal_clusters_do_not_hang_on_their_order():
    proba = np.float32([[0.1, 0.8, 0.1], [0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.8, 0.1, 0.1]])
    for columns in ([0, 1, 2], [1, 0, 2], [2, 1, 0]):
        kept = of_columns(proba[:, columns], by_size(proba[:, columns]))
        np.testing.assert_array_equal(kept.argmax(axis=1), [0, 1, 0, 1])
        np.testing.assert_allclose(kept[0], [8 / 9, 1 / 9], rtol=1e-6)


def test_mixed_precision_finds_the_same_groups(cells):
    result = run(cells, pretrain_epochs=40, cluster_epochs=10, precision="bf16-mixed")
    assert adjusted_rand_score(cells[3], result.labels) > 0.95
    assert result.latent.dtype == result.proba.dtype == np.float32
    assert not np.allclose(result.latent, run(cells, pretrain_epochs=40, cluster_epochs=10).latent)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_steps(cells):
    process = psutil.Process()

    def resident_after(epochs):
        run(cells, graph_weight=0.0, pretrain_epochs=epochs, cluster_epochs=0)
        return process.memory_info().rss

    resident_after(5)
    few, many = resident_after(100), resident_after(1000)  # 200 and 2,000 steps
    assert many < 1.05 * few
