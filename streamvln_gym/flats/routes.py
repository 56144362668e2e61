"""A path through a flat as a person tells it: room after room, door after door."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamvln_gym.geometry import wrap_angle
from streamvln_gym.scene_graph import Door, Room, SceneGraph

_SPACING = 0.1  # metres between the points of a dense path


@dataclass(frozen=True)
class Leg:
    """The part of a route inside one room.

    Attributes:
        room: where it is.
        entry: the door it comes in by, None for the first leg.
        exit: the door it leaves by, None for the last leg.
        points: float64 (N, 2), (x, z) every 0.1 m.
        heading: yaw in radians with which the room is entered (through the door's middle), or the start's.
        offset: metres along the route at which the leg begins.
    """

    room: Room
    entry: Door | None
    exit: Door | None
    points: NDArray[np.float64]
    heading: float
    offset: float

    @property
    def origin(self) -> tuple[float, float]:
        """Where the leg begins: the middle of the entry door, or the start point."""
        if self.entry is not None:
            return self.entry.position
        return float(self.points[0, 0]), float(self.points[0, 1])

    @property
    def turns_back(self) -> bool:
        """Whether the room is left by the door it was entered by."""
        return self.entry is not None and self.exit is not None and self.entry.id == self.exit.id


@dataclass(frozen=True)
class Route:
    """A dense path cut into legs. `points` is float64 (M, 2); `length` is in metres."""

    legs: tuple[Leg, ...]
    points: NDArray[np.float64]
    length: float


def bearing(heading: float, origin: tuple[float, float], target: tuple[float, float]) -> float:
    """Direction of `target` seen from `origin` by someone who faces `heading`: radians, left positive."""
    return wrap_angle(math.atan2(-(target[0] - origin[0]), -(target[1] - origin[1])) - heading)


def resample(path: ArrayLike, spacing: float = _SPACING) -> NDArray[np.float64]:
    """Points (M, D) every `spacing` metres along the polyline `path` (N, D), both ends included."""
    path = np.asarray(path, dtype=np.float64)
    lengths = np.linalg.norm(np.diff(path, axis=0), axis=1)
    along = np.concatenate([[0.0], np.cumsum(lengths)])
    if along[-1] < 1e-9:
        return path[:1]
    samples = np.linspace(0.0, along[-1], max(2, math.ceil(along[-1] / spacing) + 1))
    return np.stack([np.interp(samples, along, path[:, k]) for k in range(path.shape[1])], axis=1)


def trace_route(graph: SceneGraph, path: ArrayLike, start_yaw: float) -> Route | None:
    """Cuts a path into legs.

    Args:
        graph: the flat.
        path: (N, 3) corner points of a walkable path, metres.
        start_yaw: radians, how the agent faces at the start.

    Returns:
        None if the path starts or ends in a door opening, or goes from room to room where no door is.
    """
    points = resample(np.asarray(path, dtype=np.float64)[:, [0, 2]])
    rooms = graph.rooms_at(points)
    if rooms[0] is None or rooms[-1] is None:
        return None
    cuts: list[tuple[int, int, int]] = []  # (room, first point, last point)
    for i, room in enumerate(rooms):
        if room is None:
            continue
        if cuts and cuts[-1][0] == room and not _left_between(rooms, cuts[-1][2], i):
            cuts[-1] = (room, cuts[-1][1], i)
        else:
            cuts.append((room, i, i))
    doors: list[Door] = []
    for (room, _, last), (following, first, _) in pairwise(cuts):
        door = _door_crossed(graph, room, following, points[(last + first) // 2])
        if door is None:
            return None
        doors.append(door)
    legs: list[Leg] = []
    for k, (room, first, last) in enumerate(cuts):
        entry = doors[k - 1] if k else None
        legs.append(
            Leg(
                room=graph.rooms[room],
                entry=entry,
                exit=doors[k] if k < len(doors) else None,
                points=points[first : last + 1],
                heading=start_yaw if entry is None else entry_heading(entry, graph.rooms[room]),
                offset=first * _SPACING,
            )
        )
    return Route(tuple(legs), points, float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum()))


def entry_heading(door: Door, room: Room) -> float:
    """Yaw of someone who walks straight through `door` into `room`, radians."""
    x, z = room.centre
    if door.axis == "x":
        return math.atan2(-math.copysign(1.0, x - door.position[0]), 0.0)
    return math.atan2(0.0, -math.copysign(1.0, z - door.position[1]))


def _left_between(rooms: list[int | None], last: int, now: int) -> bool:
    """Whether the path was in a door opening between two points of one room for long enough to have turned there."""
    return now - last > 4


def _door_crossed(graph: SceneGraph, room: int, following: int, point: NDArray) -> Door | None:
    between = graph.doors_between(room, following)
    if room == following or not between:
        return None
    door = min(between, key=lambda d: math.dist(d.position, point))
    return door if math.dist(door.position, point) <= door.width / 2 + 0.6 else None
