"""Why an episode failed: one word for it, as a pure function of the episode's record.

The kind is the first of these questions that is answered with yes, so that every failed episode has exactly one:

1. Was the agent ever where it should have stopped (`oracle_success`)? Then it has `overshot` if it said STOP elsewhere,
   and `no_stop` if it never said STOP.
2. Did it stay where it started, although the described path leads away? `never_left_room`.
3. Did it leave the described path at any time? `wrong_turn`, wherever it ended.
4. It kept to the path and did not come to its end: `stopped_early` if it said STOP, else `no_stop`.

"Where it started" is the room of the start where the scene's rooms are known, else a circle of 3 m around the start.
"Left the described path" is farther than 3 m from it; where rooms are known, also 1 m from it in a room that it does
not pass. Distances here are straight lines in three dimensions, so that another storey counts as elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamvln_gym.flats.routes import resample
from streamvln_gym.metrics import SUCCESS_DISTANCE
from streamvln_gym.scene_graph import SceneGraph

NEVER_LEFT_ROOM = "never_left_room"
WRONG_TURN = "wrong_turn"
OVERSHOT = "overshot"
STOPPED_EARLY = "stopped_early"
NO_STOP = "no_stop"

FAILURE_KINDS: Mapping[str, str] = MappingProxyType(
    {
        NEVER_LEFT_ROOM: "It stayed in the room (or within 3 m) where it started.",
        WRONG_TURN: "It left the described path (by more than 3 m, or by 1 m into a room that the path does not pass).",
        OVERSHOT: "It was within reach of the goal, went on and said STOP elsewhere.",
        STOPPED_EARLY: "It followed the described path and said STOP before its end.",
        NO_STOP: "It followed the described path, or reached the goal, and never said STOP.",
    }
)
"""Every kind with what it means, in the order in which things can go wrong on the way."""

PATH_WIDTH = SUCCESS_DISTANCE
"""Metres from the described path within which an agent follows it, and around the start within which it stayed there."""
STRAY = 1.0
"""Metres from the described path at which a room that it does not pass counts as a wrong one (not the door's edge)."""


def failure_kind(record: Mapping[str, Any], rooms: SceneGraph | None = None) -> str | None:
    """What went wrong first in an episode, see the module's text.

    Args:
        record: a finished episode's: `success`, `oracle_success`, `stopped`, `trajectory` (N, 3 or more) with the start
            first, and `reference_path` (M, 3), metres.
        rooms: the scene's rooms, None where they are not known.

    Returns:
        A key of `FAILURE_KINDS`; None if the episode succeeded, or has no goal to fail at (the test splits).

    Raises:
        ValueError: the episode failed and its record lacks the positions or the described path.
    """
    if record.get("success") is None or record["success"]:
        return None
    if record["oracle_success"]:
        return OVERSHOT if record["stopped"] else NO_STOP
    positions, described = _points(record, "trajectory"), resample(_points(record, "reference_path"))
    if _stayed(positions, described, rooms):
        return NEVER_LEFT_ROOM
    if _strayed(positions, described, rooms):
        return WRONG_TURN
    return STOPPED_EARLY if record["stopped"] else NO_STOP


def _points(record: Mapping[str, Any], name: str) -> NDArray[np.float64]:
    """Positions (N, 3) of a record; further columns, such as a heading, are left out."""
    rows = record.get(name)
    if rows is None or not len(rows):
        raise ValueError(
            f"the record of episode {record.get('episode_id')!r} has no {name!r}, without which the kind of its "
            "failure cannot be told: take records of `streamvln-gym evaluate`"
        )
    return np.asarray(rows, dtype=np.float64)[:, :3]


def _stayed(positions: NDArray[np.float64], described: NDArray[np.float64], rooms: SceneGraph | None) -> bool:
    """Whether the agent stayed where it started although the described path leads away from there."""
    if rooms is not None:
        own = rooms.room_at(positions[0, 0], positions[0, 2])
        if own is not None:
            return _visited(positions, rooms) == {own} and bool(_visited(described, rooms) - {own})
    reach = np.linalg.norm(positions - positions[0], axis=1).max()
    return bool(reach < PATH_WIDTH <= np.linalg.norm(described - positions[0], axis=1).max())


def _strayed(positions: NDArray[np.float64], described: NDArray[np.float64], rooms: SceneGraph | None) -> bool:
    """Whether the agent was off the described path at any time."""
    unique = np.unique(positions, axis=0)
    distance = np.array([np.linalg.norm(described - point, axis=1).min() for point in unique])
    if (distance > PATH_WIDTH).any():
        return True
    return rooms is not None and not _visited(unique[distance > STRAY], rooms) <= _visited(described, rooms)


def _visited(points: NDArray[np.float64], rooms: SceneGraph) -> set[int]:
    """The rooms that hold any of the points; door openings belong to none."""
    return {room for room in rooms.rooms_at(points[:, [0, 2]]) if room is not None}
