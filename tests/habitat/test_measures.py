"""habitat-lab's own measures and sensors on the embedded simulator against this package's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from streamvln_gym.env import VLNEnv
from tests.conftest import TinyFlats

NAMES = ("stop", "move_forward", "turn_left", "turn_right")


def wandering(seed: int, length: int = 60) -> list[int]:
    """Random actions that end with a STOP."""
    rng = np.random.default_rng(seed)
    return [*rng.choice([1, 1, 1, 2, 3], length).tolist(), 0]


def sequences(env: VLNEnv, episode_id: str) -> list[list[int]]:
    shown = [int(action) for action in env.dataset.episode(episode_id).gt_actions or ()]
    return [shown, [*shown[:10], 0], wandering(int(episode_id)), [0]]


def play(habitat_env: Any, env: VLNEnv, episode_id: str, actions: list[int]) -> list[tuple[Any, dict, Any, dict]]:
    """Both environments through the same actions: (habitat's observation, measures, ours, info) of every step."""
    habitat_env.current_episode = next(e for e in habitat_env.episodes if e.episode_id == episode_id)
    seen = [(habitat_env.reset(), habitat_env.get_metrics(), *env.reset(options={"episode_id": episode_id}))]
    for action in actions:
        theirs = habitat_env.step(NAMES[action])
        ours, _, _, _, info = env.step(action)
        seen.append((theirs, habitat_env.get_metrics(), ours, info))
    return seen


@pytest.mark.parametrize("episode_id", ["10", "20", "40", "50"])
def test_distance_success_and_spl_are_ours(habitat_env: Any, tiny_flats: TinyFlats, episode_id: str) -> None:
    """To 1e-6. habitat-lab does not measure a distance anew after a move of less than 1e-4 m; nor is it asked to."""
    env = tiny_flats.make()
    for actions in sequences(env, episode_id):
        before = None
        for _, measures, _, info in play(habitat_env, env, episode_id, actions):
            state = env.simulator.state
            moved = before is None or not np.allclose(before, state.position, atol=1e-4)
            if moved:
                assert measures["distance_to_goal"] == pytest.approx(info["distance_to_goal"], abs=1e-6)
                before = state.position
            assert measures["success"] == info["success"]
            assert measures["spl"] == pytest.approx(info["spl"], abs=1e-6)
    env.close()


def test_an_episode_of_each_outcome_was_compared(tiny_flats: TinyFlats) -> None:
    """The sequences above hold successes and failures."""
    env = tiny_flats.make()
    outcomes = []
    for actions in sequences(env, "10"):
        env.reset(options={"episode_id": "10"})
        outcomes += [env.step(action)[-1] for action in actions][-1:]
    assert {info["success"] for info in outcomes} == {0.0, 1.0}
    assert any(0.0 < info["spl"] <= 1.0 for info in outcomes)
    env.close()


def test_observations_are_ours(habitat_env: Any, tiny_flats: TinyFlats) -> None:
    """gps, compass, rotation to 1e-3 (they agree to 1e-6), pictures and instruction exactly; depth in metres."""
    env = tiny_flats.make()
    for theirs, _, ours, _ in play(habitat_env, env, "10", wandering(3, 25)[:-1]):
        np.testing.assert_allclose(theirs["gps"], ours["gps"], atol=1e-5)
        turned = theirs["compass"] - ours["compass"]
        assert abs((turned[0] + np.pi) % (2 * np.pi) - np.pi) < 1e-5
        np.testing.assert_array_equal(theirs["rgb"], ours["rgb"])
        assert theirs["depth"].dtype == np.float32 and theirs["depth"].shape == ours["depth"].shape
        hit = (theirs["depth"] > 0.0) & (ours["depth"] < 10.0)
        assert hit.mean() > 0.5
        np.testing.assert_allclose(theirs["depth"][hit], ours["depth"][hit], atol=1e-5)
        assert theirs["instruction"]["text"] == ours["instruction"]
    state, mine = habitat_env.sim.get_agent_state(), env.simulator.state
    rotation = np.array([state.rotation.x, state.rotation.y, state.rotation.z, state.rotation.w])
    assert abs(float(rotation @ mine.rotation)) == pytest.approx(1.0, abs=1e-6)
    np.testing.assert_allclose(state.position, mine.position, atol=1e-6)
    env.close()


def test_normalised_depth_is_normalised(plain_dataset: Any) -> None:
    import habitat
    from habitat.config import read_write

    from streamvln_gym.habitat_lab.task import habitat_dataset, vln_config
    from tests.conftest import SMALL_CAMERA

    config = vln_config(camera=SMALL_CAMERA)
    with habitat.Env(config, habitat_dataset(plain_dataset)) as env:
        metres = env.reset()["depth"]
        episode = env.current_episode
    with read_write(config):
        config.habitat.simulator.agents.main_agent.sim_sensors.depth_sensor.normalize_depth = True
    with habitat.Env(config, habitat_dataset(plain_dataset)) as env:
        env.current_episode = next(e for e in env.episodes if e.episode_id == episode.episode_id)
        np.testing.assert_allclose(env.reset()["depth"] * 10.0, metres, atol=1e-5)


def test_habitats_map_measure_runs(plain_dataset: Any) -> None:
    from tests.habitat.conftest import make_habitat_env

    top_down = "+habitat/task/measurements@habitat.task.measurements.top_down_map=top_down_map"
    with make_habitat_env(plain_dataset, top_down, "habitat.task.measurements.top_down_map.map_resolution=128") as env:
        env.reset()
        env.step("move_forward")
        drawn = env.get_metrics()["top_down_map"]["map"]
    assert min(drawn.shape) >= 20 and (drawn > 0).mean() > 0.3  # two furnished rooms side by side


def test_what_the_embedded_simulator_has_not_is_refused(plain_dataset: Any) -> None:
    import habitat
    from habitat.config import read_write

    from streamvln_gym.habitat_lab.task import habitat_dataset, vln_config

    sensors = "agents.main_agent.sim_sensors.rgb_sensor"
    for change, message in (
        ({"orientation": [0.5, 0.0, 0.0]}, "looks level"),
        ({"noise_model": "GaussianNoiseModel"}, "no noise"),
        ({"type": "HabitatSimFisheyeRGBSensor"}, "no sensor of type"),
    ):
        config = vln_config()
        with read_write(config):
            node = config.habitat.simulator
            for name in sensors.split("."):
                node = node[name]
            node.update(change)
        with pytest.raises(ValueError, match=message):
            habitat.Env(config, habitat_dataset(plain_dataset))


AGENT = "habitat.simulator.agents.main_agent"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("habitat.simulator.habitat_sim_v0.allow_sliding=False", "slides along walls.*: set .*allow_sliding=True"),
        (f"{AGENT}.radius=0.18", "radius 0.1, not 0.18: set .*radius=0.1"),
        (f"{AGENT}.height=0.88", "height 1.5, not 0.88"),
        (f"{AGENT}.max_climb=0.1", "max_climb 0.2, not 0.1"),
        (f"{AGENT}.max_slope=30.0", "max_slope 45.0, not 30.0"),
    ],
)
def test_another_agent_is_refused(habitat_env: Any, plain_dataset: Any, override: str, message: str) -> None:
    from streamvln_gym.habitat_lab.task import vln_config
    from tests.habitat.conftest import make_habitat_env

    with pytest.raises(ValueError, match=message):
        make_habitat_env(plain_dataset, override)
    habitat_env.reset()
    before = habitat_env.sim.habitat_config
    with pytest.raises(ValueError, match=message):
        habitat_env.sim.reconfigure(vln_config(overrides=[override]).habitat.simulator)
    assert habitat_env.sim.habitat_config is before


def test_habitats_default_agent_is_taken(plain_dataset: Any) -> None:
    """habitat-lab's own configuration as it is, and VLN-CE's numbers written out."""
    import habitat

    from streamvln_gym.habitat_lab.task import habitat_dataset

    for overrides in ((), (f"{AGENT}.radius=0.10", f"{AGENT}.height=1.50")):
        config = habitat.get_config("benchmark/nav/vln_r2r.yaml", ["habitat.simulator.type=Embedded-v0", *overrides])
        with habitat.Env(config, habitat_dataset(plain_dataset)) as env:
            env.reset()
            env.step("move_forward")


def test_overrides_win_over_vln_configs_own_settings() -> None:
    from streamvln_gym.habitat_lab.task import vln_config
    from streamvln_gym.simulators.base import CameraConfig

    camera = CameraConfig(width=128, height=96, hfov=79, mount_height=1.25, min_depth=0.0, max_depth=10.0)
    config = vln_config(
        camera=camera,
        overrides=(
            f"{AGENT}.sim_sensors.rgb_sensor.width=224",
            f"{AGENT}.sim_sensors.rgb_sensor.hfov=90",
            f"{AGENT}.sim_sensors.rgb_sensor.position=[0,0.88,0]",
            f"{AGENT}.sim_sensors.depth_sensor.normalize_depth=True",
            f"{AGENT}.sim_sensors.depth_sensor.max_depth=5.0",
            "habitat.simulator.habitat_sim_v0.allow_sliding=False",
            "habitat.task.measurements.success.success_distance=1.0",
        ),
    )
    rgb, depth = (config.habitat.simulator.agents.main_agent.sim_sensors[f"{name}_sensor"] for name in ("rgb", "depth"))
    assert (rgb.width, rgb.height, rgb.hfov, list(rgb.position)) == (224, 96, 90, [0.0, 0.88, 0.0])
    assert (depth.width, depth.height, depth.hfov, list(depth.position)) == (128, 96, 79, [0.0, 1.25, 0.0])
    assert (depth.min_depth, depth.max_depth, depth.normalize_depth) == (0.0, 5.0, True)
    assert not config.habitat.simulator.habitat_sim_v0.allow_sliding
    assert config.habitat.task.measurements.success.success_distance == 1.0


def test_random_points_go_on_after_a_reset_and_in_another_scene(habitat_env: Any) -> None:
    def points() -> list[list[float]]:
        """One after every reset, in the one scene, the other and the one again."""
        drawn = []
        for episode in (first, first, elsewhere, first):
            habitat_env.current_episode = episode
            habitat_env.reset()
            drawn.append(habitat_env.sim.sample_navigable_point())
        return drawn

    first = habitat_env.episodes[0]
    elsewhere = next(e for e in habitat_env.episodes if e.scene_id != first.scene_id)
    habitat_env.seed(5)
    once = points()
    assert len({tuple(point) for point in once}) == 4
    habitat_env.sim.pathfinder.seed(5)
    assert points() == once


def test_a_reset_forgets_the_collision(habitat_env: Any) -> None:
    habitat_env.reset()
    for _ in range(100):
        habitat_env.step("move_forward")
        if habitat_env.sim.previous_step_collided:
            break
    assert habitat_env.sim.previous_step_collided
    habitat_env.reset()
    assert not habitat_env.sim.previous_step_collided


def test_island_radius(habitat_env: Any) -> None:
    from streamvln_gym.habitat_lab.pathfinder import EmbeddedPathFinder
    from streamvln_gym.simulators.embedded.navmesh import NavigationMesh

    # A square beside a rectangle of 2 m by 1 m that share a side, whose corners count twice; and a square of 2 m apart.
    vertices = [[x, 0, z] for x in (0, 1, 3) for z in (0, 1)] + [[10, 0, 0], [10, 0, 2], [12, 0, 2], [12, 0, 0]]
    mesh = NavigationMesh.from_polygons(vertices, [[0, 1, 3, 2], [2, 3, 5, 4], [6, 7, 8, 9]])
    pathfinder = EmbeddedPathFinder(mesh)
    assert pathfinder.island_radius([0.5, 0.0, 0.5]) == pathfinder.island_radius([2.0, 0.0, 0.5])
    assert pathfinder.island_radius([0.5, 0.0, 0.5]) == pytest.approx(np.hypot(3 - 1.25, 0.5))  # mean x: 10 / 8
    assert pathfinder.island_radius([11.0, 0.0, 1.0]) == pytest.approx(np.sqrt(2.0))
    assert pathfinder.island_radius([100.0, 0.0, 0.0]) == 0.0
    habitat_env.reset()
    here = habitat_env.sim.get_agent_state().position
    assert habitat_env.sim.island_radius(here) == habitat_env.sim.pathfinder.island_radius(here) > 1.0


def test_looking_up_is_refused(habitat_env: Any) -> None:
    habitat_env.reset()
    with pytest.raises(ValueError, match="cannot look up"):
        habitat_env.sim.step(4)


def test_what_needs_habitat_sim_says_so() -> None:
    import importlib.util

    from streamvln_gym.errors import SimulatorUnavailableError

    if importlib.util.find_spec("habitat_sim"):
        pytest.skip("habitat-sim is installed: nothing is replaced")
    from habitat.core.batch_rendering.env_batch_renderer import EnvBatchRenderer

    with pytest.raises(SimulatorUnavailableError, match=r"EnvBatchRenderer needs habitat-sim.*conda install"):
        EnvBatchRenderer(None, 2)
