"""Which rows of a minibatch, or of all cells, each process works on."""

from __future__ import annotations

from ..nn.minibatch import RowShare


def row_shares(rank: int, n_processes: int, *, min_shares: int) -> list[RowShare]:
    """The shares that process ``rank`` works on, one after the other, if there are at least ``min_shares``.

    Sums over rows round differently when they are split. So one process sums the same two halves that two processes
    would, and results match bit for bit; otherwise the last digit could decide between two nearly level clusterings.
    """
    n_shares = max(min_shares, n_processes)
    return [RowShare(first, n_shares) for first in range(rank, n_shares, n_processes)]
