"""How the metrics are called and written on the page."""

from __future__ import annotations

import math
from dataclasses import dataclass

from streamvln_gym.metrics import SHORT_NAMES


@dataclass(frozen=True)
class Measure:
    """A metric for people.

    Attributes:
        short: the field's abbreviation, with the unit.
        long: its name.
        form: how a value is formatted.
        percent: whether it is a rate that people read as per cent.
    """

    short: str
    long: str
    form: str
    percent: bool = False

    def number(self, value: float | None) -> str:
        """A value without the sign of per cent; "–" where there is none."""
        if value is None:
            return "–"
        return self.form.format(100.0 * value if self.percent else value) if math.isfinite(value) else "∞"

    def text(self, value: float | None) -> str:
        """A value."""
        return self.number(value) + ("\u202f%" if self.percent and value is not None else "")


_NAMES = {
    "success": ("Success rate", "{:.1f}", True),
    "spl": ("Success weighted by path length", "{:.3f}", False),
    "oracle_success": ("Oracle success", "{:.1f}", True),
    "navigation_error": ("Navigation error", "{:.2f}", False),
    "ndtw": ("Normalised dynamic time warping", "{:.3f}", False),
    "sdtw": ("Success weighted by nDTW", "{:.3f}", False),
    "cls": ("Coverage weighted by length score", "{:.3f}", False),
    "path_length": ("Length of the travelled path", "{:.2f}", False),
    "steps": ("Actions of an episode", "{:.1f}", False),
    "collisions": ("Blocked steps of an episode", "{:.1f}", False),
}
MEASURES = {name: Measure(SHORT_NAMES[name], long, form, percent) for name, (long, form, percent) in _NAMES.items()}
"""Every metric of `metrics.METRICS`, the ones that people ask for first at the front."""
