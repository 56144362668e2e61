"""All builders by the name that room programmes use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from streamvln_gym.flats.furniture import appliances, decor, leisure, seating, storage
from streamvln_gym.flats.furniture.piece import Piece, Style

BUILDERS: dict[str, Callable[..., Piece]] = {
    "sofa": seating.sofa,
    "armchair": seating.armchair,
    "chair": seating.chair,
    "office chair": seating.office_chair,
    "stool": seating.stool,
    "bench": seating.bench,
    "double bed": seating.double_bed,
    "single bed": seating.single_bed,
    "bunk bed": seating.bunk_bed,
    "crib": seating.crib,
    "weight bench": seating.deck_bench,
    "coffee table": storage.coffee_table,
    "dining table": storage.dining_table,
    "table": storage.kitchen_table,
    "desk": storage.desk,
    "wardrobe": storage.wardrobe,
    "nightstand": storage.nightstand,
    "dresser": storage.dresser,
    "sideboard": storage.sideboard,
    "shoe cabinet": storage.shoe_cabinet,
    "cabinet": storage.cabinet,
    "toy chest": storage.toy_chest,
    "bookshelf": storage.bookshelf,
    "shelf": storage.shelf,
    "box": storage.box,
    "tv stand": storage.tv_stand,
    "laundry basket": storage.basket,
    "bin": storage.bin_,
    "kitchen counter": appliances.counter,
    "sink": appliances.kitchen_sink,
    "wall cabinet": appliances.wall_cabinet,
    "range hood": appliances.range_hood,
    "stove": appliances.stove,
    "fridge": appliances.fridge,
    "dishwasher": appliances.dishwasher,
    "washing machine": appliances.washing_machine,
    "dryer": appliances.dryer,
    "ironing board": appliances.ironing_board,
    "bathtub": appliances.bathtub,
    "shower": appliances.shower,
    "toilet": appliances.toilet,
    "washbasin": appliances.washbasin,
    "towel": appliances.towel_rail,
    "plant": decor.plant,
    "small plant": decor.small_plant,
    "floor lamp": decor.floor_lamp,
    "table lamp": decor.table_lamp,
    "vase": decor.vase,
    "small vase": decor.small_vase,
    "bowl": decor.bowl,
    "books": decor.books,
    "teapot": decor.teapot,
    "candles": decor.candles,
    "globe": decor.globe,
    "statue": decor.statue,
    "picture": decor.picture,
    "mirror": decor.mirror,
    "clock": decor.clock,
    "wall shelf": decor.wall_shelf,
    "radiator": decor.radiator,
    "ceiling lamp": decor.ceiling_lamp,
    "rug": decor.rug,
    "coat rack": decor.coat_rack,
    "umbrella stand": decor.umbrella_stand,
    "television": leisure.television,
    "computer monitor": leisure.monitor,
    "laptop": leisure.laptop,
    "radio": leisure.radio,
    "piano": leisure.piano,
    "guitar": leisure.guitar,
    "drum kit": leisure.drums,
    "speaker": leisure.speaker,
    "treadmill": leisure.treadmill,
    "exercise bike": leisure.exercise_bike,
    "exercise ball": leisure.exercise_ball,
    "dumbbell rack": leisure.dumbbell_rack,
    "fireplace": leisure.fireplace,
    "aquarium": leisure.aquarium,
    "easel": leisure.easel,
    "toy blocks": leisure.toy_blocks,
    "rocking horse": leisure.rocking_horse,
    "play table": leisure.play_table,
    "chess table": leisure.chess_table,
    "dartboard": leisure.dartboard,
}
"""Builders by name; each takes a generator and a style, some take more by keyword."""


def build(name: str, rng: np.random.Generator, style: Style, **options: Any) -> Piece:
    """Builds a piece by name.

    Raises:
        ValueError: no builder has that name.
    """
    if name not in BUILDERS:
        raise ValueError(f"no furniture is called {name!r}; there are {sorted(BUILDERS)}")
    return BUILDERS[name](rng, style, **options)
