"""What stands in a room of each type: a bed with nightstands, a desk with its chair, seats around a table, ..."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from streamvln_gym.flats.furniture import Piece, Style, build
from streamvln_gym.flats.palette import VIVID
from streamvln_gym.flats.placement import Placed, RoomPlanner, local_to_room, overlap


class Decorator:
    """Furnishes one room: a planner, a style and a generator together."""

    def __init__(self, planner: RoomPlanner, style: Style, rng: np.random.Generator) -> None:
        self.planner = planner
        self.style = style
        self.rng = rng

    def make(self, name: str, **options: Any) -> Piece:
        """Builds a piece."""
        return build(name, self.rng, self.style, **options)

    def one_of(self, *names: str) -> str:
        """One of the names at random."""
        return names[int(self.rng.integers(len(names)))]

    def chance(self, share: float) -> bool:
        """True in `share` of the cases."""
        return bool(self.rng.random() < share)

    def wall(self, *names: str, front: float = 0.45, corner: bool = False) -> list[Placed]:
        """Pieces against walls."""
        found = (self.planner.at_wall(self.make(name), front=front, corner=corner) for name in names)
        return [p for p in found if p is not None]

    def corner(self, *names: str) -> list[Placed]:
        """Pieces in corners."""
        return self.wall(*names, front=0.0, corner=True)

    def middle(self, *names: str) -> list[Placed]:
        """Pieces away from the walls."""
        return [p for p in (self.planner.in_middle(self.make(name)) for name in names) if p is not None]

    def hang(self, *names: str) -> None:
        """Things on the walls."""
        for name in names:
            self.planner.on_wall(self.make(name))

    def top(self, anchor: Placed, *names: str) -> None:
        """Small things on a piece, side by side."""
        width = anchor.piece.size[0]
        for k, name in enumerate(names):
            dx = (k - (len(names) - 1) / 2) * min(0.5, width / max(len(names), 1))
            self.planner.on_top(self.make(name), anchor, dx, float(self.rng.uniform(-0.03, 0.06)))

    def rug(self, x: float, z: float, yaw: float, width: float, depth: float) -> Placed | None:
        """A rug below what stands around (x, z), as large as the room allows."""
        x0, z0, x1, z1 = self.planner.rect
        along = abs(math.sin(yaw)) > 0.5
        w, d = (depth, width) if along else (width, depth)
        w, d = min(w, 2 * (min(x - x0, x1 - x) - 0.12)), min(d, 2 * (min(z - z0, z1 - z) - 0.12))
        rect = (x - w / 2, z - d / 2, x + w / 2, z + d / 2)
        rugs = [p.footprint for p in self.planner.placed if p.piece.category == "rug"]
        if min(w, d) < 0.5 or any(overlap(rect, other) for other in rugs):
            return None
        piece = self.make("rug", width=w, depth=d)
        placed = Placed(piece, x, 0.0, z, 0.0, rect, 0.014)
        self.planner.placed.append(placed)
        return placed

    # ------------------------------------------------------------------ groups

    def bed_group(self, kind: str) -> None:
        """A bed at a wall with nightstands beside it and a rug before it."""
        bed = self.planner.at_wall(self.make(kind), front=0.4, tries=90)
        if bed is None and kind == "double bed":
            bed = self.planner.at_wall(self.make("single bed"), front=0.3, tries=90)
        if bed is None:
            return
        for side in (-1, 1):
            if kind == "bunk bed":
                continue
            stand = self.planner.beside(self.make("nightstand"), bed, side)
            if stand and self.chance(0.7):
                self.top(stand, self.one_of("table lamp", "table lamp", "small vase", "books", "radio"))
        if self.chance(0.6):
            x, z = local_to_room(bed, 0.0, -bed.piece.size[1] / 2 + 0.1)
            self.rug(x, z, bed.yaw, 2.2, 1.3)
        if self.chance(0.5) and bed.piece.category == "bed":
            self.planner.on_wall(self.make("picture"), near=bed)

    def desk_group(self) -> None:
        """A desk with a monitor and an office chair."""
        desk = self.planner.at_wall(self.make("desk"), front=0.0, tries=90)
        if desk is None:
            return
        self.planner.in_front(self.make("office chair"), desk, -0.12)
        self.planner.on_top(self.make(self.one_of("computer monitor", "computer monitor", "laptop")), desk, 0.1, 0.1)
        if self.chance(0.7):
            name = self.one_of("table lamp", "globe", "small plant", "books")
            self.planner.on_top(self.make(name), desk, -0.48, 0.1)

    def table_group(self, name: str, seats: int) -> None:
        """A table in the middle with chairs of one colour around it, maybe on a rug."""
        piece = self.make(name)
        planner = self.planner
        table = planner.in_middle(piece, tries=12, spread=0.12) or planner.in_middle(piece, tries=30, spread=0.4)
        if table is None:
            return
        colour = self.style.fabric(self.rng) if self.chance(0.6) else self.style.timber(self.rng)
        width, depth, _ = table.piece.size
        spots = [(-width / 4, -1), (width / 4, 1), (width / 4, -1), (-width / 4, 1)]
        if width < 1.2:
            spots = [(0.0, -1), (0.0, 1)]
        for dx, side in spots[:seats]:
            x, z = local_to_room(table, dx, side * (depth / 2 + 0.12))
            yaw = table.yaw + (math.pi if side < 0 else 0.0)
            self.planner.try_put(self.make("chair", colour=colour), x, z, yaw, may_use_fronts=True, partner=table)
        self.top(table, self.one_of("bowl", "small vase", "small plant", "teapot", "candles", "books"))
        if self.chance(0.5):
            self.rug(table.x, table.z, table.yaw, width + 1.2, depth + 1.3)

    def lounge(self) -> None:
        """A sofa, a coffee table on a rug, a television opposite, an armchair."""
        sofa = self.planner.at_wall(self.make("sofa"), front=0.5, tries=90)
        if sofa is None:
            sofa = self.planner.at_wall(self.make("armchair"), front=0.4)
        if sofa is None:
            return
        stand = self.planner.opposite(self.make("tv stand"), sofa) or self.planner.at_wall(self.make("tv stand"))
        if stand:
            self.planner.on_top(self.make("television"), stand, 0.0, 0.05)
        table = self.planner.in_front(self.make("coffee table"), sofa, 0.42, turned=False)
        if table:
            self.top(table, self.one_of("bowl", "small vase", "small plant", "teapot", "candles", "books"))
        x, z = local_to_room(sofa, 0.0, -1.0)
        if self.chance(0.8):
            self.rug(x, z, sofa.yaw, 2.5, 1.7)
        if self.chance(0.7):
            self.wall("armchair")
        self.planner.on_wall(self.make("picture"), near=sofa)

    def colour_set(self, name: str, count: int) -> None:
        """Several pieces of one kind in different colours, the flat's favourites first."""
        favourites = [self.style.favourites[int(k)] for k in self.rng.permutation(len(self.style.favourites))]
        others = [VIVID[int(k)] for k in self.rng.permutation(len(VIVID)) if VIVID[int(k)] not in favourites]
        for colour in (favourites + others)[:count]:
            piece = self.make(name, colour=colour)
            if self.planner.at_wall(piece, front=0.25, tries=20) is None:
                self.planner.in_middle(piece)


def _living_room(d: Decorator) -> None:
    d.lounge()
    if d.chance(0.4):
        d.wall("fireplace", front=0.6)
    if (d.planner.rect[2] - d.planner.rect[0]) * (d.planner.rect[3] - d.planner.rect[1]) > 18.0:
        d.wall("sofa")
    d.corner("plant")
    d.wall("bookshelf", *(["aquarium"] if d.chance(0.3) else []), *(["piano"] if d.chance(0.2) else []))
    d.corner("floor lamp")
    if d.chance(0.4):
        for p in d.wall("sideboard"):
            d.top(p, d.one_of("small vase", "books", "radio"), d.one_of("table lamp", "candles", "globe"))
    d.hang("picture", "clock" if d.chance(0.5) else "picture", "radiator")


def _kitchen(d: Decorator) -> None:
    colour = d.style.fabric(d.rng) if d.chance(0.7) else "white"
    counter, sink = d.make("kitchen counter", colour=colour), d.make("sink", colour=colour)
    pieces = [d.make("fridge"), counter, d.make("stove"), sink]
    if d.chance(0.5):
        pieces.append(d.make("dishwasher"))
    put = d.planner.along_wall(pieces, front=0.6)
    done = {p.piece.category for p in put}
    others = [d.planner.at_wall(piece, front=0.6) for piece in pieces[:4] if piece.category not in done]
    put += [p for p in others if p is not None]
    for p in put:
        if p.piece.category == "kitchen counter":
            d.top(p, d.one_of("bowl", "teapot"), d.one_of("small plant", "radio"))
            d.planner.on_wall(d.make("wall cabinet", width=1.06, colour=colour), near=p)
        elif p.piece.category == "stove":
            d.planner.on_wall(d.make("range hood"), near=p)
        elif p.piece.category == "sink":
            d.planner.on_wall(d.make("wall cabinet", width=0.76, colour=colour), near=p)
    d.table_group("table", 2)
    if d.chance(0.6):
        d.corner("bin")
    if d.chance(0.5):
        d.corner("plant")
    d.hang("clock", "wall shelf", "picture")


def _bedroom(d: Decorator) -> None:
    big = (d.planner.rect[2] - d.planner.rect[0]) * (d.planner.rect[3] - d.planner.rect[1]) > 9.5
    d.bed_group("double bed" if big and d.chance(0.75) else "single bed")
    d.wall("wardrobe")
    if d.chance(0.6):
        for p in d.wall("dresser"):
            d.top(p, d.one_of("small vase", "books", "radio"), d.one_of("table lamp", "candles", "globe"))
    if d.chance(0.35):
        d.wall("armchair")
    if d.chance(0.25):
        d.desk_group()
    if d.chance(0.5):
        d.corner("plant")
    if d.chance(0.3):
        d.corner("floor lamp")
    d.hang("mirror", "picture", "radiator")


def _bathroom(d: Decorator) -> None:
    tub = d.chance(0.6)
    for p in d.wall("bathtub" if tub else "shower", front=0.4):
        x, z = local_to_room(p, 0.0, -p.piece.size[1] / 2 - 0.4)
        d.rug(x, z, p.yaw, 0.95, 0.6)
    d.wall("toilet", front=0.35)
    for p in d.wall("washbasin", front=0.35):
        d.planner.on_wall(d.make("mirror"), near=p)
    if tub and d.chance(0.4):
        d.wall("shower", front=0.35)
    d.wall(d.one_of("cabinet", "dresser", "shelf", "washing machine"), front=0.35)
    d.corner("laundry basket" if d.chance(0.6) else "plant")
    if d.chance(0.3):
        d.corner("stool")
    d.hang("towel", "towel", "picture")


def _office(d: Decorator) -> None:
    d.desk_group()
    if d.chance(0.3):
        d.desk_group()
    d.wall("bookshelf")
    d.wall(d.one_of("cabinet", "shelf", "bookshelf"))
    d.corner("plant")
    if d.chance(0.5):
        d.wall("armchair")
    if d.chance(0.5):
        d.corner("bin")
    d.hang("picture", "clock", "picture")


def _dining_room(d: Decorator) -> None:
    d.table_group("dining table", 4)
    for p in d.wall("sideboard"):
        d.top(p, "small vase", d.one_of("bowl", "teapot", "candles"), d.one_of("table lamp", "radio"))
    if d.chance(0.5):
        d.wall("cabinet")
    d.corner("plant")
    if d.chance(0.4):
        d.corner("vase")
    d.hang("picture", "picture", "clock")


def _storage_room(d: Decorator) -> None:
    d.wall("shelf", front=0.3)
    d.colour_set("box", int(d.rng.integers(2, 4)))
    if d.chance(0.5):
        d.wall("cabinet", front=0.3)
    if d.chance(0.4):
        d.wall("ironing board", front=0.0)


def _laundry_room(d: Decorator) -> None:
    d.planner.along_wall([d.make("washing machine"), d.make("dryer")], front=0.5)
    d.wall("ironing board", front=0.0)
    d.corner("laundry basket")
    if d.chance(0.6):
        d.wall("shelf")
    if d.chance(0.4):
        d.colour_set("box", 2)
    d.hang("clock", "wall shelf")


def _library(d: Decorator) -> None:
    d.wall("bookshelf", "bookshelf", "bookshelf")
    if d.chance(0.5):
        d.wall("bookshelf")
    d.colour_set("armchair", int(d.rng.integers(2, 4)))
    x0, z0, x1, z1 = d.planner.rect
    if d.chance(0.6):
        d.rug((x0 + x1) / 2, (z0 + z1) / 2, 0.0, 2.2, 1.6)
    d.corner("floor lamp")
    d.middle("chess table")
    if d.chance(0.4):
        d.wall("fireplace", front=0.5)
    if d.chance(0.5):
        d.corner("statue")
    d.hang("picture")


def _gym(d: Decorator) -> None:
    d.wall("treadmill", front=0.0)
    d.wall("exercise bike", front=0.0)
    d.wall("weight bench", front=0.0)
    d.wall("dumbbell rack")
    d.corner("exercise ball")
    if d.chance(0.4):
        d.wall("bench")
    d.hang("mirror", "clock", "dartboard" if d.chance(0.3) else "picture")


def _childrens_room(d: Decorator) -> None:
    d.bed_group("bunk bed" if d.chance(0.5) else "single bed")
    d.wall("wardrobe")
    d.wall("toy chest")
    if d.chance(0.6):
        d.desk_group()
    if d.chance(0.6):
        d.middle("toy blocks")
    if d.chance(0.4):
        d.corner("rocking horse")
    if d.chance(0.35):
        d.colour_set("box", int(d.rng.integers(2, 4)))
    d.hang("picture", "clock", "wall shelf")


def _nursery(d: Decorator) -> None:
    d.wall("crib")
    d.wall("armchair")
    for p in d.wall("dresser"):
        d.top(p, "table lamp")
    d.wall("toy chest")
    if d.chance(0.6):
        d.corner("rocking horse")
    x0, z0, x1, z1 = d.planner.rect
    d.rug((x0 + x1) / 2, (z0 + z1) / 2, 0.0, 1.5, 1.2)
    d.hang("picture", "picture")


def _playroom(d: Decorator) -> None:
    d.colour_set("stool", 2)
    d.middle("play table", "toy blocks")
    d.wall("toy chest")
    d.wall("shelf")
    d.corner("rocking horse")
    if d.chance(0.5):
        d.wall("sofa")
    x0, z0, x1, z1 = d.planner.rect
    d.rug((x0 + x1) / 2, (z0 + z1) / 2, 0.0, 2.2, 1.7)
    d.hang("picture", "dartboard", "clock")


def _music_room(d: Decorator) -> None:
    for p in d.wall("piano", front=0.6):
        d.planner.in_front(d.make("stool"), p, 0.1)
    d.wall("drum kit", front=0.3)
    d.corner("guitar", "guitar")
    d.corner("speaker", "speaker")
    if d.chance(0.5):
        d.wall("armchair")
    if d.chance(0.5):
        d.corner("plant")
    d.hang("picture", "picture")


def _dressing_room(d: Decorator) -> None:
    d.wall("wardrobe", "wardrobe")
    d.wall("dresser")
    d.colour_set("box", 2)
    if d.chance(0.6):
        d.middle("stool")
    d.hang("mirror", "picture")


def _art_studio(d: Decorator) -> None:
    d.middle("easel")
    d.wall("easel")
    for p in d.wall("sideboard"):
        d.top(p, "small vase", "bowl")
    d.colour_set("vase", 3)
    d.middle("stool")
    if d.chance(0.6):
        d.corner("statue")
    d.hang("picture", "picture", "picture")


def _hallway(d: Decorator) -> None:
    x0, z0, x1, z1 = d.planner.rect
    length = max(x1 - x0, z1 - z0)
    names = ("shoe cabinet", "coat rack", "plant", "umbrella stand", "bench", "vase", "dresser", "statue", "plant")
    order = [names[int(k)] for k in d.rng.permutation(len(names))]
    for name in order[: max(2, int(length / 2.0))]:
        for p in d.wall(name, front=0.0):
            if p.piece.surface and d.chance(0.7):
                d.top(p, d.one_of("small vase", "bowl", "table lamp", "small plant"))
    if d.chance(0.5):
        yaw = 0.0 if x1 - x0 > z1 - z0 else math.pi / 2
        d.rug((x0 + x1) / 2, (z0 + z1) / 2, yaw, min(3.2, length * 0.5), 0.8)
    for _ in range(max(1, int(length / 2.5))):
        d.hang("picture" if d.chance(0.75) else d.one_of("mirror", "clock"))


PROGRAMMES: dict[str, Callable[[Decorator], None]] = {
    "hallway": _hallway,
    "living room": _living_room,
    "kitchen": _kitchen,
    "bedroom": _bedroom,
    "bathroom": _bathroom,
    "office": _office,
    "dining room": _dining_room,
    "storage room": _storage_room,
    "laundry room": _laundry_room,
    "library": _library,
    "gym": _gym,
    "children's room": _childrens_room,
    "nursery": _nursery,
    "playroom": _playroom,
    "music room": _music_room,
    "dressing room": _dressing_room,
    "art studio": _art_studio,
}
"""How a room of each type is furnished."""


_FILLERS = {
    "living room": ("bookshelf", "armchair", "plant", "sideboard", "statue", "vase", "speaker", "cabinet"),
    "bedroom": ("bookshelf", "armchair", "plant", "bench", "cabinet", "vase", "guitar"),
    "office": ("bookshelf", "plant", "box", "sideboard", "statue", "vase"),
    "kitchen": ("cabinet", "plant", "shelf", "stool"),
    "dining room": ("armchair", "plant", "bookshelf", "vase", "statue", "aquarium"),
    "gym": ("bench", "plant", "speaker", "shelf"),
    "library": ("bookshelf", "plant", "vase", "statue", "desk"),
    "music room": ("bookshelf", "bench", "plant", "cabinet", "statue"),
    "children's room": ("bookshelf", "plant", "dresser", "box"),
    "playroom": ("bookshelf", "armchair", "plant", "box", "aquarium"),
    "nursery": ("wardrobe", "plant", "bookshelf"),
    "art studio": ("shelf", "bench", "plant", "cabinet"),
    "storage room": ("box", "cabinet", "bench"),
    "dressing room": ("bench", "plant", "shoe cabinet"),
    "laundry room": ("cabinet", "bin", "plant"),
}
"""What else may stand in a room that is still rather empty."""


def _fill(d: Decorator, area: float) -> None:
    """Adds pieces at the walls until about a fifth of the floor is taken, and a rug if there is none."""
    names = _FILLERS.get(d.planner.type, ())
    for index in d.rng.permutation(len(names)):
        standing = [p for p in d.planner.placed if p.blocks and p.piece.mount == "floor"]
        taken = sum((p.footprint[2] - p.footprint[0]) * (p.footprint[3] - p.footprint[1]) for p in standing)
        if taken > 0.2 * area or len(standing) >= 14:
            break
        d.wall(names[int(index)], front=0.25)
    cosy = d.planner.type in ("living room", "bedroom", "office", "music room", "children's room", "dressing room")
    if cosy and d.chance(0.6) and not any(p.piece.category == "rug" for p in d.planner.placed):
        x0, z0, x1, z1 = d.planner.rect
        width, depth = float(d.rng.uniform(1.4, 2.2)), float(d.rng.uniform(1.0, 1.5))
        d.rug((x0 + x1) / 2, (z0 + z1) / 2, 0.0, width, depth)


def furnish(planner: RoomPlanner, style: Style, rng: np.random.Generator) -> list[Placed]:
    """Furnishes a room and hangs a lamp from its ceiling."""
    decorator = Decorator(planner, style, rng)
    PROGRAMMES[planner.type](decorator)
    x0, z0, x1, z1 = planner.rect
    _fill(decorator, (x1 - x0) * (z1 - z0))
    lamps = max(1, round(max(x1 - x0, z1 - z0) / 4.5)) if planner.type == "hallway" else 1
    for k in range(lamps):
        share = (k + 0.5) / lamps
        x, z = (x0 + (x1 - x0) * share, (z0 + z1) / 2) if x1 - x0 > z1 - z0 else ((x0 + x1) / 2, z0 + (z1 - z0) * share)
        planner.overhead(build("ceiling lamp", rng, style), x, z)
    return planner.placed
