"""The one place that touches scanpy's logging, so that ``sc.settings.verbosity`` rules here too."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime


def info(message: str, *, time: datetime | None = None, deep: str | None = None) -> datetime:
    """Log at level info; returns the time of the call, to be passed as ``time`` to the closing message."""
    from scanpy import logging

    started: datetime = logging.info(message, time=time, deep=deep)
    return started


def verbosity() -> int:
    """Scanpy's verbosity: 0 errors, 1 warnings, 2 info, 3 hints, 4 debug."""
    from scanpy import settings

    return int(settings.verbosity)
