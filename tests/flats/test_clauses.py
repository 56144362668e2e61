import math

import pytest

from streamvln_gym.flats.ambiguity import ambiguities
from streamvln_gym.flats.clauses import Cue, Standpoint, Stop, TakeDoor, Visit, door_facts, doors_meant, turn_word
from streamvln_gym.flats.landmarks import passings, visit_point
from streamvln_gym.flats.routes import trace_route
from tests.flats.corridor import DOORS, EAST, GRAPH, KITCHEN_TO_OFFICE, NORTH, ROOMS, SOUTH, path

OUT_OF_KITCHEN = Standpoint(ROOMS[0], DOORS[0], DOORS[0].position, SOUTH)


def meant(claim, stand=OUT_OF_KITCHEN):
    return sorted(d.id for d in doors_meant(GRAPH, stand, claim))


def test_turning_left_out_of_the_kitchen_leads_east():
    # Facing south (+z), east (+x) is on the left.
    assert meant(TakeDoor(walk="left", side="left")) == [1, 2, 3]
    assert meant(TakeDoor(walk="left", side="right")) == [4, 5, 6]  # 4 is just across: a reader may count it
    assert meant(TakeDoor(walk="right", side="left")) == []  # 4 lies behind


@pytest.mark.parametrize(("ordinal", "door"), [(1, 1), (2, 2), (3, 3)])
def test_doors_are_counted_in_walking_order(ordinal, door):
    assert meant(TakeDoor(walk="left", side="left", ordinal=ordinal)) == [door]


def test_a_door_just_across_makes_counting_doubtful():
    assert meant(TakeDoor(walk="left", side="right", ordinal=1)) == [4, 5]


def test_room_types_and_frames():
    assert meant(TakeDoor(to_type="bedroom")) == [1, 3]
    assert meant(TakeDoor(to_type="office")) == [2]
    assert meant(TakeDoor(frame="red")) == [2]


def test_a_cue_singles_out_the_room_of_its_colour():
    walls = Cue("start_walls", "yellow", None, "walls")
    assert meant(TakeDoor(walk="left", cue=walls)) == [5]
    beds = Cue("object", "yellow", 1, "bed")
    assert meant(TakeDoor(to_type="bedroom", walk="left", cue=beds)) == [3]


def test_the_other_bedroom_is_not_the_one_just_left():
    out_of_bedroom = Standpoint(ROOMS[0], DOORS[1], DOORS[1].position, SOUTH)
    assert meant(TakeDoor(to_type="bedroom", other_than=2), out_of_bedroom) == [3]


def test_going_back_means_the_entry_door():
    stand = Standpoint(ROOMS[1], DOORS[0], DOORS[0].position, NORTH)
    assert meant(TakeDoor(back=True), stand) == [0]


def test_facts_about_the_true_door_are_true_of_it():
    route = trace_route(GRAPH, KITCHEN_TO_OFFICE, SOUTH)
    facts = door_facts(GRAPH, route.legs[1])
    assert TakeDoor(walk="left", side="left", ordinal=2) in facts
    for fact in facts:
        assert 2 in meant(fact)


@pytest.mark.parametrize(
    ("degrees", "word"), [(0, "straight"), (44, "straight"), (90, "left"), (-90, "right"), (170, "back")]
)
def test_turn_words(degrees, word):
    assert turn_word(math.radians(degrees)) == word


def start():
    return Standpoint(ROOMS[1], None, (2.0, 2.0), SOUTH)


def test_a_clear_instruction_has_no_ambiguity():
    clauses = [TakeDoor(only=True), TakeDoor(to_type="office"), Stop(1)]
    assert ambiguities(GRAPH, start(), clauses) == []


@pytest.mark.parametrize(
    ("clauses", "complaint"),
    [
        ([TakeDoor(only=True), TakeDoor(to_type="bedroom"), Stop(2)], "2 doors"),
        ([TakeDoor(only=True), TakeDoor(to_type="library"), Stop(4)], "fit the"),
        ([TakeDoor(only=True), TakeDoor(to_type="office"), Stop(2)], "elsewhere"),
        ([TakeDoor(to_type="gym")], "0 doors"),
        ([TakeDoor(only=True), TakeDoor(to_type="gym"), Visit(7)], "fit the"),
    ],
)
def test_ambiguities_are_found(clauses, complaint):
    assert complaint in ambiguities(GRAPH, start(), clauses)[0]


def test_a_colour_or_a_side_tells_two_chairs_apart():
    into_library = [TakeDoor(only=True), TakeDoor(to_type="library")]
    assert ambiguities(GRAPH, start(), [*into_library, Stop(4, with_mark=True)]) == []
    # Walking south into the library, the chair in the east (5) is on the left.
    assert ambiguities(GRAPH, start(), [*into_library, Stop(5, side="left")]) == []
    assert "fit the chair" in ambiguities(GRAPH, start(), [*into_library, Stop(5, side="right")])[0]


def test_passing_sides():
    route = trace_route(GRAPH, KITCHEN_TO_OFFICE, SOUTH)
    (plant,) = passings(GRAPH, route.legs[1])
    assert (plant.item.category, plant.side) == ("plant", "right")
    back = trace_route(GRAPH, path((10.0, 2.0), (10.0, 4.6), (2.0, 4.6), (2.0, 2.0)), EAST)
    (plant,) = passings(GRAPH, back.legs[1])
    assert plant.side == "left"


def test_nothing_is_passed_on_both_sides_or_walked_over():
    along_and_back = path((1.0, 4.6), (7.0, 4.6), (7.0, 4.9), (1.0, 4.9))
    assert passings(GRAPH, trace_route(GRAPH, along_and_back, EAST).legs[0]) == []
    over_the_plant = path((1.0, 5.3), (7.0, 5.3))
    assert passings(GRAPH, trace_route(GRAPH, over_the_plant, EAST).legs[0]) == []


def test_a_visit_comes_before_the_way_back():
    sofa = GRAPH.objects[1]
    there_and_back = path((10.0, 4.6), (10.0, 3.0), (11.5, 1.2), (9.0, 1.2), (11.5, 1.2), (10.0, 3.0), (10.0, 4.6))
    leg = trace_route(GRAPH, there_and_back, NORTH).legs[1]
    visited = visit_point(leg, sofa)
    assert leg.turns_back and visited <= len(leg.points) // 2
    assert math.dist(leg.points[visited], (10.0, 1.2)) < 0.2  # where the path first comes nearest
    out_and_past_the_plant = path((2.0, 4.6), (3.0, 4.6), (7.0, 4.6))
    leg = trace_route(GRAPH, out_and_past_the_plant, EAST).legs[0]
    assert len(passings(GRAPH, leg)) == 1
    assert passings(GRAPH, leg, until=10) == []
