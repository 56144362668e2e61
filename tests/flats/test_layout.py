"""Floor plans: sizes, archetypes, room types, openings."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from streamvln_gym.errors import SceneError
from streamvln_gym.flats.layout import ARCHETYPES, DOOR_WIDTH, Plan, make_plan, shared_walls
from streamvln_gym.flats.room_types import ROOM_TYPES


def plan_of(seed: int) -> Plan:
    for attempt in range(20):
        try:
            return make_plan(seed, np.random.default_rng([seed, attempt]))
        except SceneError:
            continue
    raise AssertionError(f"no floor plan for seed {seed}")


@pytest.fixture(scope="module")
def plans() -> list[Plan]:
    return [plan_of(seed) for seed in range(200)]


def test_shares_of_archetypes(plans: list[Plan]) -> None:
    counts = Counter(plan.archetype for plan in plans)
    assert len(counts) == len(ARCHETYPES)
    assert counts["corridor"] / len(plans) >= 0.35
    assert min(counts.values()) >= 4


def test_retries_keep_the_archetype() -> None:
    kinds = set()
    for attempt in range(8):
        try:
            kinds.add(make_plan(11, np.random.default_rng([11, attempt])).archetype)
        except SceneError:
            continue
    assert len(kinds) == 1


def test_sizes_and_room_types(plans: list[Plan]) -> None:
    known = {t.name: t for t in ROOM_TYPES}
    for plan in plans:
        assert 4 <= len(plan.cells) <= 14
        assert 45.0 <= plan.area <= 160.0
        counts = Counter(plan.types)
        assert counts["kitchen"] <= 1 and counts["living room"] == 1 and counts["hallway"] >= 1
        for index, name in enumerate(plan.types):
            x0, z0, x1, z1 = plan.inner(index)
            assert min(x1 - x0, z1 - z0) >= (1.3 if name == "hallway" else 2.2)
            assert name == "hallway" or name in known
    assert len({name for plan in plans for name in plan.types}) >= 15


def test_rooms_do_not_overlap(plans: list[Plan]) -> None:
    for plan in plans[:60]:
        for i, a in enumerate(plan.cells):
            for b in plan.cells[i + 1 :]:
                width = min(a[2], b[2]) - max(a[0], b[0])
                depth = min(a[3], b[3]) - max(a[1], b[1])
                assert min(width, depth) < 1e-6


def test_openings_lie_in_shared_walls_and_join_all_rooms(plans: list[Plan]) -> None:
    for plan in plans:
        walls = {(w.rooms, w.axis): w for w in shared_walls(plan.cells)}
        reached, frontier = {0}, [0]
        for opening in plan.openings:
            wall = walls[opening.rooms, opening.axis]
            assert wall.low < opening.along - opening.width / 2 and opening.along + opening.width / 2 < wall.high
            assert opening.width >= DOOR_WIDTH - 1e-9
        while frontier:
            room = frontier.pop()
            for opening in plan.openings:
                if room in opening.rooms:
                    other = sum(opening.rooms) - room
                    if other not in reached:
                        reached.add(other)
                        frontier.append(other)
        assert len(reached) == len(plan.cells)


def test_long_corridors_have_doors_on_both_sides(plans: list[Plan]) -> None:
    corridors = [plan for plan in plans if plan.archetype == "corridor"]
    for plan in corridors:
        halls = [i for i, name in enumerate(plan.types) if name == "hallway"]
        rects = [plan.inner(i) for i in halls]
        spans = [
            (max(r[2] for r in rects) - min(r[0] for r in rects)),
            (max(r[3] for r in rects) - min(r[1] for r in rects)),
        ]
        assert 10.5 <= max(spans) <= 18.0 and 1.3 <= min(spans) <= 1.8
        side = 1 if spans[0] > spans[1] else 0
        middle = (rects[0][side] + rects[0][side + 2]) / 2
        doors = [o for o in plan.openings if o.kind == "door" and o.axis == "xz"[side] and set(o.rooms) & set(halls)]
        low = sum(o.wall < middle for o in doors)
        assert 3 <= low <= 5 and 3 <= len(doors) - low <= 5


def test_some_flats_have_loops_and_repeated_rooms(plans: list[Plan]) -> None:
    loops = sum(len(plan.openings) >= len(plan.cells) for plan in plans)
    repeated = sum(max(Counter(name for name in plan.types if name != "hallway").values()) >= 2 for plan in plans)
    assert loops / len(plans) > 0.25
    assert repeated / len(plans) > 0.4
