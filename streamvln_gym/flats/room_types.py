"""Which rooms a flat has: types that fit the rooms' sizes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streamvln_gym.scene_graph import Rect


@dataclass(frozen=True)
class RoomType:
    """How large a room of a type may be, how often it occurs and how many of it one flat has at most."""

    name: str
    area: tuple[float, float]
    weight: float
    most: int


ROOM_TYPES = (
    RoomType("living room", (12.0, 60.0), 1.0, 1),
    RoomType("kitchen", (6.5, 26.0), 1.0, 1),
    RoomType("bedroom", (8.5, 24.0), 3.5, 4),
    RoomType("bathroom", (4.5, 11.5), 3.0, 2),
    RoomType("office", (7.0, 20.0), 2.5, 2),
    RoomType("dining room", (9.5, 28.0), 1.5, 1),
    RoomType("storage room", (4.5, 13.5), 2.2, 2),
    RoomType("laundry room", (4.5, 12.5), 1.8, 1),
    RoomType("library", (8.5, 26.0), 1.3, 1),
    RoomType("gym", (10.0, 28.0), 1.3, 1),
    RoomType("children's room", (8.5, 20.0), 1.6, 2),
    RoomType("nursery", (7.0, 15.0), 1.0, 1),
    RoomType("playroom", (9.5, 26.0), 1.1, 1),
    RoomType("music room", (9.5, 26.0), 1.2, 1),
    RoomType("dressing room", (4.5, 13.0), 1.2, 1),
    RoomType("art studio", (9.0, 26.0), 1.0, 1),
)
"""All room types but "hallway"."""


def assign_room_types(given: list[str], rects: list[Rect], rng: np.random.Generator) -> list[str]:
    """Fills the empty types: a living room, a bathroom, a kitchen and a bedroom first, then whatever fits.

    Args:
        given: room types, "" where to be filled.
        rects: the rooms' inner rectangles.
        rng: decides.
    """
    types = list(given)
    areas = [(x1 - x0) * (z1 - z0) for x0, z0, x1, z1 in rects]
    open_rooms = sorted((i for i, t in enumerate(types) if not t), key=lambda i: (areas[i], i))

    def take(index: int, name: str) -> None:
        types[index] = name
        open_rooms.remove(index)

    by_name = {t.name: t for t in ROOM_TYPES}
    if open_rooms:
        take(open_rooms[0], "bathroom")
    if open_rooms and "living room" not in types:
        take(open_rooms[-1], "living room")
    for name in ("kitchen", "bedroom"):
        fitting = [i for i in open_rooms if by_name[name].area[0] <= areas[i] <= by_name[name].area[1]]
        if fitting and name not in types:
            take(fitting[int(rng.integers(len(fitting)))], name)
    repeat = ("bedroom", "bathroom", "office")[int(rng.integers(3))]
    for index in [open_rooms[int(k)] for k in rng.permutation(len(open_rooms))]:
        fitting_types = [
            t for t in ROOM_TYPES if t.area[0] <= areas[index] <= t.area[1] and types.count(t.name) < t.most
        ]
        if not fitting_types:
            types[index] = "bedroom"
            continue
        weights = np.array([t.weight * (2.0 if t.name == repeat else 1.0) for t in fitting_types])
        types[index] = fitting_types[int(rng.choice(len(fitting_types), p=weights / weights.sum()))].name
    return types
