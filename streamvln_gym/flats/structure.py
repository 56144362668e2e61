"""Walls, floors, ceilings, skirting, door frames and windows as models in world coordinates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from streamvln_gym.flats.furniture.piece import Piece, sized
from streamvln_gym.flats.layout import WALL_HEIGHT, WALL_THICKNESS, Opening, Plan, shared_walls
from streamvln_gym.flats.lighting import REACH
from streamvln_gym.flats.mesh import Colour, Model, Point
from streamvln_gym.flats.palette import RGB
from streamvln_gym.flats.textures import Texture
from streamvln_gym.scene_graph import Rect

SIDES = ("west", "north", "east", "south")
"""Walls of a room: at x0, z0, x1 and z1."""
FACING = {"west": -np.pi / 2, "north": np.pi, "east": np.pi / 2, "south": 0.0}
"""Yaw that faces from a wall into the room."""
SKIRTING_HEIGHT = 0.09
FRAME_WIDTH = 0.08


@dataclass(frozen=True)
class Wall:
    """One wall of a room, seen from inside.

    Attributes:
        side: one of `SIDES`.
        plane: coordinate of its face.
        low: where it starts along x or z.
        high: where it ends.
    """

    side: str
    plane: float
    low: float
    high: float

    @property
    def along_x(self) -> bool:
        """Whether the wall runs along x."""
        return self.side in ("north", "south")

    def point(self, along: float, out: float = 0.0) -> tuple[float, float]:
        """The floor point `along` the wall and `out` metres into the room."""
        inward = self.plane + (out if self.side in ("west", "north") else -out)
        return (along, inward) if self.along_x else (inward, along)

    def place(self, out: float = 0.0) -> Callable[[float, float], Point]:
        """Maps (u, v), u to the right seen from inside and v up, to a point `out` metres in front of the wall."""
        sign = 1.0 if self.side in ("north", "east") else -1.0

        def at(u: float, v: float) -> Point:
            x, z = self.point(sign * u, out)
            return x, v, z

        return at

    def to_u(self, low: float, high: float) -> tuple[float, float]:
        """The interval low...high along the wall in the u of `place`."""
        return (low, high) if self.side in ("north", "east") else (-high, -low)


def walls_of(rect: Rect) -> tuple[Wall, ...]:
    """The four walls of a room."""
    x0, z0, x1, z1 = rect
    return Wall("west", x0, z0, z1), Wall("north", z0, x0, x1), Wall("east", x1, z0, z1), Wall("south", z1, x0, x1)


def openings_of(plan: Plan, room: int, wall: Wall) -> list[Opening]:
    """The openings in a wall, in order along it."""
    axis = "z" if wall.along_x else "x"
    found = [
        o
        for o in plan.openings
        if room in o.rooms and o.axis == axis and abs(abs(o.wall - wall.plane) - WALL_THICKNESS / 2) < 1e-6
        and wall.low - 1e-6 <= o.along <= wall.high + 1e-6
    ]  # fmt: skip
    return sorted(found, key=lambda o: o.along)


def outer_stretches(plan: Plan, room: int, wall: Wall) -> list[tuple[float, float]]:
    """The parts of a wall that no other room lies behind, at least 1 m long."""
    axis = "z" if wall.along_x else "x"
    covered = sorted(
        (s.low - WALL_THICKNESS, s.high + WALL_THICKNESS)
        for s in shared_walls(plan.cells)
        if room in s.rooms and s.axis == axis and abs(abs(s.wall - wall.plane) - WALL_THICKNESS / 2) < 1e-6
    )
    free, cursor = [], wall.low
    for low, high in [*covered, (wall.high, wall.high)]:
        if low - cursor >= 1.0:
            free.append((cursor, low))
        cursor = max(cursor, high)
    return free


def wall_model(plan: Plan, room: int, colour: RGB, texture: Texture) -> Model:
    """A room's four walls with holes for its openings."""
    model = Model()
    rows = (0.0, REACH, WALL_HEIGHT - REACH, WALL_HEIGHT)
    for wall in walls_of(plan.inner(room)):
        marks = (wall.low, wall.low + REACH, wall.high - REACH, wall.high)
        cursor = wall.low
        for opening in [*openings_of(plan, room, wall), None]:
            start = wall.high if opening is None else opening.along - opening.width / 2
            if start - cursor > 1e-6:
                _wall_part(model, wall, cursor, start, rows, marks, colour, texture)
            if opening is not None:
                end = opening.along + opening.width / 2
                lintel = (opening.height, *[r for r in rows if r > opening.height + 1e-6])
                _wall_part(model, wall, start, end, lintel, (), colour, texture)
                cursor = end
    return model


def _wall_part(
    model: Model,
    wall: Wall,
    low: float,
    high: float,
    rows: tuple[float, ...],
    marks: tuple[float, ...],
    colour: Colour,
    texture: Texture,
) -> None:
    columns = [low, *[m for m in marks if low + 0.02 < m < high - 0.02], high]
    us = sorted(u if wall.side in ("north", "east") else -u for u in columns)
    model.grid(wall.place(), us, rows, colour, texture, 0.5 if texture == Texture.TILES else 1.0)


def floor_model(plan: Plan, room: int, colour: RGB, texture: Texture, scale: float) -> Model:
    """A room's floor, with the halves of the thresholds under its openings."""
    x0, z0, x1, z1 = plan.inner(room)
    model = Model()

    def place(u: float, v: float) -> Point:
        return u, 0.0, -v

    us = (x0, x0 + REACH, x1 - REACH, x1)
    vs = (-z1, -z1 + REACH, -z0 - REACH, -z0)
    model.grid(place, us, vs, colour, texture, scale)
    for opening in plan.openings:
        if room in opening.rooms:
            a, b, c, d = doorway_rect(opening)
            first = opening.rooms[0] == room
            if opening.axis == "x":
                a, c = (a, opening.wall) if first else (opening.wall, c)
            else:
                b, d = (b, opening.wall) if first else (opening.wall, d)
            model.grid(place, (a, c), (-d, -b), colour, texture, scale)
    return model


def doorway_rect(opening: Opening) -> Rect:
    """The floor of an opening: the wall's thickness by the opening's width."""
    half, t = opening.width / 2, WALL_THICKNESS / 2
    if opening.axis == "x":
        return opening.wall - t, opening.along - half, opening.wall + t, opening.along + half
    return opening.along - half, opening.wall - t, opening.along + half, opening.wall + t


def ceiling_model(rect: Rect, colour: RGB) -> Model:
    """A room's ceiling."""
    x0, z0, x1, z1 = rect
    model = Model()
    us = (x0, x0 + REACH, x1 - REACH, x1)
    vs = (z0, z0 + REACH, z1 - REACH, z1)
    model.grid(lambda u, v: (u, WALL_HEIGHT, v), us, vs, colour, Texture.PLAIN)
    return model


def skirting_model(plan: Plan, room: int, colour: Colour) -> Model:
    """Boards along the foot of a room's walls."""
    model = Model()
    for wall in walls_of(plan.inner(room)):
        cursor = wall.low
        for opening in [*openings_of(plan, room, wall), None]:
            margin = FRAME_WIDTH if opening is not None and opening.kind == "door" else 0.0
            start = wall.high if opening is None else opening.along - opening.width / 2 - margin
            if start - cursor > 0.01:
                us = wall.to_u(cursor, start)
                model.grid(wall.place(0.012), us, (0.0, SKIRTING_HEIGHT), colour, Texture.PLAIN)
                x0, z0 = wall.point(cursor, 0.0)
                x1, z1 = wall.point(start, 0.012)
                a, b, c, d = min(x0, x1), min(z0, z1), max(x0, x1), max(z0, z1)
                y = SKIRTING_HEIGHT
                model.quad((a, y, d), (c, y, d), (c, y, b), (a, y, b), colour)
            if opening is not None:
                cursor = opening.along + opening.width / 2 + margin
    return model


def frame_model(opening: Opening, colour: Colour) -> Model:
    """The lining of an opening and, for a door, the boards around it on both sides."""
    model = Model()
    t, half, top = WALL_THICKNESS / 2, opening.width / 2, opening.height
    board = 0.018 if opening.kind == "door" else 0.0
    reach = t + board

    def at(out: float, along: float, y: float) -> Point:
        if opening.axis == "x":
            return opening.wall + out, y, opening.along + along
        return opening.along - along, y, opening.wall + out

    model.quad(at(-reach, -half, 0), at(reach, -half, 0), at(reach, -half, top), at(-reach, -half, top), colour)
    model.quad(at(reach, half, 0), at(-reach, half, 0), at(-reach, half, top), at(reach, half, top), colour)
    model.quad(at(-reach, -half, top), at(reach, -half, top), at(reach, half, top), at(-reach, half, top), colour)
    if opening.kind != "door":
        return model
    w = half + FRAME_WIDTH
    high = top + FRAME_WIDTH
    for sign in (-1.0, 1.0):

        def face(a: float, b: float, y0: float, y1: float, out: float = sign * reach, s: float = sign) -> None:
            lo, hi = (b, a) if s > 0 else (a, b)
            model.quad(at(out, lo, y0), at(out, hi, y0), at(out, hi, y1), at(out, lo, y1), colour)

        face(-w, -half, 0.0, high)
        face(half, w, 0.0, high)
        face(-half, half, top, high)
        for along in (-w, w):
            a, b = (sign * t, sign * reach) if sign * along > 0 else (sign * reach, sign * t)
            model.quad(at(a, along, 0.0), at(b, along, 0.0), at(b, along, high), at(a, along, high), colour)
    return model


def leaf_piece(width: float, colour: Colour) -> Piece:
    """An open door leaf that lies along the wall: front to the room."""
    m = sized(width, 0.05, 2.0)
    w = width / 2
    m.box((-w, w), (0.01, 2.02), (-0.025, 0.02), colour, hide="bd")
    for y0, y1 in ((0.15, 0.9), (1.05, 1.88)):
        m.box((-w + 0.14, w - 0.14), (y0, y1), (-0.033, -0.025), colour, hide="bd")
    m.box((w - 0.14, w - 0.04), (0.98, 1.02), (-0.06, -0.03), "steel", hide="b")
    return Piece("door", m, "wooden", mount="wall")


def window_piece(width: float, sill: float, top: float, frame: Colour) -> Piece:
    """A window with a view; its model starts at the sill."""
    m = sized(width, 0.06, top - sill)
    w, h, e = width / 2, top - sill, 0.06
    for x in ((-w, -w + e), (w - e, w)):
        m.box(x, (0.0, h), (-0.03, 0.03), frame, hide="bd")
    for y in ((0.0, e), (h - e, h)):
        m.box((-w + e, w - e), y, (-0.03, 0.03), frame, hide="blr")
    m.box((-0.025, 0.025), (e, h - e), (-0.025, 0.03), frame, hide="bud")
    m.box((-w - 0.06, w + 0.06), (-0.03, 0.0), (-0.05, 0.03), frame, hide="b")
    m.front((-w + e, w - e), (e, h - e), 0.01, "view")
    return Piece("window", m, None, mount="wall", bottom=sill)


def curtain_piece(width: float, colour: Colour, top: float, bottom: float) -> Piece:
    """A pair of curtains beside a window and their rail."""
    height = top - bottom
    m = sized(width + 0.7, 0.14, height)
    for side in (-1, 1):
        inner, outer = side * (width / 2 - 0.06), side * (width / 2 + 0.32)
        xs = np.linspace(max(inner, outer), min(inner, outer), 5)
        for k in range(4):
            za, zb = (-0.05, -0.02) if k % 2 == 0 else (-0.02, -0.05)
            a, b = float(xs[k]), float(xs[k + 1])
            m.quad((a, 0.0, za), (b, 0.0, zb), (b, height - 0.04, zb), (a, height - 0.04, za), colour, Texture.FABRIC)
            m.quad((b, 0.0, zb), (a, 0.0, za), (a, height - 0.04, za), (b, height - 0.04, zb), colour, Texture.FABRIC)
        for x, flip in ((float(xs[0]), False), (float(xs[-1]), True)):
            z0, z1 = (0.07, -0.05) if not flip else (-0.05, 0.07)
            m.quad((x, 0.0, z0), (x, 0.0, z1), (x, height - 0.04, z1), (x, height - 0.04, z0), colour, Texture.FABRIC)
    m.box((-width / 2 - 0.38, width / 2 + 0.38), (height - 0.04, height), (-0.06, -0.03), "black", hide="")
    return Piece("curtain", m, "fabric", mount="wall", bottom=bottom)
