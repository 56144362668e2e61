"""Places in a flat where an episode can start, pass and end."""

from __future__ import annotations

import math
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from streamvln_gym.flats.landmarks import distance_to, is_landmark, is_unique
from streamvln_gym.scene_graph import Room, SceneGraph, SceneObject
from streamvln_gym.simulators.embedded.navmesh import NavigationMesh

_CLEARANCE = 0.15  # metres to the edge of the navigation mesh at which nobody stands squeezed in
_TRIES = 25
_ALL_AROUND = np.arange(0.0, 2 * math.pi, math.pi / 8)
_REACHES = (0.45, 0.6, 0.8)  # metres off an object's edge


class Places:
    """Finds standing places on the navigation mesh of one flat and paths over them.

    Args:
        graph: the flat's scene graph.
        navmesh: its navigation mesh; only the largest island is used.
    """

    def __init__(self, graph: SceneGraph, navmesh: NavigationMesh) -> None:
        self.graph = graph
        self.navmesh = navmesh
        self.height = float(navmesh.vertices[0, 1])
        self._largest_island = navmesh.largest_island
        # Proposals ask for the same few places again and again.
        self._middles: dict[int, NDArray[np.float64] | None] = {}
        self._beside: dict[tuple[int, float], NDArray[np.float64] | None] = {}

    @cached_property
    def landmarks(self) -> tuple[SceneObject, ...]:
        """The objects at which an episode may stop: unique landmarks on the floor or a wall."""
        graph = self.graph
        return tuple(
            o for o in graph.furnishings if is_landmark(o) and o.mount in ("floor", "wall") and is_unique(graph, o)
        )

    def landmarks_in(self, room: int) -> tuple[SceneObject, ...]:
        """Those of a room."""
        return self._landmarks_by_room[room]

    @cached_property
    def _landmarks_by_room(self) -> tuple[tuple[SceneObject, ...], ...]:
        return tuple(tuple(o for o in self.landmarks if o.room == room.id) for room in self.graph.rooms)

    def stand_at(self, x: float, z: float, room: int, clearance: float = _CLEARANCE) -> NDArray[np.float64] | None:
        """The mesh point (3,) at (x, z) if one can stand there, in `room` and not squeezed in; else None."""
        if self.graph.room_at(x, z) != room:
            return None
        point = np.array([x, self.height, z])
        return point if self.navmesh.is_clear(point, self._largest_island, clearance) else None

    def random_in(self, room: Room, rng: np.random.Generator) -> NDArray[np.float64] | None:
        """A random place (3,) in a room, or None if it is too full to find one."""
        x0, z0, x1, z1 = room.rect
        for _ in range(_TRIES):
            point = self.stand_at(rng.uniform(x0 + 0.3, x1 - 0.3), rng.uniform(z0 + 0.3, z1 - 0.3), room.id, 0.2)
            if point is not None:
                return point
        return None

    def at_object(self, item: SceneObject, rng: np.random.Generator) -> NDArray[np.float64] | None:
        """A place (3,) within arm's length of an object, in front of it if it has a front; None if there is none."""
        around = rng.permutation(_ALL_AROUND).tolist()
        if item.facing is not None:
            around = [item.facing, *(item.facing + turn for turn in (0.4, -0.4, 0.8, -0.8)), *around]
        for yaw in around:
            if (item.id, yaw) not in self._beside:
                places = (self._beyond(item, yaw, reach) for reach in _REACHES)
                self._beside[item.id, yaw] = next((place for place in places if place is not None), None)
            place = self._beside[item.id, yaw]
            if place is not None:
                return place
        return None

    def _beyond(self, item: SceneObject, yaw: float, reach: float) -> NDArray[np.float64] | None:
        """A place `reach` metres off the object's edge, as seen from its middle in direction `yaw`."""
        x, z = item.centre
        dx, dz = -math.sin(yaw), -math.cos(yaw)
        half_x = (item.footprint[2] - item.footprint[0]) / 2
        half_z = (item.footprint[3] - item.footprint[1]) / 2
        edge = min(
            half_x / abs(dx) if abs(dx) > 1e-9 else math.inf,
            half_z / abs(dz) if abs(dz) > 1e-9 else math.inf,
        )
        place = self.stand_at(x + dx * (edge + reach), z + dz * (edge + reach), item.room)
        if place is None or distance_to(item, place[None, [0, 2]])[0] > 1.0:
            return None
        return place

    def middle(self, room: Room) -> NDArray[np.float64] | None:
        """A place (3,) near the middle of a room, or None if there is none."""
        if room.id not in self._middles:
            self._middles[room.id] = self._find_middle(room)
        return self._middles[room.id]

    def _find_middle(self, room: Room) -> NDArray[np.float64] | None:
        x, z = room.centre
        for reach in (0.0, 0.4, 0.8):
            for yaw in np.arange(0.0, 2 * math.pi, math.pi / 4):
                point = self.stand_at(x - reach * math.sin(yaw), z - reach * math.cos(yaw), room.id)
                if point is not None:
                    return point
        return None

    def path_over(self, places: list[NDArray[np.float64]]) -> NDArray[np.float64] | None:
        """Corner points (N, 3) of the walkable path from place to place, or None if two are not connected."""
        corners: list[NDArray[np.float64]] = [np.asarray(places[0])[None]]
        for start, end in pairwise(places):
            part = self.navmesh.find_path(start, end)
            if part is None:
                return None
            corners.append(np.asarray(part)[1:])
        return np.concatenate(corners)
