"""What one of several processes works on, and how they put their parts together again."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Share(NamedTuple):
    """Every ``world``-th row, from ``rank`` on: one process's part of a batch, or of all cells."""

    rank: int = 0
    world: int = 1

    def of(self, rows: Tensor) -> Tensor:
        """The part of ``rows``, along their first dimension, that is this process's."""
        return rows if self.world == 1 else rows[self.rank :: self.world]


WHOLE = Share()
