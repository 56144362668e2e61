"""Scenes for the navigation mesh builder, made of exact numbers so that every machine gets the same triangles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Corners of a box's six sides, counter-clockwise seen from outside; bit 0, 1, 2 of a corner: high x, y, z.
_SIDES = ((0, 1, 5, 4), (2, 6, 7, 3), (0, 2, 3, 1), (4, 5, 7, 6), (0, 4, 6, 2), (1, 3, 7, 5))
_TURNS = ((1.0, 0.0), (0.6, 0.8), (0.8, 0.6), (0.28, 0.96))  # cosine and sine of angles with exact hypotenuses


def quad(a: Sequence[float], b: Sequence[float], c: Sequence[float], d: Sequence[float]) -> np.ndarray:
    """Two triangles (2, 3, 3); seen from the front the corners run counter-clockwise."""
    return np.array([[a, b, c], [a, c, d]], np.float32)


def box(low: Sequence[float], high: Sequence[float], turn: int = 0) -> np.ndarray:
    """The sides of a box, (12, 3, 3), turned around its middle by one of four angles."""
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    corners = np.array([[(low, high)[k >> axis & 1][axis] for axis in range(3)] for k in range(8)])
    middle, (cosine, sine) = (low + high) / 2, _TURNS[turn]
    x, z = corners[:, 0] - middle[0], corners[:, 2] - middle[2]
    corners[:, 0], corners[:, 2] = middle[0] + cosine * x - sine * z, middle[2] + sine * x + cosine * z
    return np.concatenate([quad(*corners[list(side)]) for side in _SIDES])


def floor(x0: float, z0: float, x1: float, z1: float, y: float = 0.0) -> np.ndarray:
    """A level floor, (2, 3, 3)."""
    return quad((x0, y, z0), (x0, y, z1), (x1, y, z1), (x1, y, z0))


def two_storeys() -> np.ndarray:
    """Two floors of 10 x 7 m, 3 m apart, with a stair and a ramp between them, walls and furniture."""
    parts = [floor(0, 0, 10, 7)]
    upper = ((0, 0, 10, 2), (0, 3.25, 6, 7), (6, 3.25, 10, 5), (0, 2, 1, 3.25), (6.125, 2, 10, 3.25))
    parts += [box((x0, 2.75, z0), (x1, 3, z1)) for x0, z0, x1, z1 in upper]  # with holes for the stair and the ramp
    parts += [box((1 + 0.34375 * k, 0, 2.125), (1.34375 + 0.34375 * k, 0.2 * (k + 1), 3.125)) for k in range(15)]
    parts.append(quad((6.25, 3, 5), (6.25, 0, 7), (10, 0, 7), (10, 3, 5)))  # too steep: 56 degrees
    parts.append(quad((6.5, 0, 0.5), (6.5, 0, 1.5), (9.5, 1, 1.5), (9.5, 1, 0.5)))  # a ramp to nowhere
    walls_and_furniture = (
        ((0, 0, -0.125), (10, 5.5, 0)),
        ((0, 0, 7), (10, 5.5, 7.125)),
        ((-0.125, 0, 0), (0, 5.5, 7)),
        ((10, 0, 0), (10.125, 5.5, 7)),
        ((3, 0, 3.25), (3.125, 2.75, 5.5)),
        ((5, 3, 0), (5.125, 5.5, 1)),
        ((4, 0, 5), (5, 0.75, 6)),
        ((1, 0, 5), (1.5, 0.125, 5.5)),
        ((2, 3, 4.5), (2.75, 3.5, 6)),
    )
    parts += [box(low, high) for low, high in walls_and_furniture]
    return np.concatenate(parts)


def terrain() -> np.ndarray:
    """Hills of 12 x 12 m with rocks: slopes, ledges and heights that need a detail mesh."""
    rng = np.random.default_rng(5)
    coarse = rng.integers(0, 200, (7, 7)) / 64.0
    k = np.arange(25)
    cell, part = np.minimum(k // 4, 5), (k - 4 * np.minimum(k // 4, 5)) / 4.0
    rows = coarse[cell] * (1 - part)[:, None] + coarse[cell + 1] * part[:, None]
    heights = rows[:, cell] * (1 - part) + rows[:, cell + 1] * part + rng.integers(0, 12, (25, 25)) / 64.0
    points = np.stack(np.broadcast_arrays(k[:, None] * 0.5, heights, k * 0.5), axis=2)
    p, q, r, s = points[:-1, :-1], points[:-1, 1:], points[1:, 1:], points[1:, :-1]
    cells = np.stack([np.stack([p, q, r], 2), np.stack([p, r, s], 2)], 2)
    parts = [cells.reshape(-1, 3, 3).astype(np.float32)]
    for _ in range(12):
        cx, cz = rng.integers(64, 700, 2) / 64.0
        parts.append(box((cx - 0.25, 0, cz - 0.375), (cx + 0.25, 4, cz + 0.375), int(rng.integers(4))))
    return np.concatenate(parts)


def pillars() -> np.ndarray:
    """A hall of 16 x 12 m with turned boxes: many holes, narrow ways, small rooms."""
    rng = np.random.default_rng(11)
    parts = [floor(0, 0, 16, 12)]
    for _ in range(70):
        cx, cz = rng.integers(0, 1024) / 64.0, rng.integers(0, 768) / 64.0
        w, d = rng.integers(4, 48, 2) / 64.0
        height = rng.integers(4, 160) / 64.0
        parts.append(box((cx - w, 0, cz - d), (cx + w, height, cz + d), int(rng.integers(4))))
    return np.concatenate(parts)


def posts() -> np.ndarray:
    """Halls with thin posts near their walls, round which regions close: holes that are joined to outlines."""
    rng = np.random.default_rng(2)
    parts = [floor(0, 0, 25, 9), box((8, 0, 0), (8.125, 2, 9)), box((16.5, 0, 0), (16.625, 2, 9))]
    for left, right in ((0, 8), (8.125, 16.5), (16.625, 25)):
        for _ in range(6):
            gap, along = rng.integers(40, 80) / 64.0, rng.integers(100, 400) / 64.0
            for x, z in ((left + gap, along), (right - gap, 9 - along), (left + along, gap), (right - along, 9 - gap)):
                if rng.random() < 0.4:
                    parts.append(box((x - 0.03125, 0, z - 0.03125), (x + 0.03125, 2, z + 0.0625)))
    return np.concatenate(parts)


def soup() -> np.ndarray:
    """Random triangles that belong to no sensible building: many layers, overlaps and ledges."""
    rng = np.random.default_rng(23)
    centres = rng.integers(0, 512, (900, 1, 3)) / 64.0 * np.array([1.0, 0.5, 1.0])
    corners = centres + rng.integers(-96, 97, (900, 3, 3)) / 64.0 * np.array([1.0, 0.125, 1.0])
    return corners.astype(np.float32)


def far_hills() -> np.ndarray:
    """The hills elsewhere, where sums of float32 are rounded in other places."""
    return terrain() + np.array([-3.3, -1.7, 12.9], np.float32)


SCENES = {
    "two_storeys": two_storeys,
    "terrain": terrain,
    "pillars": pillars,
    "posts": posts,
    "soup": soup,
    "far_hills": far_hills,
}
