"""What an instruction claims, apart from its words: clauses, and how somebody in the flat would understand them.

The writer states what is *clearly* true (strict angles); `doors_meant` finds every door that a reader could
*possibly* take for the one meant (loose angles). An instruction is unambiguous if that is one door at every step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

from streamvln_gym.flats.routes import Leg, bearing
from streamvln_gym.scene_graph import Door, Room, SceneGraph, SceneObject

HALLWAY = "hallway"
_STRICT_AHEAD, _LOOSE_AHEAD = math.radians(22), math.radians(35)
_STRICT_SIDE = (math.radians(38), math.radians(140))
_LOOSE_SIDE = (math.radians(22), math.radians(160))
_BESIDE_METRES = 1.1


@dataclass(frozen=True)
class Cue:
    """Something seen earlier that a later clause refers to (the same-as episodes).

    Attributes:
        kind: "start_walls" (the walls of the start room) or "object" (`object_id`, the first of its category passed).
        colour: the colour that has to be remembered; never said in the text.
        object_id: the object, None for walls.
        shown_by: what shows the colour in the room meant: "walls" or an object category.
    """

    kind: str
    colour: str
    object_id: int | None
    shown_by: str


@dataclass(frozen=True)
class Orient:
    """Turn at the start: "left", "right", "slightly left", "slightly right", "around" or "straight"."""

    turn: str


@dataclass(frozen=True)
class TakeDoor:
    """Leave the room by a door; every attribute that is not None narrows down which.

    Attributes:
        to_type: type of the room behind it.
        side: "left", "right" or "ahead", relative to the heading with which the room was entered.
        walk: in a hallway, the way to go first: "left", "right" or "straight"; `side` and `ordinal` are then
            relative to that walking direction.
        ordinal: the n-th door on `side` in walking direction (1-based).
        at_end: the door in the hallway's end wall.
        beside: id of an object that stands beside the door.
        frame: colour of the door's frame.
        back: the door one came in by.
        other_than: id of a room visited before: not that one is meant, but the other one of `to_type`.
        cue: the room behind it shows the colour of something seen before.
        only: no other door to choose; nothing needs to be said.
    """

    to_type: str | None = None
    side: str | None = None
    walk: str | None = None
    ordinal: int | None = None
    at_end: bool = False
    beside: int | None = None
    frame: str | None = None
    back: bool = False
    other_than: int | None = None
    cue: Cue | None = None
    only: bool = False


@dataclass(frozen=True)
class PassBy:
    """An object is passed on one side ("left" or "right"); `with_mark` if its mark (`landmarks.mark`) is said."""

    object_id: int
    side: str
    with_mark: bool = False


@dataclass(frozen=True)
class Visit:
    """Walk to an object on the way; `with_mark` if its mark is said, `side` if it is told apart by its side."""

    object_id: int
    with_mark: bool = False
    side: str | None = None


@dataclass(frozen=True)
class Stop:
    """Stop at an object, or (`object_id` None) in the "middle" of the room (`place`)."""

    object_id: int | None
    with_mark: bool = False
    side: str | None = None
    place: str | None = None


@dataclass(frozen=True)
class ReturnToStart:
    """Go back to the room where the episode began, which is not named."""


Clause: TypeAlias = Orient | TakeDoor | PassBy | Visit | Stop | ReturnToStart


@dataclass(frozen=True)
class Standpoint:
    """Where a reader stands when a clause has to be understood: in `room`, come in by `entry` with `heading`."""

    room: Room
    entry: Door | None
    origin: tuple[float, float]
    heading: float

    @classmethod
    def of_leg(cls, leg: Leg) -> Standpoint:
        return cls(leg.room, leg.entry, leg.origin, leg.heading)


# ------------------------------------------------------------------------------------------------ directions and sides


def side_of(angle: float, strict: bool) -> set[str]:
    """Which of "left", "right", "ahead" a bearing (radians) is called; strict: clearly, otherwise possibly."""
    low, high = _STRICT_SIDE if strict else _LOOSE_SIDE
    sides = set()
    if abs(angle) <= (_STRICT_AHEAD if strict else _LOOSE_AHEAD):
        sides.add("ahead")
    if low <= angle <= high:
        sides.add("left")
    if low <= -angle <= high:
        sides.add("right")
    return sides


def hallway_axis(room: Room) -> str:
    """The long axis of a room, "x" or "z"."""
    x0, z0, x1, z1 = room.rect
    return "x" if x1 - x0 >= z1 - z0 else "z"


def walking_heading(room: Room, towards: tuple[float, float], origin: tuple[float, float]) -> float:
    """Yaw along the hallway's long axis from `origin` towards `towards`."""
    if hallway_axis(room) == "x":
        return math.atan2(-math.copysign(1.0, towards[0] - origin[0]), 0.0)
    return math.atan2(0.0, -math.copysign(1.0, towards[1] - origin[1]))


def turn_word(angle: float) -> str:
    """What a turn by `angle` radians (left positive) at a hallway's entry is called: left, right, straight, back."""
    if abs(angle) <= math.radians(45):
        return "straight"
    if abs(angle) >= math.radians(135):
        return "back"
    return "left" if angle > 0 else "right"


def along(heading: float, origin: tuple[float, float], point: tuple[float, float]) -> float:
    """Metres that `point` lies ahead of `origin` in the walking direction `heading`."""
    return -(point[0] - origin[0]) * math.sin(heading) - (point[1] - origin[1]) * math.cos(heading)


def is_end_door(room: Room, door: Door) -> bool:
    """Whether the door is in one of the short walls of a hallway (one walks on straight through it)."""
    return door.axis == hallway_axis(room)


def wall_side(heading: float, origin: tuple[float, float], door: Door) -> str:
    """The side ("left" or "right") on which a door of a long wall lies in walking direction `heading`."""
    x, z = door.position[0] - origin[0], door.position[1] - origin[1]
    left = -x * math.cos(heading) + z * math.sin(heading)
    return "left" if left > 0 else "right"


def doors_on_side(graph: SceneGraph, stand: Standpoint, heading: float, side: str) -> tuple[list[Door], bool]:
    """The doors on one side ahead of the standpoint in walking order, and whether their count is beyond doubt.

    It is doubtful if a door on that side is so near the standpoint that one could count it or not.
    """
    counted, clear = [], True
    for door in graph.doors_of(stand.room.id):
        if is_end_door(stand.room, door) or wall_side(heading, _axis_point(stand), door) != side:
            continue
        if stand.entry is not None and door.id == stand.entry.id:
            continue
        ahead = along(heading, stand.origin, door.position)
        if abs(ahead) < 0.9:
            clear = False
        if ahead > 0:
            counted.append((ahead, door))
    counted.sort(key=lambda pair: pair[0])
    return [door for _, door in counted], clear


def _axis_point(stand: Standpoint) -> tuple[float, float]:
    """The standpoint moved to the hallway's middle line, so that sides are those of its two long walls."""
    x, z = stand.room.centre
    return (stand.origin[0], z) if hallway_axis(stand.room) == "x" else (x, stand.origin[1])


def walk_headings(stand: Standpoint, walk: str) -> list[float]:
    """The walking directions (yaw) along the hallway that "go left / right / straight" can mean here."""
    axis = hallway_axis(stand.room)
    headings = [math.pi / 2, -math.pi / 2] if axis == "x" else [0.0, math.pi]
    relative = [math.atan2(math.sin(h - stand.heading), math.cos(h - stand.heading)) for h in headings]
    if walk == "straight":
        return [h for h, a in zip(headings, relative, strict=True) if abs(a) < math.radians(60)]
    sign = 1.0 if walk == "left" else -1.0
    return [h for h, a in zip(headings, relative, strict=True) if math.radians(30) <= sign * a <= math.radians(150)]


# ------------------------------------------------------------------------------------------------ understanding a door


def doors_meant(graph: SceneGraph, stand: Standpoint, clause: TakeDoor) -> list[Door]:
    """Every door that a reader at `stand` could take for the one that `clause` means."""
    if clause.back:
        return [stand.entry] if stand.entry is not None else []
    doors = [d for d in graph.doors_of(stand.room.id) if stand.entry is None or d.id != stand.entry.id]
    if clause.only:
        return doors
    if clause.to_type is not None:
        doors = [d for d in doors if graph.rooms[d.other(stand.room.id)].type == clause.to_type]
    if clause.frame is not None:
        doors = [d for d in doors if d.colour == clause.frame]
    if clause.beside is not None:
        described = graph.objects[clause.beside]
        doors = [d for d in doors if any(_is_beside(o, d) for o in _alike(graph, described))]
    if clause.other_than is not None:
        doors = [d for d in doors if d.other(stand.room.id) != clause.other_than]
    if clause.cue is not None:
        doors = [d for d in doors if shows_cue(graph, graph.rooms[d.other(stand.room.id)], clause.cue)]
    if clause.walk is not None:
        return _doors_in_walking_direction(graph, stand, clause, doors)
    if clause.side is not None:
        doors = [d for d in doors if clause.side in side_of(bearing(stand.heading, stand.origin, d.position), False)]
    return doors


def _doors_in_walking_direction(
    graph: SceneGraph, stand: Standpoint, clause: TakeDoor, doors: list[Door]
) -> list[Door]:
    assert clause.walk is not None
    meant: dict[int, Door] = {}
    for heading in walk_headings(stand, clause.walk):
        ahead = [d for d in doors if along(heading, stand.origin, d.position) > -0.5]
        if clause.at_end:
            ahead = [d for d in ahead if is_end_door(stand.room, d)]
        elif clause.side is not None:
            ahead = [
                d
                for d in ahead
                if not is_end_door(stand.room, d) and wall_side(heading, _axis_point(stand), d) == clause.side
            ]
        if clause.ordinal is not None and clause.side is not None:
            counted, clear = doors_on_side(graph, stand, heading, clause.side)
            numbers = {clause.ordinal} if clear else {clause.ordinal, clause.ordinal + 1}
            picked = {counted[n - 1].id for n in numbers if n <= len(counted)}
            ahead = [d for d in ahead if d.id in picked]
        meant.update({d.id: d for d in ahead})
    return list(meant.values())


def shows_cue(graph: SceneGraph, room: Room, cue: Cue) -> bool:
    """Whether a room shows the colour of the cue in the way that the clause names."""
    if cue.shown_by == "walls":
        return room.wall_colour == cue.colour
    return any(o.category == cue.shown_by and o.colour == cue.colour for o in graph.furnishings_in(room.id))


def _is_beside(item: SceneObject, door: Door) -> bool:
    x0, z0, x1, z1 = item.footprint
    dx = max(x0 - door.position[0], 0.0, door.position[0] - x1)
    dz = max(z0 - door.position[1], 0.0, door.position[1] - z1)
    return math.hypot(dx, dz) <= _BESIDE_METRES


def _alike(graph: SceneGraph, item: SceneObject) -> list[SceneObject]:
    return [o for o in graph.furnishings_in(item.room) if o.category == item.category and o.colour == item.colour]


# ------------------------------------------------------------------------------------------- what is true of the door


def door_facts(graph: SceneGraph, leg: Leg, after_visit: bool = False) -> list[TakeDoor]:
    """Single claims that are clearly true of the door by which `leg` leaves its room, the plainest first."""
    stand, door = Standpoint.of_leg(leg), leg.exit
    assert door is not None
    if leg.turns_back:
        return [TakeDoor(back=True)]
    facts = [TakeDoor(to_type=graph.rooms[door.other(leg.room.id)].type)]
    if leg.room.type == HALLWAY:
        facts += _hallway_facts(graph, leg, stand, door)
    elif not after_visit:
        sides = side_of(bearing(stand.heading, stand.origin, door.position), True)
        facts += [TakeDoor(side=side) for side in sorted(sides)]
    if door.colour is not None:
        facts.append(TakeDoor(frame=door.colour))
    return facts


def _hallway_facts(graph: SceneGraph, leg: Leg, stand: Standpoint, door: Door) -> list[TakeDoor]:
    if abs(along_axis(leg.room, stand.origin, door.position)) < 0.8:  # across from where one stands
        return [TakeDoor(side=s) for s in sorted(side_of(bearing(stand.heading, stand.origin, door.position), True))]
    heading = walking_heading(leg.room, door.position, stand.origin)
    walk = turn_word(math.atan2(math.sin(heading - stand.heading), math.cos(heading - stand.heading)))
    if walk == "back" or heading not in walk_headings(stand, walk):
        return []
    if is_end_door(leg.room, door):
        return [TakeDoor(walk=walk, at_end=True)]
    side = wall_side(heading, _axis_point(stand), door)
    facts = [TakeDoor(walk=walk, side=side)]
    counted, clear = doors_on_side(graph, stand, heading, side)
    if clear:
        ordinal = [d.id for d in counted].index(door.id) + 1
        facts.append(TakeDoor(walk=walk, side=side, ordinal=ordinal))
    return facts


def along_axis(room: Room, origin: tuple[float, float], point: tuple[float, float]) -> float:
    """Signed metres between two points along the room's long axis."""
    return point[0] - origin[0] if hallway_axis(room) == "x" else point[1] - origin[1]
