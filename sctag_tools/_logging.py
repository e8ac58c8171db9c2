"""What the user is told: by scanpy's logging, so that ``sc.settings.verbosity`` rules here too, and by warnings."""

import sys
import warnings
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import numpy as np


def info(message: str, *, time: datetime | None = None, deep: str | None = None) -> datetime:
    """Log at level info; returns the time of the call, to be passed as ``time`` to the closing message."""
    from scanpy import logging

    started: datetime = logging.info(message, time=time, deep=deep)
    return started


def verbosity() -> int:
    """Scanpy's verbosity: 0 errors, 1 warnings, 2 info, 3 hints, 4 debug."""
    from scanpy import settings

    return int(settings.verbosity)


def warn(message: str) -> None:
    """Warn about the data, pointing at the line of the user's code that called the package."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("sctag_tools."):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)


def warn_of_one_cluster(curve: Mapping[str, Any] | None, n_cells: int) -> None:
    """Say why there is one cluster, if the number was chosen: what the best candidate for a split lacks."""
    if curve is None or np.any(curve["supported"]):
        return
    candidate = ""
    if len(curve["coassociation"]):
        candidate = (
            f" The best candidate: the partitions keep its two sides together {curve['coassociation'][0]:.2f} times as "
            f"often as cells of one side (limit {float(curve['max_coassociation']):.2f}), and they lie at least "
            f"{max(float(curve['separation'][0]), 0):.1f} standard deviations apart (limit "
            f"{curve['least_separation'][0]:.1f}). `n_clusters=2` makes this split."
        )
    warn(f"No split of these {n_cells} cells is supported, so they are one cluster.{candidate}")


def warn_of_fewer_clusters(n_clusters: int | None, found: int) -> None:
    """Warn if there are fewer clusters than were asked for."""
    if n_clusters is not None and found < n_clusters:
        warn(f"n_clusters={n_clusters} were asked for, but only {found} hold a cell; the others are left out.")
