"""Whether an argument is a number: Python's or numpy's, but no bool."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any


def is_whole(value: Any, least: int | None = None) -> bool:
    """Whether it is an integer, of at least `least`."""
    return isinstance(value, Integral) and not isinstance(value, bool) and (least is None or int(value) >= least)


def is_real(value: Any) -> bool:
    """Whether it is a real number, NaN and infinity among them."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_finite(value: Any) -> bool:
    """Whether it is a real number that is neither NaN nor infinite."""
    return is_real(value) and math.isfinite(value)
