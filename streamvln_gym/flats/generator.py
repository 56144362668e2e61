"""Makes a furnished flat from a seed: floor plan, structure, furniture, textures, shading, scene graph."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamvln_gym.errors import SceneError
from streamvln_gym.flats.checks import check_flat
from streamvln_gym.flats.contact_shadows import contact_shadow
from streamvln_gym.flats.decoration import RoomLook, add_windows_and_leaves, choose_door_colours, choose_looks
from streamvln_gym.flats.furniture import Style
from streamvln_gym.flats.layout import WALL_HEIGHT, Plan, make_plan
from streamvln_gym.flats.lighting import shade
from streamvln_gym.flats.mesh import MeshArrays, MeshBuilder, Model
from streamvln_gym.flats.palette import WALL_COLOURS, colour_name
from streamvln_gym.flats.placement import WALKING_HEIGHT, Placed, RoomPlanner
from streamvln_gym.flats.programmes import furnish
from streamvln_gym.flats.structure import (
    ceiling_model,
    doorway_rect,
    floor_model,
    frame_model,
    skirting_model,
    wall_model,
)
from streamvln_gym.flats.textures import make_textures
from streamvln_gym.scene_graph import Door, Rect, Room, SceneGraph, SceneObject

ATTEMPTS = 24


@dataclass(frozen=True)
class Flat:
    """A generated flat.

    Attributes:
        graph: rooms, doors and objects.
        mesh: triangles in the order in which the GLB stores them, with an object id each.
        textures: uint8 (S, S, 3) images, indexed by `mesh.texture_ids`.
        floors: the rooms' inner rectangles.
        doorways: rectangles that bridge the walls at the openings.
        obstacles: footprints of everything that stands in a walking person's way.
        archetype: kind of floor plan.
        attempt: how many sub-seeds were rejected before this one.
    """

    graph: SceneGraph
    mesh: MeshArrays
    textures: tuple[NDArray[np.uint8], ...]
    floors: tuple[Rect, ...]
    doorways: tuple[Rect, ...]
    obstacles: tuple[Rect, ...]
    archetype: str
    attempt: int


def generate_flat(seed: int, first_attempt: int = 0) -> Flat:
    """The flat of a scene seed; the same arguments give the same flat, to the byte.

    Args:
        seed: the scene seed.
        first_attempt: sub-seed to begin with, for a caller that has rejected the flats of those before it.

    Raises:
        ValueError: the seed is negative or not an integer.
        SceneError: no sub-seed gives a flat that passes `check_flat`.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"a scene seed must be an integer >= 0, got {seed!r}")
    problems: list[str] = []
    for attempt in range(first_attempt, first_attempt + ATTEMPTS):
        try:
            flat = _attempt(int(seed), attempt)
        except SceneError as error:
            problems = [str(error)]
            continue
        problems = check_flat(flat)
        if not problems:
            return flat
    raise SceneError(
        f"no usable flat for seed {seed} in {ATTEMPTS} attempts; the last one failed: {'; '.join(problems[:5])}. "
        "Use another seed and report this one."
    )


def _attempt(seed: int, attempt: int) -> Flat:
    rng = np.random.default_rng([seed, attempt, 1])
    plan = make_plan(seed, rng)
    looks = choose_looks(plan, rng)
    door_colours = choose_door_colours(plan, rng)
    style = Style.sample(rng)
    placed_by_room = []
    for room in range(len(plan.cells)):
        planner = RoomPlanner(plan, room, rng)
        add_windows_and_leaves(plan, planner, looks[room], door_colours, rng)
        placed_by_room.append(furnish(planner, style, rng))
    assembly = _Assembly(plan, looks)
    assembly.add_structure(door_colours)
    for room, placed in enumerate(placed_by_room):
        assembly.add_furniture(room, placed)
    graph = SceneGraph(
        name=f"flat_{seed:06d}",
        seed=seed,
        rooms=tuple(
            Room(i, plan.types[i], _rounded(plan.inner(i)), looks[i].wall_name, looks[i].floor)
            for i in range(len(plan.cells))
        ),
        doors=tuple(
            Door(
                i,
                o.rooms,
                o.position,
                o.axis,
                o.width,
                o.kind,
                None if o.kind == "archway" else colour_name(door_colours[i]),
            )
            for i, o in enumerate(plan.openings)
        ),
        objects=tuple(assembly.objects),
    )
    arrays, vertex = assembly.builder.arrays()
    return Flat(
        graph=graph,
        mesh=shade(arrays, vertex, graph),
        textures=make_textures(np.random.default_rng([seed, attempt, 2])),
        floors=tuple(room.rect for room in graph.rooms),
        doorways=tuple(_rounded(doorway_rect(o)) for o in plan.openings),
        obstacles=tuple(assembly.obstacles),
        archetype=plan.archetype,
        attempt=attempt,
    )


def _rounded(rect: Rect) -> Rect:
    return tuple(round(float(v), 3) for v in rect)  # type: ignore[return-value]


class _Assembly:
    """Collects models as scene objects."""

    def __init__(self, plan: Plan, looks: list[RoomLook]) -> None:
        self.plan = plan
        self.looks = looks
        self.builder = MeshBuilder()
        self.objects: list[SceneObject] = []
        self.obstacles: list[Rect] = []
        self._floor_ids: dict[int, int] = {}

    def _structural(
        self, category: str, model: Model, room: int, rect: Rect, height: tuple[float, float], colour: str | None
    ) -> int:
        index = len(self.objects)
        self.objects.append(
            SceneObject(index, category, colour, None, room, _rounded(rect), height, "floor", None, structural=True)
        )
        self.builder.add(model, index)
        return index

    def add_structure(self, door_colours: list[str]) -> None:
        """Floors, walls, ceilings and skirting of every room, then the door frames."""
        for room, look in enumerate(self.looks):
            rect = self.plan.inner(room)
            floor = floor_model(self.plan, room, look.floor_rgb, look.floor_texture, look.floor_scale)
            self._floor_ids[room] = self._structural("floor", floor, room, rect, (0.0, 0.0), None)
            wall_rgb = WALL_COLOURS[look.wall_name]
            walls = wall_model(self.plan, room, wall_rgb, look.wall_texture)
            self._structural("wall", walls, room, rect, (0.0, WALL_HEIGHT), None)
            self._structural(
                "ceiling", ceiling_model(rect, (250, 249, 245)), room, rect, (WALL_HEIGHT, WALL_HEIGHT), None
            )
            skirting = skirting_model(self.plan, room, look.skirting)
            self._structural("skirting", skirting, room, rect, (0.0, 0.09), None)
        for opening, colour in zip(self.plan.openings, door_colours, strict=True):
            room = opening.rooms[0]
            archway = opening.kind == "archway"
            paint = WALL_COLOURS[self.looks[room].wall_name] if archway else colour
            rect = doorway_rect(opening)
            name = None if archway else colour_name(colour)
            category = "archway" if archway else "door frame"
            self._structural(category, frame_model(opening, paint), room, rect, (0.0, opening.height), name)

    def add_furniture(self, room: int, placed: list[Placed]) -> None:
        """A room's pieces as scene objects, with the shadows below them and the obstacles that they are."""
        look = self.looks[room]
        layer = 0
        for item in placed:
            piece, index = item.piece, len(self.objects)
            rect = _rounded(item.footprint)
            self.objects.append(
                SceneObject(
                    id=index,
                    category=piece.category,
                    colour=piece.colour,
                    material=piece.material,
                    room=room,
                    footprint=rect,
                    height=(round(item.y, 3), round(item.top, 3)),
                    mount=piece.mount,
                    facing=round(float(item.yaw), 6) if piece.has_front else None,
                    structural=piece.category == "door",
                )
            )
            self.builder.add(piece.model, index, (item.x, item.y, item.z), item.yaw)
            if item.blocks and piece.mount == "floor":
                layer += 1
                shadow = contact_shadow(
                    piece.category,
                    item.footprint,
                    self.plan.inner(room),
                    0.002 + 0.0003 * layer,
                    look.floor_rgb,
                    look.floor_texture,
                    look.floor_scale,
                )
                self.builder.add(shadow, self._floor_ids[room])
            thick = min(rect[2] - rect[0], rect[3] - rect[1]) > 0.045
            if item.blocks and thick and item.y < WALKING_HEIGHT:
                self.obstacles.append(rect)
