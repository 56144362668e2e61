"""Floor plans: rooms as cells that share walls, their types, and the openings that join them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from streamvln_gym.errors import SceneError
from streamvln_gym.flats.room_types import assign_room_types
from streamvln_gym.scene_graph import Rect

WALL_THICKNESS = 0.12
WALL_HEIGHT = 2.6
DOOR_WIDTH = 0.95
DOOR_HEIGHT = 2.05
ARCHWAY_HEIGHT = 2.2
_CORNER = 0.22
"""Metres between a door jamb and the corner of the wall, at least (measured from the wall's middle line)."""


@dataclass(frozen=True)
class Opening:
    """A doorway in the wall between two cells.

    Attributes:
        rooms: indices of the cells, the lower coordinate first.
        axis: "x" if one walks through it along x, "z" if along z.
        wall: coordinate of the wall's middle along `axis`.
        along: coordinate of the opening's middle along the wall.
        width: metres.
        kind: "door" or "archway".
    """

    rooms: tuple[int, int]
    axis: str
    wall: float
    along: float
    width: float
    kind: str

    @property
    def height(self) -> float:
        """Metres from the floor to the lintel."""
        return DOOR_HEIGHT if self.kind == "door" else ARCHWAY_HEIGHT

    @property
    def position(self) -> tuple[float, float]:
        """(x, z) of the middle."""
        return (self.wall, self.along) if self.axis == "x" else (self.along, self.wall)


@dataclass(frozen=True)
class SharedWall:
    """The stretch of wall that two cells share: `axis` is its normal, `low`...`high` run along it."""

    rooms: tuple[int, int]
    axis: str
    wall: float
    low: float
    high: float


@dataclass
class Plan:
    """A floor plan.

    Attributes:
        archetype: "corridor", "hall", "open plan", "enfilade", "two wings" or "small".
        cells: rectangles between the middles of the walls.
        types: room type of each cell.
        openings: doors and archways.
        public: pairs of cells to be joined by an archway.
    """

    archetype: str
    cells: list[Rect]
    types: list[str]
    openings: list[Opening] = field(default_factory=list)
    public: list[tuple[int, int]] = field(default_factory=list)

    def inner(self, index: int) -> Rect:
        """The room's rectangle between the inner faces of its walls."""
        half = WALL_THICKNESS / 2
        x0, z0, x1, z1 = self.cells[index]
        return x0 + half, z0 + half, x1 - half, z1 - half

    @property
    def area(self) -> float:
        """Square metres of all rooms."""
        return sum((x1 - x0) * (z1 - z0) for x0, z0, x1, z1 in map(self.inner, range(len(self.cells))))


def _splits(rng: np.random.Generator, low: float, high: float, count: int, jitter: float = 0.3) -> list[float]:
    """`count` intervals between low and high, as their count + 1 ends."""
    shares = 1.0 + rng.uniform(-jitter, jitter, count)
    ends = low + (high - low) * np.concatenate([[0.0], np.cumsum(shares) / shares.sum()])
    return [round(float(e), 2) for e in ends]


def _row(ends: list[float], low: float, high: float) -> list[Rect]:
    """Cells side by side along x between z = low and z = high."""
    return [(a, low, b, high) for a, b in pairwise(ends)]


def _column(ends: list[float], low: float, high: float) -> list[Rect]:
    """Cells one behind the other along z between x = low and x = high."""
    return [(low, a, high, b) for a, b in pairwise(ends)]


def _metres(rng: np.random.Generator, low: float, high: float) -> float:
    return round(float(rng.uniform(low, high)), 2)


def corridor_plan(rng: np.random.Generator) -> Plan:
    """A hallway 11-18 m long with three to five rooms on both sides; sometimes an archway divides it."""
    north, south = int(rng.integers(3, 6)), int(rng.integers(3, 6))
    length = _metres(rng, max(11.0, 2.75 * max(north, south)), min(18.0, 4.5 * min(north, south) + 1.0))
    width = _metres(rng, 1.5, 1.9)
    a, b = _metres(rng, 3.0, 4.3), _metres(rng, 3.0, 4.3)
    cells: list[Rect] = [(0.0, a, length, round(a + width, 2))]
    types = ["hallway"]
    public = []
    if rng.random() < 0.3:
        cut = round(length * float(rng.uniform(0.35, 0.65)), 2)
        cells = [(0.0, a, cut, round(a + width, 2)), (cut, a, length, round(a + width, 2))]
        types = ["hallway", "hallway"]
        public = [(0, 1)]
    cells += _row(_splits(rng, 0.0, length, north), 0.0, a)
    cells += _row(_splits(rng, 0.0, length, south), round(a + width, 2), round(a + width + b, 2))
    if rng.random() < 0.4 and len(cells) < 12:
        depth = _metres(rng, 3.0, 4.2)
        reach = max(0.0, a - 1.6)
        cells.append((length, round(reach, 2), round(length + depth, 2), round(a + width + 1.4, 2)))
    return Plan("corridor", cells, types + [""] * (len(cells) - len(types)), public=public)


def hall_plan(rng: np.random.Generator) -> Plan:
    """Rooms like a pinwheel around a central hall."""
    hall = (_metres(rng, 4.0, 6.0), _metres(rng, 1.6, 1.9))
    left, top, right, bottom = (_metres(rng, 3.0, 4.4) for _ in range(4))
    x1, z1 = left, top
    x2, z2 = round(left + hall[0], 2), round(top + hall[1], 2)
    x3, z3 = round(x2 + right, 2), round(z2 + bottom, 2)
    cells: list[Rect] = [(x1, z1, x2, z2)]
    cells += _row(_splits(rng, 0.0, x2, 2 if x2 < 9.0 else 3), 0.0, z1)
    cells += _column(_splits(rng, 0.0, z2, 1 if z2 < 5.2 else 2), x2, x3)
    cells += _row(_splits(rng, x1, x3, 2 if x3 - x1 < 9.0 else 3), z2, z3)
    cells += _column(_splits(rng, z1, z3, 1 if z3 - z1 < 5.2 else 2), 0.0, x1)
    return Plan("hall", cells, ["hallway"] + [""] * (len(cells) - 1))


def open_plan(rng: np.random.Generator) -> Plan:
    """Living room, dining room and kitchen joined by archways, and bedrooms along a short hallway."""
    w, d = _metres(rng, 5.6, 7.6), _metres(rng, 8.0, 10.0)
    cut = round(d * float(rng.uniform(0.5, 0.58)), 2)
    side = round(w * float(rng.uniform(0.45, 0.55)), 2)
    cells: list[Rect] = [(0.0, 0.0, w, cut), (0.0, cut, side, d), (side, cut, w, d)]
    types = (
        ["living room", "kitchen", "dining room"] if rng.random() < 0.5 else ["living room", "dining room", "kitchen"]
    )
    public = [(0, 1), (0, 2)] if rng.random() < 0.5 else [(0, 1), (1, 2)]
    length, width = _metres(rng, 5.0, 9.0), _metres(rng, 1.5, 1.8)
    top = round(cut - width - _metres(rng, 0.0, 0.6), 2)
    x1 = round(w + length, 2)
    hallway = (w, top, x1, round(top + width, 2))
    count = 2 if length < 7.0 else int(rng.integers(2, 4))
    cells += [hallway]
    cells += _row(_splits(rng, w, x1, min(count, int(length // 2.6))), max(0.0, round(top - 4.4, 2)), top)
    cells += _row(_splits(rng, w, x1, count), hallway[3], min(d, round(hallway[3] + 4.6, 2)))
    if rng.random() < 0.5:
        cells.append((x1, round(top - 1.2, 2), round(x1 + 3.4, 2), round(hallway[3] + 1.2, 2)))
    public.append((0, 3))
    return Plan("open plan", cells, types + ["hallway"] + [""] * (len(cells) - 4), public=public)


def enfilade_plan(rng: np.random.Generator) -> Plan:
    """Two rows of rooms that open into each other, so that there are loops, and an entrance hallway."""
    length = _metres(rng, 9.0, 13.5)
    a, b = _metres(rng, 3.4, 4.6), _metres(rng, 3.4, 4.6)
    middle, end = a, round(a + b, 2)
    width = _metres(rng, 1.5, 1.8)
    start = width
    cells: list[Rect] = [(0.0, 0.0, width, end)]
    cells += _row(_splits(rng, start, length, 3 if length < 12.0 else 4, 0.25), 0.0, middle)
    cells += _row(_splits(rng, start, length, 2 if length < 10.0 else 3, 0.25), middle, end)
    return Plan("enfilade", cells, ["hallway"] + [""] * (len(cells) - 1))


def two_wings_plan(rng: np.random.Generator) -> Plan:
    """Two hallways at a right angle, joined by an archway, with rooms on both sides of each."""
    length, w = _metres(rng, 6.4, 8.6), _metres(rng, 1.5, 1.8)
    d1, d2, d3, d4 = (_metres(rng, 3.0, 4.0) for _ in range(4))
    z1, z2 = d1, round(d1 + w, 2)
    z3 = round(z2 + d3, 2)
    z4 = round(z3 + _metres(rng, 3.0, 4.0), 2)
    x1, x2, x3 = round(length - w, 2), length, round(length + d2, 2)
    cells: list[Rect] = [(0.0, z1, x2, z2), (x1, z2, x2, z4)]
    cells += _row(_splits(rng, 0.0, x2, 2 if length < 7.6 else 3), 0.0, z1)
    cells += [(x2, 0.0, x3, z2)]
    cells += _column(_splits(rng, z2, z4, 2), x2, x3)
    cells += _row(_splits(rng, 0.0, x1, 1 if x1 < 5.4 else 2), z2, z3)
    cells += [(max(0.0, round(x1 - d4 - 0.6, 2)), z3, x1, z4)]
    return Plan("two wings", cells, ["hallway", "hallway"] + [""] * (len(cells) - 2), public=[(0, 1)])


def small_plan(rng: np.random.Generator) -> Plan:
    """A short hallway with one or two rooms on each side: four or five rooms in all."""
    length, width = _metres(rng, 5.2, 7.2), _metres(rng, 1.5, 1.8)
    a, b = _metres(rng, 3.2, 4.4), _metres(rng, 3.2, 4.4)
    cells: list[Rect] = [(0.0, a, length, round(a + width, 2))]
    cells += _row(_splits(rng, 0.0, length, 2), 0.0, a)
    south = 1 if length < 6.0 else 2
    cells += _row(_splits(rng, 0.0, length, south), round(a + width, 2), round(a + width + b, 2))
    return Plan("small", cells, ["hallway"] + [""] * (len(cells) - 1))


ARCHETYPES: tuple[tuple[Callable[[np.random.Generator], Plan], float], ...] = (
    (corridor_plan, 0.42),
    (hall_plan, 0.14),
    (open_plan, 0.18),
    (enfilade_plan, 0.12),
    (two_wings_plan, 0.14),
    (small_plan, 0.06),
)
"""The kinds of floor plan and how often each occurs."""


def make_plan(seed: int, rng: np.random.Generator) -> Plan:
    """A floor plan with room types and openings.

    Args:
        seed: the scene seed; it alone picks the archetype, so that retries keep it.
        rng: decides everything else.

    Raises:
        SceneError: the plan cannot be used (a room too small, too large an area); try another generator state.
    """
    shares = np.cumsum([share for _, share in ARCHETYPES])
    pick = float(np.random.default_rng([seed, 77]).random()) * shares[-1]
    plan = ARCHETYPES[int(np.searchsorted(shares, pick, side="right"))][0](rng)
    _transform(plan, rng)
    for index in range(len(plan.cells)):
        x0, z0, x1, z1 = plan.inner(index)
        shortest = 1.3 if plan.types[index] == "hallway" else 2.2
        if min(x1 - x0, z1 - z0) < shortest:
            raise SceneError(f"room {index} of the floor plan measures {x1 - x0:.2f} m by {z1 - z0:.2f} m")
    if not 45.0 <= plan.area <= 160.0 or not 4 <= len(plan.cells) <= 14:
        raise SceneError(f"a floor plan of {plan.area:.0f} m2 and {len(plan.cells)} rooms is out of range")
    plan.types = assign_room_types(plan.types, [plan.inner(i) for i in range(len(plan.cells))], rng)
    plan.openings = _make_openings(plan, rng)
    return plan


def _transform(plan: Plan, rng: np.random.Generator) -> None:
    """Mirrors and turns the plan at random."""
    cells = plan.cells
    if rng.random() < 0.5:
        cells = [(z0, x0, z1, x1) for x0, z0, x1, z1 in cells]
    for axis in (0, 1):
        if rng.random() < 0.5:
            high = max(c[axis + 2] for c in cells)
            cells = [
                (round(high - c[2], 2), c[1], round(high - c[0], 2), c[3])
                if axis == 0
                else (c[0], round(high - c[3], 2), c[2], round(high - c[1], 2))
                for c in cells
            ]
    plan.cells = cells


def shared_walls(cells: list[Rect]) -> list[SharedWall]:
    """Every stretch of wall that two cells share."""
    walls = []
    for i, first in enumerate(cells):
        for j, second in enumerate(cells):
            for axis in (0, 1):
                if i != j and abs(first[axis + 2] - second[axis]) < 1e-6:
                    low = max(first[1 - axis], second[1 - axis])
                    high = min(first[3 - axis], second[3 - axis])
                    if high - low > 1e-6:
                        walls.append(SharedWall((i, j), "xz"[axis], first[axis + 2], low, high))
    return walls


_PRIVATE = ("bathroom", "storage room", "laundry room", "dressing room")
"""Rooms that one does not walk through."""


def _make_openings(plan: Plan, rng: np.random.Generator) -> list[Opening]:
    """A spanning tree of doors, hallways first, and some loops.

    Raises:
        SceneError: the rooms cannot all be joined.
    """
    walls = [w for w in shared_walls(plan.cells) if w.high - w.low >= DOOR_WIDTH + 2 * _CORNER + 0.05]
    order = [walls[int(k)] for k in rng.permutation(len(walls))]
    public = {frozenset(pair) for pair in plan.public}

    def rank(wall: SharedWall) -> int:
        types = [plan.types[r] for r in wall.rooms]
        if frozenset(wall.rooms) in public:
            return 0
        if "hallway" in types:
            return 1
        return 3 if any(t in _PRIVATE for t in types) else 2

    parent = list(range(len(plan.cells)))

    def root(index: int) -> int:
        while parent[index] != index:
            index = parent[index]
        return index

    loops = {"enfilade": 0.75, "corridor": 0.12, "two wings": 0.25}.get(plan.archetype, 0.3)
    openings = []
    for wall in sorted(order, key=rank):
        first, second = root(wall.rooms[0]), root(wall.rooms[1])
        wanted = rank(wall) == 2 and rng.random() < loops
        if rank(wall) == 1 and plan.archetype in ("two wings", "enfilade"):
            wanted = rng.random() < 0.3 and not any(plan.types[r] in _PRIVATE for r in wall.rooms)
        if first == second and not wanted and rank(wall) != 0:
            continue
        parent[first] = second
        openings.append(_opening(wall, rank(wall) == 0, rng))
    if len({root(i) for i in range(len(parent))}) != 1:
        raise SceneError("the floor plan's rooms cannot all be joined by doors")
    return sorted(openings, key=lambda o: o.rooms)


def _opening(wall: SharedWall, archway: bool, rng: np.random.Generator) -> Opening:
    width = DOOR_WIDTH
    if archway:
        width = round(min(2.2, wall.high - wall.low - 2 * _CORNER), 2)
    margin = _CORNER + width / 2
    along = float(rng.uniform(wall.low + margin, wall.high - margin)) if wall.high - wall.low > 2 * margin else 0.0
    if not along:
        along = (wall.low + wall.high) / 2
    kind = "archway" if archway else "door"
    return Opening(wall.rooms, wall.axis, wall.wall, round(along, 2), width, kind)
