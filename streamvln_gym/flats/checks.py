"""Looks for what is wrong with a flat."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import shapely
from shapely.geometry import Point, box
from shapely.ops import unary_union

from streamvln_gym.flats.palette import PALETTE, WALL_COLOURS
from streamvln_gym.flats.placement import overlap
from streamvln_gym.scene_graph import SceneObject

if TYPE_CHECKING:
    from streamvln_gym.flats.generator import Flat

AGENT_RADIUS = 0.10
PASSAGE = 0.58
"""Metres that every way between two doors is wide, at least."""
_FRONT = 0.35
_LEAST_FURNITURE = 2


ESSENTIAL: dict[str, frozenset[str]] = {
    "living room": frozenset({"sofa", "armchair"}),
    "kitchen": frozenset({"stove", "sink"}),
    "bedroom": frozenset({"bed"}),
    "bathroom": frozenset({"toilet"}),
    "office": frozenset({"desk"}),
    "dining room": frozenset({"dining table"}),
    "storage room": frozenset({"box"}),
    "laundry room": frozenset({"washing machine"}),
    "library": frozenset({"bookshelf"}),
    "gym": frozenset({"treadmill", "exercise bike", "weight bench"}),
    "children's room": frozenset({"bed", "bunk bed"}),
    "nursery": frozenset({"crib"}),
    "playroom": frozenset({"toy chest", "play table"}),
    "music room": frozenset({"piano", "drum kit"}),
    "dressing room": frozenset({"wardrobe"}),
    "art studio": frozenset({"easel"}),
}
"""What makes a room of a type what it is: one of these at least."""


def check_flat(flat: Flat) -> list[str]:
    """The problems of a flat, empty if it is usable."""
    return [*_check_ways(flat), *_check_objects(flat), *_check_mesh(flat), *_check_colours(flat)]


def walkable_parts(flat: Flat) -> list[shapely.Polygon]:
    """The connected parts of the floor on which the middle of the agent can be."""
    return _parts_for_disc(_free_floor(flat), AGENT_RADIUS)


def _free_floor(flat: Flat) -> shapely.Polygon | shapely.MultiPolygon:
    floor = unary_union([box(*rect) for rect in (*flat.floors, *flat.doorways)])
    return floor.difference(unary_union([box(*rect) for rect in flat.obstacles])) if flat.obstacles else floor


def _parts_for_disc(free: shapely.Polygon | shapely.MultiPolygon, radius: float) -> list[shapely.Polygon]:
    """The connected parts of a free area in which the middle of a disc of `radius` metres can be."""
    shrunk = free.buffer(-radius, join_style="mitre")
    return list(shrunk.geoms) if shrunk.geom_type == "MultiPolygon" else [shrunk]


def _check_ways(flat: Flat) -> list[str]:
    problems = []
    free = _free_floor(flat)
    main = max(_parts_for_disc(free, AGENT_RADIUS), key=lambda part: part.area)
    shapely.prepare(main)
    for room in flat.graph.rooms:
        inside = main.intersection(box(*room.rect)).area
        share = inside / ((room.rect[2] - room.rect[0]) * (room.rect[3] - room.rect[1]))
        if share < 0.2:
            problems.append(f"only {share:.0%} of the {room.type} (room {room.id}) can be reached")
    for door in flat.graph.doors:
        x, z = door.position
        for out in (-_FRONT, 0.0, _FRONT):
            point = (x + out, z) if door.axis == "x" else (x, z + out)
            if not main.contains(Point(point)):
                problems.append(f"door {door.id} is blocked at {point[0]:.2f}, {point[1]:.2f}")
    wide = max(_parts_for_disc(free, PASSAGE / 2), key=lambda part: part.area)
    problems += [
        f"the ways from door {door.id} are narrower than {PASSAGE} m"
        for door in flat.graph.doors
        if not wide.intersects(Point(door.position).buffer(0.05))
    ]
    return problems


def _inside(inner: SceneObject, rect: tuple[float, float, float, float], slack: float) -> bool:
    a, b = inner.footprint, rect
    return a[0] >= b[0] - slack and a[1] >= b[1] - slack and a[2] <= b[2] + slack and a[3] <= b[3] + slack


def _check_objects(flat: Flat) -> list[str]:
    problems = []
    for room in flat.graph.rooms:
        objects = flat.graph.furnishings_in(room.id)
        standing = [o for o in objects if o.mount == "floor" and o.category != "rug"]
        if len(standing) < (1 if room.type == "hallway" else _LEAST_FURNITURE):
            problems.append(f"the {room.type} (room {room.id}) has only {len(standing)} pieces of furniture")
        essential = ESSENTIAL.get(room.type)
        if essential is not None and not any(o.category in essential for o in objects):
            problems.append(f"the {room.type} (room {room.id}) has no {' or '.join(sorted(essential))}")
        problems += [
            f"the {o.category} {o.id} reaches out of the {room.type} (room {room.id})"
            for o in objects
            if not _inside(o, room.rect, 0.01)
        ]
        for k, first in enumerate(standing):
            for second in standing[k + 1 :]:
                if {first.category, second.category} in (
                    {"chair", "table"},
                    {"chair", "dining table"},
                    {"desk", "office chair"},
                ):
                    continue
                if overlap(first.footprint, second.footprint, -0.005):
                    problems.append(f"the {first.category} {first.id} and the {second.category} {second.id} overlap")
    if sum(room.type == "kitchen" for room in flat.graph.rooms) > 1:
        problems.append("there is more than one kitchen")
    return problems


def _check_mesh(flat: Flat) -> list[str]:
    problems = []
    mesh = flat.mesh
    corners = mesh.vertices[mesh.triangles].astype(np.float64)
    areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2
    if not np.isfinite(corners).all():
        problems.append("some vertices are not finite")
    if (areas < 1e-9).any():
        problems.append(f"{int((areas < 1e-9).sum())} triangles are degenerate")
    drawn = np.unique(mesh.object_ids)
    if len(drawn) != len(flat.graph.objects):
        problems.append(f"{len(flat.graph.objects) - len(drawn)} objects are not drawn")
    return problems


def _check_colours(flat: Flat) -> list[str]:
    problems = [
        f"the {o.category} {o.id} has the unknown colour {o.colour!r}"
        for o in flat.graph.objects
        if o.colour is not None and o.colour not in PALETTE
    ]
    problems += [
        f"room {room.id} has walls of the unknown colour {room.wall_colour!r}"
        for room in flat.graph.rooms
        if room.wall_colour not in WALL_COLOURS
    ]
    return problems
