"""Small painted images: pictures for the walls, screens and dials for appliances, the view out of the windows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from streamvln_gym.flats.textures import DETAILS, PICTURES

Canvas = NDArray[np.float64]
_PICTURE_SIZE, _DETAIL_SIZE = 84, 64


class Painter:
    """A canvas of floats in 0...1 with coordinates u (right) and v (down) in 0...1."""

    def __init__(self, size: int) -> None:
        self.image: Canvas = np.ones((size, size, 3))
        v, u = np.mgrid[0:size, 0:size] / (size - 1.0)
        self.u, self.v = u, v

    def gradient(self, top: tuple[float, float, float], bottom: tuple[float, float, float]) -> None:
        """Fills the canvas from top to bottom."""
        self.image[:] = np.asarray(top) + (np.asarray(bottom) - np.asarray(top)) * self.v[..., None]

    def fill(self, mask: NDArray[np.bool_], colour: tuple[float, float, float]) -> None:
        """Paints where `mask` holds."""
        self.image[mask] = colour

    def disc(self, u: float, v: float, radius: float, colour: tuple[float, float, float], squash: float = 1.0) -> None:
        """Paints an ellipse."""
        self.fill(((self.u - u) ** 2 + ((self.v - v) / squash) ** 2) < radius**2, colour)

    def rectangle(self, u0: float, v0: float, u1: float, v1: float, colour: tuple[float, float, float]) -> None:
        """Paints a rectangle."""
        self.fill((self.u >= u0) & (self.u <= u1) & (self.v >= v0) & (self.v <= v1), colour)


def _sunset(p: Painter, rng: np.random.Generator) -> None:
    p.gradient((0.45, 0.2, 0.5), (1.0, 0.65, 0.2))
    p.disc(rng.uniform(0.35, 0.65), 0.55, 0.16, (1.0, 0.92, 0.5))
    p.fill(p.v > 0.66, (0.45, 0.16, 0.3))
    p.fill((p.v > 0.7) & (np.sin(p.v * 90) > 0.2), (0.9, 0.5, 0.25))


def _mountains(p: Painter, rng: np.random.Generator) -> None:
    p.gradient((0.45, 0.7, 0.95), (0.85, 0.93, 1.0))
    for peak, height in ((0.3, 0.25), (0.72, 0.38)):
        ridge = height + 1.15 * np.abs(p.u - peak - rng.uniform(-0.05, 0.05))
        p.fill(p.v > ridge, (0.42, 0.45, 0.55))
        p.fill((p.v > ridge) & (p.v < height + 0.14), (0.97, 0.98, 1.0))
    p.fill(p.v > 0.8 + 0.03 * np.sin(p.u * 9), (0.3, 0.55, 0.28))


def _sea(p: Painter, rng: np.random.Generator) -> None:
    p.gradient((0.6, 0.85, 1.0), (0.9, 0.97, 1.0))
    p.fill(p.v > 0.42, (0.1, 0.45, 0.75))
    p.fill((p.v > 0.42) & (np.sin(p.v * 70 + 2 * np.sin(p.u * 12)) > 0.75), (0.6, 0.85, 0.95))
    p.fill(p.v > 0.82 + 0.04 * np.sin(p.u * 5 + rng.uniform(0, 6)), (0.95, 0.85, 0.6))


def _forest(p: Painter, rng: np.random.Generator) -> None:
    p.gradient((0.75, 0.92, 0.85), (0.55, 0.8, 0.5))
    for centre in rng.permutation(np.linspace(0.08, 0.92, 7)):
        top = rng.uniform(0.12, 0.35)
        p.rectangle(centre - 0.015, 0.7, centre + 0.015, 0.9, (0.35, 0.2, 0.1))
        p.fill(
            (p.v > top) & (p.v < 0.8) & (np.abs(p.u - centre) < 0.18 * (p.v - top)), (0.08, rng.uniform(0.3, 0.5), 0.18)
        )
    p.fill(p.v > 0.88, (0.3, 0.5, 0.2))


def _flowers(p: Painter, rng: np.random.Generator) -> None:
    p.image[:] = (0.98, 0.94, 0.84)
    p.fill((p.v > 0.62) & (np.abs(p.u - 0.5) < 0.15 + 0.1 * (1 - p.v)), (0.2, 0.4, 0.75))
    for u, v in ((0.3, 0.4), (0.5, 0.25), (0.7, 0.4), (0.42, 0.5), (0.6, 0.52)):
        colour = [(0.9, 0.2, 0.3), (0.95, 0.7, 0.15), (0.9, 0.45, 0.7)][int(rng.integers(3))]
        p.disc(u, v, 0.13, colour)
        p.disc(u, v, 0.045, (0.98, 0.9, 0.4))


def _portrait(p: Painter, rng: np.random.Generator) -> None:
    p.image[:] = [(0.3, 0.36, 0.3), (0.45, 0.25, 0.22), (0.25, 0.3, 0.45)][int(rng.integers(3))]
    hair = [(0.2, 0.12, 0.08), (0.75, 0.55, 0.2), (0.5, 0.2, 0.1)][int(rng.integers(3))]
    p.disc(0.5, 0.4, 0.25, hair, 1.15)
    p.disc(0.5, 1.08, 0.42, [(0.65, 0.1, 0.15), (0.15, 0.25, 0.5), (0.9, 0.88, 0.8)][int(rng.integers(3))], 1.0)
    p.disc(0.5, 0.45, 0.18, (0.94, 0.76, 0.6), 1.25)
    for u in (0.43, 0.57):
        p.disc(u, 0.42, 0.022, (0.1, 0.1, 0.1))
    p.rectangle(0.44, 0.55, 0.56, 0.57, (0.7, 0.25, 0.25))


def _abstract(p: Painter, rng: np.random.Generator) -> None:
    p.image[:] = (0.96, 0.95, 0.9)
    colours = [(0.85, 0.15, 0.15), (0.12, 0.3, 0.7), (0.98, 0.8, 0.15), (0.1, 0.1, 0.12)]
    edges = np.sort(rng.uniform(0.1, 0.9, (2, 2)), axis=1)
    p.rectangle(0, 0, edges[0, 0], edges[1, 0], colours[0])
    p.rectangle(edges[0, 1], edges[1, 1], 1, 1, colours[1])
    p.rectangle(0, edges[1, 1], edges[0, 0], 1, colours[2])
    for edge in edges[0]:
        p.rectangle(edge - 0.02, 0, edge + 0.02, 1, colours[3])
    for edge in edges[1]:
        p.rectangle(0, edge - 0.02, 1, edge + 0.02, colours[3])


def _city(p: Painter, rng: np.random.Generator) -> None:
    p.gradient((0.1, 0.12, 0.3), (0.4, 0.3, 0.5))
    for left in np.arange(0.0, 1.0, 0.13):
        top = rng.uniform(0.25, 0.65)
        p.rectangle(left, top, left + 0.11, 1, (0.12, 0.13, 0.2))
        lit = (np.floor(p.u * 40) % 3 == 0) & (np.floor(p.v * 30) % 2 == 0)
        p.fill((p.u > left + 0.01) & (p.u < left + 0.1) & (p.v > top + 0.04) & lit, (1.0, 0.85, 0.4))


def _boat(p: Painter, rng: np.random.Generator) -> None:
    _sea(p, rng)
    p.fill((p.v > 0.6) & (p.v < 0.7) & (np.abs(p.u - 0.5) < 0.9 - p.v), (0.6, 0.2, 0.15))
    p.fill((p.v > 0.2) & (p.v < 0.58) & (p.u > 0.52) & (p.u - 0.52 < 0.6 * (p.v - 0.2)), (1.0, 1.0, 0.98))
    p.fill((p.v > 0.25) & (p.v < 0.58) & (p.u < 0.49) & (0.49 - p.u < 0.45 * (p.v - 0.25)), (0.95, 0.8, 0.3))


def _television(p: Painter, rng: np.random.Generator) -> None:
    p.gradient((0.15, 0.3, 0.55), (0.35, 0.6, 0.8))
    p.fill(p.v > 0.62 + 0.1 * np.sin(p.u * 7 + rng.uniform(0, 6)), (0.15, 0.4, 0.2))
    _bezel(p, 0.05)


def _monitor(p: Painter, rng: np.random.Generator) -> None:
    p.gradient((0.2, 0.45, 0.8), (0.3, 0.7, 0.85))
    p.rectangle(0.12, 0.15, 0.62, 0.75, (0.96, 0.96, 0.98))
    p.fill((p.u > 0.16) & (p.u < 0.55) & (p.v > 0.25) & (p.v < 0.7) & (np.floor(p.v * 20) % 2 == 0), (0.5, 0.5, 0.55))
    _bezel(p, 0.05)


def _bezel(p: Painter, width: float) -> None:
    p.fill(np.minimum.reduce([p.u, p.v, 1 - p.u, 1 - p.v]) < width, (0.05, 0.05, 0.06))


def _clock(p: Painter, rng: np.random.Generator) -> None:
    p.image[:] = (0.97, 0.97, 0.94)
    angle = np.arctan2(p.u - 0.5, 0.5 - p.v)
    radius = np.hypot(p.u - 0.5, p.v - 0.5)
    p.fill((radius > 0.36) & (radius < 0.43) & (np.abs((angle / (np.pi / 6)) % 1 - 0.5) > 0.42), (0.1, 0.1, 0.1))
    for direction, length, width in ((rng.uniform(-3, 3), 0.22, 0.03), (rng.uniform(-3, 3), 0.34, 0.02)):
        along = (p.u - 0.5) * np.sin(direction) - (p.v - 0.5) * np.cos(direction)
        across = (p.u - 0.5) * np.cos(direction) + (p.v - 0.5) * np.sin(direction)
        p.fill((along > -0.03) & (along < length) & (np.abs(across) < width), (0.08, 0.08, 0.1))


def _aquarium(p: Painter, rng: np.random.Generator) -> None:
    p.gradient((0.45, 0.85, 0.95), (0.05, 0.4, 0.7))
    p.fill(p.v > 0.86, (0.9, 0.8, 0.55))
    for _ in range(4):
        u, v = rng.uniform(0.15, 0.85), rng.uniform(0.2, 0.7)
        colour = [(1.0, 0.5, 0.1), (1.0, 0.85, 0.2), (0.9, 0.25, 0.3)][int(rng.integers(3))]
        p.disc(u, v, 0.09, colour, 0.6)
        p.fill((p.u > u + 0.06) & (p.u < u + 0.14) & (np.abs(p.v - v) < 0.8 * (p.u - u - 0.05)), colour)
    p.fill((np.abs(p.u - 0.2 - 0.03 * np.sin(p.v * 20)) < 0.025) & (p.v > 0.45), (0.15, 0.6, 0.25))


def _globe(p: Painter, rng: np.random.Generator) -> None:
    p.image[:] = (0.15, 0.42, 0.78)
    land = np.sin(p.u * 11 + 2) * np.cos(p.v * 8 + 1) + 0.5 * np.sin(p.u * 5 - p.v * 9)
    p.fill(land > 0.35, (0.35, 0.62, 0.25))


def _oven(p: Painter, rng: np.random.Generator) -> None:
    p.image[:] = (0.78, 0.8, 0.82)
    p.rectangle(0.1, 0.3, 0.9, 0.88, (0.1, 0.1, 0.12))
    p.rectangle(0.1, 0.22, 0.9, 0.26, (0.4, 0.4, 0.42))
    for u in (0.2, 0.4, 0.6, 0.8):
        p.disc(u, 0.11, 0.05, (0.1, 0.1, 0.1))


def _porthole(p: Painter, rng: np.random.Generator) -> None:
    p.image[:] = (0.95, 0.95, 0.96)
    p.disc(0.5, 0.56, 0.34, (0.55, 0.57, 0.6))
    p.disc(0.5, 0.56, 0.27, (0.16, 0.22, 0.32))
    p.disc(0.45, 0.5, 0.1, (0.3, 0.42, 0.55))
    p.rectangle(0.1, 0.05, 0.45, 0.14, (0.6, 0.65, 0.7))
    p.disc(0.8, 0.1, 0.05, (0.2, 0.2, 0.22))


def _keyboard(p: Painter, rng: np.random.Generator) -> None:
    p.image[:] = (0.15, 0.15, 0.16)
    p.fill((np.floor(p.u * 24) % 2 == 0) & (np.floor(p.v * 10) % 2 == 0), (0.8, 0.8, 0.8))


def _piano_keys(p: Painter, rng: np.random.Generator) -> None:
    p.image[:] = (0.97, 0.97, 0.95)
    p.fill((p.u * 16) % 1 < 0.1, (0.3, 0.3, 0.3))
    p.fill(
        (p.v < 0.6) & (np.isin(np.floor(p.u * 16 + 0.3) % 7, (1, 2, 4, 5, 6))) & ((p.u * 16 + 0.3) % 1 < 0.55),
        (0.05,) * 3,
    )


def _fire(p: Painter, rng: np.random.Generator) -> None:
    p.image[:] = (0.12, 0.06, 0.05)
    for scale, colour in ((1.0, (0.9, 0.25, 0.05)), (0.7, (1.0, 0.6, 0.1)), (0.4, (1.0, 0.92, 0.5))):
        flame = 0.95 - scale * (0.55 + 0.25 * np.sin(p.u * 17 + rng.uniform(0, 6))) * np.clip(np.sin(np.pi * p.u), 0, 1)
        p.fill((p.v > flame) & (p.v < 0.92), colour)
    p.rectangle(0.1, 0.88, 0.9, 0.96, (0.35, 0.2, 0.1))


def _radiator(p: Painter, rng: np.random.Generator) -> None:
    p.image[:] = (0.96, 0.96, 0.95)
    p.fill((p.u * 12) % 1 < 0.25, (0.7, 0.71, 0.72))


def _mirror(p: Painter, rng: np.random.Generator) -> None:
    p.gradient((0.72, 0.86, 0.95), (0.86, 0.93, 0.97))
    p.fill(np.abs(p.u + p.v - 0.8) < 0.08, (0.95, 0.98, 1.0))
    p.fill(np.abs(p.u + p.v - 1.05) < 0.04, (0.95, 0.98, 1.0))


def _hob(p: Painter, rng: np.random.Generator) -> None:
    p.image[:] = (0.1, 0.1, 0.11)
    for u in (0.28, 0.72):
        for v in (0.28, 0.72):
            p.disc(u, v, 0.17, (0.45, 0.46, 0.48))
            p.disc(u, v, 0.12, (0.16, 0.16, 0.17))


def _chessboard(p: Painter, rng: np.random.Generator) -> None:
    p.image[:] = (0.93, 0.88, 0.75)
    p.fill((np.floor(p.u * 7.99) + np.floor(p.v * 7.99)) % 2 == 0, (0.25, 0.16, 0.1))


def _speaker(p: Painter, rng: np.random.Generator) -> None:
    p.image[:] = (0.12, 0.12, 0.13)
    for v, radius in ((0.25, 0.14), (0.66, 0.26)):
        p.disc(0.5, v, radius, (0.4, 0.4, 0.42))
        p.disc(0.5, v, radius * 0.75, (0.2, 0.2, 0.22))
        p.disc(0.5, v, radius * 0.3, (0.5, 0.5, 0.52))


def _dartboard(p: Painter, rng: np.random.Generator) -> None:
    p.image[:] = (0.1, 0.1, 0.1)
    red, cream, green = (0.8, 0.15, 0.15), (0.95, 0.92, 0.8), (0.15, 0.5, 0.25)
    for radius, colour in ((0.45, red), (0.36, cream), (0.25, green), (0.14, cream), (0.06, red)):
        p.disc(0.5, 0.5, radius, colour)


_PAINTERS: dict[str, Callable[[Painter, np.random.Generator], None]] = {
    "sunset": _sunset, "mountains": _mountains, "sea": _sea, "forest": _forest, "flowers": _flowers,
    "portrait": _portrait, "abstract": _abstract, "city": _city, "boat": _boat,
    "television": _television, "monitor": _monitor, "clock": _clock, "aquarium": _aquarium, "globe": _globe,
    "oven": _oven, "porthole": _porthole, "keyboard": _keyboard, "piano keys": _piano_keys, "fire": _fire,
    "radiator": _radiator, "mirror": _mirror, "hob": _hob, "chessboard": _chessboard, "speaker": _speaker,
    "dartboard": _dartboard,
}  # fmt: skip


def _atlas(names: tuple[str, ...], columns: int, cell: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    size = 256
    image = np.zeros((size, size, 3))
    edges = [round(k * size / columns) for k in range(columns + 1)]
    for index, name in enumerate(names):
        row, column = divmod(index, columns)
        height, width = edges[row + 1] - edges[row], edges[column + 1] - edges[column]
        painter = Painter(max(height, width))
        _PAINTERS[name](painter, rng)
        image[edges[row] : edges[row + 1], edges[column] : edges[column + 1]] = painter.image[:height, :width]
    return _quantised(image)


def _quantised(image: Canvas) -> NDArray[np.uint8]:
    return (np.round(np.clip(image, 0, 1) * 42.5) * 6).astype(np.uint8)


def picture_atlas(rng: np.random.Generator) -> NDArray[np.uint8]:
    """The pictures for the walls, uint8 (256, 256, 3), 3 x 3 cells in the order of `PICTURES`."""
    return _atlas(PICTURES, 3, _PICTURE_SIZE, rng)


def detail_atlas(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Screens, dials and fronts, uint8 (256, 256, 3), 4 x 4 cells in the order of `DETAILS`."""
    return _atlas(DETAILS, 4, _DETAIL_SIZE, rng)


def window_view(rng: np.random.Generator) -> NDArray[np.uint8]:
    """What one sees out of the windows: a bright sky over houses, trees, the sea or mountains, uint8 (128, 128, 3)."""
    p = Painter(128)
    p.gradient((0.5, 0.76, 1.0), (0.93, 0.98, 1.0))
    for _ in range(4):
        u, v = rng.uniform(0, 1), rng.uniform(0.08, 0.35)
        for shift in (-0.06, 0.0, 0.06):
            p.disc(u + shift, v, 0.06, (1.0, 1.0, 1.0), 0.6)
    (_view_of_houses, _view_of_trees, _view_of_the_sea, _view_of_mountains)[int(rng.integers(4))](p, rng)
    return _quantised(p.image)


def _view_of_houses(p: Painter, rng: np.random.Generator) -> None:
    p.fill(p.v > 0.66 + 0.05 * np.sin(p.u * 9 + 2), (0.56, 0.76, 0.6))
    for left in np.arange(0.02, 1.0, 0.16):
        top = rng.uniform(0.45, 0.62)
        tone = rng.uniform(0.65, 0.9)
        p.rectangle(left, top, left + 0.13, 1, (tone, tone * 0.85, tone * 0.75))
        lit = (np.floor(p.u * 50) % 3 == 0) & (np.floor(p.v * 26) % 2 == 0)
        p.fill((p.u > left + 0.015) & (p.u < left + 0.115) & (p.v > top + 0.03) & lit, (0.35, 0.42, 0.5))
    p.fill(p.v > 0.84, (0.45, 0.7, 0.36))


def _view_of_trees(p: Painter, rng: np.random.Generator) -> None:
    p.fill(p.v > 0.64 + 0.05 * np.sin(p.u * 9 + 2), (0.56, 0.76, 0.6))
    for u in rng.uniform(0.05, 0.95, 7):
        p.disc(u, rng.uniform(0.62, 0.72), rng.uniform(0.06, 0.1), (0.2, rng.uniform(0.5, 0.62), 0.24), 1.3)
    p.fill(p.v > 0.84, (0.45, 0.7, 0.36))


def _view_of_the_sea(p: Painter, rng: np.random.Generator) -> None:
    p.fill(p.v > 0.55, (0.16, 0.5, 0.78))
    p.fill((p.v > 0.55) & (np.sin(p.v * 80 + 2 * np.sin(p.u * 14)) > 0.8), (0.55, 0.8, 0.93))
    u = rng.uniform(0.2, 0.8)
    p.fill((p.v > 0.4) & (p.v < 0.57) & (np.abs(p.u - u) < 0.4 * (p.v - 0.4)), (1.0, 1.0, 1.0))
    p.rectangle(u - 0.08, 0.57, u + 0.08, 0.6, (0.8, 0.25, 0.2))
    p.fill(p.v > 0.85 + 0.03 * np.sin(p.u * 6), (0.93, 0.85, 0.62))


def _view_of_mountains(p: Painter, rng: np.random.Generator) -> None:
    for peak, height in ((0.2, 0.36), (0.55, 0.28), (0.88, 0.4)):
        ridge = height + 0.9 * np.abs(p.u - peak - rng.uniform(-0.05, 0.05))
        p.fill(p.v > ridge, (0.5, 0.56, 0.68))
        p.fill((p.v > ridge) & (p.v < height + 0.1), (0.97, 0.98, 1.0))
    p.fill(p.v > 0.7 + 0.04 * np.sin(p.u * 8), (0.4, 0.62, 0.42))
    p.fill(p.v > 0.85, (0.5, 0.74, 0.38))
