import re

import numpy as np
import pytest

from streamvln_gym.flats import phrases
from streamvln_gym.flats.ambiguity import ambiguities
from streamvln_gym.flats.clauses import Cue, PassBy, ReturnToStart, Standpoint, Stop, TakeDoor
from streamvln_gym.flats.phrases import expand
from streamvln_gym.flats.routes import trace_route
from streamvln_gym.flats.task import Task
from streamvln_gym.flats.writer import write_instructions
from tests.flats.corridor import EAST, GRAPH, KITCHEN_TO_OFFICE, NORTH, SOUTH, path

TO_FAR_BEDROOM = path((2.0, 2.0), (2.0, 4.6), (14.0, 4.6), (14.0, 3.0))


def write(task, seeds=range(12)):
    written = []
    for seed in seeds:
        written += write_instructions(GRAPH, task, 3, np.random.default_rng(seed)) or []
    assert written
    return written


def plain_task():
    return Task(trace_route(GRAPH, KITCHEN_TO_OFFICE, EAST), EAST, Stop(1))


def memory_task(door, kind, stop=None):
    route = trace_route(GRAPH, TO_FAR_BEDROOM, NORTH)
    return Task(route, NORTH, stop or Stop(None, place="middle"), kind=kind, doors={1: door})


def test_templates_expand_completely():
    templates = [t for name, group in vars(phrases).items() if name.isupper() for t in _strings(group)]
    names = "here there door side hall it It it_a start start_a room room_a looks metres shown cue"
    slots = dict.fromkeys(names.split(), "x")
    assert len(templates) > 100
    for template in templates:
        for seed in range(5):
            text = expand(template, np.random.default_rng(seed), slots)
            assert not re.search(r"[\[\]|<>]|  ", text), template


def _strings(group):
    if isinstance(group, str):
        return [group]
    if isinstance(group, dict):
        return [t for value in group.values() for t in _strings(value)]
    return [t for value in group for t in _strings(value)] if isinstance(group, (tuple, list)) else []


def test_instructions_read_like_sentences():
    for written in write(plain_task()):
        assert written.text[0].isupper() and written.text.endswith(".")
        assert not re.search(r"\.\.|,,|, \.|\bthe the\b|[\[\]|<>]|  | ,", written.text), written.text
        for sentence in written.text.rstrip(".").split(". "):
            assert sentence[0].isupper(), written.text


def test_three_styles_differ_in_length():
    by_style = {}
    for written in write(plain_task()):
        by_style.setdefault(written.style, []).append(len(written.text.split()))
    assert set(by_style) == {"terse", "plain", "detailed"}
    assert np.mean(by_style["terse"]) < np.mean(by_style["plain"]) < np.mean(by_style["detailed"])


def test_instructions_of_one_path_differ_and_are_reproducible():
    first = write_instructions(GRAPH, plain_task(), 3, np.random.default_rng(5))
    again = write_instructions(GRAPH, plain_task(), 3, np.random.default_rng(5))
    assert first == again
    assert len({w.text for w in first}) == 3


def test_what_is_written_is_clear():
    start = Standpoint.of_leg(plain_task().route.legs[0])
    for written in write(plain_task()):
        assert ambiguities(GRAPH, start, written.clauses) == []
        assert re.search(r"sofa|couch|settee", written.text)


def test_counting_says_the_number_and_not_the_room():
    for written in write(memory_task(TakeDoor(walk="left", side="left", ordinal=3), "counting")):
        assert "third" in written.text
        assert re.search(r"\bleft\b", written.text)
        assert "yellow" not in written.text


def test_the_second_room_is_the_other_one():
    bedroom_to_bedroom = path((10.0, 2.0), (10.0, 4.6), (6.0, 4.6), (6.0, 3.0), (6.0, 4.6), (14.0, 4.6), (14.0, 3.0))
    route = trace_route(GRAPH, bedroom_to_bedroom, NORTH)
    claim = TakeDoor(to_type="bedroom", other_than=2)
    task = Task(route, NORTH, Stop(None, place="middle"), kind="second_room", visits={2: 2}, doors={3: claim})
    for written in write(task):
        assert re.search(r"(other|second) bedroom|bedroom (that|which) you", written.text)


def test_same_as_never_tells_the_colour():
    beds = memory_task(
        TakeDoor(to_type="bedroom", walk="left", cue=Cue("object", "yellow", 6, "bed")), "same_as", Stop(3)
    )
    walls = memory_task(TakeDoor(walk="left", cue=Cue("start_walls", "pink", None, "walls")), "same_as")
    for written in write(beds) + write(walls):
        assert re.search(r"colour", written.text)
        assert not re.search(r"yellow|pink|white|red|green", written.text), written.text


def test_a_return_does_not_name_the_start_room():
    there_and_back = path((2.0, 2.0), (2.0, 4.6), (10.0, 4.6), (9.0, 1.5), (10.0, 4.6), (2.0, 4.6), (2.0, 2.0))
    route = trace_route(GRAPH, there_and_back, SOUTH)
    task = Task(route, SOUTH, ReturnToStart(), kind="return", visits={2: 1}, return_leg=2)
    for written in write(task):
        assert "kitchen" not in written.text
        assert re.search(r"back|return|retrace", written.text, re.IGNORECASE)
        assert re.search(r"sofa|couch|settee", written.text)


def test_only_what_comes_into_sight_is_told():
    told = {seen: set() for seen in ((1,), (0, 1))}
    for seen, categories in told.items():
        for seed in range(12):
            for written in write_instructions(GRAPH, plain_task(), 3, np.random.default_rng(seed), seen) or []:
                categories |= {GRAPH.objects[c.object_id].category for c in written.clauses if isinstance(c, PassBy)}
                if 0 not in seen:
                    assert "plant" not in written.text
    assert told == {(1,): set(), (0, 1): {"plant"}}


def test_an_opening_does_not_name_the_room_that_the_sentence_names():
    openings = [w.text.split(".")[0] for w in write(plain_task(), range(60)) if re.match("(From|Start|Begin)", w.text)]
    assert openings
    assert all(sentence.count("kitchen") == 1 for sentence in openings), openings


def test_no_word_is_said_twice_in_a_row():
    for written in write(plain_task(), range(40)):
        assert not re.search(r"\b(\w+) \1\b|[Tt]o finish, (finish|end)", written.text), written.text


def test_an_ambiguous_fixed_claim_yields_no_instruction():
    task = memory_task(TakeDoor(to_type="bedroom"), "counting")
    assert write_instructions(GRAPH, task, 3, np.random.default_rng(0)) is None


@pytest.mark.parametrize("text", ["[a|b] <it>", "[[go|walk] to|visit] <it>"])
def test_nested_choices(text):
    drawn = {expand(text, np.random.default_rng(seed), {"it": "it"}) for seed in range(30)}
    assert drawn in ({"a it", "b it"}, {"go to it", "walk to it", "visit it"})
