"""Procedural textures: repeating ones that multiply a colour, and atlases of pictures, screens and window views."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]


class Texture(IntEnum):
    """Index of each texture in `Flat.textures`."""

    PLAIN = 0
    PLANKS = 1
    PARQUET = 2
    TILES = 3
    CARPET = 4
    CONCRETE = 5
    WOOD = 6
    FABRIC = 7
    BRICK = 8
    STRIPES = 9
    BOOKS = 10
    PICTURES = 11
    DETAILS = 12
    VIEW = 13
    RUG = 14

    @property
    def is_picture(self) -> bool:
        """Whether it has colours of its own instead of multiplying the polygon's."""
        return self in (Texture.BOOKS, Texture.PICTURES, Texture.DETAILS, Texture.VIEW)


PICTURES = ("sunset", "mountains", "sea", "forest", "flowers", "portrait", "abstract", "city", "boat")
DETAILS = (
    "television", "monitor", "clock", "aquarium",
    "globe", "oven", "porthole", "keyboard",
    "piano keys", "fire", "radiator", "mirror",
    "hob", "chessboard", "speaker", "dartboard",
)  # fmt: skip
_GRID = {Texture.PICTURES: (PICTURES, 3), Texture.DETAILS: (DETAILS, 4)}


def atlas_cell(name: str) -> tuple[Texture, tuple[float, float, float, float]]:
    """The atlas and the rectangle (u0, v0, u1, v1) that hold a picture by name; "view" is the window's view.

    Raises:
        ValueError: no atlas holds it.
    """
    if name == "view":
        return Texture.VIEW, (0.0, 0.0, 1.0, 1.0)
    for texture, (names, columns) in _GRID.items():
        if name in names:
            row, column = divmod(names.index(name), columns)
            inset = 0.012 / columns * 3
            return texture, (
                column / columns + inset,
                row / columns + inset,
                (column + 1) / columns - inset,
                (row + 1) / columns - inset,
            )
    raise ValueError(f"no picture is called {name!r}; there are {PICTURES + DETAILS} and 'view'")


def make_textures(rng: np.random.Generator) -> tuple[Image, ...]:
    """All textures of a flat, uint8 (S, S, 3) each, in the order of `Texture`."""
    from streamvln_gym.flats import paintings

    images = {
        Texture.PLAIN: _noise(64, rng, 0.03),
        Texture.PLANKS: _planks(128, rng),
        Texture.PARQUET: _parquet(128, rng),
        Texture.TILES: _tiles(64, rng),
        Texture.CARPET: _noise(64, rng, 0.16),
        Texture.CONCRETE: _concrete(64, rng),
        Texture.WOOD: _grain(64, rng),
        Texture.FABRIC: _fabric(32, rng),
        Texture.BRICK: _brick(64, rng),
        Texture.STRIPES: _stripes(64),
        Texture.BOOKS: _books(128, rng),
        Texture.PICTURES: paintings.picture_atlas(rng),
        Texture.DETAILS: paintings.detail_atlas(rng),
        Texture.VIEW: paintings.window_view(rng),
        Texture.RUG: _rug(64, rng),
    }
    return tuple(images[texture] for texture in Texture)


def _to_image(value: NDArray) -> Image:
    """Grey (S, S) or colour (S, S, 3) values in 0...1 as uint8 (S, S, 3), in 64 grey levels so that PNG packs them."""
    if value.ndim == 2:
        value = np.repeat(value[..., None], 3, axis=2)
    return (np.round(np.clip(value, 0.0, 1.0) * 63.75) * 4).clip(0, 255).astype(np.uint8)


def _noise(size: int, rng: np.random.Generator, amount: float) -> Image:
    return _to_image(1.0 - amount * rng.random((size, size)))


def _coordinates(size: int) -> tuple[NDArray, NDArray]:
    y, x = np.mgrid[0:size, 0:size]
    return x, y


def _planks(size: int, rng: np.random.Generator) -> Image:
    x, y = _coordinates(size)
    height = size // 8
    row = y // height
    shift = np.array([0, 5, 2, 7, 1, 6, 3, 4])[row % 8] * (size // 8)
    board = row * 2 + ((x + shift) % size) // (size // 2)
    tone = 1.0 - 0.22 * rng.random(16)[board % 16]
    seam = np.where((y % height == 0) | ((x + shift) % (size // 2) == 0), 0.72, 1.0)
    grain = 0.03 * np.sin(x * 0.5 + board * 3 + 2 * np.sin(y * 1.3))
    return _to_image(tone * seam + grain - 0.03)


def _parquet(size: int, rng: np.random.Generator) -> Image:
    x, y = _coordinates(size)
    cell = size // 4
    turned = ((x // cell + y // cell) % 2).astype(bool)
    along = np.where(turned, x, y) % cell
    strip = along // (cell // 4)
    index = (x // cell) * 16 + (y // cell) * 4 + strip
    tone = 1.0 - 0.25 * rng.random(64)[index % 64]
    seam = np.where((along % (cell // 4) == 0) | (np.where(turned, y, x) % cell == 0), 0.8, 1.0)
    return _to_image(tone * seam)


def _tiles(size: int, rng: np.random.Generator) -> Image:
    x, y = _coordinates(size)
    cell = size // 2
    tone = 1.0 - 0.06 * rng.random(4)[(x // cell) * 2 + y // cell]
    joint = (x % cell < 2) | (y % cell < 2)
    return _to_image(np.where(joint, 0.74, tone))


def _concrete(size: int, rng: np.random.Generator) -> Image:
    x, y = _coordinates(size)
    turn = 2 * np.pi / size
    cloud = sum(
        np.sin(turn * (a * x + b * y) + p) / 6
        for a, b, p in zip((1, 2, -1, 3), (2, -1, 1, 2), rng.uniform(0, 6.28, 4), strict=True)
    )
    return _to_image(0.9 + 0.08 * cloud - 0.06 * rng.random((size, size)))


def _grain(size: int, rng: np.random.Generator) -> Image:
    x, y = _coordinates(size)
    turn = 2 * np.pi / size
    wave = np.sin(turn * 8 * y + 0.9 * np.sin(turn * x + 1.0) + rng.uniform(0, 6))
    return _to_image(0.95 + 0.035 * wave - 0.03 * rng.random((size, 1)))


def _fabric(size: int, rng: np.random.Generator) -> Image:
    x, y = _coordinates(size)
    return _to_image(1.0 - 0.04 * ((x // 2 + y // 2) % 2) - 0.04 * rng.random((size, size)))


def _brick(size: int, rng: np.random.Generator) -> Image:
    x, y = _coordinates(size)
    height, width = size // 8, size // 4
    row = y // height
    shifted = x + (row % 2) * (width // 2)
    tone = 1.0 - 0.14 * rng.random(32)[(row * 4 + (shifted // width) % 4) % 32]
    return _to_image(np.where((y % height == 0) | (shifted % width == 0), 0.78, tone))


def _stripes(size: int) -> Image:
    x, _ = _coordinates(size)
    return _to_image(np.where((x * 8 // size) % 2 == 0, 1.0, 0.92))


def _books(size: int, rng: np.random.Generator) -> Image:
    """Four shelves of coloured book spines."""
    image = np.full((size, size, 3), 0.16)
    tones = np.array([[0.75, 0.2, 0.2], [0.2, 0.35, 0.7], [0.25, 0.55, 0.3], [0.85, 0.7, 0.3], [0.9, 0.88, 0.8],
                      [0.45, 0.28, 0.55], [0.3, 0.3, 0.32], [0.85, 0.5, 0.25], [0.3, 0.62, 0.62]])  # fmt: skip
    shelf = size // 4
    for level in range(4):
        bottom, x = (level + 1) * shelf - 4, 1
        while x < size - 5:
            width, height = int(rng.integers(4, 10)), int(rng.integers(shelf - 14, shelf - 7))
            colour = tones[rng.integers(len(tones))] * rng.uniform(0.8, 1.1)
            image[bottom - height : bottom, x : x + width - 1] = colour
            image[bottom - height + 4 : bottom - height + 6, x : x + width - 1] = colour * 0.65
            x += width
        image[bottom : bottom + 4] = (0.5, 0.34, 0.2)
    return _to_image(image)


def _rug(size: int, rng: np.random.Generator) -> Image:
    """A bordered pattern that multiplies the rug's colour; it is stretched once over the rug."""
    x, y = _coordinates(size)
    edge = np.minimum.reduce([x, y, size - 1 - x, size - 1 - y])
    kind = int(rng.integers(3))
    radius = np.hypot(x - size / 2, y - size / 2)
    inner = ((x // 8 + y // 8) % 2, (x // 8) % 2, (radius // 8) % 2)[kind]
    pattern = 1.0 - 0.16 * inner
    return _to_image(np.where(edge < 3, 0.72, np.where((edge >= 6) & (edge < 8), 0.8, pattern)))
