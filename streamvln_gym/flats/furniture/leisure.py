"""Screens, instruments, sports, toys, a fireplace and an aquarium."""

from __future__ import annotations

import math

import numpy as np

from streamvln_gym.flats.furniture.piece import Piece, Style, legs, sized
from streamvln_gym.flats.textures import Texture

FABRIC, WOOD, PLAIN, BRICK = Texture.FABRIC, Texture.WOOD, Texture.PLAIN, Texture.BRICK


def television(rng: np.random.Generator, style: Style) -> Piece:
    """A television."""
    m = sized(1.2, 0.2, 0.76)
    m.box((-0.25, 0.25), (0.0, 0.03), (-0.1, 0.1), "black")
    m.box((-0.04, 0.04), (0.03, 0.1), (0.0, 0.05), "black", hide="ud")
    m.box((-0.6, 0.6), (0.08, 0.76), (-0.02, 0.04), "black", hide="")
    m.front((-0.59, 0.59), (0.09, 0.75), -0.023, "television")
    return Piece("television", m, None, mount="top")


def monitor(rng: np.random.Generator, style: Style) -> Piece:
    """A monitor."""
    m = sized(0.62, 0.2, 0.5)
    m.box((-0.12, 0.12), (0.0, 0.02), (-0.08, 0.08), "black")
    m.box((-0.02, 0.02), (0.02, 0.14), (0.02, 0.05), "black", hide="ud")
    m.box((-0.31, 0.31), (0.12, 0.5), (-0.02, 0.03), "black", hide="")
    m.front((-0.3, 0.3), (0.13, 0.49), -0.023, "monitor")
    return Piece("computer monitor", m, None, mount="top")


def laptop(rng: np.random.Generator, style: Style) -> Piece:
    """An open laptop."""
    m = sized(0.36, 0.26, 0.26)
    m.box((-0.17, 0.17), (0.0, 0.02), (-0.12, 0.1), "steel")
    m.picture((-0.15, 0.022, 0.06), (0.15, 0.022, 0.06), (0.15, 0.022, -0.1), (-0.15, 0.022, -0.1), "keyboard")
    m.box((-0.17, 0.17), (0.02, 0.26), (0.1, 0.115), "steel", hide="d")
    m.front((-0.16, 0.16), (0.03, 0.25), 0.098, "monitor")
    return Piece("laptop", m, None, mount="top")


def radio(rng: np.random.Generator, style: Style) -> Piece:
    """A radio."""
    m = sized(0.36, 0.16, 0.24)
    tone = style.fabric(rng)
    m.box((-0.18, 0.18), (0.0, 0.22), (-0.07, 0.08), tone)
    m.front((-0.16, -0.02), (0.03, 0.19), -0.073, "speaker")
    m.box((0.02, 0.16), (0.12, 0.18), (-0.078, -0.07), "white", hide="b")
    m.box((0.06, 0.12), (0.04, 0.09), (-0.085, -0.07), "black", hide="b")
    return Piece("radio", m, None, mount="top")


def piano(rng: np.random.Generator, style: Style) -> Piece:
    """A piano."""
    m = sized(1.45, 0.62, 1.2)
    tone = ("black", "walnut", "white", "mahogany")[int(rng.integers(4))]
    m.box((-0.725, 0.725), (0.0, 1.2), (-0.01, 0.31), tone, hide="d")
    m.box((-0.725, 0.725), (0.58, 0.7), (-0.31, -0.01), tone, hide="b")
    m.picture((-0.66, 0.705, -0.12), (0.66, 0.705, -0.12), (0.66, 0.705, -0.3), (-0.66, 0.705, -0.3), "piano keys")
    for x in (-0.7, 0.62):
        m.box((x, x + 0.08), (0.0, 0.58), (-0.3, -0.22), tone, hide="ud")
    m.box((-0.3, 0.3), (0.82, 1.05), (-0.03, -0.01), "white", hide="b")
    return Piece("piano", m, "wooden")


def guitar(rng: np.random.Generator, style: Style) -> Piece:
    """A guitar on its stand."""
    m = sized(0.42, 0.32, 1.08)
    tone = style.fabric(rng) if rng.random() < 0.6 else "pine"
    for y, r in ((0.26, 0.2), (0.52, 0.15)):
        ring = [(r * math.cos(t), y + r * math.sin(t)) for t in (2 * math.pi * (k + 0.5) / 8 for k in range(8))]
        m.polygon([(-x, v, -0.05) for x, v in ring], tone)
        m.polygon([(x, v, 0.05) for x, v in ring], tone)
        for (xa, ya), (xb, yb) in zip(ring, [*ring[1:], ring[0]], strict=True):
            m.quad((-xa, ya, -0.05), (-xa, ya, 0.05), (-xb, yb, 0.05), (-xb, yb, -0.05), tone)
    m.box((-0.07, 0.07), (0.3, 0.44), (-0.056, -0.05), "black", hide="b")
    m.box((-0.03, 0.03), (0.62, 1.08), (-0.055, -0.015), "black", hide="d")
    for x in (-0.12, 0.09):
        m.box((x, x + 0.03), (0.0, 0.1), (-0.12, 0.12), "black")
    return Piece("guitar", m, None)


def drums(rng: np.random.Generator, style: Style) -> Piece:
    """A drum kit."""
    m = sized(1.2, 0.95, 0.95)
    tone = style.fabric(rng)
    for x, z, r, y0, y1 in (
        (0.0, 0.1, 0.3, 0.05, 0.55),
        (-0.36, -0.2, 0.18, 0.42, 0.62),
        (0.36, -0.2, 0.18, 0.42, 0.62),
    ):
        m.cylinder((x, z), r, (y0, y1), tone, 9, cap=False)
        m.cylinder((x, z), r, (y1, y1 + 0.02), "white", 9)
        m.cylinder((x, z), 0.03, (0.0, y0), "steel", 4, cap=False)
    for x in (-0.42, 0.42):
        m.cylinder((x, 0.28), 0.015, (0.0, 0.92), "steel", 4, cap=False)
        m.cylinder((x, 0.28), 0.17, (0.92, 0.95), "yellow", 8, top_radius=0.02)
    return Piece("drum kit", m, None)


def speaker(rng: np.random.Generator, style: Style) -> Piece:
    """A speaker."""
    m = sized(0.32, 0.32, 0.95)
    tone = "black" if rng.random() < 0.7 else style.timber(rng)
    m.box((-0.16, 0.16), (0.0, 0.95), (-0.15, 0.16), tone)
    m.front((-0.15, 0.15), (0.3, 0.93), -0.153, "speaker")
    return Piece("speaker", m, None)


def treadmill(rng: np.random.Generator, style: Style) -> Piece:
    """A treadmill."""
    m = sized(0.78, 1.65, 1.35)
    tone = ("red", "blue", "grey", "yellow", "orange")[int(rng.integers(5))]
    m.box((-0.39, 0.39), (0.02, 0.16), (-0.82, 0.82), tone)
    m.quad((-0.27, 0.163, 0.6), (0.27, 0.163, 0.6), (0.27, 0.163, -0.8), (-0.27, 0.163, -0.8), "black", FABRIC)
    for x in (-0.36, 0.3):
        m.box((x, x + 0.06), (0.16, 1.15), (0.6, 0.68), "black", hide="d")
        m.box((x, x + 0.06), (0.9, 0.96), (0.05, 0.6), "black", hide="b")
    m.box((-0.38, 0.38), (1.12, 1.35), (0.56, 0.68), tone, hide="")
    m.box((-0.25, 0.25), (1.16, 1.32), (0.545, 0.56), "black", hide="b")
    return Piece("treadmill", m, None)


def exercise_bike(rng: np.random.Generator, style: Style) -> Piece:
    """An exercise bike."""
    m = sized(0.5, 1.05, 1.2)
    tone = style.fabric(rng)
    for z in (-0.45, 0.4):
        m.box((-0.25, 0.25), (0.0, 0.07), (z, z + 0.08), "black")
    m.box((-0.05, 0.05), (0.07, 0.3), (-0.4, 0.45), tone)
    m.box((-0.05, 0.05), (0.3, 0.85), (-0.3, -0.2), tone)
    m.box((-0.12, 0.12), (0.85, 0.93), (-0.42, -0.12), "black", hide="")
    m.box((-0.045, 0.045), (0.3, 1.1), (0.3, 0.4), tone)
    m.box((-0.24, 0.24), (1.06, 1.12), (0.16, 0.22), "black", hide="")
    m.box((-0.13, 0.13), (1.06, 1.2), (0.24, 0.42), "black", hide="")
    ring = [(0.3 * math.cos(t), 0.36 + 0.3 * math.sin(t)) for t in (2 * math.pi * k / 9 for k in range(9))]
    m.polygon([(0.07, y, 0.2 - z) for z, y in ring], tone)
    m.polygon([(-0.07, y, 0.2 + z) for z, y in ring], tone)
    for (za, ya), (zb, yb) in zip(ring, [*ring[1:], ring[0]], strict=True):
        m.quad((-0.07, ya, 0.2 + za), (0.07, ya, 0.2 + za), (0.07, yb, 0.2 + zb), (-0.07, yb, 0.2 + zb), "black")
    return Piece("exercise bike", m, None)


def exercise_ball(rng: np.random.Generator, style: Style) -> Piece:
    """An exercise ball."""
    m = sized(0.64, 0.64, 0.64)
    m.ellipsoid((0.0, 0.32, 0.0), (0.32, 0.32, 0.32), style.fabric(rng), 9, 6)
    return Piece("exercise ball", m, None, has_front=False)


def dumbbell_rack(rng: np.random.Generator, style: Style) -> Piece:
    """A dumbbell rack."""
    m = sized(1.1, 0.42, 0.8)
    for x in (-0.55, 0.5):
        m.box((x, x + 0.05), (0.0, 0.8), (-0.2, 0.2), "black")
    for y in (0.3, 0.66):
        m.box((-0.5, 0.5), (y, y + 0.04), (-0.2, 0.2), "black", hide="")
        for k in range(4):
            x = -0.38 + 0.25 * k
            tone = ("red", "blue", "yellow", "green")[k]
            m.box((x - 0.06, x + 0.06), (y + 0.04, y + 0.16), (-0.17, -0.05), tone)
            m.box((x - 0.06, x + 0.06), (y + 0.04, y + 0.16), (0.06, 0.18), tone)
    return Piece("dumbbell rack", m, None)


def fireplace(rng: np.random.Generator, style: Style) -> Piece:
    """A fireplace."""
    m = sized(1.4, 0.45, 1.2)
    tone = ("red", "white", "grey", "white")[int(rng.integers(4))]
    m.box((-0.7, 0.7), (0.0, 1.1), (-0.18, 0.225), tone, BRICK, hide="ud")
    m.box((-0.75, 0.75), (1.1, 1.2), (-0.225, 0.225), "walnut" if tone != "red" else "white", WOOD, hide="b")
    m.front((-0.42, 0.42), (0.06, 0.74), -0.183, "fire")
    m.width = 1.5
    return Piece("fireplace", m, "brick", surface=1.2)


def aquarium(rng: np.random.Generator, style: Style) -> Piece:
    """An aquarium."""
    m = sized(1.0, 0.42, 1.22)
    tone = style.timber(rng)
    m.box((-0.5, 0.5), (0.0, 0.7), (-0.2, 0.2), tone, WOOD)
    m.front((-0.5, 0.5), (0.7, 1.16), -0.2, "aquarium")
    m.picture((0.5, 0.7, 0.2), (0.5, 0.7, -0.2), (0.5, 1.16, -0.2), (0.5, 1.16, 0.2), "aquarium")
    m.picture((-0.5, 0.7, -0.2), (-0.5, 0.7, 0.2), (-0.5, 1.16, 0.2), (-0.5, 1.16, -0.2), "aquarium")
    m.picture((-0.5, 0.7, 0.2), (0.5, 0.7, 0.2), (0.5, 1.16, 0.2), (-0.5, 1.16, 0.2), "aquarium")
    m.box((-0.51, 0.51), (1.16, 1.22), (-0.21, 0.21), "black", hide="")
    m.width, m.depth = 1.02, 0.42
    return Piece("aquarium", m, None)


def easel(rng: np.random.Generator, style: Style) -> Piece:
    """An easel."""
    m = sized(0.7, 0.6, 1.6)
    tone = style.timber(rng)
    motif = ("sunset", "mountains", "sea", "flowers", "abstract")[int(rng.integers(5))]
    for x in (-0.3, 0.26):
        m.box((x, x + 0.04), (0.0, 1.6), (-0.06, -0.02), tone)
    m.box((-0.02, 0.02), (0.0, 1.3), (0.2, 0.24), tone)
    m.box((-0.33, 0.33), (0.7, 0.75), (-0.12, -0.02), tone, hide="b")
    m.box((-0.34, 0.34), (0.75, 1.35), (-0.1, -0.06), "white", hide="")
    m.front((-0.33, 0.33), (0.76, 1.34), -0.103, motif)
    return Piece("easel", m, motif)


def toy_blocks(rng: np.random.Generator, style: Style) -> Piece:
    """A toy blocks."""
    m = sized(0.5, 0.4, 0.4)
    for x, y, z, tone in (
        (-0.2, 0.0, -0.12, "red"),
        (0.02, 0.0, -0.1, "blue"),
        (-0.09, 0.18, -0.1, "yellow"),
        (0.05, 0.0, 0.1 - 0.02, "green"),
    ):
        m.box((x, x + 0.18), (y, y + 0.18), (z, z + 0.18), tone)
    return Piece("toy blocks", m, None, has_front=False)


def rocking_horse(rng: np.random.Generator, style: Style) -> Piece:
    """A rocking horse."""
    m = sized(0.36, 0.95, 0.82)
    tone = style.fabric(rng)
    for x in (-0.16, 0.11):
        m.box((x, x + 0.05), (0.0, 0.06), (-0.45, 0.45), "walnut")
        for z in (-0.25, 0.2):
            m.box((x, x + 0.05), (0.06, 0.4), (z, z + 0.06), tone, hide="ud")
    m.box((-0.14, 0.14), (0.38, 0.58), (-0.3, 0.32), tone, hide="")
    m.box((-0.07, 0.07), (0.5, 0.82), (-0.4, -0.24), tone, hide="")
    m.box((-0.065, 0.065), (0.66, 0.8), (-0.475, -0.4), tone, hide="")
    m.box((-0.15, 0.15), (0.58, 0.61), (-0.1, 0.12), "walnut")
    return Piece("rocking horse", m, "wooden")


def play_table(rng: np.random.Generator, style: Style) -> Piece:
    """A play table."""
    m = sized(0.8, 0.6, 0.5)
    tone = style.fabric(rng)
    m.box((-0.4, 0.4), (0.45, 0.5), (-0.3, 0.3), tone, hide="")
    legs(m, 0.45, tone, 0.07, 0.02)
    return Piece("play table", m, "plastic", surface=0.5)


def chess_table(rng: np.random.Generator, style: Style) -> Piece:
    """A chess table."""
    m = sized(0.6, 0.6, 0.7)
    tone = style.timber(rng)
    m.box((-0.3, 0.3), (0.65, 0.7), (-0.3, 0.3), tone, WOOD, hide="")
    m.picture((-0.24, 0.703, 0.24), (0.24, 0.703, 0.24), (0.24, 0.703, -0.24), (-0.24, 0.703, -0.24), "chessboard")
    legs(m, 0.65, tone, 0.05, 0.03)
    return Piece("chess table", m, "wooden", has_front=False)


def dartboard(rng: np.random.Generator, style: Style) -> Piece:
    """A dartboard."""
    m = sized(0.5, 0.05, 0.5)
    m.box((-0.25, 0.25), (0.0, 0.5), (-0.025, 0.025), "black")
    m.front((-0.245, 0.245), (0.005, 0.495), -0.028, "dartboard")
    return Piece("dartboard", m, None, mount="wall", bottom=1.4)
