"""Which objects an instruction may name, how, and on which side of a path they lie."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamvln_gym.flats.clauses import Standpoint, side_of
from streamvln_gym.flats.routes import Leg, bearing
from streamvln_gym.scene_graph import SceneGraph, SceneObject

_PASS_METRES = 1.9
UNREMARKABLE = {"ceiling lamp", "window", "curtain", "radiator"}
"""Categories that are in every room or above eye level: nobody tells a way by them."""


@dataclass(frozen=True)
class Passing:
    """An object that a leg passes: on which side ("left", "right"), and how far (metres) into the leg."""

    item: SceneObject
    side: str
    offset: float


def is_landmark(item: SceneObject) -> bool:
    """Whether a person would tell the way by this object."""
    return not item.structural and item.mount != "ceiling" and item.category not in UNREMARKABLE


def distance_to(item: SceneObject, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Metres from floor points (N, 2) to the object's footprint, shape (N,)."""
    x0, z0, x1, z1 = item.footprint
    dx = np.maximum(np.maximum(x0 - points[:, 0], points[:, 0] - x1), 0.0)
    dz = np.maximum(np.maximum(z0 - points[:, 1], points[:, 1] - z1), 0.0)
    return np.hypot(dx, dz)


def alike(graph: SceneGraph, item: SceneObject) -> list[SceneObject]:
    """All objects of its room that the item's category may call, itself included ("table": coffee tables too)."""
    return [o for o in graph.furnishings_in(item.room) if o.category.endswith(item.category)]


def mark(item: SceneObject) -> str | None:
    """What tells an object from others of its category: a picture's content, anything else's colour."""
    return item.material if item.category == "picture" else item.colour


def needs_mark(graph: SceneGraph, item: SceneObject) -> bool:
    """Whether the category alone does not single the object out in its room."""
    return len(alike(graph, item)) > 1


def is_unique(graph: SceneGraph, item: SceneObject) -> bool:
    """Whether category, or category and mark, single the object out in its room."""
    called = alike(graph, item)
    if len(called) == 1:
        return True
    return mark(item) is not None and sum(mark(o) == mark(item) for o in called) == 1


def objects_meant(
    graph: SceneGraph, stand: Standpoint, item: SceneObject, with_mark: bool, side: str | None
) -> list[SceneObject]:
    """The objects of the room that a reader could take for the one described as `item` is."""
    called = alike(graph, item)
    if with_mark:
        called = [o for o in called if mark(o) == mark(item)]
    if side is not None:
        called = [o for o in called if side in side_of(bearing(stand.heading, stand.origin, o.centre), False)]
    return called


def visit_point(leg: Leg, item: SceneObject) -> int:
    """Index of the leg's point at which an object is visited: where the path comes nearest, before it turns back."""
    nearest = int(distance_to(item, leg.points).argmin())
    return min(nearest, len(leg.points) // 2) if leg.turns_back else nearest


def passings(graph: SceneGraph, leg: Leg, until: int | None = None) -> list[Passing]:
    """The unique landmarks that a leg walks past on one side only, in walking order.

    Args:
        graph: the flat.
        leg: where the path goes.
        until: only the first so many points of the leg count (what is told before a visit is passed before it).
    """
    points = leg.points[:until]
    if len(points) < 8:
        return []
    found = []
    for item in graph.furnishings_in(leg.room.id):
        if not is_landmark(item) or item.mount == "top":
            continue
        distances = distance_to(item, points)
        nearest = int(distances.argmin())
        if not 0.0 < distances[nearest] <= _PASS_METRES or not 3 <= nearest < len(points) - 3:
            continue  # too far off, walked over, or not passed but left behind or walked up to
        if not is_unique(graph, item):
            continue
        side = _side_at(item, points, nearest)
        if side is None:
            continue
        other_places = range(3, len(points) - 3, 3)
        sides = {_side_at(item, points, k) for k in other_places if distances[k] <= _PASS_METRES} - {None}
        if sides <= {side}:
            found.append(Passing(item, side, nearest * 0.1))
    return sorted(found, key=lambda p: p.offset)


def _side_at(item: SceneObject, points: NDArray[np.float64], index: int) -> str | None:
    """The side on which an object lies for someone who walks through `points[index]`; None if ahead or behind."""
    before, after = points[max(index - 4, 0)], points[min(index + 4, len(points) - 1)]
    heading = math.atan2(-(after[0] - before[0]), -(after[1] - before[1]))
    angle = bearing(heading, tuple(points[index]), item.centre)
    if not math.radians(50) <= abs(angle) <= math.radians(130):
        return None
    return "left" if angle > 0 else "right"
