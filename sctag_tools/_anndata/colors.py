"""Colors of clusters that were made of others."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def inherited_colors(old: Sequence[str] | None, heirs: list[int], n_old: int) -> list[str] | None:
    """A color for each new cluster: that of the old one it goes on with (-1: a new color). None unless all had one."""
    if old is None or len(old) != n_old:
        return None
    from matplotlib.colors import to_hex
    from scanpy.pl import palettes

    used = {to_hex(color) for color in old}
    fresh = [*palettes.default_20, *palettes.default_28, *palettes.default_102]
    unused = iter([color for color in dict.fromkeys(map(to_hex, fresh)) if color not in used])
    return [next(unused, "#808080") if heir < 0 else str(old[heir]) for heir in heirs]
