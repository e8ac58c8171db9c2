"""A run on arrays: it learns, repeats itself, stops when told, and leaves the global state alone."""

from contextlib import ExitStack

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.metrics import adjusted_rand_score

from sctag_tools.cluster.hierarchy import Hierarchy
from sctag_tools.train.result import clusters_by_size, select_clusters

LONG = {"pretrain_epochs": 40, "cluster_epochs": 10}
STEPS = 90 // 16  # an epoch draws half of each minibatch


@pytest.fixture(scope="module")
def trained(run):
    return run(**LONG)


def test_losses_fall_and_clusters_are_found(cells, trained):
    assert adjusted_rand_score(cells[3], trained.labels) > 0.95
    for term in ("multinomial", "graph"):
        values = trained.history[term][np.isfinite(trained.history[term])]
        assert np.mean(values[-10:]) < 0.97 * np.mean(values[:5])
    assert trained.latent.shape == (90, 5)
    assert trained.latent.dtype == trained.proba.dtype == trained.confidence.dtype == np.float32
    np.testing.assert_allclose(trained.proba.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(trained.labels, trained.proba.argmax(axis=1))
    sizes = np.bincount(trained.labels)
    assert len(sizes) == trained.n_clusters
    assert (np.diff(sizes) <= 0).all()


def test_mixed_precision_finds_the_same_groups(cells, trained, run):
    mixed = run(precision="bf16-mixed", **LONG)
    assert adjusted_rand_score(cells[3], mixed.labels) > 0.95
    assert mixed.latent.dtype == mixed.proba.dtype == np.float32
    assert not np.allclose(mixed.latent, trained.latent)


def test_epochs_that_are_given_are_run(result):
    assert len(result.history["loss"]) == 5 * STEPS
    assert np.isnan(result.history["cluster"]).tolist() == [True] * 3 * STEPS + [False] * 2 * STEPS
    assert set(result.stop_reasons.values()) == {"all steps done"}
    assert result.n_clusters_curve is None


def test_training_ends_by_itself_with_a_number_of_clusters(run):
    found = run(n_clusters=None, pretrain_epochs=2, cluster_epochs=None)
    assert found.stop_reasons["clustering"] == "converged"
    assert len(found.history["loss"]) < 2 * STEPS + 60
    assert found.n_clusters <= 1 + found.n_clusters_curve["supported"].sum()


def test_same_seed_same_result_in_any_order_other_seed_another(cells, result, run):
    order = np.random.default_rng(0).permutation(90)
    counts, totals, graph, _ = cells
    again = run((counts[order], totals[order], graph[order][:, order]))
    for part in ("latent", "proba", "labels", "confidence"):
        np.testing.assert_array_equal(getattr(again, part), getattr(result, part)[order], err_msg=part)
    for name, array in result.tree.items():
        expected = array[order] if name in {"leaf", "consensus_leaf"} else array
        np.testing.assert_array_equal(again.tree[name], expected, err_msg=name)
    assert not np.allclose(run(random_state=1).latent, result.latent)


@pytest.mark.parametrize("options", [
    {}, {"n_clusters": 1}, {"n_clusters": 8, "cluster_epochs": 20, "learning_rate": 0.05}, {"n_clusters": None},
], ids=str)  # fmt: skip
def test_the_tree_cut_at_the_number_of_clusters_gives_them(run, options):
    found = run(**options)
    tree = Hierarchy.from_arrays(found.tree)
    pairs = np.unique(np.stack([found.labels, tree.cut(found.n_clusters)[tree.leaf]]), axis=1)
    # one to one; a cluster that self-training has emptied leaves a gap in the numbers of the cut
    assert [len(np.unique(each)) for each in pairs] == [found.n_clusters] * 2
    assert pairs.shape == (2, found.n_clusters)
    if "learning_rate" in options:  # self-training has moved cells, or this would show little
        assert (tree.leaf != tree.consensus_leaf).any()


def test_global_random_states_are_left_alone(run):
    torch.manual_seed(7)
    np.random.seed(7)  # noqa: NPY002
    before, numpy_before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    run()
    assert torch.equal(torch.random.get_rng_state(), before)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002


@pytest.mark.parametrize("inference", [False, True])
def test_what_was_set_elsewhere_does_not_matter_and_stays(run, result, monkeypatch, inference):
    """First weights on another device would come from a generator without our seed; "meta" draws none at all.

    Many ask a scheduler for cores as tasks, which Fabric takes for processes that it should share the work with.
    """
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_JOB_NAME", "job")
    with ExitStack() as around:
        around.callback(torch.set_default_dtype, torch.get_default_dtype())
        around.enter_context(torch.inference_mode() if inference else torch.no_grad())
        around.enter_context(torch.device("meta"))
        torch.set_default_dtype(torch.float64)
        np.testing.assert_array_equal(run().latent, result.latent)
        assert torch.get_default_dtype() == torch.float64
        assert torch.empty(0).device.type == "meta"
        assert torch.is_inference_mode_enabled() == inference
        assert not torch.is_grad_enabled()


def test_cells_that_are_all_the_same_are_one_cluster(cells, run):
    counts, totals, graph, _ = cells
    rows = np.zeros(90, dtype=int)
    assert run((counts[rows], totals[rows], graph), n_hops=0).proba.shape[1] == 1


def test_duplicate_entries_are_added_up(cells, run):
    """Before the counts are kept in the smallest type that holds each entry."""
    counts = cells[0].copy()
    counts.data[0] = 300  # which takes two bytes, its halves one
    halves = np.stack([counts.data // 2, counts.data - counts.data // 2], axis=1).ravel()
    twice = sparse.csr_matrix((halves, np.repeat(counts.indices, 2), counts.indptr * 2), shape=counts.shape)
    one, other = run((counts, *cells[1:])), run((twice, *cells[1:]))
    np.testing.assert_allclose(other.history["loss"], one.history["loss"], rtol=1e-6)
    assert not twice.has_canonical_format  # the input stays as it is


def test_impossible_counts_end_with_the_step_and_the_cause(cells, run):
    counts = cells[0].copy()
    counts.data[0] = np.nan
    with pytest.raises(RuntimeError, match=r"non-finite \(.*multinomial.*\) at step \d+.*not raw counts"):
        run((counts, *cells[1:]))


def test_numbers_of_equal_clusters_do_not_hang_on_their_order():
    proba = np.float32([[0.1, 0.8, 0.1], [0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.8, 0.1, 0.1]])
    for columns in ([0, 1, 2], [1, 0, 2], [2, 1, 0]):
        kept = select_clusters(proba[:, columns], clusters_by_size(proba[:, columns]))
        np.testing.assert_array_equal(kept.argmax(axis=1), [0, 1, 0, 1])
        np.testing.assert_allclose(kept[0], [8 / 9, 1 / 9], rtol=1e-6)
