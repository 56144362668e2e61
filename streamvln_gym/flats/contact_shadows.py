"""Soft dark rims on the floor around what stands on it."""

from __future__ import annotations

from streamvln_gym.flats.mesh import Model, Polygon
from streamvln_gym.flats.palette import RGB
from streamvln_gym.flats.textures import Texture
from streamvln_gym.scene_graph import Rect

_RIM = 0.12
_DARK, _DIM = 0.62, 0.84
_OPEN_BELOW = frozenset(
    ("weight bench", "easel", "drum kit", "exercise bike", "exercise ball", "dumbbell rack", "guitar", "crib", "chair",
     "office chair", "desk", "table", "dining table", "coffee table", "chess table", "play table", "ironing board")
)  # fmt: skip
"""Furniture under which one sees the floor."""


def contact_shadow(
    category: str, footprint: Rect, room: Rect, y: float, colour: RGB, texture: Texture, scale: float
) -> Model:
    """A patch of floor, `y` metres above it, that is dark under the footprint and fades to the floor's own shade.

    Args:
        category: what stands there.
        footprint: its.
        room: the rim stays inside it.
        y: metres; patches that overlap need different heights.
        colour: of the floor.
        texture: of the floor.
        scale: of the floor's texture, metres a repeat.
    """
    x0, z0, x1, z1 = footprint
    a, b = max(x0 - _RIM, room[0]), max(z0 - _RIM, room[1])
    c, d = min(x1 + _RIM, room[2]), min(z1 + _RIM, room[3])
    inset = 0.03
    x0, z0, x1, z1 = x0 + inset, z0 + inset, x1 - inset, z1 - inset
    model = Model()
    dark = _DIM if category in _OPEN_BELOW else _DARK

    def add(corners: tuple[tuple[float, float], ...], shades: tuple[float, ...]) -> None:
        points = [(x, y, z) for x, z in corners]
        uv = [(x / scale, z / scale) for x, z in corners]
        model.polygons.append(Polygon(points, uv, colour, texture, shades))

    add(((x0, z1), (x1, z1), (x1, z0), (x0, z0)), (dark,) * 4)
    rim = (dark, dark, 1.0, 1.0)
    add(((x1, z1), (x0, z1), (a, d), (c, d)), rim)
    add(((x0, z0), (x1, z0), (c, b), (a, b)), rim)
    add(((x0, z1), (x0, z0), (a, b), (a, d)), rim)
    add(((x1, z0), (x1, z1), (c, d), (c, b)), rim)
    return model
