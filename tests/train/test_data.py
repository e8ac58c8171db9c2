"""What training draws from: counts kept exactly, rows drawn once an epoch, shares that make up the whole."""

import numpy as np
import pytest
import torch
from scipy import sparse

from sctag_tools._core.data import CellData
from sctag_tools._core.share import Share


def cell_data(values, n_hops=1):
    n = len(values)
    ring = sparse.csr_matrix(np.roll(np.eye(n), 1, axis=1) + np.roll(np.eye(n), -1, axis=1))
    counts = sparse.csr_matrix(np.asarray(values, dtype=np.float32))
    return CellData(counts, np.asarray(counts.sum(axis=1)).ravel() + 1, ring, n_hops)


@pytest.mark.parametrize(
    ("largest", "dtype"),
    [(255, torch.uint8), (256, torch.int16), (40_000, torch.int32), (3e9, torch.float32), (2.5, torch.float32)],
)
def test_counts_are_kept_exactly_in_the_smallest_type(largest, dtype):
    values = np.zeros((9, 4))
    values[3, 1] = largest
    data = cell_data(values)
    assert data.counts.dtype == dtype
    batch = data.batch(torch.arange(9), torch.device("cpu"), with_edges=False)
    assert batch.counts.dtype == torch.float32
    np.testing.assert_array_equal(batch.counts.numpy(), values.astype(np.float32))


def test_every_cell_is_drawn_once_an_epoch():
    data = cell_data(np.ones((20, 3)))
    rows = data.batches(5, np.random.default_rng(0), paired=False)
    for _ in range(2):
        epoch = torch.cat([next(rows) for _ in range(data.steps_per_epoch(5, paired=False))])
        np.testing.assert_array_equal(epoch.sort().values.numpy(), np.arange(20))


def test_shares_make_up_the_whole_in_order():
    rows = torch.arange(7)
    parts = [Share(rank, 3).of(rows) for rank in range(3)]
    assert [len(part) for part in parts] == [3, 2, 2]
    padded = [torch.nn.functional.pad(part, (0, 3 - len(part)), value=-1) for part in parts]
    np.testing.assert_array_equal(torch.stack(padded, dim=1).flatten()[:7].numpy(), rows.numpy())


def test_a_share_of_a_batch_is_those_rows_of_it():
    data = cell_data(np.random.default_rng(0).poisson(3.0, size=(12, 5)))
    rows, device = torch.tensor([7, 1, 4, 9, 2]), torch.device("cpu")
    whole, part = (data.batch(rows, device, with_edges=False, share=share) for share in (Share(), Share(1, 2)))
    assert part.n_rows == whole.n_rows == 5
    for name in ("blocks", "counts", "log_size", "batch_numbers"):
        torch.testing.assert_close(getattr(part, name), getattr(whole, name)[1::2])
