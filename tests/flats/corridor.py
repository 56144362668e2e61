"""A hand-made flat for tests of the writer: a long hallway along +x with rooms on both sides.

Seen from above (x to the right, z down), walking direction "east" = +x; the left side is then -z::

    z=0   | kitchen 1 | bedroom 2 | office 3 | bedroom 4 |
    z=4   |------------- hallway 0 -----------------------|
    z=5.5 |  bathroom 5  |  library 6  |    gym 7         |
"""

import math

import numpy as np

from streamvln_gym.scene_graph import Door, Room, SceneGraph, SceneObject

EAST, WEST, NORTH, SOUTH = -math.pi / 2, math.pi / 2, 0.0, math.pi

ROOMS = (
    Room(0, "hallway", (0.0, 4.0, 16.0, 5.5), "white", "wooden"),
    Room(1, "kitchen", (0.0, 0.0, 4.0, 3.9), "yellow", "tiled"),
    Room(2, "bedroom", (4.1, 0.0, 8.0, 3.9), "blue", "wooden"),
    Room(3, "office", (8.1, 0.0, 12.0, 3.9), "green", "wooden"),
    Room(4, "bedroom", (12.1, 0.0, 16.0, 3.9), "pink", "wooden"),
    Room(5, "bathroom", (0.0, 5.6, 5.0, 9.0), "white", "tiled"),
    Room(6, "library", (5.1, 5.6, 10.0, 9.0), "yellow", "wooden"),
    Room(7, "gym", (10.1, 5.6, 16.0, 9.0), "grey", "concrete"),
)
DOORS = (
    Door(0, (0, 1), (2.0, 3.95), "z", 0.9, "door", "white"),
    Door(1, (0, 2), (6.0, 3.95), "z", 0.9, "door", "white"),
    Door(2, (0, 3), (10.0, 3.95), "z", 0.9, "door", "red"),
    Door(3, (0, 4), (14.0, 3.95), "z", 0.9, "door", "white"),
    Door(4, (0, 5), (2.5, 5.55), "z", 0.9, "door", "white"),
    Door(5, (0, 6), (8.0, 5.55), "z", 0.9, "door", "white"),
    Door(6, (0, 7), (13.0, 5.55), "z", 0.9, "door", "white"),
)


def furniture(
    number: int, category: str, room: int, footprint: tuple, colour: str | None = None, **extra
) -> SceneObject:
    settings = {"height": (0.0, 1.0), "mount": "floor", "facing": None, **extra}
    return SceneObject(number, category, colour, None, room, footprint, **settings)


OBJECTS = (
    furniture(0, "plant", 0, (4.0, 5.1, 4.4, 5.5), "green"),
    furniture(1, "sofa", 3, (8.2, 0.1, 10.0, 0.9), "red"),
    furniture(2, "bed", 2, (4.2, 0.1, 6.0, 2.0), "blue"),
    furniture(3, "bed", 4, (12.2, 0.1, 14.0, 2.0), "yellow"),
    furniture(4, "chair", 6, (5.2, 8.4, 5.7, 8.9), "black"),
    furniture(5, "chair", 6, (9.2, 8.4, 9.7, 8.9), "white"),
    furniture(6, "stove", 1, (0.1, 0.1, 0.7, 0.7), "white"),
    furniture(7, "box", 7, (11.0, 8.2, 11.6, 8.9), None),
    furniture(8, "box", 7, (15.0, 8.2, 15.6, 8.9), None),
)

GRAPH = SceneGraph("flat_test", 0, ROOMS, DOORS, OBJECTS)


def path(*points: tuple[float, float]) -> np.ndarray:
    """Corner points (N, 3) on the mesh from (x, z) pairs."""
    return np.array([[x, 0.2, z] for x, z in points])


KITCHEN_TO_OFFICE = path((2.0, 2.0), (2.0, 4.6), (10.0, 4.6), (10.0, 2.0))
"""Out of the kitchen, left (east) along the hallway, in at the third door on the left counted from the kitchen's."""
