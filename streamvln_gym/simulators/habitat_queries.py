"""Navigation of the `Simulator` protocol, answered by an object with habitat-lab's simulator interface.

Nothing of habitat is imported here: `sim` is habitat-lab's `HabitatSim` on habitat-sim, or the embedded simulator
behind the same interface (`streamvln_gym.habitat_lab`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamvln_gym.errors import NavigationError
from streamvln_gym.simulators.base import COLLISION_SLACK_SQR, Action, AgentState, point_ahead, turned


class HabitatQueries(ABC):
    """What `simulators.base.Simulator` asks of a navigation mesh. A subclass says what `sim` is."""

    @property
    @abstractmethod
    def sim(self) -> Any:
        """habitat-lab's simulator."""

    @property
    def state(self) -> AgentState:
        """The agent's present state."""
        state = self.sim.get_agent_state()
        rotation = state.rotation
        return AgentState.from_rotation(state.position, (rotation.x, rotation.y, rotation.z, rotation.w))

    def set_state(self, state: AgentState) -> None:
        """Puts the agent somewhere.

        Raises:
            NavigationError: the position is not on the navigation mesh.
        """
        if not self.is_navigable(state.position):
            nearest = self.snap_point(state.position)
            where = "nothing of it is near" if nearest is None else f"its nearest point is {nearest.round(3).tolist()}"
            raise NavigationError(
                f"{np.round(state.position, 3).tolist()} is not on habitat's navigation mesh; {where}. Check that the "
                "scene belongs to the episode, that the mesh was built for an agent of radius 0.1 m and height 1.5 m, "
                "or correct the position."
            )
        self.sim.set_agent_state(np.asarray(state.position, np.float32).tolist(), state.rotation.tolist())

    def try_step(self, state: AgentState, action: int) -> tuple[AgentState, bool]:
        """The state that `action` would lead to from `state`, and whether it collides; the agent does not move."""
        if action == Action.FORWARD:
            start, end = _point(state.position), _point(point_ahead(state))
            reached = np.asarray(self.sim.pathfinder.try_step(start, end), dtype=np.float64)
            moved, asked = reached - start, end.astype(np.float64) - start
            return AgentState(reached, state.yaw), bool(moved @ moved + COLLISION_SLACK_SQR < asked @ asked)
        return turned(state, action), False

    def geodesic_distance(self, position: ArrayLike, goals: ArrayLike) -> float:
        """Metres of the shortest walkable path from `position` (3,) to the nearest of `goals`; inf if there is none."""
        ends = np.asarray(goals, dtype=np.float32).reshape(-1, 3)
        return float(self.sim.geodesic_distance(_point(position), ends))

    def shortest_path(self, start: ArrayLike, end: ArrayLike) -> NDArray[np.float64] | None:
        """Corner points (N, 3) of the shortest walkable path, or None if there is none."""
        points = self.sim.get_straight_shortest_path_points(_point(start), _point(end))
        return np.asarray(points, dtype=np.float64).reshape(-1, 3) if len(points) else None

    def snap_point(self, point: ArrayLike) -> NDArray[np.float64] | None:
        """The nearest point of the navigation mesh, shape (3,), or None if nothing is near."""
        snapped = np.asarray(self.sim.pathfinder.snap_point(_point(point)), dtype=np.float64)
        return snapped if np.isfinite(snapped).all() else None

    def is_navigable(self, point: ArrayLike) -> bool:
        """Whether `point` (3,) lies on the navigation mesh."""
        return bool(self.sim.pathfinder.is_navigable(_point(point)))

    @property
    def floor_polygons(self) -> list[NDArray[np.float64]]:
        """The navigation mesh's triangles, each (3, 3) metres."""
        vertices = np.asarray(self.sim.pathfinder.build_navmesh_vertices(), dtype=np.float64).reshape(-1, 3)
        corners = np.asarray(self.sim.pathfinder.build_navmesh_vertex_indices(), dtype=np.int64).reshape(-1, 3)
        return list(vertices[corners])


def _point(values: ArrayLike) -> NDArray[np.float32]:
    """A point as habitat-sim takes it: float32 (3,)."""
    point = np.asarray(values, dtype=np.float32)
    if point.shape != (3,) or not np.isfinite(point).all():
        raise ValueError(f"a point must be three finite numbers (x, y, z) in metres, got {values!r}")
    return point
