"""Plants, lamps, pictures, rugs and small things."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from streamvln_gym.flats.furniture.piece import Piece, Style, sized
from streamvln_gym.flats.mesh import Colour, Model
from streamvln_gym.flats.palette import GLOW, VIVID
from streamvln_gym.flats.textures import PICTURES, Texture

FABRIC, WOOD, PLAIN = Texture.FABRIC, Texture.WOOD, Texture.PLAIN


def _leaves(m: Model, rng: np.random.Generator, base: float, length: float, count: int, width: float) -> None:
    """Long leaves that bend outwards, drawn on both sides."""
    for k in range(count):
        angle = 2 * math.pi * (k + float(rng.uniform(0, 0.5))) / count
        lean, tone = float(rng.uniform(0.25, 0.75)), ("leaf", "dark leaf", "light leaf")[k % 3]
        c, s = math.cos(angle), math.sin(angle)
        reach = length * lean * 0.5
        spine = [(0.03, base), (reach * 0.6, base + length * 0.65), (reach, base + length * (1.05 - 0.4 * lean))]
        half = (width * 0.35, width, 0.01)
        rows = [
            ((r * c - h * s, y, r * s + h * c), (r * c + h * s, y, r * s - h * c))
            for (r, y), h in zip(spine, half, strict=True)
        ]
        for (a, b), (e, f) in pairwise(rows):
            m.quad(a, b, f, e, tone)
            m.quad(b, a, e, f, tone)


def plant(rng: np.random.Generator, style: Style) -> Piece:
    """A pot plant on the floor: leafy or a small round tree."""
    pot = ("terracotta", "white", "blue", "black", "yellow", "turquoise")[int(rng.integers(6))]
    if rng.random() < 0.5:
        m = sized(0.5, 0.5, float(rng.uniform(1.2, 1.5)))
        m.cylinder((0.0, 0.0), 0.13, (0.0, 0.28), pot, 8, top_radius=0.17)
        m.cylinder((0.0, 0.0), 0.025, (0.28, m.height - 0.4), "walnut", 5, cap=False)
        for dx, dy, dz, r in ((0.0, 0.0, 0.0, 0.25), (0.1, -0.16, 0.08, 0.17), (-0.1, -0.12, -0.08, 0.18)):
            tone = ("leaf", "dark leaf", "light leaf")[int(rng.integers(3))]
            m.ellipsoid((dx * 0.9, m.height - 0.26 + dy, dz * 0.9), (r * 0.95, r, r * 0.95), tone, 7, 4)
    else:
        m = sized(0.6, 0.6, 1.15)
        m.cylinder((0.0, 0.0), 0.15, (0.0, 0.36), pot, 8, top_radius=0.18)
        _leaves(m, rng, 0.36, 0.72, 9, 0.075)
    return Piece("plant", m, None, has_front=False)


def small_plant(rng: np.random.Generator, style: Style) -> Piece:
    """A small plant."""
    m = sized(0.24, 0.24, 0.32)
    pot = ("terracotta", "white", "blue", "yellow")[int(rng.integers(4))]
    m.cylinder((0.0, 0.0), 0.055, (0.0, 0.1), pot, 6, top_radius=0.07)
    m.ellipsoid((0.0, 0.2, 0.0), (0.11, 0.12, 0.11), "leaf", 6, 3)
    return Piece("plant", m, None, mount="top", has_front=False)


def floor_lamp(rng: np.random.Generator, style: Style) -> Piece:
    """A floor lamp."""
    m = sized(0.42, 0.42, 1.6)
    m.cylinder((0.0, 0.0), 0.15, (0.0, 0.03), style.metal, 8)
    m.cylinder((0.0, 0.0), 0.018, (0.03, 1.3), style.metal, 5, cap=False)
    shade = style.fabric(rng) if rng.random() < 0.6 else "yellow"
    m.cylinder((0.0, 0.0), 0.21, (1.28, 1.6), shade, 8, top_radius=0.13)
    _underside(m, 0.2, 1.3, GLOW)
    return Piece("floor lamp", m, None, has_front=False)


def _underside(m: Model, radius: float, y: float, colour: Colour) -> None:
    angles = [2 * math.pi * (k + 0.5) / 8 for k in range(8)]
    m.polygon([(radius * math.cos(t), y, radius * math.sin(t)) for t in angles], colour)


def table_lamp(rng: np.random.Generator, style: Style) -> Piece:
    """A table lamp."""
    m = sized(0.26, 0.26, 0.42)
    shade = style.fabric(rng)
    m.cylinder((0.0, 0.0), 0.07, (0.0, 0.2), shade, 6, top_radius=0.03, cap=False)
    m.cylinder((0.0, 0.0), 0.13, (0.2, 0.42), shade, 8, top_radius=0.08)
    return Piece("table lamp", m, None, mount="top", has_front=False)


def vase(rng: np.random.Generator, style: Style, colour: str | None = None) -> Piece:
    """A tall floor vase; `colour` may be asked for."""
    m = sized(0.32, 0.32, 0.72)
    tone = colour or style.fabric(rng)
    m.cylinder((0.0, 0.0), 0.09, (0.0, 0.3), tone, 8, top_radius=0.16, cap=False)
    m.cylinder((0.0, 0.0), 0.16, (0.3, 0.58), tone, 8, top_radius=0.07, cap=False)
    m.cylinder((0.0, 0.0), 0.07, (0.58, 0.72), tone, 8, top_radius=0.1)
    return Piece("vase", m, "ceramic", has_front=False)


def small_vase(rng: np.random.Generator, style: Style) -> Piece:
    """A small vase."""
    m = sized(0.14, 0.14, 0.26)
    tone = style.fabric(rng)
    m.cylinder((0.0, 0.0), 0.04, (0.0, 0.14), tone, 6, top_radius=0.07, cap=False)
    m.cylinder((0.0, 0.0), 0.07, (0.14, 0.26), tone, 6, top_radius=0.035)
    return Piece("vase", m, "ceramic", mount="top", has_front=False)


def bowl(rng: np.random.Generator, style: Style) -> Piece:
    """A bowl."""
    m = sized(0.28, 0.28, 0.12)
    m.cylinder((0.0, 0.0), 0.07, (0.0, 0.1), style.fabric(rng), 8, top_radius=0.14)
    for k, tone in enumerate(("red", "yellow", "green")):
        angle = 2.1 * k
        m.ellipsoid((0.05 * math.cos(angle), 0.12, 0.05 * math.sin(angle)), (0.04, 0.04, 0.04), tone, 5, 3)
    return Piece("bowl", m, None, mount="top", has_front=False)


def books(rng: np.random.Generator, style: Style) -> Piece:
    """A small pile of books."""
    m = sized(0.26, 0.2, 0.14)
    y = 0.0
    for k, index in enumerate(rng.permutation(len(VIVID))[:3]):
        height, shift = 0.04 + 0.008 * k, float(rng.uniform(-0.015, 0.015))
        m.box((-0.12 + shift, 0.12 + shift), (y, y + height), (-0.085, 0.085), VIVID[int(index)])
        y += height
    return Piece("books", m, None, mount="top", has_front=False)


def teapot(rng: np.random.Generator, style: Style) -> Piece:
    """A teapot."""
    m = sized(0.3, 0.2, 0.22)
    tone = style.fabric(rng)
    m.ellipsoid((0.0, 0.09, 0.0), (0.1, 0.09, 0.1), tone, 8, 4)
    m.cylinder((0.0, 0.0), 0.02, (0.17, 0.2), "black", 5)
    m.box((0.08, 0.16), (0.09, 0.13), (-0.015, 0.015), tone, hide="l")
    m.box((-0.15, -0.08), (0.06, 0.15), (-0.012, 0.012), tone, hide="r")
    return Piece("teapot", m, "ceramic", mount="top", has_front=False)


def candles(rng: np.random.Generator, style: Style) -> Piece:
    """Three candles on a plate."""
    m = sized(0.24, 0.24, 0.26)
    tone = style.fabric(rng)
    m.cylinder((0.0, 0.0), 0.12, (0.0, 0.015), "white", 8)
    for x, z, height in ((0.0, 0.05, 0.24), (0.055, -0.03, 0.18), (-0.055, -0.03, 0.13)):
        m.cylinder((x, z), 0.03, (0.015, height), tone, 6)
        m.cylinder((x, z), 0.012, (height, height + 0.03), GLOW, 4, top_radius=0.0)
    return Piece("candles", m, None, mount="top", has_front=False)


def globe(rng: np.random.Generator, style: Style) -> Piece:
    """A globe."""
    m = sized(0.34, 0.34, 0.46)
    m.cylinder((0.0, 0.0), 0.1, (0.0, 0.03), "walnut", 8)
    m.cylinder((0.0, 0.0), 0.015, (0.03, 0.12), "walnut", 4, cap=False)
    m.ellipsoid((0.0, 0.28, 0.0), (0.17, 0.17, 0.17), "blue", 8, 5)
    m.ellipsoid((0.05, 0.31, -0.05), (0.125, 0.1, 0.11), "green", 6, 3)
    return Piece("globe", m, None, mount="top", has_front=False)


def statue(rng: np.random.Generator, style: Style) -> Piece:
    """A bust on a plinth."""
    m = sized(0.42, 0.42, 1.5)
    tone = ("white", "black", "grey", "orange")[int(rng.integers(4))]
    m.box((-0.2, 0.2), (0.0, 0.9), (-0.2, 0.2), "white")
    m.cylinder((0.0, 0.0), 0.1, (0.9, 1.0), tone, 6)
    m.ellipsoid((0.0, 1.1, 0.0), (0.2, 0.14, 0.13), tone, 8, 4)
    m.cylinder((0.0, 0.0), 0.055, (1.15, 1.28), tone, 6, cap=False)
    m.ellipsoid((0.0, 1.38, -0.01), (0.1, 0.14, 0.11), tone, 8, 4)
    return Piece("statue", m, "marble")


def picture(rng: np.random.Generator, style: Style) -> Piece:
    """A framed picture; its material is what it shows."""
    motif = PICTURES[int(rng.integers(len(PICTURES)))]
    width = float(rng.uniform(0.6, 1.0))
    height = width * float(rng.uniform(0.72, 0.95))
    frame = ("black", "white", "yellow", "walnut", "red", "blue")[int(rng.integers(6))]
    m = sized(width, 0.035, height)
    w = width / 2
    m.box((-w, w), (0.0, height), (-0.0175, 0.0175), frame, hide="fb")
    edge = 0.04
    for a, b, c, d in (
        ((w, 0), (-w, 0), (-w + edge, edge), (w - edge, edge)),
        ((-w, 0), (-w, height), (-w + edge, height - edge), (-w + edge, edge)),
        ((-w, height), (w, height), (w - edge, height - edge), (-w + edge, height - edge)),
        ((w, height), (w, 0), (w - edge, edge), (w - edge, height - edge)),
    ):
        m.polygon([(x, y, -0.0175) for x, y in (a, b, c, d)], frame)
    m.front((-w + edge, w - edge), (edge, height - edge), -0.0175, motif)
    return Piece("picture", m, motif, mount="wall", bottom=1.62 - height / 2)


def mirror(rng: np.random.Generator, style: Style) -> Piece:
    """A mirror."""
    m = sized(0.6, 0.03, 0.8)
    frame = style.timber(rng)
    m.box((-0.3, 0.3), (0.0, 0.8), (-0.01, 0.015), frame)
    m.front((-0.26, 0.26), (0.04, 0.76), -0.0125, "mirror")
    return Piece("mirror", m, None, mount="wall", bottom=1.1)


def clock(rng: np.random.Generator, style: Style) -> Piece:
    """A clock."""
    m = sized(0.36, 0.04, 0.36)
    tone = style.fabric(rng)
    angles = [2 * math.pi * (k + 0.5) / 8 for k in range(8)]
    ring = [(0.19 * math.cos(t), 0.18 + 0.19 * math.sin(t)) for t in angles]
    m.polygon([(-x, y, -0.02) for x, y in ring], tone)
    for (xa, ya), (xb, yb) in zip(ring, [*ring[1:], ring[0]], strict=True):
        m.quad((-xa, ya, -0.02), (-xa, ya, 0.02), (-xb, yb, 0.02), (-xb, yb, -0.02), tone)
    m.front((-0.125, 0.125), (0.055, 0.305), -0.023, "clock")
    return Piece("clock", m, None, mount="wall", bottom=1.75)


def wall_shelf(rng: np.random.Generator, style: Style) -> Piece:
    """A wall shelf."""
    m = sized(0.8, 0.2, 0.36)
    m.box((-0.4, 0.4), (0.0, 0.03), (-0.1, 0.1), style.timber(rng), WOOD, hide="b")
    x = -0.36
    while x < 0.3:
        width, height = float(rng.uniform(0.05, 0.1)), float(rng.uniform(0.18, 0.28))
        m.box(
            (x, x + width - 0.008), (0.03, 0.03 + height), (-0.07, 0.1), VIVID[int(rng.integers(len(VIVID)))], hide="db"
        )
        x += width + (0.14 if rng.random() < 0.25 else 0.0)
    return Piece("wall shelf", m, "wooden", mount="wall", bottom=1.45)


def radiator(rng: np.random.Generator, style: Style) -> Piece:
    """A radiator."""
    m = sized(0.9, 0.09, 0.58)
    m.box((-0.45, 0.45), (0.12, 0.6), (-0.035, 0.045), "white", hide="b")
    m.front((-0.44, 0.44), (0.14, 0.58), -0.038, "radiator")
    return Piece("radiator", m, None, mount="wall", bottom=0.0)


def ceiling_lamp(rng: np.random.Generator, style: Style) -> Piece:
    """Hangs from the ceiling; its model's y = 0 is its lowest point."""
    kind = int(rng.integers(3))
    if kind == 0:
        m = sized(0.5, 0.5, 0.1)
        m.cylinder((0.0, 0.0), 0.22, (0.0, 0.1), GLOW, 10, top_radius=0.25, cap=False)
        _underside(m, 0.22, 0.0, GLOW)
    elif kind == 1:
        m = sized(0.44, 0.44, 0.42)
        m.cylinder((0.0, 0.0), 0.22, (0.0, 0.2), style.fabric(rng), 8, top_radius=0.08)
        _underside(m, 0.215, 0.01, GLOW)
        m.cylinder((0.0, 0.0), 0.01, (0.2, 0.42), "black", 4, cap=False)
    else:
        m = sized(0.36, 0.36, 0.44)
        m.ellipsoid((0.0, 0.17, 0.0), (0.17, 0.17, 0.17), GLOW, 8, 5)
        m.cylinder((0.0, 0.0), 0.01, (0.3, 0.44), "black", 4, cap=False)
    return Piece("ceiling lamp", m, None, mount="ceiling", bottom=2.6 - m.height, has_front=False)


def rug(rng: np.random.Generator, style: Style, width: float = 1.8, depth: float = 1.2) -> Piece:
    """A rug."""
    m = sized(width, depth, 0.014)
    tone = style.fabric(rng)
    w, d = width / 2, depth / 2
    m.box((-w, w), (0.0, 0.014), (-d, d), tone, hide="ud")
    m.quad((-w, 0.014, d), (w, 0.014, d), (w, 0.014, -d), (-w, 0.014, -d), tone, Texture.RUG)
    m.polygons[-1].uv = ((0.0, 1.0), (1.0, 1.0), (1.0, 0.0), (0.0, 0.0))
    return Piece("rug", m, None, has_front=False)


def coat_rack(rng: np.random.Generator, style: Style) -> Piece:
    """A coat rack."""
    m = sized(0.44, 0.44, 1.75)
    tone = style.timber(rng)
    m.cylinder((0.0, 0.0), 0.2, (0.0, 0.04), tone, 8)
    m.cylinder((0.0, 0.0), 0.025, (0.04, 1.75), tone, 6)
    for side, low in ((-1, 0.75), (1, 0.95)):  # two coats, wider below
        coat = style.fabric(rng)
        m.cylinder((side * 0.1, 0.0), 0.15, (low, 1.42), coat, 6, top_radius=0.1, texture=FABRIC, cap=False)
        m.cylinder((side * 0.1, 0.0), 0.1, (1.42, 1.58), coat, 6, top_radius=0.03, texture=FABRIC)
    m.cylinder((0.0, 0.0), 0.13, (1.68, 1.72), "brown", 8)
    m.cylinder((0.0, 0.0), 0.08, (1.72, 1.82), "brown", 8, top_radius=0.07)
    for sx, sz in ((0.18, 0.0), (-0.18, 0.0)):
        m.box((min(0, sx), max(0, sx)), (1.62, 1.66), (sz - 0.015, sz + 0.015), tone, hide="")
    return Piece("coat rack", m, None, has_front=False)


def umbrella_stand(rng: np.random.Generator, style: Style) -> Piece:
    """An umbrella stand."""
    m = sized(0.28, 0.28, 0.9)
    tone = style.fabric(rng)
    m.cylinder((0.0, 0.0), 0.12, (0.0, 0.5), tone, 8, top_radius=0.14)
    m.cylinder((0.04, 0.02), 0.035, (0.5, 0.85), "black", 5, top_radius=0.01)
    m.cylinder((-0.05, -0.02), 0.035, (0.5, 0.9), style.fabric(rng), 5, top_radius=0.01)
    return Piece("umbrella stand", m, None, has_front=False)
