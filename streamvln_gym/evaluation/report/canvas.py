"""A plot as inline SVG: axes, bars, lines. Colours come from the page's style sheet, which knows dark and light."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from markupsafe import Markup, escape

WIDTH, HEIGHT = 380, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 14, 40
Range = tuple[float, float]


def nice_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values from `low` to `high`, about so many (Heckbert 1990, "Nice numbers for graph labels")."""
    rough = max(high - low, 1e-9) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= rough * 0.999)
    return [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


class Canvas:
    """A plot in the making.

    Args:
        x: range of the horizontal axis.
        y: range of the vertical axis.
        x_label: what the horizontal axis shows, with its unit.
        y_label: the same for the vertical one; written above it.
        height: of the picture, which is `WIDTH` wide.
        names: of the horizontal axis' unit intervals, in place of numbers.
    """

    def __init__(
        self, x: Range, y: Range, x_label: str, y_label: str, height: int = HEIGHT, names: Sequence[str] = ()
    ) -> None:
        self._x, self._y, self._height = x, y, height
        self._bottom = height - _BOTTOM
        self._parts: list[str] = []
        for value in nice_ticks(*y, about=4 if height >= HEIGHT else 3):
            place = self.y(value)
            self._add(f'<path class="grid" d="M{_LEFT} {place}H{WIDTH - _RIGHT}"/>')
            self.text(_LEFT - 6, place + 4, f"{value:g}", "end")
        numbers = [(value, f"{value:g}") for value in nice_ticks(*x, about=6)]
        for value, name in [(k + 0.5, name) for k, name in enumerate(names)] or numbers:
            self.text(self.x(value), self._bottom + 16, name, "middle")
        self.text((_LEFT + WIDTH - _RIGHT) / 2, height - 6, x_label, "middle", "label")
        self.text(4, 10, y_label, "start", "label")

    def x(self, value: float) -> float:
        """Horizontal place of a value."""
        low, high = self._x
        return round(_LEFT + (value - low) / (high - low) * (WIDTH - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        """Vertical place of a value."""
        low, high = self._y
        top = _TOP + 6
        return round(self._bottom - (value - low) / (high - low) * (self._bottom - top), 1)

    def text(self, x: float, y: float, text: str, anchor: str, style: str = "tick") -> None:
        """Writes at a place (not a value)."""
        self._add(
            f'<text class="{style}" x="{round(x, 1)}" y="{round(y, 1)}" text-anchor="{anchor}">{escape(text)}</text>'
        )

    def bar(self, x: Range, y: Range, style: str, hint: str) -> None:
        """A rectangle between values, with a hint for the mouse."""
        left, right, top, bottom = self.x(x[0]), self.x(x[1]), self.y(y[1]), self.y(y[0])
        shape = (
            f'x="{left + 1:g}" y="{top:g}" width="{max(right - left - 2, 0.5):g}" height="{round(bottom - top, 1):g}"'
        )
        self._add(f'<rect class="{style}" {shape}><title>{escape(hint)}</title></rect>')

    def interval(self, x: float, low: float, value: float, high: float, hint: str) -> None:
        """A point with its interval."""
        place = self.x(x)
        bar = f"M{place} {self.y(low)}V{self.y(high)}m-4 0h8m-8 {round(self.y(low) - self.y(high), 1)}h8"
        self._add(
            f'<g class="point"><path d="{bar}"/><circle cx="{place}" cy="{self.y(value)}" r="4.5"/>'
            f"<title>{escape(hint)}</title></g>"
        )

    def line(self, points: Iterable[tuple[float, float]], style: str) -> None:
        """A polyline through values."""
        self._add(f'<path class="{style}" d="M{self._path(points)}"/>')

    def band(self, x: Sequence[float], low: Sequence[float], high: Sequence[float], style: str) -> None:
        """The area between two lines."""
        there = list(zip(x, high, strict=True))
        back = list(zip(x, low, strict=True))[::-1]
        self._add(f'<path class="{style}" d="M{self._path(there + back)}Z"/>')

    def mark(self, x: float, text: str) -> None:
        """A vertical line with its name."""
        place = self.x(x)
        self._add(f'<path class="mark" d="M{place} {_TOP + 2}V{self._bottom}"/>')
        self.text(place + 4, _TOP + 12, text, "start")

    def svg(self, name: str) -> Markup:
        """The picture; `name` is what a screen reader says."""
        axis = f'<path class="axis" d="M{_LEFT} {self._bottom}H{WIDTH - _RIGHT}"/>'
        head = f'<svg class="plot" viewBox="0 0 {WIDTH} {self._height}" role="img" aria-label="{escape(name)}">'
        return Markup(f"{head}{''.join(self._parts)}{axis}</svg>")  # texts were escaped above

    def _add(self, element: str) -> None:
        self._parts.append(element)

    def _path(self, points: Iterable[tuple[float, float]]) -> str:
        return "L".join(f"{self.x(x):g} {self.y(y):g}" for x, y in points)
