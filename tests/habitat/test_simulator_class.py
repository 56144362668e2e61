"""`HabitatSimulator` through habitat-lab's registry and configuration; our simulator stands in for habitat-sim.

What habitat-sim itself does is tested in test_habitat_sim.py, where it is installed.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from streamvln_gym.env import VLNEnv
from streamvln_gym.errors import NavigationError, SceneError, SimulatorUnavailableError
from streamvln_gym.simulators import habitat
from streamvln_gym.simulators.base import Action, AgentState
from streamvln_gym.simulators.embedded.simulator import EmbeddedSimulator
from streamvln_gym.simulators.habitat import HabitatSimulator
from tests.conftest import SMALL_CAMERA, TinyFlats

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("habitat_sim") is not None, reason="habitat-sim is installed: test_habitat_sim.py runs"
)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The embedded simulator as habitat-lab's "Sim-v0"; the list holds those that were made."""
    from habitat.core.registry import registry

    from streamvln_gym.habitat_lab.simulator import EmbeddedHabitatSim

    made: list[Any] = []

    class StandIn(EmbeddedHabitatSim):
        """With the two things that `HabitatSimulator` takes from habitat-sim itself."""

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.closed = False
            made.append(self)

        def get_agent(self, agent_id: int) -> Any:
            return SimpleNamespace(act=lambda action: (self.step(action), self.previous_step_collided)[1])

        def semantic_annotations(self) -> Any:
            return SimpleNamespace(objects=[])

        def close(self, destroy: bool = True) -> None:
            super().close()
            self.closed = True

    monkeypatch.setitem(registry.mapping["sim"], "Sim-v0", StandIn)
    monkeypatch.setattr(habitat, "habitat_problem", lambda: "")
    monkeypatch.setattr(habitat, "_made_in", None)
    yield made


def scene(tiny_flats: TinyFlats, name: str = "tiny_a") -> Path:
    return tiny_flats.scenes_dir / "flats" / name / f"{name}.glb"


START = AgentState(np.array([1.0, 0.2, 3.0]), 0.4)


def test_it_does_what_the_embedded_simulator_does(stand_in: list[Any], tiny_flats: TinyFlats) -> None:
    simulator, embedded = HabitatSimulator(SMALL_CAMERA), EmbeddedSimulator(SMALL_CAMERA)
    for each in (simulator, embedded):
        each.load_scene(scene(tiny_flats))
        each.set_state(START)
    rng = np.random.default_rng(0)
    for action in rng.choice([1, 1, 2, 3], 40).tolist():
        foreseen, blocked = simulator.try_step(simulator.state, action)
        collided = simulator.step(action)
        assert collided == blocked == embedded.step(action)
        np.testing.assert_allclose(simulator.state.position, foreseen.position, atol=1e-6)
        np.testing.assert_allclose(simulator.state.position, embedded.state.position, atol=1e-4)
    simulator.set_state(embedded.state)
    seen, expected = simulator.observe(("rgb", "depth")), embedded.observe(("rgb", "depth"))
    for name in expected:
        assert seen[name].dtype == expected[name].dtype and seen[name].shape == expected[name].shape
    np.testing.assert_allclose(seen["depth"], expected["depth"], atol=1e-3)
    goals = [[7.0, 0.2, 2.0], [1.0, 0.2, 1.5]]
    here = embedded.state.position
    assert simulator.geodesic_distance(here, goals) == pytest.approx(embedded.geodesic_distance(here, goals), abs=1e-5)
    np.testing.assert_allclose(
        simulator.shortest_path(here, goals[0]), embedded.shortest_path(here, goals[0]), atol=1e-5
    )
    assert simulator.shortest_path(here, [9.4, 0.2, 1.0]) is None  # the closed store room
    assert simulator.geodesic_distance(here, [9.4, 0.2, 1.0]) == np.inf
    np.testing.assert_allclose(simulator.snap_point([0.0, 0.2, 2.0]), embedded.snap_point([0.0, 0.2, 2.0]), atol=1e-6)
    assert simulator.snap_point([0.0, 50.0, 0.0]) is None and not simulator.is_navigable([0.0, 50.0, 0.0])
    area = sum(0.5 * np.linalg.norm(np.cross(b - a, c - a)) for a, b, c in simulator.floor_polygons)
    assert area == pytest.approx(float(embedded.navmesh.island_areas.sum()), rel=1e-3)
    simulator.close()


def test_published_settings(stand_in: list[Any], tiny_flats: TinyFlats) -> None:
    simulator = HabitatSimulator(gpu_device_id=-1)
    simulator.load_scene(scene(tiny_flats))
    config = simulator.sim.habitat_config
    agent = config.agents.main_agent
    assert (config.forward_step_size, config.turn_angle, config.habitat_sim_v0.allow_sliding) == (0.25, 15.0, True)
    assert (agent.radius, agent.height, agent.max_climb, agent.max_slope) == (0.1, 1.5, 0.2, 45.0)
    for sensor in ("rgb_sensor", "depth_sensor"):
        node = agent.sim_sensors[sensor]
        assert (node.width, node.height, node.hfov, list(node.position)) == (640, 480, 79.0, [0.0, 1.25, 0.0])
    depth = agent.sim_sensors.depth_sensor
    assert (depth.normalize_depth, depth.min_depth, depth.max_depth) == (False, 0.0, 10.0)
    assert config.habitat_sim_v0.gpu_device_id == -1 and not config.habitat_sim_v0.enable_physics
    simulator.close()


def test_scenes_replace_one_another_in_one_simulator(stand_in: list[Any], tiny_flats: TinyFlats) -> None:
    simulator = HabitatSimulator(SMALL_CAMERA)
    for name in ("tiny_a", "tiny_b", "tiny_b", "tiny_a"):
        simulator.load_scene(scene(tiny_flats, name))
        simulator.set_state(START)
    assert len(stand_in) == 1
    simulator.close()
    assert stand_in[0].closed


def test_sensors_are_added_when_they_are_asked_for(stand_in: list[Any], tiny_flats: TinyFlats) -> None:
    simulator = HabitatSimulator(SMALL_CAMERA, sensors=())
    simulator.load_scene(scene(tiny_flats))
    simulator.set_state(START)
    assert simulator.observe(()) == {} and len(stand_in) == 1
    assert set(simulator.observe(("rgb",))) == {"rgb"} and stand_in[0].closed
    np.testing.assert_allclose(simulator.state.position, START.position, atol=1e-6)
    assert set(simulator.observe(("depth",))) == {"depth"} and len(stand_in) == 3
    assert [each.closed for each in stand_in] == [True, True, False]
    simulator.close()


def test_supersampling_averages(stand_in: list[Any], tiny_flats: TinyFlats) -> None:
    sharp = HabitatSimulator(replace(SMALL_CAMERA, width=128, height=96))
    smooth = HabitatSimulator(replace(SMALL_CAMERA, supersampling=2))
    for each in (sharp, smooth):
        each.load_scene(scene(tiny_flats))
        each.set_state(START)
    fine, coarse = sharp.observe(("rgb", "depth")), smooth.observe(("rgb", "depth"))
    mean = fine["rgb"].reshape(48, 2, 64, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(coarse["rgb"], mean, atol=0.51)
    np.testing.assert_array_equal(coarse["depth"], fine["depth"][1::2, 1::2])


def test_in_the_environment(stand_in: list[Any], tiny_flats: TinyFlats) -> None:
    env = VLNEnv(tiny_flats.episodes_path, HabitatSimulator(SMALL_CAMERA), data_dir=tiny_flats.root)
    observation, info = env.reset()
    assert info["simulator"] == "habitat" and env.observation_space.contains(observation)
    for action in env.episode.gt_actions or ():
        *_, info = env.step(action)
    assert info["success"] == 1.0
    env.close()


def test_mistakes_say_what_to_do(stand_in: list[Any], tiny_flats: TinyFlats, tmp_path: Path) -> None:
    simulator = HabitatSimulator(SMALL_CAMERA)
    with pytest.raises(RuntimeError, match="load_scene"):
        simulator.step(Action.FORWARD)
    with pytest.raises(SceneError, match=r"cannot open the scene .*nowhere.glb"):
        simulator.load_scene(tmp_path / "nowhere.glb")
    broken = tmp_path / "broken.glb"
    broken.write_bytes(scene(tiny_flats).read_bytes()[:5000])
    with pytest.raises(SceneError, match="truncated: 5000 bytes"):
        simulator.load_scene(broken)
    broken.write_bytes(b"solid nothing, and more than a head")
    with pytest.raises(SceneError, match="not a GLB"):
        simulator.load_scene(broken)
    simulator.load_scene(scene(tiny_flats))
    with pytest.raises(RuntimeError, match="set_state"):
        simulator.step(Action.FORWARD)
    with pytest.raises(NavigationError, match="not on habitat's navigation mesh"):
        simulator.set_state(AgentState(np.array([0.0, 9.0, 0.0]), 0.0))
    simulator.set_state(START)
    with pytest.raises(ValueError, match="unknown sensors"):
        simulator.observe(("smell",))
    simulator.close()


def _load_in_a_child(path: Path, answers: Any) -> None:
    simulator = HabitatSimulator(SMALL_CAMERA)
    try:
        simulator.load_scene(path)
        answers.put("loaded")
    except SimulatorUnavailableError as error:
        answers.put(str(error))


def test_a_forked_process_is_told_to_spawn(stand_in: list[Any], tiny_flats: TinyFlats) -> None:
    context = multiprocessing.get_context("fork")
    answers = context.Queue()

    def ask() -> str:
        child = context.Process(target=_load_in_a_child, args=(scene(tiny_flats), answers))
        child.start()
        answer = answers.get(timeout=30)
        child.join(timeout=30)
        return answer

    assert ask() == "loaded"  # nothing was made before the fork
    HabitatSimulator(SMALL_CAMERA).load_scene(scene(tiny_flats))
    assert "'context': 'spawn'" in ask()
