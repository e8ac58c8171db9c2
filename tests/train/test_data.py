"""What training draws from: counts kept exactly, rows drawn once an epoch, neighbors by weight, shares of the whole."""

import numpy as np
import pytest
import torch
from scipy import sparse

from sctag_tools.nn.minibatch import ALL_ROWS, RowShare
from sctag_tools.train.data import TrainingData, sample_neighbors, subgraph_targets

CPU = torch.device("cpu")


def data_of(values, n_hops=1):
    n = len(values)
    ring = sparse.csr_matrix(np.roll(np.eye(n), 1, axis=1) + np.roll(np.eye(n), -1, axis=1))
    counts = sparse.csr_matrix(np.asarray(values, dtype=np.float32))
    return TrainingData(counts, np.asarray(counts.sum(axis=1)).ravel() + 1, ring, n_hops)


@pytest.mark.parametrize(
    ("largest", "dtype"),
    [(255, torch.uint8), (256, torch.int16), (40_000, torch.int32), (3e9, torch.float32), (2.5, torch.float32)],
)
def test_counts_are_kept_exactly_in_the_smallest_type(largest, dtype):
    values = np.zeros((9, 4))
    values[3, 1] = largest
    data = data_of(values)
    assert data.features.all_counts.dtype == dtype
    cells = data.minibatch(torch.arange(9), CPU, with_edges=False)
    assert cells.counts.dtype == torch.float32
    np.testing.assert_array_equal(cells.counts.numpy(), values.astype(np.float32))


@pytest.mark.parametrize("paired", [False, True])
def test_every_cell_is_drawn_once_an_epoch(paired):
    data = data_of(np.ones((20, 3)))
    minibatches = data.minibatches(10 if paired else 5, np.random.default_rng(0), paired=paired)
    for _ in range(2):
        epoch = [next(minibatches) for _ in range(data.steps_per_epoch(10 if paired else 5, paired=paired))]
        assert len(epoch) == 4
        np.testing.assert_array_equal(torch.cat([rows[:5] for rows in epoch]).sort().values.numpy(), np.arange(20))
        for rows in epoch:  # the second half are neighbors on the ring
            assert len(rows) == (10 if paired else 5)
            assert not paired or all((rows[:5] - rows[5:]).abs() % 18 == 1)


def test_shares_make_up_the_whole_in_order():
    rows = torch.arange(7)
    parts = [RowShare(rank, 3).take(rows) for rank in range(3)]
    assert [len(part) for part in parts] == [3, 2, 2]
    padded = [torch.nn.functional.pad(part, (0, 3 - len(part)), value=-1) for part in parts]
    np.testing.assert_array_equal(torch.stack(padded, dim=1).flatten()[:7].numpy(), rows.numpy())


def test_a_share_of_a_minibatch_is_those_rows_of_it():
    data = data_of(np.random.default_rng(0).poisson(3.0, size=(12, 5)))
    rows = torch.tensor([7, 1, 4, 9, 2])
    whole, part = (data.minibatch(rows, CPU, with_edges=False, share=share) for share in (ALL_ROWS, RowShare(1, 2)))
    assert part.n_rows == whole.n_rows == 5
    for name in ("hops", "counts", "log_size", "batch_index"):
        torch.testing.assert_close(getattr(part, name), getattr(whole, name)[1::2])


def test_sampled_neighbors_follow_the_edge_weights():
    graph = sparse.csr_matrix(np.array([[0, 3.0, 1.0, 0], [1.0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1.0, 0]], np.float32))
    rng = np.random.default_rng(0)
    drawn = np.stack([sample_neighbors(graph, np.arange(4), rng) for _ in range(2_000)])
    assert set(drawn[:, 0]) == {1, 2}
    assert (drawn[:, 0] == 1).mean() == pytest.approx(0.75, abs=0.04)
    assert (drawn[:, 1] == 0).all()
    assert (drawn[:, 2] == 2).all()  # isolated: itself


def test_subgraph_targets_are_rows_of_the_graph_scaled_to_one():
    graph = sparse.random(25, 25, density=0.2, random_state=0, format="csr", dtype=np.float32)
    rows = np.array([3, 8, 8, 20, 1])
    expected = graph.toarray()[np.ix_(rows, rows)]
    totals = expected.sum(axis=1)
    assert 0 < (totals > 0).sum() < 5
    found = subgraph_targets(graph, rows)
    np.testing.assert_allclose(found[totals > 0], expected[totals > 0] / totals[totals > 0, None], rtol=1e-6)
    assert (found[totals == 0] == 0).all()
