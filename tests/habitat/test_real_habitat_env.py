"""`VLNEnv.from_habitat_env` on habitat-lab's own `habitat.Env` (on the embedded simulator)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from streamvln_gym.env import VLNEnv
from tests.conftest import TinyFlats
from tests.habitat_stand_in import ground_truth


def test_it_is_a_gymnasium_environment(habitat_env: Any) -> None:
    check_env(VLNEnv.from_habitat_env(habitat_env), skip_render_check=True)


def test_it_plays_as_our_own_environment(habitat_env: Any, tiny_flats: TinyFlats) -> None:
    """The same episodes, observations, rewards, ends and metrics, in the same order; habitat's measures agree."""
    wrapped = VLNEnv.from_habitat_env(habitat_env, ground_truth=ground_truth(tiny_flats.dataset))
    env = tiny_flats.make()
    assert wrapped.observation_space == env.observation_space and wrapped.action_space == env.action_space
    for _ in range(3):
        theirs, their_info = wrapped.reset()
        ours, info = env.reset()
        episode_id = info["episode_id"]
        assert their_info["episode_id"] == habitat_env.current_episode.episode_id == episode_id
        for action in env.dataset.episode(episode_id).gt_actions or ():
            assert wrapped.observation_space.contains(theirs)
            for name, value in ours.items():
                np.testing.assert_array_equal(np.asarray(theirs[name]), np.asarray(value), err_msg=name)
            theirs, their_reward, *their_ends, their_info = wrapped.step(action)
            ours, reward, *ends, info = env.step(action)
            assert their_ends == ends and their_reward == pytest.approx(reward, abs=1e-6)
            for name in ("distance_to_goal", "path_length", "success", "spl", "ndtw", "sdtw", "cls", "collisions"):
                assert their_info[name] == pytest.approx(info[name], abs=1e-6), name
        assert ends[0] and habitat_env.get_metrics()["spl"] == pytest.approx(their_info["spl"], abs=1e-6)
        assert habitat_env.episode_over
    wrapped.close()
    env.close()


def test_habitats_step_limit_ends_the_episode(plain_dataset: Any) -> None:
    from tests.habitat.conftest import make_habitat_env

    env = VLNEnv.from_habitat_env(make_habitat_env(plain_dataset, "habitat.environment.max_episode_steps=3"))
    assert env.max_steps == 3
    env.reset()
    assert [env.step(2)[3] for _ in range(3)] == [False, False, True]
    env.close()
    longer = VLNEnv.from_habitat_env(
        make_habitat_env(plain_dataset, "habitat.environment.max_episode_steps=3"), max_steps=100
    )
    longer.reset()
    assert [longer.step(2)[3] for _ in range(3)] == [False, False, True]
    longer.close()


def test_other_actions_are_refused(plain_dataset: Any) -> None:
    from tests.habitat.conftest import make_habitat_env

    with make_habitat_env(plain_dataset) as env:
        env.sim.habitat_config = {"forward_step_size": 0.25, "turn_angle": 30}
        env.sim.habitat_config = type("Node", (), env.sim.habitat_config)
        with pytest.raises(ValueError, match="turns 30 degrees"):
            VLNEnv.from_habitat_env(env)
