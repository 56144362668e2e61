import math

import pytest

from streamvln_gym.flats.routes import bearing, entry_heading, resample, trace_route
from tests.flats.corridor import DOORS, EAST, GRAPH, KITCHEN_TO_OFFICE, NORTH, ROOMS, SOUTH, path


def test_a_route_is_cut_at_the_doors():
    route = trace_route(GRAPH, KITCHEN_TO_OFFICE, SOUTH)
    assert [leg.room.type for leg in route.legs] == ["kitchen", "hallway", "office"]
    assert [leg.exit.id for leg in route.legs[:-1]] == [0, 2]
    assert [leg.entry.id for leg in route.legs[1:]] == [0, 2]
    assert route.length == pytest.approx(2.6 + 8.0 + 2.6, abs=0.05)
    assert route.legs[0].heading == SOUTH  # the start's yaw
    assert math.cos(route.legs[1].heading) == pytest.approx(-1.0)  # walks south into the hallway
    assert math.cos(route.legs[2].heading) == pytest.approx(1.0)  # and north into the office


def test_a_way_back_through_the_same_door_is_a_leg_of_its_own():
    there_and_back = path((2.0, 4.7), (2.0, 2.0), (2.0, 4.7), (6.0, 4.7))
    route = trace_route(GRAPH, there_and_back, NORTH)
    assert [leg.room.id for leg in route.legs] == [0, 1, 0]
    assert route.legs[1].turns_back


def test_a_path_through_a_wall_is_no_route():
    assert trace_route(GRAPH, path((2.0, 2.0), (6.0, 2.0)), NORTH) is None


def test_a_path_that_ends_in_a_door_opening_is_no_route():
    assert trace_route(GRAPH, path((2.0, 2.0), (2.0, 3.95)), NORTH) is None


@pytest.mark.parametrize(
    ("target", "degrees"), [((5.0, 4.0), 0), ((4.0, 3.0), 90), ((4.0, 5.0), -90), ((5.0, 3.0), 45)]
)
def test_bearing_is_left_positive(target, degrees):
    assert math.degrees(bearing(EAST, (4.0, 4.0), target)) == pytest.approx(degrees)


def test_entry_heading_points_into_the_room():
    assert entry_heading(DOORS[0], ROOMS[1]) == pytest.approx(NORTH)
    assert abs(entry_heading(DOORS[0], ROOMS[0])) == pytest.approx(math.pi)


def test_resample_keeps_both_ends_and_the_spacing():
    points = resample([[0.0, 0.0], [1.0, 0.0], [1.0, 0.55]], 0.1)
    assert points[0].tolist() == [0.0, 0.0]
    assert points[-1].tolist() == [1.0, 0.55]
    assert len(points) == 17
