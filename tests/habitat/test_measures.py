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
