"""Proposes tasks: plain ones, and the four kinds that need memory. Words and pictures come later."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from streamvln_gym.flats.clauses import (
    HALLWAY,
    Cue,
    ReturnToStart,
    Standpoint,
    Stop,
    TakeDoor,
    door_facts,
    doors_meant,
    is_end_door,
    shows_cue,
)
from streamvln_gym.flats.landmarks import distance_to, is_landmark, is_unique
from streamvln_gym.flats.places import Places
from streamvln_gym.flats.routes import Leg, Route, trace_route
from streamvln_gym.flats.task import Task
from streamvln_gym.geometry import path_length
from streamvln_gym.scene_graph import Door, Room, SceneGraph, SceneObject

_PLAIN_METRES = (5.0, 20.0)
_MEMORY_METRES = (7.0, 40.0)
_LEGS = (2, 7)
# 32 steps of 0.25 m are 8 m; turns and the way into a room make up for the rest.
_FORGOTTEN_METRES = 5.5
_APART = 10  # points of a leg, 0.1 m each: objects met closer together have no clear order


@dataclass(frozen=True)
class Proposal:
    """A task with its geometry.

    Attributes:
        task: what is asked.
        path: corner points (N, 3) of the reference path.
        via: (M, 3) places that have to be visited in order; empty unless the way is not the shortest.
        cue_objects: ids of the objects of which one has to be remembered having seen (memory kinds).
        cue_room: id of the room that has to be remembered (every object in it is the cue), or None.
        decision: (x, z) at which the remembered cue decides the way (memory kinds), else None.
    """

    task: Task
    path: NDArray[np.float64]
    via: NDArray[np.float64]
    cue_objects: tuple[int, ...] = ()
    cue_room: int | None = None
    decision: tuple[float, float] | None = None


def random_yaw(rng: np.random.Generator) -> float:
    """A heading on the 15-degree grid, radians."""
    return math.radians(15.0 * int(rng.integers(24)))


def propose_plain(places: Places, rng: np.random.Generator) -> Proposal | None:
    """Start anywhere, stop at an object (or a place) at least one room away."""
    rooms = places.graph.rooms
    target = rooms[int(rng.integers(len(rooms)))]
    if target.type == HALLWAY and rng.random() < 0.7:
        return None
    ending = _ending(places, target, rng)
    start_room = rooms[int(rng.integers(len(rooms)))]
    if ending is None or start_room.id == target.id:
        return None
    start = places.random_in(start_room, rng)
    if start is None:
        return None
    stop, goal = ending
    return _finish(places, [start, goal], random_yaw(rng), stop, _PLAIN_METRES)


def propose_return(places: Places, rng: np.random.Generator) -> Proposal | None:
    """Go to an object far away and come back to the start, whose room is not named."""
    graph = places.graph
    candidates = [room for room in graph.rooms if room.type != HALLWAY]
    start_room = candidates[int(rng.integers(len(candidates)))]
    item = _random_one([o for o in places.landmarks if o.room != start_room.id], rng)
    start = places.random_in(start_room, rng)
    place = places.at_object(item, rng) if item is not None else None
    if item is None or start is None or place is None:
        return None
    out = places.path_over([start, place])
    yaw = random_yaw(rng)
    out_route = trace_route(graph, out, yaw) if out is not None else None
    if out_route is None or out_route.length < _FORGOTTEN_METRES or out_route.length > _MEMORY_METRES[1] / 2:
        return None
    turn = len(out_route.legs) - 1
    proposal = _finish(places, [start, place, start], yaw, ReturnToStart(), _MEMORY_METRES, max_legs=14)
    if proposal is None or len(proposal.task.route.legs) <= turn or turn + 1 > _LEGS[1]:
        return None
    if proposal.task.route.legs[turn].room.id != item.room:
        return None
    task = replace(proposal.task, kind="return", visits={turn: item.id}, return_leg=turn)
    decision = (float(place[0]), float(place[2]))
    return replace(proposal, task=task, via=place[None], cue_room=start_room.id, decision=decision)


def propose_counting(places: Places, rng: np.random.Generator) -> Proposal | None:
    """Along a hallway to the n-th door on one side, the first of which was passed long before."""
    drawn = _random_hallway_walk(places, rng)
    if drawn is None or not _may_be_counted(places, drawn):
        return None
    chosen = _hallway_route(places, drawn)
    if chosen is None:
        return None
    proposal, index, leg = chosen
    facts = [f for f in door_facts(places.graph, leg) if f.ordinal is not None and f.ordinal >= 2]
    if not facts or leg.exit is None:
        return None
    claim = facts[0]
    first = _first_counted(places, leg, claim)
    if first is None or math.dist(first.position, leg.exit.position) < _FORGOTTEN_METRES:
        return None
    task = replace(proposal.task, kind="counting", doors={index: claim})
    return replace(proposal, task=task, cue_objects=_frame_of(places, first), decision=leg.exit.position)


def propose_second_room(places: Places, rng: np.random.Generator) -> Proposal | None:
    """Into one of two rooms of a kind off the same room, perhaps somewhere else, and then into the other one."""
    graph = places.graph
    hub = graph.rooms[int(rng.integers(len(graph.rooms)))]
    behind = {d.other(hub.id): d for d in graph.doors_of(hub.id)}
    twins = [(a, b) for a in behind for b in behind if a != b and graph.rooms[a].type == graph.rooms[b].type != HALLWAY]
    if not twins:
        return None
    first, second = twins[int(rng.integers(len(twins)))]
    start_room = graph.rooms[int(rng.integers(len(graph.rooms)))]
    ending = _ending(places, graph.rooms[second], rng, at_place=0.5)
    if ending is None or start_room.id in (first, second):
        return None
    stop, goal = ending
    elsewhere = [o for o in places.landmarks if o.room not in (first, second, hub.id)]
    wanted = [places.landmarks_in(first), elsewhere]
    visited = [_random_one(landmarks, rng) for landmarks in wanted[: 2 if rng.random() < 0.7 else 1]]
    found = [places.random_in(start_room, rng), *(o and places.at_object(o, rng) for o in visited), goal]
    stations = [station for station in found if isinstance(station, np.ndarray)]
    if len(stations) < len(found) or not _tells_nothing(places, stop, [first]):
        return None
    proposal = _finish(places, stations, random_yaw(rng), stop, _MEMORY_METRES, max_legs=12)
    visits = _visit_legs(places, stations, [o for o in visited if o is not None])
    if proposal is None or visits is None:
        return None
    *_, last_hub, last = proposal.task.route.legs
    if (last_hub.room.id, last.room.id) != (hub.id, second):
        return None
    claim = TakeDoor(to_type=graph.rooms[second].type, other_than=first)
    choices = {
        d.other(hub.id) for d in doors_meant(graph, Standpoint.of_leg(last_hub), replace(claim, other_than=None))
    }
    if not choices >= {second} | ({first} if len(visited) > 1 else set()):
        return None  # only one of the two is off this room as one comes back to it: nothing to remember
    doors = {len(proposal.task.route.legs) - 2: claim}
    task = replace(proposal.task, kind="second_room", visits=visits, doors=doors)
    furniture = tuple(o.id for o in graph.furnishings_in(first) if is_landmark(o))
    via = np.array(stations[1:-1])
    return replace(proposal, task=task, via=via, cue_objects=furniture, decision=behind[second].position)


def propose_same_as(places: Places, rng: np.random.Generator) -> Proposal | None:
    """Into the room off a hallway that shows the colour of something seen before."""
    drawn = _random_hallway_walk(places, rng)
    chosen = _hallway_route(places, drawn) if drawn is not None else None
    if chosen is None:
        return None
    proposal, index, leg = chosen
    assert leg.exit is not None
    graph = places.graph
    target = graph.rooms[leg.exit.other(leg.room.id)]
    walks = [f.walk for f in door_facts(graph, leg) if f.walk is not None]
    start_room = proposal.task.route.legs[0].room
    cues: list[tuple[Cue, str | None]] = []
    if start_room.wall_colour == target.wall_colour and start_room.id != leg.room.id:
        cues.append((Cue("start_walls", target.wall_colour, None, "walls"), None))
    cues += [(cue, target.type) for cue in _object_cues(places, proposal.task.route, index, target)]
    for cue, to_type in (cues[k] for k in rng.permutation(len(cues))):
        walk = walks[0] if walks else None
        claim = TakeDoor(to_type=to_type, walk=walk, cue=cue)
        others = doors_meant(graph, Standpoint.of_leg(leg), replace(claim, cue=None))
        rivals = [d for d in others if graph.rooms[d.other(leg.room.id)].type != HALLWAY and d.id != leg.exit.id]
        if not rivals or [d.id for d in doors_meant(graph, Standpoint.of_leg(leg), claim)] != [leg.exit.id]:
            continue
        if not _tells_nothing(places, proposal.task.stop, [d.other(leg.room.id) for d in rivals]):
            continue
        if cue.object_id is not None and not all(_shows_any(places, d.other(leg.room.id), cue) for d in rivals):
            continue
        task = replace(proposal.task, kind="same_as", doors={index: claim})
        seen = _walls_of(places, start_room) if cue.object_id is None else (cue.object_id,)
        return replace(proposal, task=task, cue_objects=seen, decision=leg.exit.position)
    return None


# ------------------------------------------------------------------------------------------------------------ helpers


def _random_one(items: Sequence[SceneObject], rng: np.random.Generator) -> SceneObject | None:
    return items[int(rng.integers(len(items)))] if items else None


def _ending(
    places: Places, room: Room, rng: np.random.Generator, at_place: float = 0.1
) -> tuple[Stop, NDArray[np.float64]] | None:
    """How to stop in a room: at a landmark, or with probability `at_place` in its middle."""
    if room.type != HALLWAY and rng.random() < at_place:
        goal = places.middle(room)
        return (Stop(None, place="middle"), goal) if goal is not None else None
    item = _random_one(places.landmarks_in(room.id), rng)
    if item is None:
        return None
    goal = places.at_object(item, rng)
    return (Stop(item.id), goal) if goal is not None else None


def _finish(
    places: Places,
    stations: list[NDArray[np.float64]],
    yaw: float,
    stop: Stop | ReturnToStart,
    metres: tuple[float, float],
    max_legs: int = _LEGS[1],
) -> Proposal | None:
    path = places.path_over(stations)
    if path is None:
        return None
    path = path.round(6)  # as it will be written
    if path_length(path) < metres[0] - 1e-6:
        return None  # the route, which cuts the corners, is no longer
    route = trace_route(places.graph, path, yaw)
    if route is None or not metres[0] <= route.length <= metres[1] or not _LEGS[0] <= len(route.legs) <= max_legs:
        return None
    return Proposal(Task(route, yaw, stop), path, np.empty((0, 3)))


@dataclass(frozen=True)
class _HallwayWalk:
    """What is drawn for a way along a hallway, before the path is sought: from `start`, out by `door`, to `goal`."""

    hall: Room
    door: Door
    start: NDArray[np.float64]
    goal: NDArray[np.float64]
    stop: Stop
    yaw: float


def _random_hallway_walk(places: Places, rng: np.random.Generator) -> _HallwayWalk | None:
    graph = places.graph
    halls = [room for room in graph.rooms if room.type == HALLWAY]
    if not halls:
        return None
    hall = halls[int(rng.integers(len(halls)))]
    doors = [d for d in graph.doors_of(hall.id) if graph.rooms[d.other(hall.id)].type != HALLWAY]
    if not doors:
        return None
    door = doors[int(rng.integers(len(doors)))]
    # Mostly from the hallway itself or a room off it, for the route has to go along it.
    near = [hall, *(graph.rooms[d.other(hall.id)] for d in graph.doors_of(hall.id))]
    starts = near if rng.random() < 0.8 else graph.rooms
    start_room = starts[int(rng.integers(len(starts)))]
    target = graph.rooms[door.other(hall.id)]
    ending = _ending(places, target, rng, at_place=0.5)
    start = places.random_in(start_room, rng)
    if target.id == start_room.id or ending is None or start is None:
        return None
    stop, goal = ending
    return _HallwayWalk(hall, door, start, goal, stop, random_yaw(rng))


def _hallway_route(places: Places, walk: _HallwayWalk) -> tuple[Proposal, int, Leg] | None:
    """The route of a walk, if it does go along the hallway: (proposal, index of the hallway's leg, that leg)."""
    proposal = _finish(places, [walk.start, walk.goal], walk.yaw, walk.stop, _MEMORY_METRES)
    if proposal is None:
        return None
    for index, leg in enumerate(proposal.task.route.legs):
        if leg.room.id == walk.hall.id and leg.exit is not None and leg.exit.id == walk.door.id:
            return proposal, index, leg
    return None


def _may_be_counted(places: Places, walk: _HallwayWalk) -> bool:
    """Whether the hallway has a door far enough from the walk's for the count to begin with, and the stop keeps quiet.

    What needs no path is checked here, for most walks fail and a path is dear.
    """
    hall, door = walk.hall, walk.door
    if is_end_door(hall, door):
        return False
    beside = [d for d in places.graph.doors_of(hall.id) if d.id != door.id and d.axis == door.axis]
    if all(math.dist(d.position, door.position) < _FORGOTTEN_METRES for d in beside):
        return False
    return _tells_nothing(places, walk.stop, [d.other(hall.id) for d in beside])


def _visit_legs(
    places: Places, stations: list[NDArray[np.float64]], visited: list[SceneObject]
) -> dict[int, int] | None:
    """Leg index -> object id for the objects at stations 1, 2, ...; None if a leg is not in the object's room."""
    visits = {}
    for k, item in enumerate(visited, start=1):
        path = places.path_over(stations[: k + 1])
        route = trace_route(places.graph, path, 0.0) if path is not None else None
        if route is None or route.legs[-1].room.id != item.room:
            return None
        visits[len(route.legs) - 1] = item.id
    return visits


def _tells_nothing(places: Places, stop: Stop | ReturnToStart, rivals: list[int]) -> bool:
    """Whether the stop could as well be in one of the rival rooms, so that it gives the right room not away."""
    if isinstance(stop, ReturnToStart) or stop.object_id is None:
        return True
    category = places.graph.objects[stop.object_id].category
    return any(o.category == category for room in rivals for o in places.graph.furnishings_in(room))


def _first_counted(places: Places, leg: Leg, claim: TakeDoor) -> Door | None:
    """The first door that counts towards the claim's ordinal."""
    numbered = replace(claim, ordinal=1)
    doors = doors_meant(places.graph, Standpoint.of_leg(leg), numbered)
    return doors[0] if len(doors) == 1 and not is_end_door(leg.room, doors[0]) else None


def _frame_of(places: Places, door: Door) -> tuple[int, ...]:
    """Ids of the structure drawn around a door opening."""
    middle = np.array([door.position])
    return tuple(
        o.id for o in places.graph.objects if o.structural and "door" in o.category and distance_to(o, middle)[0] < 0.35
    )


def _walls_of(places: Places, room: Room) -> tuple[int, ...]:
    return tuple(o.id for o in places.graph.objects if o.room == room.id and o.category == "wall")


def _object_cues(places: Places, route: Route, hallway_leg: int, target: Room) -> list[Cue]:
    """Coloured objects, first of their category on the way to the hallway, whose colour something in `target` has."""
    graph = places.graph
    furniture = graph.furnishings_in(target.id)
    called = [o for o in furniture if is_landmark(o) and sum(f.category.endswith(o.category) for f in furniture) == 1]
    shown = sorted({(o.colour, o.category) for o in called if o.colour is not None})
    colours = {colour for colour, _ in shown}
    cues: list[Cue] = []
    before: list[str] = []  # categories met in the rooms before
    for leg in route.legs[:hallway_leg]:
        gaps = {o.id: distance_to(o, leg.points) for o in graph.furnishings_in(leg.room.id)}
        met = {number: int(np.argmin(gap)) for number, gap in gaps.items()}
        for item in (graph.objects[number] for number in sorted(met, key=lambda number: met[number])):
            if item.colour is None or item.colour not in colours or gaps[item.id].min() > 2.0:
                continue
            if not is_landmark(item) or not is_unique(graph, item) or not _is_first(graph, item, met, before):
                continue
            cues += [Cue("object", colour, item.id, category) for colour, category in shown if colour == item.colour]
        before += [graph.objects[number].category for number in met]
    return [cue for cue in cues if shows_cue(graph, target, cue)]


def _is_first(graph: SceneGraph, item: SceneObject, met: dict[int, int], before: list[str]) -> bool:
    """Whether an object is clearly the first that its category may call ("table": coffee tables too).

    Args:
        graph: the flat.
        item: in the present room.
        met: for every object of the room the index of the leg's point that is nearest to it.
        before: categories of all objects in the rooms before.
    """
    if any(category.endswith(item.category) for category in before):
        return False
    others = [graph.objects[number] for number in met if number != item.id]
    return not any(o.category.endswith(item.category) and met[o.id] < met[item.id] + _APART for o in others)


def _shows_any(places: Places, room: int, cue: Cue) -> bool:
    """Whether a rival room has the kind of object that the cue compares, in whatever colour."""
    return any(o.category == cue.shown_by for o in places.graph.furnishings_in(room))
