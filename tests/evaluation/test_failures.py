"""Kinds of failure of hand-made episodes: in the open, and in two rooms with a door."""

from __future__ import annotations

from typing import Any

import pytest

from streamvln_gym.evaluation.failures import FAILURE_KINDS, failure_kind
from streamvln_gym.scene_graph import Door, Room, SceneGraph

AHEAD = [[0.0, 0.2, 0.0], [0.0, 0.2, -12.0]]  # the described path
ROOMS = SceneGraph(
    "house",
    0,
    (
        Room(0, "hall", (0.0, 0.0, 4.0, 4.0), "white", "wooden"),
        Room(1, "kitchen", (4.2, 0.0, 12.0, 4.0), "white", "tiled"),
        Room(2, "office", (0.0, 4.2, 4.0, 8.0), "white", "wooden"),
    ),
    (Door(0, (0, 1), (4.1, 2.0), "x", 1.0, "door", None), Door(1, (0, 2), (2.0, 4.1), "z", 1.0, "door", None)),
    (),
)
TO_KITCHEN = [[1.0, 0.2, 2.0], [11.0, 0.2, 2.0]]


def record(trajectory: list[tuple[float, float]], path: list[list[float]] = AHEAD, **given: Any) -> dict[str, Any]:
    """A failed episode along (x, z) points."""
    values = {"success": 0.0, "oracle_success": 0.0, "stopped": True, "episode_id": "7"}
    return {**values, "reference_path": path, "trajectory": [[x, 0.2, z] for x, z in trajectory], **given}


def ahead(metres: float) -> list[tuple[float, float]]:
    """Straight on along `AHEAD`, a position every 25 cm."""
    return [(0.0, -0.25 * k) for k in range(int(metres / 0.25) + 1)]


def test_success_and_missing_goals_are_no_failures():
    assert failure_kind(record(ahead(12), success=1.0)) is None
    without = record(ahead(12))
    del without["success"]  # a test split
    assert failure_kind(without) is None


@pytest.mark.parametrize(
    ("kind", "episode"),
    [
        ("never_left_room", record(ahead(2.75))),
        ("never_left_room", record([(0.0, 0.0)] * 500, stopped=False)),
        ("stopped_early", record(ahead(6))),
        ("no_stop", record(ahead(6), stopped=False)),
        ("wrong_turn", record([*ahead(6), (2.0, -6.0), (3.5, -6.0)])),
        ("wrong_turn", record([*ahead(6), (3.5, -6.0), (0.0, -6.0)], stopped=False)),  # it came back, too late
        ("stopped_early", record([*ahead(6), (2.5, -6.0)])),  # beside the path
        ("overshot", record(ahead(16), oracle_success=1.0)),
        ("no_stop", record(ahead(16), oracle_success=1.0, stopped=False)),
    ],
)
def test_kinds_by_geometry(kind, episode):
    assert failure_kind(episode) == kind
    assert kind in FAILURE_KINDS


def test_another_storey_is_another_way():
    upstairs = record(ahead(6))
    upstairs["trajectory"][-1][1] += 3.5
    assert failure_kind(upstairs) == "wrong_turn"


@pytest.mark.parametrize(
    ("kind", "way"),
    [
        ("never_left_room", [(1.0, 2.0), (3.9, 3.9), (0.1, 0.1)]),  # more than 3 m across, and still the hall
        ("never_left_room", [(1.0, 2.0), (4.1, 2.0)]),  # the door's opening is no other room
        ("stopped_early", [(1.0, 2.0), (6.0, 2.0)]),
        ("wrong_turn", [(1.0, 2.0), (2.0, 5.0)]),  # 3.0 m off the path, in the office
        ("wrong_turn", [(1.0, 2.0), (2.0, 4.5), (2.0, 2.0), (6.0, 2.0)]),
    ],
)
def test_kinds_by_rooms(kind, way):
    assert failure_kind(record(way, TO_KITCHEN), ROOMS) == kind


def test_rooms_tell_what_geometry_alone_cannot():
    """A neighbouring room 2.5 m from the path, and a small step out of the first room."""
    office = record([(1.0, 2.0), (3.0, 2.0), (4.1, 2.0), (4.5, 2.0), (2.0, 4.5)], TO_KITCHEN)
    assert failure_kind(office, ROOMS) == "wrong_turn" and failure_kind(office) == "stopped_early"
    doorway = record([(3.0, 2.0), (4.5, 2.0)], [[3.0, 0.2, 2.0], [11.0, 0.2, 2.0]])
    assert failure_kind(doorway, ROOMS) == "stopped_early" and failure_kind(doorway) == "never_left_room"


def test_the_edge_of_a_wrong_room_is_no_wrong_turn():
    close = [[1.0, 0.2, 3.8], [11.0, 0.2, 3.8]]  # the path itself passes 40 cm from the office
    assert failure_kind(record([(1.0, 3.8), (2.0, 4.3), (2.0, 3.8), (6.0, 3.8)], close), ROOMS) == "stopped_early"


def test_an_unknown_start_room_is_judged_by_distance():
    opening = record([(4.1, 2.0), (5.0, 2.0)], [[4.1, 0.2, 2.0], [11.0, 0.2, 2.0]])
    assert failure_kind(opening, ROOMS) == "never_left_room"


def test_headings_beside_positions_are_ignored():
    episode = record(ahead(6))
    assert failure_kind({**episode, "trajectory": [[*p, 1.5] for p in episode["trajectory"]]}) == "stopped_early"


@pytest.mark.parametrize("missing", ["trajectory", "reference_path"])
def test_a_record_without_positions_is_refused_with_a_remedy(missing):
    with pytest.raises(ValueError, match=rf"episode '7' has no '{missing}'.*streamvln-gym evaluate"):
        failure_kind({**record(ahead(6)), missing: []})
