"""What is in sight, answered with few pictures, against every picture drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from streamvln_gym.expert import demonstrate, expert_for
from streamvln_gym.flats.sight import ObjectBoxes, Sight
from streamvln_gym.simulators.base import AgentState, CameraConfig
from streamvln_gym.simulators.embedded.simulator import EmbeddedSimulator

CLEAR_PIXELS = 16


@pytest.fixture(scope="module")
def simulator(flats_root):
    return EmbeddedSimulator()


@pytest.fixture(params=[0, 6, 12])
def demonstration(request, flats, simulator):
    episode = flats.episode(flats.episode_ids[request.param])
    simulator.load_scene(flats.scenes_dir / episode.scene_id)
    start = AgentState.from_rotation(episode.start_position, episode.start_rotation)
    return demonstrate(simulator, start, expert_for(simulator, episode))


@pytest.fixture
def boxes(demonstration, simulator):
    return ObjectBoxes.of(simulator.renderer.scene, len(simulator.scene_graph.objects))


@pytest.fixture
def pixels(demonstration, simulator):
    """(steps, objects): how many pixels of each step's picture show each object."""
    camera, objects = CameraConfig(width=160, height=120), len(simulator.scene_graph.objects)
    frames = [
        simulator.renderer.render(place, yaw, camera, ("instance",))["instance"]
        for place, yaw in zip(demonstration.positions, demonstration.yaws, strict=True)
    ]
    return np.array([np.bincount(frame[frame >= 0], minlength=objects) for frame in frames])


def test_objects_out_of_view_are_in_no_picture(demonstration, boxes, pixels):
    in_view = boxes.in_view(demonstration)
    assert not pixels[~in_view].any()
    assert 0.1 < in_view.mean() < 0.9


def test_objects_seen_are_those_of_all_pictures(demonstration, simulator, boxes, pixels):
    sight = Sight(simulator.renderer, boxes, demonstration)
    halfway = len(pixels) // 2
    for last_step in (halfway, None, 0):
        clear = (pixels[: None if last_step is None else last_step + 1] >= CLEAR_PIXELS).any(axis=0)
        seen = sight.objects(last_step)
        assert [item in seen for item in range(len(clear))] == clear.tolist()


def test_shows_counts_the_marked_objects_together(demonstration, simulator, boxes, pixels):
    sight = Sight(simulator.renderer, boxes, demonstration)
    for marked in np.random.default_rng(0).random((20, pixels.shape[1])) < 0.05:
        together = pixels[:, marked].sum(axis=1)
        for least in (1, 4, 300):
            answers = [sight.shows(step, marked, least) for step in range(len(pixels))]
            assert answers == (together >= least).tolist()


def test_a_scene_without_instances_has_no_boxes(demonstration, simulator):
    bare = replace(simulator.renderer.scene, instances=None)
    with pytest.raises(ValueError, match="no instance ids"):
        ObjectBoxes.of(bare, 1)
