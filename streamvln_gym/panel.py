"""The strip below an episode's picture that shows a streaming agent at work: memory, window, queue, calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from streamvln_gym.fonts import font_of
from streamvln_gym.simulators.base import Action
from streamvln_gym.visualization import BACKGROUND, FAINT, INK, WIDTH

if TYPE_CHECKING:
    from streamvln_gym.agents.view import AgentView, MemoryPicture, TimedCall

PANEL_HEIGHT = 200

Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]

MEMORY_COLOUR: Colour = (243, 178, 66)
WINDOW_COLOUR: Colour = (106, 172, 246)
_TILE: Colour = (42, 45, 52)
_RULE: Colour = (66, 70, 78)
_PAST: Colour = (92, 97, 106)

_LEFT, _RIGHT = 14, 966  # of the memory strip and the timeline
_HEADING = 24  # baseline of the headings
_STRIP_TOP, _STRIP_HEIGHT, _GAP = 36, 84, 8
_TIMELINE = (148, 166)
_MOST_TILES = 16
_SHORTEST_TIMELINE = 2  # windows
_COSTS = 992  # left edge of the column on the right
_COSTS_RIGHT = WIDTH - 14
_QUEUE_TOP, _CELL = 36, 40
_MOST_CELLS = 6
_OVERSAMPLE = 2


def draw_panel(view: AgentView) -> NDArray[np.uint8]:
    """The strip, uint8 (PANEL_HEIGHT, WIDTH, 3).

    Amber is what comes from the slow memory, blue what belongs to the present window. Left: the frames that the network
    was shown as memory, each tied to its step on a timeline that has the window's 32 steps at its end and a dot for
    each call. Right: the last answer as arrows (the present action filled, those to come outlined), how long the last
    calls took, and the length of the KV cache after each.
    """
    canvas = _Canvas(WIDTH, PANEL_HEIGHT)
    canvas.line([(0, 0), (WIDTH, 0)], _RULE, 1)
    _draw_headings(canvas, view)
    _draw_timeline(canvas, view)
    _draw_memory(canvas, view)
    _draw_queue(canvas, view)
    _draw_costs(canvas, view)
    return canvas.finish()


class _Canvas:
    """Shapes without jagged edges (drawn larger and averaged), pictures and text on top of them."""

    def __init__(self, width: int, height: int) -> None:
        self._shapes = Image.new("RGB", (width * _OVERSAMPLE, height * _OVERSAMPLE), BACKGROUND)
        self._draw = ImageDraw.Draw(self._shapes)
        self._texts: list[tuple[tuple[float, float], str, Colour, float, str]] = []
        self._pictures: list[tuple[tuple[int, int], Image.Image]] = []
        self._plates: list[tuple[Box, Colour]] = []

    def box(self, box: Box, fill: Colour | None = None, outline: Colour | None = None, radius: float = 0.0) -> None:
        x0, y0, x1, y1 = (value * _OVERSAMPLE for value in box)
        self._draw.rounded_rectangle(
            (x0, y0, x1 - 1, y1 - 1), radius * _OVERSAMPLE, fill, outline, width=round(1.5 * _OVERSAMPLE)
        )

    def line(self, points: Sequence[tuple[float, float]], colour: Colour, width: float) -> None:
        self._draw.line(_scaled(points), colour, round(width * _OVERSAMPLE), joint="curve")

    def polygon(self, points: Sequence[tuple[float, float]], colour: Colour) -> None:
        self._draw.polygon(_scaled(points), colour)

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        self.box((x - radius, y - radius, x + radius, y + radius), colour, radius=radius)

    def picture(self, corner: tuple[float, float], picture: Image.Image) -> None:
        self._pictures.append(((round(corner[0]), round(corner[1])), picture))

    def text(self, place: tuple[float, float], text: str, colour: Colour, size: float, anchor: str = "ls") -> float:
        """Writes text, and returns its width."""
        self._texts.append((place, text, colour, size, anchor))
        return float(font_of(size).getlength(text))

    def plate(self, box: Box, colour: Colour) -> None:
        """A ground for text on a picture."""
        self._plates.append((box, colour))

    def finish(self) -> NDArray[np.uint8]:
        """All of it, uint8 (height, width, 3)."""
        image = self._shapes.reduce(_OVERSAMPLE)
        for corner, picture in self._pictures:
            image.paste(picture, corner)
        draw = ImageDraw.Draw(image)
        for box, colour in self._plates:
            draw.rectangle(box, colour)
        for place, text, colour, size, anchor in self._texts:
            draw.text(place, text, fill=colour, font=font_of(size), anchor=anchor)
        return np.asarray(image).copy()


def _scaled(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(x * _OVERSAMPLE, y * _OVERSAMPLE) for x, y in points]


def _draw_headings(canvas: _Canvas, view: AgentView) -> None:
    x = _LEFT + canvas.text((_LEFT, _HEADING), "Slow memory", MEMORY_COLOUR, 19) + 12
    canvas.text((x, _HEADING), memory_caption(view), FAINT, 17)
    canvas.text((_RIGHT, _HEADING), window_caption(view), WINDOW_COLOUR, 19, "rs")
    canvas.text((_COSTS, _HEADING), "Action queue", INK, 19)


def memory_caption(view: AgentView) -> str:
    """What the present window remembers, in words."""
    if not view.num_history:
        return f"none (strategy '{view.memory_strategy}')"
    if not view.memory:
        return f"nothing yet; the next window opens with it, at step {(view.window + 1) * view.window_steps}"
    frames = f"{len(view.memory)} frame{'s' if len(view.memory) > 1 else ''}"
    strategy = "" if view.memory_strategy == "pooled" else f", strategy '{view.memory_strategy}'"
    return f"{frames}, {view.memory_tokens:,} tokens{strategy}"


def window_caption(view: AgentView) -> str:
    """Where the present step lies in its window, in words; steps of a window count from 1 here."""
    over = view.position - view.window_steps + 1
    place = f"step {view.position + 1} of {view.window_steps}" if over <= 0 else f"last chunk runs {over} over"
    return f"Window {view.window + 1}: {place}"


class _Timeline:
    """Steps of the episode to pixels."""

    def __init__(self, view: AgentView) -> None:
        windows = max(view.window + 1, -(-(view.step + 1) // view.window_steps), _SHORTEST_TIMELINE)
        self.steps = windows * view.window_steps
        self.unit = (_RIGHT - _LEFT) / self.steps

    def x(self, step: float) -> float:
        """The left edge of a step's cell."""
        return _LEFT + step * self.unit

    def centre(self, step: float) -> float:
        return self.x(step + 0.5)


def _draw_timeline(canvas: _Canvas, view: AgentView) -> None:
    line, (top, bottom) = _Timeline(view), _TIMELINE
    middle = (top + bottom) / 2
    begin = view.window * view.window_steps
    end = begin + max(view.window_steps, view.position + 1)
    canvas.box((_LEFT, middle - 2, _RIGHT, middle + 2), _TILE, radius=2)
    canvas.box((_LEFT, middle - 2, line.x(view.step + 1), middle + 2), _PAST, radius=2)
    canvas.box((line.x(begin), top, line.x(end), bottom), _TILE, WINDOW_COLOUR, radius=4)
    passed = line.x(view.step + 1)
    if passed - line.x(begin) > 6:
        canvas.box((line.x(begin) + 3, top + 3, passed - 1, bottom - 3), _dim(WINDOW_COLOUR, 0.45), radius=2)
    for call in view.calls:
        if call.step >= view.window_start:
            canvas.disc(line.centre(call.step), middle, min(3.5, max(2.0, line.unit)), WINDOW_COLOUR)
    x = line.centre(view.step)
    canvas.line([(x, top - 2), (x, bottom + 2)], INK, 2.5)
    label_every = 1 + int(40 / (line.unit * view.window_steps))
    for boundary in range(0, line.steps + 1, view.window_steps * label_every):
        anchor = "ls" if not boundary else "rs" if boundary == line.steps else "ms"
        canvas.text((line.x(boundary), bottom + 24), str(boundary), FAINT, 17, anchor)


def _draw_memory(canvas: _Canvas, view: AgentView) -> None:
    """The frames' pictures, tied to the timeline."""
    frames = _shown(view.memory)
    count = len(frames) if frames else min(view.num_history, _MOST_TILES)
    if not count:
        canvas.box((_LEFT, _STRIP_TOP, _RIGHT, _STRIP_TOP + _STRIP_HEIGHT), None, _TILE, radius=6)
        text = "the network sees only its window"
        canvas.text(((_LEFT + _RIGHT) / 2, _STRIP_TOP + _STRIP_HEIGHT / 2), text, FAINT, 19, "mm")
        return
    line = _Timeline(view)
    slots = max(count, min(view.num_history, _MOST_TILES))
    pitch = (_RIGHT - _LEFT + _GAP) / slots
    width = min(pitch - _GAP, _STRIP_HEIGHT * view.aspect)
    height = min(_STRIP_HEIGHT, width / view.aspect)
    top = _STRIP_TOP + (_STRIP_HEIGHT - height) / 2
    for slot in range(slots):
        x = _LEFT + slot * pitch
        canvas.box((x, top, x + width, top + height), _TILE, radius=3)
        if slot >= len(frames):
            continue
        frame = frames[slot]
        foot, mark = (x + width / 2, top + height), line.centre(frame.step)
        knee = _TIMELINE[0] - 3
        canvas.line(
            [foot, (foot[0], foot[1] + 5), (mark, knee), (mark, _TIMELINE[0] + 6)], _dim(MEMORY_COLOUR, 0.7), 1.5
        )
        canvas.disc(mark, sum(_TIMELINE) / 2, 4.5, MEMORY_COLOUR)
        if frame.picture is not None:
            picture = Image.fromarray(frame.picture).resize((round(width), round(height)), Image.Resampling.BICUBIC)
            canvas.picture((x, top), picture)
        size = 17 if width > 44 else 12
        label = str(frame.step)
        wide = font_of(size).getlength(label)
        canvas.plate((x, top + height - size - 3, x + wide + 9, top + height - 1), BACKGROUND)
        canvas.text((x + 4, top + height - 4), label, MEMORY_COLOUR, size)


def _shown(frames: Sequence[MemoryPicture]) -> list[MemoryPicture]:
    """The frames that there is room for, evenly spread."""
    if len(frames) <= _MOST_TILES:
        return list(frames)
    return [frames[round(k)] for k in np.linspace(0, len(frames) - 1, _MOST_TILES)]


def _draw_queue(canvas: _Canvas, view: AgentView) -> None:
    """The last answer: what was done is dim, the present action filled, what is to come outlined."""
    present = len(view.chunk) - len(view.queue) - 1
    first = max(0, min(present - 1, len(view.chunk) - _MOST_CELLS))
    cells = view.chunk[first : first + _MOST_CELLS]
    for place, action in enumerate(cells):
        index = first + place
        x = _COSTS + place * (_CELL + 7)
        box = (x, _QUEUE_TOP, x + _CELL, _QUEUE_TOP + _CELL)
        if index < present:
            canvas.box(box, _TILE, radius=6)
            colour = _PAST
        elif index == present:
            canvas.box(box, WINDOW_COLOUR, radius=6)
            colour = BACKGROUND
        else:
            canvas.box(box, None, WINDOW_COLOUR, radius=6)
            colour = INK
        _draw_action(canvas, x + _CELL / 2, _QUEUE_TOP + _CELL / 2, action, colour)
    rest = len(view.chunk) - first - len(cells)
    if rest:
        x = _COSTS + len(cells) * (_CELL + 7)
        canvas.text((x - 2, _QUEUE_TOP + _CELL - 12), f"+{rest}", FAINT, 14)


def _draw_action(canvas: _Canvas, x: float, y: float, action: int, colour: Colour) -> None:
    """An arrow ahead, to the left or to the right; a square stops."""
    if action == Action.STOP:
        canvas.box((x - 8, y - 8, x + 8, y + 8), colour, radius=2)
        return
    arrow = [(0, -13), (10, -2), (3, -2), (3, 12), (-3, 12), (-3, -2), (-10, -2)]
    turns = {Action.FORWARD: (1, 0), Action.LEFT: (0, -1), Action.RIGHT: (0, 1)}
    cosine, sine = turns[Action(action)]
    canvas.polygon([(x + cosine * dx - sine * dy, y + sine * dx + cosine * dy) for dx, dy in arrow], colour)


def _draw_costs(canvas: _Canvas, view: AgentView) -> None:
    """How long the last calls took, and how long the KV cache was after them; amber opened a window."""
    last = view.calls[-1].milliseconds if view.calls else 0.0
    rows = (
        ("network call", _duration(last), [call.milliseconds for call in view.calls]),
        ("KV cache", f"{view.kv_length:,}", [float(call.kv_length) for call in view.calls]),
    )
    for (name, value, heights), top in zip(rows, (88, 140), strict=True):
        canvas.text((_COSTS, top + 15), name, FAINT, 16)
        canvas.text((_COSTS, top + 37), value, INK if view.called else FAINT, 20)
        _draw_bars(canvas, (_COSTS + 112, top, _COSTS_RIGHT, top + 40), heights, view.calls)


def _draw_bars(canvas: _Canvas, box: Box, heights: Sequence[float], calls: Sequence[TimedCall]) -> None:
    x0, y0, x1, y1 = box
    canvas.line([(x0, y1), (x1, y1)], _RULE, 1)
    pitch = 5.0
    room = int((x1 - x0) / pitch)
    bars = list(zip(heights, calls, strict=True))[-room:]
    most = max((height for height, _ in bars), default=0.0)
    for place, (height, call) in enumerate(bars):
        x = x0 + place * pitch
        top = y1 - max((y1 - y0) * height / most if most > 0.0 else 0.0, 1.5)
        canvas.box((x, top, x + pitch - 1.5, y1), MEMORY_COLOUR if call.opened else WINDOW_COLOUR)


def _duration(milliseconds: float) -> str:
    if milliseconds >= 1000.0:
        return f"{milliseconds / 1000.0:.1f} s"
    return f"{milliseconds:.0f} ms" if milliseconds >= 9.95 else f"{milliseconds:.1f} ms"


def _dim(colour: Colour, share: float) -> Colour:
    """A colour as it looks through the background."""
    r, g, b = (round(share * c + (1.0 - share) * ground) for c, ground in zip(colour, BACKGROUND, strict=True))
    return r, g, b
