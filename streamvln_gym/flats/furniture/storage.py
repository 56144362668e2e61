"""Tables, cupboards, shelves and boxes."""

from __future__ import annotations

import numpy as np

from streamvln_gym.flats.furniture.piece import Piece, Style, legs, sized
from streamvln_gym.flats.mesh import Model
from streamvln_gym.flats.textures import Texture

FABRIC, WOOD, PLAIN, BOOKS = Texture.FABRIC, Texture.WOOD, Texture.PLAIN, Texture.BOOKS


def _table(category: str, width: float, depth: float, height: float, tone: str, leg: str | None = None) -> Piece:
    m = sized(width, depth, height)
    m.box((-width / 2, width / 2), (height - 0.05, height), (-depth / 2, depth / 2), tone, WOOD, hide="")
    legs(m, height - 0.05, leg or tone, 0.06, 0.03)
    return Piece(category, m, "wooden", surface=height)


def coffee_table(rng: np.random.Generator, style: Style) -> Piece:
    """A coffee table."""
    if rng.random() < 0.35:
        m = sized(0.8, 0.8, 0.42)
        tone = style.timber(rng)
        m.cylinder((0.0, 0.0), 0.4, (0.37, 0.42), tone, 10, texture=WOOD)
        m.cylinder((0.0, 0.0), 0.2, (0.0, 0.37), tone, 8, top_radius=0.08, cap=False)
        return Piece("coffee table", m, "wooden", surface=0.42, has_front=False)
    return _table("coffee table", float(rng.uniform(0.9, 1.15)), 0.58, 0.42, style.timber(rng))


def dining_table(rng: np.random.Generator, style: Style) -> Piece:
    """A dining table."""
    return _table("dining table", float(rng.uniform(1.4, 1.8)), 0.9, 0.75, style.timber(rng))


def kitchen_table(rng: np.random.Generator, style: Style) -> Piece:
    """A kitchen table."""
    return _table("table", 1.0, 0.75, 0.75, style.timber(rng))


def desk(rng: np.random.Generator, style: Style) -> Piece:
    """A desk."""
    width = float(rng.uniform(1.2, 1.5))
    tone = style.timber(rng)
    m = sized(width, 0.65, 0.75)
    m.box((-width / 2, width / 2), (0.7, 0.75), (-0.325, 0.325), tone, WOOD, hide="")
    m.box((-width / 2, -width / 2 + 0.42), (0.02, 0.7), (-0.3, 0.32), tone, WOOD, hide="ud")
    for y in (0.08, 0.29, 0.5):
        m.box((-width / 2 + 0.03, -width / 2 + 0.39), (y, y + 0.18), (-0.315, -0.3), tone, hide="bd")
        m.box((-width / 2 + 0.16, -width / 2 + 0.26), (y + 0.1, y + 0.12), (-0.325, -0.315), "steel", hide="bd")
    m.box((width / 2 - 0.05, width / 2), (0.0, 0.7), (-0.3, 0.32), tone, WOOD, hide="ud")
    return Piece("desk", m, "wooden", surface=0.75)


def _cupboard(
    category: str, width: float, depth: float, height: float, tone: str, doors: int, rows: int = 1, feet: float = 0.06
) -> Piece:
    m = sized(width, depth, height)
    w, d = width / 2, depth / 2
    m.box((-w, w), (feet, height), (-d + 0.02, d), tone, WOOD)
    m.box((-w + 0.03, w - 0.03), (0.0, feet), (-d + 0.06, d), "black", hide="udb")
    step, rise = width / doors, (height - feet) / rows
    for k in range(doors):
        for r in range(rows):
            x, y = -w + k * step, feet + r * rise
            m.box((x + 0.012, x + step - 0.012), (y + 0.012, y + rise - 0.012), (-d, -d + 0.02), tone, WOOD, hide="b")
            handle = x + step - 0.08 if k % 2 == 0 else x + 0.06
            if rows > 1:
                middle = y + rise / 2
                m.box(
                    (x + step / 2 - 0.06, x + step / 2 + 0.06),
                    (middle - 0.012, middle + 0.012),
                    (-d - 0.02, -d),
                    "steel",
                    hide="bd",
                )
            else:
                m.box((handle, handle + 0.02), (y + rise * 0.42, y + rise * 0.58), (-d - 0.02, -d), "steel", hide="bd")
    m.depth = depth + 0.04
    return Piece(category, m, "wooden", surface=height if height < 1.3 else None)


def wardrobe(rng: np.random.Generator, style: Style) -> Piece:
    """A wardrobe."""
    doors = int(rng.integers(2, 4))
    tone = style.timber(rng) if rng.random() < 0.6 else style.fabric(rng)
    return _cupboard("wardrobe", 0.55 * doors, 0.56, 2.02, tone, doors)


def nightstand(rng: np.random.Generator, style: Style) -> Piece:
    """A nightstand."""
    return _cupboard("nightstand", 0.44, 0.38, 0.5, style.timber(rng), 1, 2)


def dresser(rng: np.random.Generator, style: Style) -> Piece:
    """A dresser."""
    tone = style.timber(rng) if rng.random() < 0.5 else style.fabric(rng)
    return _cupboard("dresser", float(rng.uniform(0.9, 1.2)), 0.45, 0.92, tone, 1, 4)


def sideboard(rng: np.random.Generator, style: Style) -> Piece:
    """A sideboard."""
    return _cupboard("sideboard", 1.4, 0.42, 0.82, style.timber(rng), 3)


def shoe_cabinet(rng: np.random.Generator, style: Style) -> Piece:
    """A shoe cabinet."""
    tone = style.timber(rng) if rng.random() < 0.5 else style.fabric(rng)
    return _cupboard("shoe cabinet", 0.8, 0.24, 0.9, tone, 1, 3)


def cabinet(rng: np.random.Generator, style: Style) -> Piece:
    """A cabinet."""
    tone = style.timber(rng) if rng.random() < 0.5 else style.fabric(rng)
    return _cupboard("cabinet", 0.9, 0.42, 1.5, tone, 2)


def toy_chest(rng: np.random.Generator, style: Style) -> Piece:
    """A toy chest."""
    m = sized(0.8, 0.45, 0.52)
    tone = style.fabric(rng)
    m.box((-0.38, 0.38), (0.0, 0.42), (-0.21, 0.21), tone, WOOD)
    m.box((-0.4, 0.4), (0.42, 0.52), (-0.225, 0.225), tone, WOOD, hide="")
    m.box((-0.05, 0.05), (0.34, 0.44), (-0.235, -0.21), "yellow", hide="b")
    return Piece("toy chest", m, "wooden", surface=None)


def _carcass(m: Model, tone: str, levels: int, lift: float = 0.0) -> None:
    w, d, h = m.width / 2, m.depth / 2, m.height
    for x in (-w, w - 0.035):
        m.box((x, x + 0.035), (0.0, h), (-d, d), tone, WOOD)
    m.quad((w, 0, d - 0.02), (-w, 0, d - 0.02), (-w, h, d - 0.02), (w, h, d - 0.02), tone, WOOD)
    for k in range(levels + 1):
        y = lift + (h - 0.035 - lift) * k / levels
        m.box((-w + 0.035, w - 0.035), (y, y + 0.035), (-d, d), tone, WOOD, hide="lrb")


def bookshelf(rng: np.random.Generator, style: Style) -> Piece:
    """A bookshelf."""
    width = float(rng.uniform(0.8, 1.1))
    m = sized(width, 0.32, 1.9)
    tone = style.timber(rng)
    _carcass(m, tone, 4, 0.06)
    step = (1.9 - 0.095) / 4
    for k in range(4):
        y = 0.095 + step * k
        w, z, top = width / 2 - 0.035, -0.09, y + step - 0.035
        v = k / 4
        m.quad((w, y, z), (-w, y, z), (-w, top, z), (w, top, z), "pure", BOOKS)
        polygon = m.polygons[-1]
        s = float(rng.uniform(0, 0.4))
        polygon.uv = ((s, v + 0.24), (s + 0.75, v + 0.24), (s + 0.75, v + 0.01), (s, v + 0.01))
    return Piece("bookshelf", m, "wooden")


def shelf(rng: np.random.Generator, style: Style) -> Piece:
    """Open shelves with cartons and jars."""
    m = sized(float(rng.uniform(0.8, 1.1)), 0.38, 1.7)
    tone = style.timber(rng)
    _carcass(m, tone, 3, 0.1)
    for k in range(3):
        y = 0.1 + 0.035 + (1.7 - 0.135) * k / 3
        for x in (-0.25, 0.08):
            h = float(rng.uniform(0.18, 0.36))
            m.box((x, x + 0.22), (y, y + h), (-0.14, 0.12), style.fabric(rng), hide="db")
    return Piece("shelf", m, "wooden")


def box(rng: np.random.Generator, style: Style, colour: str | None = None) -> Piece:
    """A carton with a lid; `colour` may be asked for."""
    width, depth, height = (float(rng.uniform(a, b)) for a, b in ((0.45, 0.62), (0.4, 0.52), (0.38, 0.6)))
    tone = colour or style.fabric(rng)
    m = sized(width, depth, height)
    w, d = width / 2, depth / 2
    m.box((-w + 0.015, w - 0.015), (0.0, height - 0.1), (-d + 0.015, d - 0.015), tone, hide="ud")
    m.box((-w, w), (height - 0.1, height), (-d, d), tone, hide="")
    m.box((-0.08, 0.08), (height * 0.4, height * 0.55), (-d + 0.01, -d + 0.015), "white", hide="blrud")
    return Piece("box", m, "cardboard", has_front=False)


def tv_stand(rng: np.random.Generator, style: Style) -> Piece:
    """A tv stand."""
    piece = _cupboard("tv stand", 1.5, 0.4, 0.48, style.timber(rng), 3)
    return piece


def basket(rng: np.random.Generator, style: Style) -> Piece:
    """A laundry basket."""
    m = sized(0.42, 0.42, 0.52)
    tone = style.fabric(rng)
    m.cylinder((0.0, 0.0), 0.17, (0.0, 0.5), tone, 8, top_radius=0.21, texture=FABRIC)
    return Piece("laundry basket", m, "wicker", has_front=False)


def bin_(rng: np.random.Generator, style: Style) -> Piece:
    """A bin."""
    m = sized(0.32, 0.32, 0.6)
    tone = style.fabric(rng)
    m.cylinder((0.0, 0.0), 0.14, (0.0, 0.52), tone, 8, top_radius=0.16, cap=False)
    m.cylinder((0.0, 0.0), 0.16, (0.52, 0.6), "black", 8, top_radius=0.1)
    return Piece("bin", m, "plastic", has_front=False)
