"""Class ids of the "semantic" sensor."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamvln_gym.scene_graph import SceneGraph

# fmt: off
CLASS_NAMES = (
    "nothing",
    "wall", "floor", "ceiling", "skirting", "door frame", "archway", "door", "window",
    "aquarium", "armchair", "bathtub", "bed", "bench", "bin", "bookshelf", "bowl", "box", "bunk bed", "cabinet",
    "ceiling lamp", "chair", "chess table", "clock", "coat rack", "coffee table", "computer monitor", "crib",
    "curtain", "dartboard", "desk", "dining table", "dishwasher", "dresser", "drum kit", "dryer", "dumbbell rack",
    "easel", "exercise ball", "exercise bike", "fireplace", "floor lamp", "fridge", "globe", "guitar",
    "ironing board", "kitchen counter", "laundry basket", "mirror", "nightstand", "office chair", "piano", "picture",
    "plant", "play table", "radiator", "range hood", "rocking horse", "rug", "shelf", "shoe cabinet", "shower",
    "sideboard", "sink", "sofa", "speaker", "statue", "stool", "stove", "table", "table lamp", "television",
    "toilet", "towel", "toy blocks", "toy chest", "treadmill", "tv stand", "umbrella stand", "vase", "wall cabinet",
    "wall shelf", "wardrobe", "washbasin", "washing machine", "weight bench",
    "books", "candles", "laptop", "radio", "teapot",
)
"""The generated flats' classes; a class's id is its place here, in every scene. New ones are appended."""
# fmt: on


def class_table(graph: SceneGraph, highest_instance: int) -> tuple[dict[int, str], NDArray[np.int32]]:
    """The classes of a scene.

    Args:
        graph: names the objects' categories; those not in `CLASS_NAMES` get the ids after them, in this scene.
        highest_instance: the highest instance id that the renderer gives.

    Returns:
        The names of all class ids; and int32 (highest instance + 2,), the class id of every instance id, the last entry
        being for -1, "nothing".
    """
    further = sorted({item.category for item in graph.objects}.difference(CLASS_NAMES))
    names = dict(enumerate((*CLASS_NAMES, *further)))
    number = {name: class_id for class_id, name in names.items()}
    class_ids = np.zeros(max(highest_instance, len(graph.objects) - 1) + 2, dtype=np.int32)
    for item in graph.objects:
        class_ids[item.id] = number[item.category]
    return names, class_ids
