"""Checks of option values. Each error names the option, the value received and what is allowed."""

import numbers
import secrets
import sys
from collections.abc import Collection
from typing import Any

import numpy as np


class AdvisedError(ValueError):
    """An error that the user can fix: the problem, then the call that helps.

    A Python call is no help on the command line, so the error carries the advice for both.
    """

    def __init__(self, problem: str, python: str = "", command: str | None = None) -> None:
        super().__init__(f"{problem} {python}".rstrip())
        self.on_command_line = str(self) if command is None else f"{problem} {command}"


def check_integer(name: str, value: object, *, low: int) -> None:
    """Raise TypeError unless ``value`` is an integer (no bool), ValueError if it is below ``low``."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Integral):
        msg = f"{name} must be an integer, got {value!r}."
        raise TypeError(msg)
    if value < low:
        msg = f"{name} must be at least {low}, got {value}."
        raise ValueError(msg)


def check_number(name: str, value: object, *, low: float, high: float = float("inf")) -> None:
    """Raise TypeError unless ``value`` is a real number, ValueError unless it lies in [low, high]."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        msg = f"{name} must be a number, got {value!r}."
        raise TypeError(msg)
    number: Any = value if isinstance(value, numbers.Integral) else float(value)  # a huge integer is no float
    if not low <= number <= min(high, sys.float_info.max):  # nan is in no range
        msg = f"{name} must lie in [{low}, {high}] and be finite, got {value}."
        raise ValueError(msg)


def check_flag(name: str, value: object) -> None:
    """Raise TypeError unless ``value`` is True or False."""
    if not isinstance(value, (bool, np.bool_)):
        msg = f"{name} must be True or False, got {value!r}."
        raise TypeError(msg)


def check_choice(name: str, value: object, allowed: Collection[str]) -> None:
    """Raise ValueError unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        msg = f"{name} must be one of {sorted(allowed)}, got {value!r}."
        raise ValueError(msg)


def checked_seed(random_state: int | None) -> int:
    """The seed, a random one for None. TypeError unless it is an integer, ValueError unless all libraries take it."""
    if random_state is None:
        return secrets.randbelow(2**32)
    check_integer("random_state", random_state, low=0)
    check_number("random_state", random_state, low=0, high=2**32 - 1)
    return int(random_state)


def check_name(name: str, value: object) -> None:
    """Raise TypeError unless ``value`` is a non-empty string, ValueError if files cannot hold it as a name."""
    if not isinstance(value, str) or not value:
        msg = f"{name} must be a non-empty string, got {value!r}."
        raise TypeError(msg)
    if "/" in value:
        msg = f"{name} must not contain '/', which separates names in files, got {value!r}."
        raise ValueError(msg)
