"""`VLNEnv.from_habitat_env` on a stand-in for `habitat.Env`; tests/habitat does the same on habitat-lab's own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from streamvln_gym.env import VLNEnv
from streamvln_gym.errors import DatasetError, EpisodeNotFoundError, SimulatorUnavailableError
from tests.conftest import SMALL_CAMERA, TinyFlats
from tests.habitat_stand_in import StandInEnv, ground_truth


@pytest.fixture
def inner(tiny_flats: TinyFlats) -> StandInEnv:
    return StandInEnv(tiny_flats.dataset, SMALL_CAMERA)


def test_it_is_a_gymnasium_environment(inner: StandInEnv) -> None:
    check_env(VLNEnv.from_habitat_env(inner), skip_render_check=True)


@pytest.mark.parametrize("normalize_depth", [True, False])
def test_it_plays_as_our_own_environment(tiny_flats: TinyFlats, normalize_depth: bool) -> None:
    inner = StandInEnv(tiny_flats.dataset, SMALL_CAMERA, normalize_depth=normalize_depth)
    truth = ground_truth(tiny_flats.dataset)
    wrapped = VLNEnv.from_habitat_env(inner, name="mine", split="val", ground_truth=truth)
    env = tiny_flats.make()
    assert wrapped.observation_space == env.observation_space and wrapped.action_space == env.action_space
    for _ in range(3):
        theirs, their_info = wrapped.reset()
        ours, info = env.reset()
        assert (their_info["dataset"], their_info["split"]) == ("mine", "val")
        assert their_info["simulator"] == "habitat.Env (StandInSim)"
        assert their_info["episode_id"] == info["episode_id"] == inner.current_episode.episode_id
        for action in env.episode.gt_actions or ():
            assert wrapped.observation_space.contains(theirs)
            for name, value in ours.items():
                np.testing.assert_allclose(theirs[name], value, atol=1e-5) if name != "instruction" else None
            assert theirs["instruction"] == ours["instruction"]
            theirs, reward, *ends, their_info = wrapped.step(action)
            ours, our_reward, *our_ends, info = env.step(action)
            assert ends == our_ends and reward == pytest.approx(our_reward, abs=1e-6)
            for name in ("distance_to_goal", "path_length", "success", "spl", "ndtw", "cls", "collisions", "steps"):
                assert their_info[name] == pytest.approx(info[name], abs=1e-6), name
        assert ends[0] and inner.actions[-1] == "stop" and inner.episode_over
    wrapped.close()
    assert inner.closed


def test_options_and_seeds_choose_the_episode(inner: StandInEnv, tiny_flats: TinyFlats) -> None:
    env = VLNEnv.from_habitat_env(inner)
    assert env.reset(options={"episode_id": "40"})[1]["episode_id"] == inner.current_episode.episode_id == "40"
    assert "tiny_b" in env.reset(options={"scene_id": "tiny_b"})[1]["scene_id"]
    with pytest.raises(EpisodeNotFoundError, match="no episode '99'"):
        env.reset(options={"episode_id": "99"})
    played = [env.reset(seed=3)[1]["episode_id"]] + [env.reset()[1]["episode_id"] for _ in range(6)]
    again = VLNEnv.from_habitat_env(StandInEnv(tiny_flats.dataset, SMALL_CAMERA))
    assert played == [again.reset(seed=3)[1]["episode_id"]] + [again.reset()[1]["episode_id"] for _ in range(6)]
    assert sorted(played) == sorted(tiny_flats.dataset.episode_ids)


def test_habitats_own_limit_truncates(tiny_flats: TinyFlats) -> None:
    env = VLNEnv.from_habitat_env(StandInEnv(tiny_flats.dataset, SMALL_CAMERA, step_limit=2))
    env.reset()
    assert [env.step(2)[2:4] for _ in range(2)] == [(False, False), (False, True)]


def test_the_expert_works_in_it(inner: StandInEnv) -> None:
    from streamvln_gym.expert import expert_for

    env = VLNEnv.from_habitat_env(inner)
    env.reset()
    expert = expert_for(env.simulator, env.episode)
    terminated = False
    while not terminated:
        *_, terminated, _, info = env.step(expert.next_action(env.simulator.state))
    assert info["success"] == 1.0 and info["spl"] > 0.9


def _differing(env: StandInEnv) -> None:
    env.sim.sensor_suite.sensors["depth"].config.width = 32


def _tilted(env: StandInEnv) -> None:
    env.sim.sensor_suite.sensors["rgb"].config.orientation = [0.3, 0.0, 0.0]


def _wordless(env: StandInEnv) -> None:
    env.episodes[2].instruction = None


def _doubled(env: StandInEnv) -> None:
    env.episodes[2].episode_id = env.episodes[1].episode_id


def _empty(env: StandInEnv) -> None:
    env.episodes = []


def _turning(env: StandInEnv) -> None:
    env.sim.habitat_config = SimpleNamespace(forward_step_size=0.25, turn_angle=30)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (_differing, ValueError, r"rgb 64x48.*depth 32x48.*same width"),
        (_tilted, ValueError, "does not look level"),
        (_wordless, DatasetError, "episode '20' has no instruction"),
        (_doubled, DatasetError, "only 6 different ids"),
        (_empty, DatasetError, "has no episodes"),
        (_turning, ValueError, r"turns 30 degrees.*turn_angle=15"),
    ],
)
def test_what_cannot_be_shown_is_refused(inner: StandInEnv, change: Any, error: type, message: str) -> None:
    change(inner)
    with pytest.raises(error, match=message):
        VLNEnv.from_habitat_env(inner)


def test_a_camera_that_is_not_there(inner: StandInEnv) -> None:
    env = VLNEnv.from_habitat_env(inner, sensors=("rgb", "semantic"))
    with pytest.raises(SimulatorUnavailableError, match="has no sensor 'semantic'"):
        env.reset()
    del inner.sim.sensor_suite.sensors["depth"]
    assert VLNEnv.from_habitat_env(inner).sensors == ("rgb", "instruction", "gps", "compass", "camera_pose")
