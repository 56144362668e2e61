"""The expert: a greedy follower of geodesic distances, to a goal or along a reference path."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from streamvln_gym.errors import NavigationError
from streamvln_gym.geometry import wrap_angle
from streamvln_gym.metrics import SUCCESS_DISTANCE
from streamvln_gym.simulators.base import Action, AgentState, Simulator
from streamvln_gym.simulators.heading import best_turns

if TYPE_CHECKING:
    from streamvln_gym.episodes import Episode

WAYPOINT_RADIUS = 0.5
"""Geodesic metres at which a way-point counts as visited, unless told otherwise."""

_APART = 0.05  # metres on the floor between two positions that a direction needs to mean something


@dataclass(frozen=True)
class Demonstration:
    """What the expert did on an episode.

    Attributes:
        actions: the actions, with the final STOP.
        positions: float64 (len(actions), 3): the start and the position after every action but STOP.
        yaws: float64 (len(actions),), radians, likewise.
    """

    actions: tuple[int, ...]
    positions: NDArray[np.float64]
    yaws: NDArray[np.float64]


@dataclass(frozen=True)
class Lenience:
    """Lets way-points count as visited that a driver other than the expert came near and has moved away from.

    Without it, whoever cuts a corner is told to go back for it, and whoever turns round in front of a place that the
    metrics count as visited (`EpisodeMetrics`) is sent there again.

    Attributes:
        required: numbers of the way-points that the episode asks to visit; with one, all before it are visited. Of
            such a one it is enough to turn one's back on it.
        required_near: geodesic metres at which such a one is near, as for the metrics.
        near: likewise for the others.
        away: metres by which the agent is farther away than it has been.
    """

    required: tuple[int, ...] = ()
    required_near: float = SUCCESS_DISTANCE
    near: float = 2.0
    away: float = 1.0


class GeodesicFollower:
    """Visits way-points in order by the headings that lower the geodesic distance fastest, and stops at the last.

    The way-point in turn is the only state (with `lenience`, also how near the agent came to it): a caller may execute
    other actions and ask again from wherever it stands.

    Args:
        simulator: gives steps and geodesic distances; its agent is not moved.
        waypoints: (N, 3) metres, N >= 1, in the order in which they are to be visited.
        goal_radius: geodesic distance in metres to the last way-point at which the follower says STOP.
        waypoint_radius: geodesic distance in metres at which an earlier way-point counts as visited.
        lenience: for agents that somebody else drives.
    """

    def __init__(
        self,
        simulator: Simulator,
        waypoints: Sequence[Sequence[float]] | NDArray,
        goal_radius: float = 0.25,
        waypoint_radius: float = WAYPOINT_RADIUS,
        lenience: Lenience | None = None,
    ) -> None:
        self._simulator = simulator
        self._waypoints = np.asarray(waypoints, dtype=np.float64).reshape(-1, 3)
        if not len(self._waypoints):
            raise ValueError("GeodesicFollower needs at least one way-point")
        self._goal_radius = goal_radius
        self._waypoint_radius = waypoint_radius
        self._lenience = lenience
        self._closest: dict[int, float] = {}  # metres, by way-point
        # The embedded simulator has the rule compiled.
        self._best_turns = getattr(simulator, "best_turns", None) or partial(best_turns, simulator)
        self._index = 0
        self._measured: tuple[tuple[float, ...], float] = ((), math.nan)
        self._found: tuple[tuple[float, ...], NDArray[np.float64] | None] = ((), None)

    @property
    def waypoint(self) -> NDArray[np.float64]:
        """The way-point (3,) that is headed for."""
        return self._waypoints[self._index]

    @property
    def visited(self) -> int:
        """How many way-points have been visited, as of the last `next_action` or `advance`."""
        return self._index

    def remaining(self, state: AgentState) -> float:
        """Geodesic metres from `state` over all way-points still to be visited."""
        return self._distance(state) + self._metres_after[self._index]

    def bearing(self, state: AgentState) -> float:
        """Where the way leads, in radians from the heading of `state`, left positive; 0 at the way-point itself."""
        return _bearing(state, self._path(state), self.waypoint)

    def points_ahead(self, state: AgentState, spacing: float) -> Iterator[tuple[float, float, float]]:
        """Points (x, y, z) on the way from `state` over the way-points, every so many metres."""
        place = state.position
        for number in range(self._index, len(self._waypoints)):
            waypoint = self._waypoints[number]
            first = number == self._index
            path = self._path(state) if first else self._simulator.shortest_path(place, waypoint)
            corners = [place.tolist(), waypoint.tolist()] if path is None else path.tolist()
            for begin, end in pairwise(corners):
                steps = max(int(math.dist(begin, end) / spacing), 1)
                (x, y, z), (dx, dy, dz) = begin, (b - a for a, b in zip(begin, end, strict=True))
                for k in range(1, steps + 1):
                    share = k / steps
                    yield x + dx * share, y + dy * share, z + dz * share
            place = waypoint

    @cached_property
    def _metres_after(self) -> list[float]:
        """For every way-point the geodesic metres from it over those after it."""
        legs = [self._simulator.geodesic_distance(a, b) for a, b in pairwise(self._waypoints)]
        return [sum(legs[k:]) for k in range(len(self._waypoints))]

    def next_action(self, state: AgentState) -> int:
        """The expert's action in `state`.

        Raises:
            NavigationError: the way-point cannot be reached from `state`.
        """
        distance = self.advance(state)
        if self._index == len(self._waypoints) - 1 and distance <= self._goal_radius:
            return int(Action.STOP)
        turns = self._best_turns(state, self.waypoint, distance)
        if turns == 0:
            return int(Action.FORWARD)
        return int(Action.LEFT if turns > 0 else Action.RIGHT)

    def next_actions(self, state: AgentState, count: int) -> list[int]:
        """The expert's next `count` actions from `state`, fewer if they end in STOP; the follower's state is kept."""
        actions: list[int] = []
        with self._kept():
            while len(actions) < count:
                actions.append(self.next_action(state))
                if actions[-1] == Action.STOP:
                    break
                state, _ = self._simulator.try_step(state, actions[-1])
        return actions

    def steps_to_waypoint(self, state: AgentState, limit: int = 500) -> int:
        """How many actions the expert takes from `state` until it has visited the way-point in turn (or stops there).

        The follower's state is kept. `limit` is returned where it takes longer.

        Raises:
            NavigationError: the way-point cannot be reached from `state`.
        """
        index = self._index
        steps = 0
        with self._kept():
            while steps < limit and (action := self.next_action(state)) != Action.STOP and self._index == index:
                state, _ = self._simulator.try_step(state, action)
                steps += 1
        return steps

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """What is visited meanwhile is visited in thought only."""
        index, closest = self._index, dict(self._closest)
        try:
            yield
        finally:
            self._index, self._closest = index, closest

    def advance(self, state: AgentState) -> float:
        """Passes the way-points that are reached in `state`; returns the geodesic metres to the one in turn.

        `next_action` does so by itself; a caller that executes other actions tells the states in between with this.

        Raises:
            NavigationError: the way-point cannot be reached from `state`.
        """
        if self._lenience is not None:
            self._pass_by(state, self._lenience)
        while True:
            distance = self._distance(state)
            if not math.isfinite(distance):
                here, there = state.position.round(3).tolist(), self.waypoint.round(3).tolist()
                raise NavigationError(
                    f"the expert cannot reach {there} from {here}: they are not connected on the navigation mesh"
                )
            if self._index == len(self._waypoints) - 1 or distance > self._waypoint_radius:
                return distance
            self._index += 1

    def _pass_by(self, state: AgentState, lenience: Lenience) -> None:
        """Passes the way-points that the agent has been near and moved away from."""
        required = [number for number in lenience.required if number >= self._index]
        watched = {self._index: lenience.near, **dict.fromkeys(required[:1], lenience.required_near)}
        for number, near in watched.items():
            if number == len(self._waypoints) - 1:
                continue
            own = number == self._index
            waypoint = self._waypoints[number]
            metres = self._distance(state) if own else self._simulator.geodesic_distance(state.position, waypoint)
            closest = self._closest[number] = min(self._closest.get(number, math.inf), metres)
            if closest >= near:
                continue
            # The metrics count a required one wherever it is near. Who turns round there must not have to walk first:
            # an expert that takes over would turn them back.
            enough = number in lenience.required and self._faces_away(state, waypoint)
            if enough or metres > closest + lenience.away:
                self._index = number + 1

    def _faces_away(self, state: AgentState, waypoint: NDArray[np.float64]) -> bool:
        """Whether the ways to the way-point in turn and to this one both lie behind the agent."""
        if abs(self.bearing(state)) <= math.pi / 2:
            return False
        path = self._simulator.shortest_path(state.position, waypoint)
        return abs(_bearing(state, path, waypoint)) > math.pi / 2

    def _distance(self, state: AgentState) -> float:
        """Geodesic metres to the way-point in turn; the last answer is kept, for a turn does not change it."""
        asked = (*state.position.tolist(), self._index)
        if self._measured[0] != asked:
            self._measured = asked, self._simulator.geodesic_distance(state.position, self.waypoint)
        return self._measured[1]

    def _path(self, state: AgentState) -> NDArray[np.float64] | None:
        """Corners of the shortest path to the way-point in turn; the last answer is kept."""
        asked = (*state.position.tolist(), self._index)
        if self._found[0] != asked:
            self._found = asked, self._simulator.shortest_path(state.position, self.waypoint)
        return self._found[1]


def _bearing(state: AgentState, path: NDArray[np.float64] | None, end: NDArray[np.float64]) -> float:
    """Radians from the heading of `state` to where the path to `end` begins, left positive; 0 at its end."""
    x, _, z = state.position.tolist()
    for corner in [*([] if path is None else path.tolist()), end.tolist()]:
        east, south = corner[0] - x, corner[2] - z
        if math.hypot(east, south) > _APART:
            return wrap_angle(math.atan2(-east, -south) - state.yaw)
    return 0.0


def expert_for(
    simulator: Simulator,
    episode: Episode,
    along_reference: bool = True,
    waypoint_radius: float = WAYPOINT_RADIUS,
    lenient: bool = False,
) -> GeodesicFollower:
    """The expert of an episode.

    Args:
        simulator: with the episode's scene loaded.
        episode: needs a goal.
        along_reference: follow `episode.reference_path`; otherwise take the shortest way to the goal, by way of
            `episode.via` where the episode asks for it.
        waypoint_radius: geodesic distance in metres at which a point on the way counts as visited.
        lenient: somebody else drives, see `Lenience`.

    Raises:
        NavigationError: the episode has no goal (the splits without ground truth).
    """
    if not episode.goals:
        raise NavigationError(f"episode {episode.episode_id} has no goal, so no expert can be had for it")
    goal = episode.goals[0].position
    path = episode.reference_path[1:-1] if along_reference else episode.via
    lenience = Lenience(_numbers_of(episode.via, path)) if lenient else None
    return GeodesicFollower(simulator, [*path, goal], waypoint_radius=waypoint_radius, lenience=lenience)


def _numbers_of(places: Sequence[Sequence[float]], path: Sequence[Sequence[float]]) -> tuple[int, ...]:
    """The number of the path's point that is nearest to each place, in order."""
    numbers: list[int] = []
    for place in places:
        begin = numbers[-1] if numbers else 0
        metres = [math.dist(place, point) for point in path[begin:]]
        if metres:
            numbers.append(begin + metres.index(min(metres)))
    return tuple(numbers)


def demonstrate(
    simulator: Simulator, start: AgentState, follower: GeodesicFollower, max_steps: int = 500
) -> Demonstration:
    """Runs `follower` from `start` to its STOP; the simulator's agent is not moved.

    Raises:
        NavigationError: the follower did not stop within `max_steps` actions.
    """
    state = start
    actions: list[int] = []
    states = [state]
    while len(actions) < max_steps:
        actions.append(follower.next_action(state))
        if actions[-1] == Action.STOP:
            return Demonstration(
                tuple(actions), np.array([s.position for s in states]), np.array([s.yaw for s in states])
            )
        state, _ = simulator.try_step(state, actions[-1])
        states.append(state)
    raise NavigationError(
        f"the expert did not stop within {max_steps} steps on the way from {start.position.round(3).tolist()}"
        f" to {follower.waypoint.round(3).tolist()}"
    )
