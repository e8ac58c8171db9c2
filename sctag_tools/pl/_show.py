"""What scanpy's plots do at the end: show the figure, or return it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def show_or_return(
    figure: Figure, axes: Iterable[Axes], *, show: bool | None, return_fig: bool
) -> list[Axes] | Figure | None:
    """Return the figure if ``return_fig``, else the axes if it is not to be shown; else show it."""
    import matplotlib.pyplot as plt
    from scanpy import settings

    if return_fig:
        return figure
    if show is False or (show is None and not settings.autoshow):
        return list(axes)
    plt.show()
    return None
