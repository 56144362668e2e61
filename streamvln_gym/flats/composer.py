"""Chooses what an instruction says: the clauses, in order, in one of three styles."""

from __future__ import annotations

import math
from collections.abc import Container
from dataclasses import dataclass, fields, replace
from itertools import combinations

import numpy as np

from streamvln_gym.flats.clauses import (
    Clause,
    Orient,
    PassBy,
    ReturnToStart,
    Standpoint,
    Stop,
    TakeDoor,
    Visit,
    door_facts,
    doors_meant,
    side_of,
)
from streamvln_gym.flats.landmarks import (
    distance_to,
    is_landmark,
    is_unique,
    mark,
    needs_mark,
    objects_meant,
    passings,
    visit_point,
)
from streamvln_gym.flats.routes import Leg, bearing
from streamvln_gym.flats.task import Task
from streamvln_gym.scene_graph import Door, SceneGraph, SceneObject


@dataclass(frozen=True)
class Style:
    """How much an author tells.

    Attributes:
        name: "terse", "plain" or "detailed".
        passes: most landmarks told in one leg.
        pass_chance: chance that a landmark passed is told.
        extra_fact: chance of telling more of a door than is needed.
        colour: chance of saying a colour that is not needed.
        orient: chance of saying a first turn that is small.
    """

    name: str
    passes: int
    pass_chance: float
    extra_fact: float
    colour: float
    orient: float


STYLES = (
    Style("terse", 0, 0.0, 0.1, 0.15, 0.4),
    Style("plain", 1, 0.35, 0.3, 0.4, 0.7),
    Style("detailed", 2, 0.6, 0.7, 0.65, 0.95),
)


def compose(
    graph: SceneGraph, task: Task, style: Style, rng: np.random.Generator, seen: Container[int]
) -> list[list[Clause]] | None:
    """The clauses of every leg that is told, or None where no clear description exists.

    Args:
        graph: the flat.
        task: what is asked.
        style: how much is told.
        rng: draws what is told.
        seen: ids of the objects that come into sight on the way; no other one is a landmark.

    Returns:
        One list of clauses per leg; the last one ends in `Stop` or `ReturnToStart`.
    """
    told: list[list[Clause]] = []
    for index in range(task.told_legs):
        leg = task.route.legs[index]
        clauses: list[Clause] = []
        if index == 0:
            clauses += _orient(task, style, rng)
        clauses += _passes(graph, task, index, style, rng, seen)
        if index in task.visits:
            item = graph.objects[task.visits[index]]
            with_mark = _says_mark(graph, task, item, style, rng)
            side = _telling_side(graph, leg, item, with_mark)
            if side == "":
                return None
            clauses.append(Visit(item.id, with_mark, side))
        if index == task.told_legs - 1:
            ending = _ending(graph, task, leg, style, rng)
            if ending is None:
                return None
            clauses.append(ending)
        else:
            door = _take_door(graph, task, index, style, rng, seen)
            if door is None:
                return None
            if door.side is not None or door.walk is not None:
                # Sides are as seen on entry: with a turn told before, they would be taken from the new heading.
                clauses = [c for c in clauses if not isinstance(c, Orient) or c.turn == "straight"]
            clauses.append(door)
        told.append(clauses)
    return told


def _orient(task: Task, style: Style, rng: np.random.Generator) -> list[Clause]:
    points = task.route.points
    ahead = points[min(12, len(points) - 1)]
    angle = bearing(task.start_yaw, (float(points[0, 0]), float(points[0, 1])), (float(ahead[0]), float(ahead[1])))
    degrees, side = abs(math.degrees(angle)), "left" if angle > 0 else "right"
    if degrees > 138:
        return [Orient("around")]
    if degrees > 45:
        return [Orient(side)] if rng.random() < max(style.orient, 0.75) else []
    if rng.random() >= style.orient:
        return []
    if degrees > 16:
        return [Orient(f"slightly {side}")]
    return [Orient("straight")] if degrees < 10 and rng.random() < 0.6 else []


def _passes(
    graph: SceneGraph, task: Task, index: int, style: Style, rng: np.random.Generator, seen: Container[int]
) -> list[Clause]:
    leg = task.route.legs[index]
    if index == 0 and task.kind == "return":
        return []  # the start room's furniture would name the room
    if leg.exit is None and task.kind is not None:
        return []  # what is in the right room would tell it from the others
    visited = task.visits.get(index)
    until = None if visited is None else visit_point(leg, graph.objects[visited])
    named = (visited, getattr(task.stop, "object_id", None))
    told = [
        PassBy(p.item.id, p.side, _says_mark(graph, task, p.item, style, rng))
        for p in passings(graph, leg, until)
        if p.item.id not in named and p.item.id in seen and rng.random() < style.pass_chance
    ]
    if len(told) > style.passes:
        keep = sorted(rng.choice(len(told), style.passes, replace=False).tolist())
        told = [told[k] for k in keep]
    return list(told)


def _says_mark(graph: SceneGraph, task: Task, item: SceneObject, style: Style, rng: np.random.Generator) -> bool:
    """Whether the mark is said. A same-as episode tells none: the colour in question must be remembered."""
    if mark(item) is None or task.kind == "same_as":
        return False
    if task.kind in ("counting", "second_room") and item.room == task.route.legs[-1].room.id:
        return False  # it would tell the right room from the others
    return needs_mark(graph, item) or rng.random() < style.colour


def _telling_side(graph: SceneGraph, leg: Leg, item: SceneObject, with_mark: bool) -> str | None:
    """None if the object needs no side, its side if that tells it apart, "" if nothing does."""
    stand = Standpoint.of_leg(leg)
    if len(objects_meant(graph, stand, item, with_mark, None)) == 1:
        return None
    for side in side_of(bearing(stand.heading, stand.origin, item.centre), strict=True) - {"ahead"}:
        if len(objects_meant(graph, stand, item, with_mark, side)) == 1:
            return side
    return ""


def _ending(graph: SceneGraph, task: Task, leg: Leg, style: Style, rng: np.random.Generator) -> Clause | None:
    if isinstance(task.stop, ReturnToStart) or task.stop.object_id is None:
        return task.stop
    item = graph.objects[task.stop.object_id]
    with_mark = _says_mark(graph, task, item, style, rng)
    side = _telling_side(graph, leg, item, with_mark)
    if side == "":
        return None
    return Stop(item.id, with_mark, side)


def _take_door(
    graph: SceneGraph, task: Task, index: int, style: Style, rng: np.random.Generator, seen: Container[int]
) -> TakeDoor | None:
    """A claim that singles out the leg's exit: a memory kind's own, else as few facts as do (or one more)."""
    leg = task.route.legs[index]
    if leg.exit is None:
        return None
    stand = Standpoint.of_leg(leg)
    fixed = task.doors.get(index)
    if fixed is not None:
        return fixed if _singles_out(graph, stand, fixed, leg.exit) else None
    facts = door_facts(graph, leg, after_visit=index in task.visits)
    if task.kind == "same_as":
        facts = [fact for fact in facts if fact.frame is None]
    if index not in task.visits and not (index == 0 and task.kind == "return"):
        facts += [fact for fact in _beside_facts(graph, leg, leg.exit) if fact.beside in seen]
    only = TakeDoor(only=True)
    if index == 0 and rng.random() < 0.35 and _singles_out(graph, stand, only, leg.exit):
        facts = [only]
    facts = [facts[k] for k in rng.permutation(len(facts))]
    facts.sort(key=lambda f: f.to_type is None and rng.random() < 0.7)
    smallest = 2 if rng.random() < style.extra_fact else 1
    for size in (*range(smallest, 4), 1):
        for chosen in combinations(facts, min(size, len(facts))):
            claim = _merged(chosen)
            if claim is not None and _singles_out(graph, stand, claim, leg.exit):
                return claim
    return None


def _singles_out(graph: SceneGraph, stand: Standpoint, claim: TakeDoor, door: Door) -> bool:
    return [d.id for d in doors_meant(graph, stand, claim)] == [door.id]


def _merged(claims: tuple[TakeDoor, ...]) -> TakeDoor | None:
    """One claim that says all; None if two of them give one attribute different values."""
    merged = TakeDoor()
    for claim in claims:
        for f in fields(claim):
            value, had = getattr(claim, f.name), getattr(merged, f.name)
            if value in (None, False):
                continue
            if had not in (None, False) and had != value:
                return None
            merged = replace(merged, **{f.name: value})
    return merged


def _beside_facts(graph: SceneGraph, leg: Leg, door: Door) -> list[TakeDoor]:
    """Landmarks that stand right beside the door, one fact each."""
    middle = np.array([door.position])
    return [
        TakeDoor(beside=item.id)
        for item in graph.furnishings_in(leg.room.id)
        if is_landmark(item)
        and is_unique(graph, item)
        and item.mount == "floor"
        and distance_to(item, middle)[0] < 0.95
    ]
