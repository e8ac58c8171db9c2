"""Text above a branch that shows as many names as there is room for, whatever size the axes have in the end.

Only functions that draw import this file, as it needs matplotlib.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matplotlib.text import Text
from matplotlib.transforms import offset_copy

from ._axes import root_figure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes
    from matplotlib.backend_bases import RendererBase

_LEFT, _RIGHT, _ABOVE = 4.5, 3.5, 2.0  # points from the dot of a split, the end of the branch, and the line
_LINE = 1.2  # height of a line with its spacing, in those of the text


class FittedNames(Text):
    """Names above the line at ``row`` from ``span[0]`` to ``span[1]``, below ``free`` rows with nothing in them.

    What has room is known when it is drawn: a layout engine or a window may change the size of axes up to then.
    """

    def __init__(self, ax: Axes, names: Sequence[str], span: tuple[float, float], row: float, free: float) -> None:
        figure = root_figure(ax)
        place = offset_copy(ax.transData, figure, _LEFT, _ABOVE, units="points")
        super().__init__(span[0], row, "", va="bottom", fontsize="x-small", style="italic", transform=place)
        self.set(parse_math=False, linespacing=_LINE, in_layout=False, zorder=5)
        self.names, self._span, self._free, self._to_pixels = names, span, free, ax.transData
        ax.add_artist(self)

    def draw(self, renderer: RendererBase, *args: Any, **kwargs: Any) -> None:
        """Draw the names that fit now."""
        self.set_text(self._fitting(renderer))
        super().draw(renderer, *args, **kwargs)

    def _fitting(self, renderer: RendererBase) -> str:
        def size_of(text: str) -> tuple[float, float]:
            return renderer.get_text_width_height_descent(text, self.get_fontproperties(), ismath=False)[:2]

        (left, low), (right, high) = self._to_pixels.transform([(self._span[0], 0), (self._span[1], self._free)])
        width, height = abs(right - left), abs(high - low)
        point, line = float(renderer.points_to_pixels(1.0)), size_of("lp")[1]  # type: ignore[arg-type]
        n_lines = 1 + int((height - 2 * _ABOVE * point - line) // (_LINE * line))
        return wrapped(self.names, width - (_LEFT + _RIGHT) * point, n_lines, lambda text: size_of(text)[0])


def wrapped(names: Sequence[str], room: float, n_lines: int, width_of: Callable[[str], float]) -> str:
    """The first of the names that fit into lines of this room; none is cut, as that could make it another one.

    A comma at the end of a line may stick out.
    """
    lines = [""]
    for name in names if n_lines > 0 else ():
        longer = f"{lines[-1]}, {name}" if lines[-1] else name
        if width_of(longer) <= room:
            lines[-1] = longer
        elif lines[-1] and len(lines) < n_lines and width_of(name) <= room:
            lines[-1] += ","
            lines.append(name)
        else:
            break
    return "\n".join(lines)
