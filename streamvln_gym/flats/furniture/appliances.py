"""Kitchen, bathroom and laundry."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from streamvln_gym.flats.furniture.piece import Piece, Style, sized
from streamvln_gym.flats.textures import Texture

FABRIC, WOOD, PLAIN, TILES = Texture.FABRIC, Texture.WOOD, Texture.PLAIN, Texture.TILES


def counter(
    rng: np.random.Generator, style: Style, width: float = 1.2, sink: bool = False, colour: str | None = None
) -> Piece:
    """A kitchen counter with doors, with a sink let into it if asked."""
    m = sized(width, 0.62, 0.9)
    tone = colour or style.fabric(rng)
    w, doors = width / 2, max(1, round(width / 0.6))
    m.box((-w, w), (0.1, 0.86), (-0.27, 0.31), tone, hide="ud")
    m.box((-w, w), (0.0, 0.1), (-0.22, 0.31), "black", hide="udb")
    m.box((-w, w), (0.86, 0.9), (-0.31, 0.31), "walnut" if tone in ("white", "grey") else "white", hide="d")
    for k in range(doors):
        x = -w + k * width / doors
        m.box((x + 0.01, x + width / doors - 0.01), (0.12, 0.84), (-0.29, -0.27), tone, hide="b")
        m.box((x + 0.15, x + width / doors - 0.15), (0.76, 0.78), (-0.31, -0.29), "steel", hide="bd")
    if sink:
        m.box((-0.25, 0.25), (0.9, 0.915), (-0.2, 0.2), "steel")
        m.quad((-0.2, 0.917, 0.14), (0.2, 0.917, 0.14), (0.2, 0.917, -0.16), (-0.2, 0.917, -0.16), "black")
        m.box((-0.02, 0.02), (0.9, 1.16), (0.22, 0.26), "steel")
        m.box((-0.015, 0.015), (1.12, 1.16), (0.04, 0.22), "steel", hide="b")
    return Piece("sink" if sink else "kitchen counter", m, None, surface=None if sink else 0.9)


def kitchen_sink(rng: np.random.Generator, style: Style, colour: str | None = None) -> Piece:
    """A kitchen sink."""
    return counter(rng, style, 0.9, sink=True, colour=colour)


def wall_cabinet(rng: np.random.Generator, style: Style, width: float = 1.2, colour: str | None = None) -> Piece:
    """Cupboards that hang above a counter."""
    m = sized(width, 0.32, 0.6)
    tone = colour or style.fabric(rng)
    w, doors = width / 2, max(1, round(width / 0.5))
    m.box((-w, w), (0.0, 0.6), (-0.14, 0.16), tone, hide="b")
    for k in range(doors):
        x = -w + k * width / doors
        m.box((x + 0.01, x + width / doors - 0.01), (0.015, 0.585), (-0.16, -0.14), tone, hide="b")
        m.box((x + 0.06, x + 0.08), (0.06, 0.2), (-0.175, -0.16), "steel", hide="b")
    return Piece("wall cabinet", m, None, mount="wall", bottom=1.45)


def range_hood(rng: np.random.Generator, style: Style) -> Piece:
    """A range hood."""
    m = sized(0.6, 0.46, 0.95)
    m.box((-0.3, 0.3), (0.0, 0.12), (-0.23, 0.23), "steel", hide="b")
    m.box((-0.13, 0.13), (0.12, 0.95), (-0.05, 0.23), "steel", hide="b")
    return Piece("range hood", m, "steel", mount="wall", bottom=1.65)


def stove(rng: np.random.Generator, style: Style) -> Piece:
    """A stove."""
    m = sized(0.6, 0.62, 0.92)
    m.box((-0.3, 0.3), (0.0, 0.9), (-0.29, 0.31), "grey", hide="ud")
    m.front((-0.29, 0.29), (0.08, 0.88), -0.292, "oven")
    m.picture((-0.3, 0.9, 0.31), (0.3, 0.9, 0.31), (0.3, 0.9, -0.29), (-0.3, 0.9, -0.29), "hob")
    m.box((-0.25, 0.25), (0.7, 0.73), (-0.33, -0.3), "steel")
    m.depth = 0.66
    return Piece("stove", m, "steel")


def fridge(rng: np.random.Generator, style: Style) -> Piece:
    """A fridge."""
    tone = ("white", "steel", "red", "turquoise", "black", "white", "steel")[int(rng.integers(7))]
    m = sized(0.66, 0.68, 1.8)
    m.box((-0.33, 0.33), (0.03, 1.8), (-0.28, 0.32), tone)
    m.box((-0.325, 0.325), (0.05, 1.18), (-0.32, -0.285), tone)
    m.box((-0.325, 0.325), (1.2, 1.79), (-0.32, -0.285), tone)
    handle = "black" if tone != "black" else "steel"
    m.box((0.25, 0.28), (0.8, 1.12), (-0.36, -0.32), handle)
    m.box((0.25, 0.28), (1.26, 1.5), (-0.36, -0.32), handle)
    m.depth = 0.7
    return Piece("fridge", m, None)


def dishwasher(rng: np.random.Generator, style: Style) -> Piece:
    """A dishwasher."""
    m = sized(0.6, 0.62, 0.9)
    m.box((-0.3, 0.3), (0.06, 0.9), (-0.28, 0.31), "white")
    m.box((-0.29, 0.29), (0.08, 0.76), (-0.3, -0.28), "white", hide="b")
    m.box((-0.29, 0.29), (0.78, 0.88), (-0.3, -0.28), "black", hide="b")
    return Piece("dishwasher", m, None, surface=0.9)


def washing_machine(rng: np.random.Generator, style: Style) -> Piece:
    """A washing machine."""
    m = sized(0.62, 0.6, 0.86)
    m.box((-0.3, 0.3), (0.0, 0.86), (-0.28, 0.3), "white")
    m.front((-0.29, 0.29), (0.06, 0.85), -0.283, "porthole")
    return Piece("washing machine", m, None, surface=0.86)


def dryer(rng: np.random.Generator, style: Style) -> Piece:
    """A dryer."""
    m = sized(0.62, 0.6, 0.86)
    m.box((-0.3, 0.3), (0.0, 0.86), (-0.28, 0.3), "grey")
    m.box((-0.22, 0.22), (0.2, 0.64), (-0.3, -0.28), "black", hide="b")
    m.box((-0.28, 0.28), (0.72, 0.82), (-0.29, -0.28), "white", hide="b")
    return Piece("dryer", m, None, surface=0.86)


def ironing_board(rng: np.random.Generator, style: Style) -> Piece:
    """An ironing board."""
    m = sized(1.2, 0.38, 0.88)
    tone = style.fabric(rng)
    m.box((-0.6, 0.6), (0.84, 0.88), (-0.19, 0.19), tone, FABRIC, hide="")
    for a, b in ((-0.35, 0.35), (0.35, -0.35)):
        for z0, z1 in ((-0.03, 0.03),):
            m.quad((a - 0.03, 0, z1), (a + 0.03, 0, z1), (b + 0.03, 0.84, z1), (b - 0.03, 0.84, z1), "steel")
            m.quad((a + 0.03, 0, z0), (a - 0.03, 0, z0), (b - 0.03, 0.84, z0), (b + 0.03, 0.84, z0), "steel")
    return Piece("ironing board", m, None, has_front=False)


def bathtub(rng: np.random.Generator, style: Style) -> Piece:
    """A bathtub."""
    m = sized(1.65, 0.75, 0.56)
    w, d, t = 0.825, 0.375, 0.07
    m.box((-w, w), (0.0, 0.56), (-d, d), "white", hide="ud")
    for x in ((-w, -w + t), (w - t, w)):
        m.quad((x[0], 0.56, d), (x[1], 0.56, d), (x[1], 0.56, -d), (x[0], 0.56, -d), "white")
    for z in ((-d, -d + t), (d - t, d)):
        m.quad((-w + t, 0.56, z[1]), (w - t, 0.56, z[1]), (w - t, 0.56, z[0]), (-w + t, 0.56, z[0]), "white")
    a, b = w - t, d - t
    m.quad((-a, 0.38, b), (a, 0.38, b), (a, 0.38, -b), (-a, 0.38, -b), (150, 214, 236))
    m.quad((-a, 0.38, -b), (a, 0.38, -b), (a, 0.56, -b), (-a, 0.56, -b), "white")
    m.quad((a, 0.38, b), (-a, 0.38, b), (-a, 0.56, b), (a, 0.56, b), "white")
    m.quad((-a, 0.38, b), (-a, 0.38, -b), (-a, 0.56, -b), (-a, 0.56, b), "white")
    m.quad((a, 0.38, -b), (a, 0.38, b), (a, 0.56, b), (a, 0.56, -b), "white")
    m.box((w - 0.14, w - 0.08), (0.56, 0.72), (-0.03, 0.03), "steel")
    return Piece("bathtub", m, "enamel")


def shower(rng: np.random.Generator, style: Style) -> Piece:
    """A tray, a tiled back, a rail with a half-open curtain, and the shower head."""
    m = sized(0.9, 0.9, 2.05)
    tone = style.fabric(rng)
    m.box((-0.45, 0.45), (0.0, 0.14), (-0.45, 0.45), "white")
    m.quad((-0.38, 0.142, 0.38), (0.38, 0.142, 0.38), (0.38, 0.142, -0.38), (-0.38, 0.142, -0.38), (206, 222, 230))
    m.quad(
        (0.45, 0.14, 0.44), (-0.45, 0.14, 0.44), (-0.45, 2.05, 0.44), (0.45, 2.05, 0.44), (176, 214, 226), TILES, 0.4
    )
    for x in (-0.45, 0.41):
        m.box((x, x + 0.04), (0.14, 2.05), (-0.45, -0.41), "steel")
        m.box((x, x + 0.04), (2.0, 2.05), (-0.41, 0.44), "steel", hide="fb")
    m.box((-0.41, 0.41), (2.0, 2.05), (-0.45, -0.41), "steel", hide="lr")
    folds = [-0.41 + 0.085 * k for k in range(7)]
    for k, (a, b) in enumerate(pairwise(folds)):
        za, zb = (-0.44, -0.4) if k % 2 == 0 else (-0.4, -0.44)
        m.quad((b, 0.16, zb), (a, 0.16, za), (a, 1.99, za), (b, 1.99, zb), tone, FABRIC)
        m.quad((a, 0.16, za), (b, 0.16, zb), (b, 1.99, zb), (a, 1.99, za), tone, FABRIC)
    m.box((0.1, 0.14), (0.9, 1.9), (0.36, 0.4), "steel")
    m.box((0.04, 0.2), (1.86, 1.9), (0.2, 0.4), "steel", hide="")
    return Piece("shower", m, None)


def toilet(rng: np.random.Generator, style: Style) -> Piece:
    """A toilet."""
    m = sized(0.42, 0.66, 0.8)
    m.cylinder((0.0, -0.1), 0.13, (0.0, 0.34), "white", 8, top_radius=0.2, cap=False)
    m.cylinder((0.0, -0.1), 0.21, (0.34, 0.42), "white", 10)
    m.box((-0.19, 0.19), (0.3, 0.8), (0.13, 0.33), "white")
    m.box((-0.05, 0.05), (0.8, 0.815), (0.2, 0.26), "steel")
    return Piece("toilet", m, "porcelain")


def washbasin(rng: np.random.Generator, style: Style) -> Piece:
    """A washbasin."""
    m = sized(0.62, 0.46, 0.86)
    m.box((-0.1, 0.1), (0.0, 0.7), (-0.02, 0.2), "white", hide="udb")
    m.box((-0.31, 0.31), (0.7, 0.86), (-0.23, 0.23), "white", hide="")
    m.quad((-0.24, 0.862, 0.12), (0.24, 0.862, 0.12), (0.24, 0.862, -0.18), (-0.24, 0.862, -0.18), (176, 190, 200))
    m.box((-0.02, 0.02), (0.86, 1.02), (0.15, 0.19), "steel")
    m.box((-0.02, 0.02), (0.99, 1.02), (0.03, 0.15), "steel", hide="b")
    return Piece("washbasin", m, "porcelain")


def towel_rail(rng: np.random.Generator, style: Style) -> Piece:
    """A towel rail."""
    m = sized(0.6, 0.1, 0.7)
    m.box((-0.3, 0.3), (0.64, 0.67), (-0.05, -0.02), "steel", hide="")
    m.box((-0.24, 0.1), (0.0, 0.66), (-0.07, -0.01), style.fabric(rng), FABRIC, hide="")
    m.depth = 0.14
    return Piece("towel", m, None, mount="wall", bottom=0.75)
