"""The parts that a batch, or all cells, are worked on in, and which of them are a process's."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Share(NamedTuple):
    """Every ``n_shares``-th row, from ``first`` on."""

    first: int = 0
    n_shares: int = 1

    def of(self, rows: Tensor) -> Tensor:
        """Its part of ``rows``, along their first dimension."""
        return rows if self.n_shares == 1 else rows[self.first :: self.n_shares]


WHOLE = Share()


def shares_of(rank: int, world: int, *, least: int) -> list[Share]:
    """What process ``rank`` of ``world`` works on, one after the other, if there are ``least`` shares or more.

    Sums over rows round by how they are split. A process alone that adds up two halves, as two processes do, ends
    with their bits: training makes of a last digit another clustering, where two are nearly level.
    """
    n_shares = max(least, world)
    return [Share(first, n_shares) for first in range(rank, n_shares, world)]
