"""One picture of an episode for people: view, depth, map, instruction and metrics."""

from __future__ import annotations

import textwrap
import unicodedata
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from streamvln_gym.episodes import Episode
from streamvln_gym.fonts import font_of, writable
from streamvln_gym.geometry import forward_vector
from streamvln_gym.metrics import drop_repeats
from streamvln_gym.simulators.base import AgentState, Simulator

WIDTH, HEIGHT = 1280, 600
_VIEW = (0, 0, 560, 420)
_DEPTH = (570, 0, 850, 210)
_METRICS = (570, 218, 850, 420)
_MAP = (860, 0, 1280, 420)
_TEXT = (14, 432, 1266, 592)

BACKGROUND = (24, 26, 30)
INK = (236, 236, 236)
FAINT = (160, 164, 170)
_PAPER = (245, 244, 240)
_FLOOR = (216, 214, 206)
_OBJECT = (190, 180, 166)
_ROOM_LINE = (120, 118, 112)
_LABEL = (70, 68, 64)
_REFERENCE = (64, 120, 216)
_TRAVELLED = (214, 96, 32)
_GOAL = (34, 150, 70)
_VIA = (150, 80, 190)
_OVERSAMPLE = 2
_FLAT = 0.1  # metres: what is lower (rugs) is not drawn

_SHOWN = (
    ("steps", "steps", "{:d}"),
    ("distance to goal", "navigation_error", "{:.2f} m"),
    ("path length", "path_length", "{:.2f} m"),
    ("collisions", "collisions", "{:d}"),
    ("success", "success", "{:.0f}"),
    ("oracle success", "oracle_success", "{:.0f}"),
    ("SPL", "spl", "{:.3f}"),
    ("nDTW", "ndtw", "{:.3f}"),
    ("CLS", "cls", "{:.3f}"),
)


class TopDownMap:
    """A scene seen from above, north (-Z) up; what stays the same is drawn once.

    Args:
        simulator: with the scene loaded; its `floor_polygons` and `scene_graph` are drawn where it has them.
        size: (width, height), pixels.
        points: (N, 3) positions that must be in the picture.
    """

    def __init__(self, simulator: Simulator, size: tuple[int, int], points: ArrayLike) -> None:
        self._size = size
        polygons = [np.asarray(polygon)[:, [0, 2]] for polygon in getattr(simulator, "floor_polygons", [])]
        graph = getattr(simulator, "scene_graph", None)
        corners = [np.asarray(points, dtype=np.float64).reshape(-1, 3)[:, [0, 2]], *polygons]
        if graph is not None:
            corners += [np.array(room.rect).reshape(2, 2) for room in graph.rooms]
        everything = np.concatenate(corners)
        self._low, high = everything.min(axis=0) - 0.4, everything.max(axis=0) + 0.4
        self._scale = float(np.min(np.array(size) / (high - self._low)))
        self._margin = (np.array(size) - self._scale * (high - self._low)) / 2.0
        self._base = Image.new("RGB", (size[0] * _OVERSAMPLE, size[1] * _OVERSAMPLE), _PAPER)
        self._labels: list[tuple[tuple[int, int], Image.Image]] = []
        draw = ImageDraw.Draw(self._base)
        for polygon in polygons:
            draw.polygon([self._pixel(point) for point in polygon], fill=_FLOOR, outline=_FLOOR)
        if graph is not None:
            self._draw_graph(draw, graph)

    def draw(
        self,
        travelled: ArrayLike,
        state: AgentState,
        reference: Sequence[Any] | NDArray[np.float64] = (),
        goals: Sequence[Any] = (),
        via: Sequence[Any] = (),
    ) -> Image.Image:
        """The map with the reference path, the travelled path, goals, via positions and the agent.

        Args:
            travelled: (N, 3) metres.
            state: of the agent.
            reference: (M, 3) metres.
            goals: positions (3,).
            via: positions (3,).
        """
        picture = self._base.copy()
        draw = ImageDraw.Draw(picture)
        unit = _OVERSAMPLE
        self._line(draw, reference, _REFERENCE, 3 * unit)
        self._line(draw, travelled, _TRAVELLED, 3 * unit)
        for position in via:
            self._disc(draw, position, 6 * unit, _VIA)
        for position in goals:
            self._disc(draw, position, 8 * unit, _GOAL)
        if len(reference):
            self._disc(draw, reference[0], 5 * unit, _REFERENCE)
        for corner, label in self._labels:
            picture.paste(label, corner, label)
        self._agent(draw, state)
        return picture.reduce(_OVERSAMPLE)

    def _pixel(self, point: ArrayLike) -> tuple[float, float]:
        """(x, z) in metres to oversampled pixels."""
        x, y = (self._margin + self._scale * (np.asarray(point) - self._low)) * _OVERSAMPLE
        return float(x), float(y)

    def _draw_graph(self, draw: ImageDraw.ImageDraw, graph: Any) -> None:
        for item in graph.furnishings:
            x0, z0, x1, z1 = item.footprint
            if item.mount == "floor" and item.height[1] > _FLAT:
                draw.rectangle([self._pixel((x0, z0)), self._pixel((x1, z1))], fill=_OBJECT)
        for room in graph.rooms:
            x0, z0, x1, z1 = room.rect
            draw.rectangle([self._pixel((x0, z0)), self._pixel((x1, z1))], outline=_ROOM_LINE, width=_OVERSAMPLE)
        for door in graph.doors:
            x, z = door.position
            half = np.array((0.0, door.width / 2) if door.axis == "x" else (door.width / 2, 0.0))
            ends = [self._pixel(np.array((x, z)) - half), self._pixel(np.array((x, z)) + half)]
            draw.line(ends, fill=_FLOOR, width=round(0.3 * self._scale * _OVERSAMPLE))
        for room in graph.rooms:
            x0, z0, x1, z1 = room.rect
            narrow = (x1 - x0) * self._scale < 80
            text = "\n".join(textwrap.wrap(room.type, 9, break_long_words=False)) if narrow else room.type
            label = _label(text)
            x, y = self._pixel(room.centre)
            self._labels.append(((round(x - label.width / 2), round(y - label.height / 2)), label))

    def _line(self, draw: ImageDraw.ImageDraw, points: ArrayLike, colour: tuple[int, int, int], width: int) -> None:
        points = np.asarray(points, dtype=np.float64).reshape(-1, 3)
        if len(points) > 1:
            draw.line([self._pixel(p) for p in points[:, [0, 2]]], fill=colour, width=width, joint="curve")

    def _disc(self, draw: ImageDraw.ImageDraw, point: Any, radius: int, colour: tuple[int, int, int]) -> None:
        x, y = self._pixel((point[0], point[2]))
        box = (x - radius, y - radius, x + radius, y + radius)
        draw.ellipse(box, fill=colour, outline=_PAPER, width=_OVERSAMPLE)

    def _agent(self, draw: ImageDraw.ImageDraw, state: AgentState) -> None:
        """An arrow head that points where the agent looks."""
        x, y = self._pixel((state.position[0], state.position[2]))
        ahead = forward_vector(state.yaw)[[0, 2]]
        aside = np.array((-ahead[1], ahead[0]))
        size = 11 * _OVERSAMPLE
        corners = [ahead * size, -ahead * size * 0.7 + aside * size * 0.7, -ahead * size * 0.7 - aside * size * 0.7]
        draw.polygon([(x + dx, y + dy) for dx, dy in corners], fill=_TRAVELLED, outline=(40, 20, 10))


class EpisodeFrame:
    """The picture that `VLNEnv.render` gives, for one episode.

    Args:
        simulator: with the episode's scene loaded.
        episode: gives the instruction, the reference path and the goal.
    """

    def __init__(self, simulator: Simulator, episode: Episode) -> None:
        self._episode = episode
        self._reference = np.asarray(episode.reference_path, dtype=np.float64).reshape(-1, 3)
        self._goals = [goal.position for goal in episode.goals]
        x0, y0, x1, y1 = _MAP
        points = [episode.start_position, *self._goals, *self._reference]
        self._map = TopDownMap(simulator, (x1 - x0, y1 - y0), points)
        self._max_depth = simulator.camera.max_depth
        self._base = Image.new("RGB", (WIDTH, HEIGHT), BACKGROUND)
        self._write_instruction(ImageDraw.Draw(self._base))

    def draw(
        self, rgb: NDArray[np.uint8], depth: NDArray[np.float32], trajectory: Sequence[AgentState], metrics: Mapping
    ) -> NDArray[np.uint8]:
        """The picture, uint8 (HEIGHT, WIDTH, 3).

        Args:
            rgb: uint8 (H, W, 3).
            depth: float32 (H, W, 1), metres.
            trajectory: the states so far, at least one.
            metrics: `EpisodeMetrics.result`.
        """
        frame = self._base.copy()
        _paste(frame, Image.fromarray(rgb), _VIEW)
        _paste(frame, Image.fromarray(depth_colours(depth[..., 0], self._max_depth)), _DEPTH)
        travelled = drop_repeats([state.position for state in trajectory])
        drawn = self._map.draw(travelled, trajectory[-1], self._reference, self._goals, self._episode.via)
        frame.paste(drawn, _MAP[:2])
        self._write_metrics(ImageDraw.Draw(frame), metrics)
        return np.asarray(frame).copy()

    def _write_instruction(self, draw: ImageDraw.ImageDraw) -> None:
        """The instruction, in the largest size that fits; what does not fit in the smallest one is left out."""
        x0, y0, x1, y1 = _TEXT
        for size in (26, 22, 19, 16, 14, 12, 10):
            text, font = writable(self._episode.instruction.text, size)
            lines = _wrapped(text, font, x1 - x0)
            pitch = font.getbbox("A")[3] + size * 0.3  # as Pillow sets lines; fonts differ in it
            most = int((y1 - y0 - 24) // pitch)
            if len(lines) <= most:
                break
        lines = _cut(lines, most, font, x1 - x0)
        draw.multiline_text((x0, y0), "\n".join(lines), fill=INK, font=font, spacing=size * 0.3)
        kind = f"   needs memory: {self._episode.needs_memory}" if self._episode.needs_memory else ""
        caption = f"{self._episode.scene_id}   episode {self._episode.episode_id}{kind}"
        caption, font = writable(caption, 14)
        draw.text((x0, y1 - 3), caption, fill=FAINT, font=font, anchor="ls")
        legend = (("reference path", _REFERENCE), ("travelled", _TRAVELLED), ("goal", _GOAL))
        x = float(x1)
        for text, colour in reversed(legend + ((("via", _VIA),) if self._episode.via else ())):
            draw.text((x, y1 - 3), text, fill=FAINT, font=font_of(14), anchor="rs")
            x -= font_of(14).getlength(text) + 8
            draw.rectangle((x - 12, y1 - 14, x, y1 - 2), fill=colour)
            x -= 30

    def _write_metrics(self, draw: ImageDraw.ImageDraw, metrics: Mapping) -> None:
        x0, y0, x1, _ = _METRICS
        font = font_of(17)
        shown = [(label, form.format(metrics[name])) for label, name, form in _SHOWN if name in metrics]
        for row, (label, value) in enumerate(shown):
            draw.text((x0 + 6, y0 + 22 * row), label, fill=FAINT, font=font)
            draw.text((x1 - 10, y0 + 22 * row), value, fill=INK, font=font, anchor="ra")


def _label(text: str) -> Image.Image:
    """A room's name with an outline, RGBA, in oversampled pixels."""
    (text, font), stroke = writable(text, 12 * _OVERSAMPLE), _OVERSAMPLE
    probe = ImageDraw.Draw(Image.new("RGBA", (1, 1)))
    left, top, right, bottom = probe.multiline_textbbox((0, 0), text, font=font, align="center", stroke_width=stroke)
    label = Image.new("RGBA", (int(right - left) + 2, int(bottom - top) + 2), (*_FLOOR, 0))
    ImageDraw.Draw(label).multiline_text(
        (1 - left, 1 - top), text, fill=_LABEL, font=font, align="center", stroke_width=stroke, stroke_fill=_FLOOR
    )
    return label


def depth_colours(depth: NDArray[np.float32], max_depth: float) -> NDArray[np.uint8]:
    """Depth in metres (H, W) as colours (H, W, 3): near is light yellow, far is dark blue.

    Without a limit (infinite `max_depth`) the farthest finite depth of the picture is the darkest.
    """
    if not np.isfinite(max_depth):
        max_depth = float(depth[np.isfinite(depth)].max(initial=0.0)) or 1.0
    near = 255.0 * (1.0 - np.clip(depth / max_depth, 0.0, 1.0))
    return _depth_palette()[near.astype(np.uint8)]


@lru_cache(maxsize=1)
def _depth_palette() -> NDArray[np.uint8]:
    """Colours (256, 3) from far to near."""
    stops = np.array([(18, 16, 60), (60, 50, 140), (150, 60, 130), (230, 110, 80), (252, 240, 170)], dtype=np.float64)
    places = np.linspace(0.0, 255.0, len(stops))
    return np.stack([np.interp(np.arange(256), places, stops[:, k]) for k in range(3)], axis=-1).astype(np.uint8)


def _paste(frame: Image.Image, picture: Image.Image, box: tuple[int, int, int, int]) -> None:
    """Puts a picture into the middle of a box, as large as it fits without distortion."""
    x0, y0, x1, y1 = box
    scale = min((x1 - x0) / picture.width, (y1 - y0) / picture.height)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    resampling = Image.Resampling.NEAREST if scale > 3 else Image.Resampling.BILINEAR
    frame.paste(picture.resize(size, resampling), (x0 + (x1 - x0 - size[0]) // 2, y0 + (y1 - y0 - size[1]) // 2))


def _wrapped(text: str, font: Any, width: int) -> list[str]:
    """The text in lines no wider than `width` pixels; words that are wider (Chinese has no spaces) are broken."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and font.getlength(longer) > width:
            lines.append(line)
            longer = word
        while font.getlength(longer) > width and (fitting := _fitting(longer, font, width)) < len(longer):
            lines.append(longer[:fitting])
            longer = longer[fitting:]
        line = longer
    return [*lines, line]


def _fitting(word: str, font: Any, width: int) -> int:
    """How many characters of a word fit into `width` pixels, at least one; no accent is parted from its letter."""
    longest = min(len(word), width)  # measuring a text takes its length, and few characters are narrower than a pixel
    count = max(1, bisect_right(range(1, longest + 1), width, key=lambda k: font.getlength(word[:k])))
    while 1 < count < len(word) and unicodedata.category(word[count]).startswith("M"):
        count -= 1
    return count


def _cut(lines: list[str], most: int, font: Any, width: int) -> list[str]:
    """The first `most` lines, with an ellipsis at the end where there are more."""
    if len(lines) <= most:
        return lines
    last = lines[most - 1]
    while last and font.getlength(f"{last.rstrip()}…") > width:
        last = last[:-1]
    return [*lines[: most - 1], f"{last.rstrip()}…"]
