"""Class ids are the same in every scene."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from streamvln_gym.flats.furniture.catalogue import BUILDERS
from streamvln_gym.scene_graph import SceneGraph
from streamvln_gym.simulators.embedded.semantics import CLASS_NAMES, class_table
from tests.conftest import tiny_graph

SAME_CLASS = {"double bed": "bed", "single bed": "bed", "small plant": "plant", "small vase": "vase"}


def test_every_piece_of_furniture_has_a_class() -> None:
    assert {SAME_CLASS.get(name, name) for name in BUILDERS} <= set(CLASS_NAMES)
    assert len(set(CLASS_NAMES)) == len(CLASS_NAMES) > 33


def test_ids_do_not_depend_on_the_scene() -> None:
    graph = tiny_graph("tiny")
    fewer = SceneGraph("x", 0, graph.rooms, graph.doors, graph.objects[9:])
    for scene in (graph, fewer):
        names, class_ids = class_table(scene, 11)
        assert names[class_ids[9]] == "sofa" and class_ids[9] == CLASS_NAMES.index("sofa")
        assert class_ids[-1] == 0 and names[0] == "nothing" and len(class_ids) == 13


def test_unknown_categories_come_after_the_known_ones() -> None:
    graph = tiny_graph("tiny")
    odd = replace(graph.objects[9], category="samovar")
    names, class_ids = class_table(SceneGraph("x", 0, graph.rooms, graph.doors, (*graph.objects[:9], odd)), 9)
    assert class_ids[9] == len(CLASS_NAMES) and names[len(CLASS_NAMES)] == "samovar"
    assert class_ids.dtype == np.int32
