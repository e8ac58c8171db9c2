"""A minibatch of cells, or the share of it that one process works on."""

from typing import NamedTuple

from torch import Tensor


class RowShare(NamedTuple):
    """Every ``n_shares``-th row, from ``first`` on."""

    first: int = 0
    n_shares: int = 1

    def take(self, rows: Tensor) -> Tensor:
        """The rows of this share, along the first dimension."""
        return rows if self.n_shares == 1 else rows[self.first :: self.n_shares]


ALL_ROWS = RowShare()


def row_shares(rank: int, n_processes: int, *, min_shares: int) -> list[RowShare]:
    """The shares that process ``rank`` works on, one after the other, if there are at least ``min_shares``.

    Sums over rows round differently when they are split. So one process sums the same two halves that two processes
    would, and results match bit for bit; otherwise the last digit could decide between two nearly level clusterings.
    """
    n_shares = max(min_shares, n_processes)
    return [RowShare(first, n_shares) for first in range(rank, n_shares, n_processes)]


class Minibatch(NamedTuple):
    """Rows of the data as tensors, with what is needed to score their reconstruction."""

    hops: Tensor  # (B, n_hops + 1, G) hop features
    counts: Tensor  # (B, G) raw counts
    log_size: Tensor  # (B,) log size factors
    batch_index: Tensor  # (B,) experimental batch of each cell
    n_rows: int  # of the whole minibatch, of which this may be a share
    share: RowShare = ALL_ROWS
    edge_targets: Tensor | None = None  # (B, B) graph targets, rows sum to one or zero; None if it is not decoded
    same_cell: Tensor | None = None  # (B, B) True where both are one cell
    cluster_targets: Tensor | None = None  # (B, K) target distribution, during self-training

    @property
    def fraction(self) -> float:
        """Share of the rows of the whole minibatch; shares may differ by a row."""
        return len(self.counts) / self.n_rows
