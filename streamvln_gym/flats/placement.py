"""Finds places for furniture in one room: against walls, in corners, in the middle, on walls, on other pieces."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from streamvln_gym.flats.furniture.piece import Piece
from streamvln_gym.flats.layout import WALL_HEIGHT, Opening, Plan
from streamvln_gym.flats.structure import FACING, FRAME_WIDTH, Wall, openings_of, walls_of
from streamvln_gym.geometry import wrap_angle
from streamvln_gym.scene_graph import Rect

CELL = 0.1
DOOR_ZONE = 0.8
"""Metres in front of an opening that stay free."""
WALKING_HEIGHT = 1.7
"""A thing whose bottom is lower than this stands in the way of a walking person."""


@dataclass(frozen=True)
class Placed:
    """A piece with its place: the model's origin at (x, y, z), turned by `yaw`; `on` is what it stands on."""

    piece: Piece
    x: float
    y: float
    z: float
    yaw: float
    footprint: Rect
    height: float
    on: Placed | None = None

    @property
    def blocks(self) -> bool:
        """Whether nothing else can be where it is: neither a rug nor a thing on top of another."""
        return self.on is None and self.piece.category != "rug"

    @property
    def top(self) -> float:
        """Metres above the floor of its highest point."""
        return self.y + self.height


def overlap(a: Rect, b: Rect, gap: float = 0.0) -> bool:
    """Whether two rectangles come nearer than `gap`."""
    return a[0] < b[2] + gap and b[0] < a[2] + gap and a[1] < b[3] + gap and b[1] < a[3] + gap


def _inside(inner: Rect, outer: Rect, margin: float) -> bool:
    """Whether a rectangle lies in another, at least `margin` metres from its edges."""
    return (
        inner[0] >= outer[0] + margin
        and inner[1] >= outer[1] + margin
        and inner[2] <= outer[2] - margin
        and inner[3] <= outer[3] - margin
    )


def footprint_of(piece: Piece, x: float, z: float, yaw: float) -> Rect:
    """The bounding rectangle of a piece whose origin is at (x, z), turned by `yaw`."""
    c, s = math.cos(yaw), math.sin(yaw)
    (x0, _, z0), (x1, _, z1) = piece.bounds
    corners = [(c * a + s * b, c * b - s * a) for a in (x0, x1) for b in (z0, z1)]
    xs, zs = [p[0] for p in corners], [p[1] for p in corners]
    return x + min(xs), z + min(zs), x + max(xs), z + max(zs)


class RoomPlanner:
    """The state of one room while it is being furnished.

    Attributes:
        rect: inner rectangle.
        placed: what has a place so far.
    """

    def __init__(self, plan: Plan, room: int, rng: np.random.Generator) -> None:
        self.rect = plan.inner(room)
        self.room = room
        self.type = plan.types[room]
        self.rng = rng
        self.placed: list[Placed] = []
        self.walls = walls_of(self.rect)
        self.clearance = 0.42 if self.type == "hallway" else 0.32
        self._reserved: dict[str, list[tuple[float, float, float, float]]] = {w.side: [] for w in self.walls}
        self._zones: list[Rect] = []
        self._ways: list[Rect] = []
        self._fronts: list[tuple[Placed, Rect]] = []
        self._entries: list[tuple[float, float]] = []
        for wall in self.walls:
            for opening in openings_of(plan, room, wall):
                self._add_opening(wall, opening)
        self._blocked = self._wall_mask()

    def _add_opening(self, wall: Wall, opening: Opening) -> None:
        half = opening.width / 2 + FRAME_WIDTH + 0.02
        self._reserved[wall.side].append((opening.along - half, opening.along + half, 0.0, WALL_HEIGHT))
        ax, az = wall.point(opening.along - half, 0.0)
        bx, bz = wall.point(opening.along + half, DOOR_ZONE)
        self._zones.append((min(ax, bx), min(az, bz), max(ax, bx), max(az, bz)))
        self._entries.append(wall.point(opening.along, 0.4))
        ax, az = wall.point(opening.along - 0.15, 0.0)
        bx, bz = wall.point(opening.along + 0.15, 0.55)
        self._ways.append((min(ax, bx), min(az, bz), max(ax, bx), max(az, bz)))

    def _wall_mask(self) -> NDArray[np.bool_]:
        x0, z0, x1, z1 = self.rect
        xs = x0 + CELL * (np.arange(max(1, int((x1 - x0) / CELL))) + 0.5)
        zs = z0 + CELL * (np.arange(max(1, int((z1 - z0) / CELL))) + 0.5)
        self._xs, self._zs = xs, zs
        r = self.clearance - 0.02
        free_x, free_z = (xs > x0 + r) & (xs < x1 - r), (zs > z0 + r) & (zs < z1 - r)
        blocked = ~(free_x[:, None] & free_z[None, :])
        for a, b, c, d in self._ways:  # the way through an opening reaches up to the wall
            blocked[np.ix_((xs > a) & (xs < c), (zs > b) & (zs < d))] = False
        return blocked

    def _mask(self, rect: Rect) -> tuple[slice, slice]:
        r = self.clearance
        a, b = np.searchsorted(self._xs, (rect[0] - r, rect[2] + r))
        c, d = np.searchsorted(self._zs, (rect[1] - r, rect[3] + r))
        return slice(a, b), slice(c, d)

    def _passable(self, rect: Rect) -> bool:
        """Whether all openings stay joined by a wide enough way, and no large part of the room is cut off."""
        blocked = self._blocked.copy()
        blocked[self._mask(rect)] = True
        labels, count = ndimage.label(~blocked)
        if count == 0:
            return False
        entries = set()
        for x, z in self._entries:
            i = min(max(int((x - self.rect[0]) / CELL), 0), len(self._xs) - 1)
            j = min(max(int((z - self.rect[1]) / CELL), 0), len(self._zs) - 1)
            entries.add(int(labels[i, j]))
        if len(entries) != 1 or 0 in entries:
            return False
        sizes = np.bincount(labels.ravel())
        return bool(sizes[entries.pop()] >= 0.85 * sizes[1:].sum())

    # ------------------------------------------------------------------ reservations

    def reserve(self, wall: Wall, low: float, high: float, bottom: float, top: float) -> None:
        """Keeps a part of a wall free of wall-mounted things and of furniture higher than `bottom`."""
        self._reserved[wall.side].append((low, high, bottom, top))

    def wall_free(self, wall: Wall, low: float, high: float, bottom: float, top: float, gap: float = 0.06) -> bool:
        """Whether a part of a wall is free of openings, windows, wall-mounted things and furniture."""
        if low < wall.low + 0.02 or high > wall.high - 0.02:
            return False
        for a, b, c, d in self._reserved[wall.side]:
            if low < b + gap and a < high + gap and bottom < d and c < top:
                return False
        ax, az = wall.point(low, 0.0)
        bx, bz = wall.point(high, 0.3)
        strip = (min(ax, bx), min(az, bz), max(ax, bx), max(az, bz))
        return not any(overlap(strip, p.footprint) and p.top > bottom - 0.04 for p in self.placed if p.blocks)

    # ------------------------------------------------------------------ placing

    def try_put(
        self,
        piece: Piece,
        x: float,
        z: float,
        yaw: float,
        gap: float = 0.03,
        front: float = 0.0,
        check_way: bool = True,
        may_use_fronts: bool = False,
        partner: Placed | None = None,
    ) -> Placed | None:
        """Puts a piece on the floor at a place, if it fits there.

        Args:
            piece: what.
            x: metres, of its middle.
            z: metres, of its middle.
            yaw: radians.
            gap: metres to other pieces, at least.
            front: metres in front of it to be kept free of later pieces.
            check_way: whether ways between the openings have to stay open (rugs need no check).
            may_use_fronts: whether it may stand in front of others (chairs at tables do).
            partner: a piece under which it may reach (a chair's table).
        """
        height = piece.size[2]
        rect = footprint_of(piece, x, z, yaw)
        if not _inside(rect, self.rect, 0.015):
            return None
        if any(overlap(rect, zone) for zone in self._zones):
            return None
        if any(overlap(rect, p.footprint, gap) for p in self.placed if p.blocks and p.y < height and p is not partner):
            return None
        if not may_use_fronts and any(overlap(rect, f) for _, f in self._fronts):
            return None
        for wall in self.walls:
            for low, high, bottom, _ in self._reserved[wall.side]:
                ax, az = wall.point(low, 0.0)
                bx, bz = wall.point(high, 0.16)
                if height > bottom and overlap(rect, (min(ax, bx), min(az, bz), max(ax, bx), max(az, bz))):
                    return None
        front_rect = self._front_rect(rect, yaw, front)
        if front > 0 and any(overlap(front_rect, p.footprint) for p in self.placed if p.blocks and p.y < 0.5):
            return None
        if front > 0 and not _inside(front_rect, self.rect, -0.01):
            return None
        if check_way and not self._passable(rect):
            return None
        placed = Placed(piece, x, 0.0, z, yaw, rect, height)
        self.placed.append(placed)
        if front > 0:
            self._fronts.append((placed, front_rect))
        if check_way:
            self._blocked[self._mask(rect)] = True
        return placed

    @staticmethod
    def _front_rect(rect: Rect, yaw: float, front: float) -> Rect:
        dx, dz = -round(math.sin(yaw)) * front, -round(math.cos(yaw)) * front
        return (
            rect[2] if dx > 0 else rect[0] + min(dx, 0.0),
            rect[3] if dz > 0 else rect[1] + min(dz, 0.0),
            rect[2] + max(dx, 0.0) if dx >= 0 else rect[0],
            rect[3] + max(dz, 0.0) if dz >= 0 else rect[1],
        )

    def at_wall(
        self, piece: Piece, front: float = 0.45, tries: int = 60, corner: bool = False, sides: tuple[str, ...] = ()
    ) -> Placed | None:
        """Puts a piece with its back to a wall, in a corner if asked, at a random free place."""
        width = piece.size[0]
        spots: list[tuple[Wall, float]] = []
        for wall in self.walls:
            low, high = wall.low + width / 2 + 0.04, wall.high - width / 2 - 0.04
            if high < low or (sides and wall.side not in sides):
                continue
            spots += [(wall, low), (wall, high)]
            if not corner:
                shares = self.rng.random(int(6 + 2 * (high - low)))
                spots += [(wall, low + (high - low) * float(share)) for share in shares]
        for index in self.rng.permutation(len(spots))[:tries]:
            wall, along = spots[int(index)]
            x, z = wall.point(along, piece.back + 0.02)
            placed = self.try_put(piece, x, z, FACING[wall.side], front=front)
            if placed:
                return placed
        return None

    def opposite(self, piece: Piece, anchor: Placed, front: float = 0.5) -> Placed | None:
        """Puts a piece at the wall that another looks at, as nearly opposite it as possible."""
        wall = next((w for w in self.walls if abs(abs(wrap_angle(FACING[w.side] - anchor.yaw)) - np.pi) < 1e-6), None)
        if wall is None:
            return None
        middle = anchor.x if wall.along_x else anchor.z
        for shift in (0.0, 0.3, -0.3, 0.6, -0.6, 0.9, -0.9, 1.3, -1.3):
            x, z = wall.point(middle + shift, piece.back + 0.02)
            placed = self.try_put(piece, x, z, FACING[wall.side], front=front, may_use_fronts=shift == 0.0)
            if placed:
                return placed
        return None

    def along_wall(self, pieces: list[Piece], front: float = 0.7) -> list[Placed]:
        """Puts pieces side by side along one wall, in order; along the wall that takes most of them."""
        best: list[Placed] = []
        for index in self.rng.permutation(4):
            for from_low in (True, False):
                put = self._row(pieces, self.walls[int(index)], from_low, front)
                if len(put) == len(pieces):
                    return put
                self._remove(put)
                if len(put) > len(best):
                    best, choice = put, (self.walls[int(index)], from_low)
        return self._row(pieces, *choice, front) if best else []

    def _row(self, pieces: list[Piece], wall: Wall, from_low: bool, front: float) -> list[Placed]:
        """As many of the pieces as fit, one after the other from one end of a wall."""
        put: list[Placed] = []
        cursor = 0.05
        for piece in pieces:
            width = piece.size[0]
            while cursor + width < wall.high - wall.low - 0.03:
                offset = cursor + width / 2
                x, z = wall.point(wall.low + offset if from_low else wall.high - offset, piece.back + 0.02)
                placed = self.try_put(piece, x, z, FACING[wall.side], gap=0.0, front=front)
                if placed:
                    put.append(placed)
                    cursor += width + 0.01
                    break
                cursor += 0.15
        return put

    def _remove(self, pieces: list[Placed]) -> None:
        """Takes pieces away again."""
        self.placed = [p for p in self.placed if not any(p is q for q in pieces)]
        self._fronts = [(p, rect) for p, rect in self._fronts if not any(p is q for q in pieces)]
        self._blocked = self._wall_mask()
        for p in self.placed:
            if p.blocks and p.y < WALKING_HEIGHT and p.piece.mount == "floor":
                self._blocked[self._mask(p.footprint)] = True

    def in_middle(self, piece: Piece, tries: int = 20, yaw: float | None = None, spread: float = 0.5) -> Placed | None:
        """Puts a piece away from the walls."""
        x0, z0, x1, z1 = self.rect
        for _ in range(tries):
            turn = float(self.rng.integers(4)) * math.pi / 2 if yaw is None else yaw
            x = (x0 + x1) / 2 + float(self.rng.uniform(-spread, spread)) * (x1 - x0) / 2
            z = (z0 + z1) / 2 + float(self.rng.uniform(-spread, spread)) * (z1 - z0) / 2
            placed = self.try_put(piece, x, z, turn)
            if placed:
                return placed
        return None

    def beside(self, piece: Piece, anchor: Placed, side: int, gap: float = 0.04) -> Placed | None:
        """Puts a piece next to one that stands at a wall, backs aligned; side -1 is its left, +1 its right."""
        dx = side * (anchor.piece.size[0] / 2 + gap + piece.size[0] / 2)
        dz = anchor.piece.back - piece.back
        x, z = local_to_room(anchor, dx, dz)
        return self.try_put(piece, x, z, anchor.yaw, gap=0.0, may_use_fronts=False)

    def in_front(
        self, piece: Piece, anchor: Placed, distance: float, dx: float = 0.0, turned: bool = True
    ) -> Placed | None:
        """Puts a piece in front of another, facing it if `turned`; `distance` metres between them (may be negative)."""
        x, z = local_to_room(anchor, dx, -(anchor.piece.front + distance + (piece.front if turned else piece.back)))
        yaw = anchor.yaw + (math.pi if turned else 0.0)
        return self.try_put(piece, x, z, yaw, gap=0.02, may_use_fronts=True, partner=anchor)

    def on_top(self, piece: Piece, anchor: Placed, dx: float = 0.0, dz: float = 0.0) -> Placed | None:
        """Puts a small piece on another's surface."""
        surface = anchor.piece.surface
        height = piece.size[2]
        if surface is None:
            return None
        x, z = local_to_room(anchor, dx, dz)
        rect = footprint_of(piece, x, z, anchor.yaw)
        a = anchor.footprint
        if rect[0] < a[0] - 0.005 or rect[1] < a[1] - 0.005 or rect[2] > a[2] + 0.005 or rect[3] > a[3] + 0.005:
            return None
        if any(p.on is anchor and overlap(rect, p.footprint) for p in self.placed):
            return None
        placed = Placed(piece, x, surface + 0.002, z, anchor.yaw, rect, height, on=anchor)
        self.placed.append(placed)
        return placed

    def on_wall(self, piece: Piece, tries: int = 16, near: Placed | None = None) -> Placed | None:
        """Hangs a piece on a wall, above `near` if given."""
        width, depth, height = piece.size
        for _ in range(tries):
            wall = self.walls[int(self.rng.integers(4))]
            position = float(self.rng.random())
            if near is not None:
                behind = self._wall_behind(near)
                if behind is None:
                    return None
                wall, along = behind, near.x if behind.along_x else near.z
            else:
                along = wall.low + (wall.high - wall.low) * position
            x, z = wall.point(along, piece.back)
            in_the_way = depth > 0.1 and piece.bottom < WALKING_HEIGHT
            rect = footprint_of(piece, x, z, FACING[wall.side])
            free = self.wall_free(wall, along - width / 2, along + width / 2, piece.bottom, piece.bottom + height)
            if free and (not in_the_way or self._passable(rect)):
                if in_the_way:
                    self._blocked[self._mask(rect)] = True
                return self.hang(piece, wall, along)
            if near is not None:
                return None
        return None

    def _wall_behind(self, placed: Placed) -> Wall | None:
        """The wall that a piece has its back to, None if it stands away from the walls."""
        for wall in self.walls:
            distance = abs((placed.z if wall.along_x else placed.x) - wall.plane) - placed.piece.back
            if abs(wrap_angle(FACING[wall.side] - placed.yaw)) < 1e-6 and distance < 0.1:
                return wall
        return None

    def hang(self, piece: Piece, wall: Wall, along: float, out: float = 0.002) -> Placed:
        """Hangs a piece at a place on a wall, without asking whether it is free."""
        width, _, height = piece.size
        x, z = wall.point(along, piece.back + out)
        rect = footprint_of(piece, x, z, FACING[wall.side])
        placed = Placed(piece, x, piece.bottom, z, FACING[wall.side], rect, height)
        self.placed.append(placed)
        self.reserve(wall, along - width / 2, along + width / 2, piece.bottom, piece.bottom + height)
        return placed

    def overhead(self, piece: Piece, x: float, z: float) -> Placed:
        """Hangs a piece from the ceiling."""
        height = piece.size[2]
        placed = Placed(piece, x, WALL_HEIGHT - height, z, 0.0, footprint_of(piece, x, z, 0.0), height)
        self.placed.append(placed)
        return placed


def local_to_room(anchor: Placed, dx: float, dz: float) -> tuple[float, float]:
    """A point given in a placed piece's own frame (front -z)."""
    c, s = math.cos(anchor.yaw), math.sin(anchor.yaw)
    return anchor.x + c * dx + s * dz, anchor.z + c * dz - s * dx
