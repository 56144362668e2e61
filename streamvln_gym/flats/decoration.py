"""Wall paint, floors, door colours, windows with curtains, and open door leaves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streamvln_gym.flats.layout import DOOR_WIDTH, Plan
from streamvln_gym.flats.palette import FLOOR_TINTS, RGB, VIVID, WALL_COLOURS
from streamvln_gym.flats.placement import RoomPlanner, overlap
from streamvln_gym.flats.structure import (
    FRAME_WIDTH,
    Wall,
    curtain_piece,
    leaf_piece,
    openings_of,
    outer_stretches,
    window_piece,
)
from streamvln_gym.flats.textures import Texture


@dataclass(frozen=True)
class RoomLook:
    """A room's surfaces.

    Attributes:
        wall_name: name of the walls' colour.
        wall_texture: paint, wallpaper, brick or tiles.
        floor: word for the floor.
        floor_rgb: its tint.
        floor_texture: its pattern.
        floor_scale: metres a repeat of the pattern.
        skirting: colour of the boards.
        curtain: colour of the curtains.
    """

    wall_name: str
    wall_texture: Texture
    floor: str
    floor_rgb: RGB
    floor_texture: Texture
    floor_scale: float
    skirting: str
    curtain: str


_FLOORS = {
    "bathroom": (0.0, 1.0, 0.0, 0.0),
    "laundry room": (0.0, 0.75, 0.0, 0.25),
    "kitchen": (0.3, 0.7, 0.0, 0.0),
    "storage room": (0.3, 0.2, 0.0, 0.5),
    "gym": (0.3, 0.0, 0.3, 0.4),
    "bedroom": (0.5, 0.0, 0.5, 0.0),
    "hallway": (0.6, 0.3, 0.1, 0.0),
    "art studio": (0.5, 0.1, 0.0, 0.4),
}
_PATTERNS = {
    "tiled": ((Texture.TILES, 0.8),),
    "carpeted": ((Texture.CARPET, 1.0),),
    "concrete": ((Texture.CONCRETE, 2.0),),
    "wooden": ((Texture.PLANKS, 1.2), (Texture.PARQUET, 1.2)),
}


def choose_looks(plan: Plan, rng: np.random.Generator) -> list[RoomLook]:
    """Paint and floors of every room; the flat has one wood, the rooms have colours of their own."""
    words = tuple(FLOOR_TINTS)
    wood = FLOOR_TINTS["wooden"][int(rng.integers(len(FLOOR_TINTS["wooden"])))]
    pattern = _PATTERNS["wooden"][int(rng.integers(2))]
    names = list(WALL_COLOURS)
    bag: list[str] = []
    looks = []
    hallway: RoomLook | None = None
    for room_type in plan.types:
        if room_type == "hallway" and hallway is not None:
            looks.append(hallway)
            continue
        if not bag:
            bag = [names[int(k)] for k in rng.permutation(len(names))]
        floor = words[int(rng.choice(4, p=_FLOORS.get(room_type, (0.65, 0.0, 0.35, 0.0))))]
        tints = FLOOR_TINTS[floor]
        texture, scale = _PATTERNS[floor][0] if floor != "wooden" else pattern
        wall = Texture.PLAIN
        if room_type == "bathroom" or (room_type in ("kitchen", "laundry room") and rng.random() < 0.3):
            wall = Texture.TILES
        elif rng.random() < 0.15:
            wall = Texture.STRIPES
        elif room_type in ("library", "gym", "art studio", "music room", "storage room") and rng.random() < 0.3:
            wall = Texture.BRICK
        look = RoomLook(
            wall_name=bag.pop(),
            wall_texture=wall,
            floor=floor,
            floor_rgb=wood if floor == "wooden" else tints[int(rng.integers(len(tints)))],
            floor_texture=texture,
            floor_scale=scale,
            skirting="white" if rng.random() < 0.75 else "walnut",
            curtain=VIVID[int(rng.integers(len(VIVID)))] if rng.random() < 0.75 else "white",
        )
        looks.append(look)
        if room_type == "hallway":
            hallway = look
    return looks


def choose_door_colours(plan: Plan, rng: np.random.Generator) -> list[str]:
    """A colour for the frame of each opening: in some flats all alike, in most of them various."""
    common = ("white", "walnut", "pine")[int(rng.integers(3))]
    various = rng.random() < 0.7
    return [VIVID[int(rng.integers(len(VIVID)))] if various and rng.random() < 0.55 else common for _ in plan.openings]


def add_windows_and_leaves(
    plan: Plan, planner: RoomPlanner, look: RoomLook, door_colours: list[str], rng: np.random.Generator
) -> None:
    """Windows (with curtains in most rooms) in outer walls, and open leaves at some of the room's doors."""
    room = planner.room
    if planner.type != "hallway":
        _add_leaves(plan, planner, door_colours, rng)
    small = planner.type in ("bathroom", "storage room", "laundry room")
    counter = planner.type in ("kitchen", "bathroom", "laundry room")
    done = 0
    for wall in planner.walls:
        for low, high in outer_stretches(plan, room, wall):
            if planner.type == "storage room" or done >= 3:
                continue
            width = 0.8 if small else min(1.7, round(float(rng.uniform(1.1, 1.7)), 2))
            count = 2 if high - low > 5.0 and not small else 1
            for k in range(count):
                middle = low + (high - low) * (k + 0.5) / count
                if done == 0 or rng.random() < 0.7:
                    _add_window(planner, look, wall, middle, width, counter, rng)
                done += 1


def _add_window(
    planner: RoomPlanner, look: RoomLook, wall: Wall, middle: float, width: float, high: bool, rng: np.random.Generator
) -> None:
    """Hangs a window, above counters if `high`, and maybe curtains, where the wall is free."""
    curtains = not high and planner.type not in ("gym", "hallway") and rng.random() < 0.75
    half = width / 2 + (0.42 if curtains else 0.1)
    bottom = 1.15 if high else 0.9
    if not planner.wall_free(wall, middle - half, middle + half, 0.84, 2.4):
        return
    planner.hang(window_piece(width, bottom, 2.1, "white"), wall, middle)
    planner.reserve(wall, middle - half, middle + half, 0.85 if curtains else bottom - 0.03, 2.4)
    if curtains:
        planner.hang(curtain_piece(width, look.curtain, 2.28, 0.85), wall, middle)


def _add_leaves(plan: Plan, planner: RoomPlanner, door_colours: list[str], rng: np.random.Generator) -> None:
    for wall in planner.walls:
        for opening in openings_of(plan, planner.room, wall):
            leaf = opening.kind == "door" and rng.random() < 0.6
            side = 1 if rng.random() < 0.5 else -1
            if not leaf:
                continue
            width = DOOR_WIDTH - 0.04
            for direction in (side, -side):
                middle = opening.along + direction * (opening.width / 2 + FRAME_WIDTH + width / 2 + 0.02)
                if not planner.wall_free(wall, middle - width / 2, middle + width / 2, 0.0, 2.05, gap=-0.03):
                    continue
                piece = leaf_piece(width, door_colours[plan.openings.index(opening)])
                x, z = wall.point(middle, 0.1)
                zone = (x - 0.2, z - 0.2, x + 0.2, z + 0.2)
                if any(overlap(zone, p.footprint) for p in planner.placed):
                    continue
                planner.hang(piece, wall, middle, out=0.02)
                break
