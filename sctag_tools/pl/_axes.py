"""Axes that the user gave or not: where a plot is drawn, how it ends, and room for what lies beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

_LEAST_WIDTH = 0.2  # that axes keep, of what they had


def axes_to_draw_on(ax: Axes | None, figsize: tuple[float, float]) -> Axes:
    """The axes that were given, else those of a new figure."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=figsize, layout="constrained")[1]


def text_color() -> str:
    """That of the user's style."""
    import matplotlib as mpl

    return str(mpl.rcParams["text.color"])


def extent(ax: Axes) -> Bbox:
    """The part of the figure that axes take with all that lies beside them, in pixels."""
    box = ax.get_tightbbox()
    return ax.get_window_extent() if box is None else box


def root_figure(ax: Axes) -> Figure:
    """The whole figure, also of axes in a part of it."""
    figure: Figure = ax.figure.canvas.figure
    return figure


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


def show_or_return_axes(ax: Axes, *, is_given: bool, show: bool | None, return_fig: bool) -> Axes | Figure | None:
    """What :func:`show_or_return` does for one plot; axes of the user are never shown."""
    from scanpy import settings

    is_shown = settings.autoshow if show is None else show
    if is_given and is_shown and not return_fig:
        return None
    found = show_or_return(root_figure(ax), [ax], show=show, return_fig=return_fig)
    return found[0] if isinstance(found, list) else found


def readable_on(color: Any) -> str:
    """Black or white for text on a field of this color, whatever the style."""
    from matplotlib.colors import to_rgb

    red, green, blue = to_rgb(color)
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.55 else "white"


def make_room(ax: Axes, *, is_given: bool, inches: float) -> None:
    """Let what lies beside the axes, whose width does not depend on theirs, fit into the figure.

    A figure of our own grows, so that the axes are about ``inches`` wide. Given axes become narrower, as under
    scanpy's legends, unless a layout engine of their figure does that.
    """
    figure = root_figure(ax)
    if not is_given:
        beside = extent(ax).width - ax.get_window_extent().width
        figure.set_size_inches(inches + beside / figure.dpi + 0.2, figure.get_size_inches()[1])
    elif figure.get_layout_engine() is None:
        place, width = ax.get_position(), ax.get_window_extent().width
        left = 1 - (extent(ax).x1 - ax.get_window_extent().x1) / width
        ax.set_position((place.x0, place.y0, max(left, _LEAST_WIDTH) * place.width, place.height))
