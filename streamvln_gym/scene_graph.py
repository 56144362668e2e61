"""What is where in a flat: rooms, doors and objects, as stored beside its GLB."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamvln_gym.errors import SceneError

Rect = tuple[float, float, float, float]
"""Axis-aligned rectangle (x0, z0, x1, z1) on the floor, metres."""


@dataclass(frozen=True)
class Room:
    """A rectangular room.

    Attributes:
        id: index in `SceneGraph.rooms`.
        type: "hallway", "kitchen", "bedroom", ...
        rect: inner faces of its walls.
        wall_colour: name of the walls' colour ("cream", "light blue", ...).
        floor: word for the floor ("wooden", "tiled", "carpeted", "concrete").
    """

    id: int
    type: str
    rect: Rect
    wall_colour: str
    floor: str

    @property
    def centre(self) -> tuple[float, float]:
        x0, z0, x1, z1 = self.rect
        return (x0 + x1) / 2, (z0 + z1) / 2


@dataclass(frozen=True)
class Door:
    """An opening between two rooms; there is no leaf in it or the leaf stands open.

    Attributes:
        id: index in `SceneGraph.doors`.
        rooms: ids of the two rooms.
        position: (x, z) of the middle of the opening, in the middle of the wall.
        axis: "x" if one walks through it along x, "z" if along z.
        width: metres between the jambs.
        kind: "door" (framed) or "archway" (wide, unframed).
        colour: colour name of the frame, None if it has none worth naming.
    """

    id: int
    rooms: tuple[int, int]
    position: tuple[float, float]
    axis: str
    width: float
    kind: str
    colour: str | None

    def other(self, room: int) -> int:
        """The room on the other side."""
        return self.rooms[1] if self.rooms[0] == room else self.rooms[0]


@dataclass(frozen=True)
class SceneObject:
    """Anything that is drawn: furniture, pictures, lamps, and the structure (walls, floors, ceilings, door frames).

    Attributes:
        id: index in `SceneGraph.objects`; the renderer's instance id is the same number.
        category: "sofa", "picture", "wall", ...
        colour: colour name a person would use, None where no single colour is worth naming.
        material: "wooden", "leather", ... or None.
        room: id of the room it is in (structure: the room that sees it).
        footprint: its bounding rectangle on the floor.
        height: (bottom, top) in metres above the floor.
        mount: "floor", "wall", "ceiling" or "top" (stands on another object).
        facing: yaw in radians that its front faces, None if it has no front.
        structural: True for walls, floors, ceilings, skirting, door frames and reveals.
    """

    id: int
    category: str
    colour: str | None
    material: str | None
    room: int
    footprint: Rect
    height: tuple[float, float]
    mount: str
    facing: float | None
    structural: bool = False

    @property
    def centre(self) -> tuple[float, float]:
        x0, z0, x1, z1 = self.footprint
        return (x0 + x1) / 2, (z0 + z1) / 2


@dataclass(frozen=True)
class SceneGraph:
    """A flat's rooms, doors and objects.

    Attributes:
        name: scene name, e.g. "flat_020003".
        seed: the scene seed it was generated from.
        rooms: indexed by `Room.id`.
        doors: indexed by `Door.id`.
        objects: indexed by `SceneObject.id`.
    """

    name: str
    seed: int
    rooms: tuple[Room, ...]
    doors: tuple[Door, ...]
    objects: tuple[SceneObject, ...]

    def room_at(self, x: float, z: float) -> int | None:
        """Id of the room that holds the floor point, None inside a wall, in a door opening or outside."""
        for room in self.rooms:
            x0, z0, x1, z1 = room.rect
            if x0 <= x <= x1 and z0 <= z <= z1:
                return room.id
        return None

    def rooms_at(self, points: NDArray[np.float64]) -> list[int | None]:
        """`room_at` for many floor points, (N, 2), at once."""
        found = np.full(len(points), -1)
        for room in reversed(self.rooms):  # as in `room_at`, the first room wins
            x0, z0, x1, z1 = room.rect
            x, z = points[:, 0], points[:, 1]
            found[(x0 <= x) & (x <= x1) & (z0 <= z) & (z <= z1)] = room.id
        return [None if room < 0 else room for room in found.tolist()]

    def doors_of(self, room: int) -> list[Door]:
        """The doors of a room."""
        return [door for door in self.doors if room in door.rooms]

    def doors_between(self, first: int, second: int) -> list[Door]:
        """The doors that join two rooms."""
        return [door for door in self.doors if set(door.rooms) == {first, second}]

    @cached_property
    def furnishings(self) -> tuple[SceneObject, ...]:
        """The objects that are not structure."""
        return tuple(o for o in self.objects if not o.structural)

    def furnishings_in(self, room: int) -> tuple[SceneObject, ...]:
        """The objects of a room that are not structure."""
        return self._furnishings_by_room[room]

    @cached_property
    def _furnishings_by_room(self) -> tuple[tuple[SceneObject, ...], ...]:
        return tuple(tuple(o for o in self.furnishings if o.room == room.id) for room in self.rooms)

    def to_json(self) -> str:
        """The scene graph as JSON text, the same bytes for the same graph."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> SceneGraph:
        """The inverse of `to_json`."""
        data = json.loads(text)
        return cls(
            name=data["name"],
            seed=data["seed"],
            rooms=tuple(Room(**{**r, "rect": tuple(r["rect"])}) for r in data["rooms"]),
            doors=tuple(
                Door(**{**d, "rooms": tuple(d["rooms"]), "position": tuple(d["position"])}) for d in data["doors"]
            ),
            objects=tuple(
                SceneObject(**{**o, "footprint": tuple(o["footprint"]), "height": tuple(o["height"])})
                for o in data["objects"]
            ),
        )

    @classmethod
    def load(cls, path: Path) -> SceneGraph:
        """Reads a scene graph file.

        Raises:
            SceneError: the file is missing or is not a scene graph.
        """
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SceneError(
                f"cannot read the scene graph {path}: {error}. Delete it, and build the scene again with "
                "`streamvln-gym build-flats`."
            ) from error
