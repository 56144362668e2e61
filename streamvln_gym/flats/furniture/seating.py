"""Things to sit and lie on."""

from __future__ import annotations

import numpy as np

from streamvln_gym.flats.furniture.piece import Piece, Style, legs, sized
from streamvln_gym.flats.textures import Texture

FABRIC, WOOD, PLAIN = Texture.FABRIC, Texture.WOOD, Texture.PLAIN


def _upholstered(width: float, depth: float, seats: int, colour: str, leather: bool):
    m = sized(width, depth, 0.82)
    cloth = PLAIN if leather else FABRIC
    w, d, arm = width / 2, depth / 2, 0.17
    m.box((-w, w), (0.1, 0.3), (-d + 0.02, d), colour, cloth)
    m.box((-w, w), (0.3, 0.82), (d - 0.2, d), colour, cloth)
    for side in (-1, 1):
        xs = sorted((side * w, side * (w - arm)))
        m.box((xs[0], xs[1]), (0.3, 0.6), (-d + 0.02, d - 0.2), colour, cloth, hide="db")
    step = (width - 2 * arm) / seats
    for k in range(seats):
        x = -w + arm + k * step
        m.box((x + 0.012, x + step - 0.012), (0.3, 0.45), (-d, d - 0.2), colour, cloth, hide="db")
    legs(m, 0.1, "black", 0.06, 0.04)
    return m


def sofa(rng: np.random.Generator, style: Style) -> Piece:
    """A sofa."""
    colour = style.favourite(rng) if rng.random() < 0.75 else style.fabric(rng)
    leather = bool(rng.random() < 0.3)
    seats = int(rng.integers(2, 4))
    m = _upholstered(0.5 + 0.55 * seats, 0.88, seats, colour, leather)
    if rng.random() < 0.6:
        cushion = style.fabric(rng)
        for x in (-m.width / 2 + 0.36, m.width / 2 - 0.36):
            m.box(
                (x - 0.17, x + 0.17), (0.45, 0.74), (m.depth / 2 - 0.32, m.depth / 2 - 0.19), cushion, FABRIC, hide="db"
            )
    return Piece("sofa", m, "leather" if leather else "fabric")


def armchair(rng: np.random.Generator, style: Style, colour: str | None = None) -> Piece:
    """An armchair."""
    leather = bool(rng.random() < 0.3)
    m = _upholstered(0.86, 0.82, 1, colour or style.fabric(rng), leather)
    return Piece("armchair", m, "leather" if leather else "fabric")


def chair(rng: np.random.Generator, style: Style, colour: str | None = None) -> Piece:
    """A chair."""
    tone = colour or (style.fabric(rng) if rng.random() < 0.5 else style.timber(rng))
    m = sized(0.42, 0.44, 0.92)
    legs(m, 0.43, tone, 0.04, 0.01)
    m.box((-0.21, 0.21), (0.43, 0.48), (-0.22, 0.22), tone, WOOD)
    for side in (-1, 1):
        xs = sorted((side * 0.21, side * 0.17))
        m.box((xs[0], xs[1]), (0.48, 0.92), (0.18, 0.22), tone, hide="d")
    m.box((-0.17, 0.17), (0.6, 0.9), (0.185, 0.215), tone, WOOD, hide="lr")
    return Piece("chair", m, "wooden")


def office_chair(rng: np.random.Generator, style: Style) -> Piece:
    """An office chair."""
    colour = style.fabric(rng)
    m = sized(0.56, 0.56, 1.02)
    for angle in (0, 1):
        xs, zs = ((-0.27, 0.27), (-0.03, 0.03)) if angle else ((-0.03, 0.03), (-0.27, 0.27))
        m.box(xs, (0.03, 0.09), zs, "black")
    m.cylinder((0.0, 0.0), 0.035, (0.09, 0.42), "steel", 6, cap=False)
    m.box((-0.25, 0.25), (0.42, 0.52), (-0.26, 0.22), colour, FABRIC, hide="")
    m.box((-0.22, 0.22), (0.6, 1.02), (0.2, 0.27), colour, FABRIC, hide="")
    m.box((-0.04, 0.04), (0.5, 0.62), (0.22, 0.26), "black", hide="ud")
    return Piece("office chair", m, "fabric")


def stool(rng: np.random.Generator, style: Style, colour: str | None = None) -> Piece:
    """A stool."""
    m = sized(0.38, 0.38, 0.5)
    tone = colour or style.fabric(rng)
    m.cylinder((0.0, 0.0), 0.19, (0.42, 0.5), tone, 8)
    m.cylinder((0.0, 0.0), 0.12, (0.0, 0.42), tone, 8, top_radius=0.07, cap=False)
    return Piece("stool", m, "wooden", surface=None, has_front=False)


def bench(rng: np.random.Generator, style: Style) -> Piece:
    """A bench."""
    width = float(rng.uniform(0.9, 1.2))
    m = sized(width, 0.36, 0.46)
    tone = style.fabric(rng)
    m.box((-width / 2, width / 2), (0.38, 0.46), (-0.18, 0.18), tone, FABRIC)
    legs(m, 0.38, style.timber(rng), 0.05, 0.02)
    return Piece("bench", m, "upholstered")


def _bed(width: float, rng: np.random.Generator, style: Style, category: str = "bed") -> Piece:
    m = sized(width, 2.05, 0.83)
    w, tone, blanket = width / 2, style.timber(rng), style.fabric(rng)
    m.box((-w, w), (0.0, 0.83), (0.97, 1.025), tone, WOOD)
    m.box((-w + 0.02, w - 0.02), (0.08, 0.24), (-0.99, 0.97), tone, WOOD, hide="udb")
    m.box((-w + 0.04, w - 0.04), (0.24, 0.5), (0.5, 0.97), blanket, FABRIC, hide="dbf")
    m.box((-w, w), (0.22, 0.56), (-1.02, 0.5), blanket, FABRIC, hide="d")
    count = 2 if width > 1.3 else 1
    for k in range(count):
        x = (k - (count - 1) / 2) * 0.72
        m.box((x - 0.3, x + 0.3), (0.5, 0.63), (0.56, 0.93), "white", PLAIN)
    return Piece(category, m, None)


def double_bed(rng: np.random.Generator, style: Style) -> Piece:
    """A double bed."""
    return _bed(1.6, rng, style)


def single_bed(rng: np.random.Generator, style: Style) -> Piece:
    """A single bed."""
    return _bed(0.98, rng, style)


def bunk_bed(rng: np.random.Generator, style: Style) -> Piece:
    """A bunk bed."""
    m = sized(1.0, 2.05, 1.7)
    tone = style.timber(rng)
    for sx in (-1, 1):
        for z in (-1.02, 0.95):
            xs = sorted((sx * 0.5, sx * 0.43))
            m.box((xs[0], xs[1]), (0.0, 1.7), (z, z + 0.07), tone, WOOD)
    blanket = style.fabric(rng)
    for y in (0.3, 1.15):
        m.box((-0.48, 0.48), (y, y + 0.15), (-1.0, 1.0), tone, WOOD, hide="")
        m.box((-0.43, 0.43), (y + 0.15, y + 0.3), (-0.96, 0.98), blanket, FABRIC, hide="d")
        m.box((-0.26, 0.26), (y + 0.3, y + 0.38), (0.6, 0.92), "white", PLAIN)
    m.box((-0.48, 0.48), (1.45, 1.5), (-1.01, -0.97), tone, WOOD, hide="")
    for y in (0.6, 0.85, 1.1):
        m.box((0.1, 0.43), (y, y + 0.05), (-1.02, -0.98), tone, hide="lr")
    return Piece("bunk bed", m, "wooden")


def crib(rng: np.random.Generator, style: Style) -> Piece:
    """A crib."""
    m = sized(1.25, 0.7, 0.95)
    tone = style.fabric(rng)
    for x in (-0.625, 0.575):
        m.box((x, x + 0.05), (0.0, 0.95), (-0.35, 0.35), tone, WOOD)
    for z in (-0.35, 0.32):
        m.box((-0.575, 0.575), (0.86, 0.92), (z, z + 0.03), tone, WOOD, hide="lr")
        for k in range(7):
            x = -0.5 + k / 6
            m.box((x - 0.02, x + 0.02), (0.25, 0.86), (z, z + 0.03), tone, hide="ud")
    m.box((-0.575, 0.575), (0.2, 0.42), (-0.32, 0.32), tone, FABRIC, hide="")
    m.box((0.2, 0.5), (0.42, 0.5), (-0.22, 0.22), "white")
    return Piece("crib", m, "wooden")


def deck_bench(rng: np.random.Generator, style: Style) -> Piece:
    """A weight bench with its bar."""
    m = sized(1.3, 1.2, 1.05)
    tone = style.fabric(rng)
    m.box((-0.16, 0.16), (0.38, 0.48), (-0.6, 0.55), tone, FABRIC, hide="")
    for z in (-0.5, 0.45):
        m.box((-0.14, 0.14), (0.0, 0.38), (z, z + 0.06), "black", hide="ud")
    for x in (-0.4, 0.34):
        m.box((x, x + 0.06), (0.0, 1.0), (0.42, 0.5), "black")
    m.box((-0.65, 0.65), (0.98, 1.02), (0.44, 0.48), "steel", hide="")
    for x in (-0.62, 0.54):
        m.box((x, x + 0.08), (0.82, 1.18), (0.28, 0.6), tone, hide="")
    m.height = 1.18
    return Piece("weight bench", m, "leather")
