"""Vector environments: the same as single ones, with the right instructions, in every mode."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from streamvln_gym.vector import EpisodeStarts
from tests.conftest import SMALL_CAMERA, TinyFlats

NUM_ENVS = 4
STEPS = 40


def actions_of(step: int) -> np.ndarray:
    """Deterministic actions with STOPs, so that several episodes are played."""
    rng = np.random.default_rng(step)
    actions = rng.integers(1, 4, NUM_ENVS)
    actions[rng.random(NUM_ENVS) < 0.15] = 0
    return actions


def single_runs(tiny_flats: TinyFlats, mode: AutoresetMode) -> list[list[tuple]]:
    """What single environments give: for each, the (observation, reward, terminated, truncated, info) of each call."""
    runs = []
    for index in range(NUM_ENVS):
        env = tiny_flats.make(max_steps=12)
        observation, info = env.reset(seed=100 + index)
        run, ended = [(observation, 0.0, False, False, info)], False
        for step in range(STEPS):
            if ended and mode is AutoresetMode.NEXT_STEP:
                observation, info = env.reset()
                reward, terminated, truncated = 0.0, False, False
            else:
                observation, reward, terminated, truncated, info = env.step(int(actions_of(step)[index]))
            ended = terminated or truncated
            if ended and mode is AutoresetMode.SAME_STEP:
                final = info
                observation, info = env.reset()
                info = {**info, "final": final}
            run.append((observation, reward, terminated, truncated, info))
        runs.append(run)
    return runs


def make_vector(tiny_flats: TinyFlats, vectorization: str, context: str | None, mode: AutoresetMode) -> Any:
    vector_kwargs: dict[str, Any] = {"autoreset_mode": mode}
    if context:
        vector_kwargs["context"] = context
    return gym.make_vec(
        "streamvln_gym:StreamVLN-Flats-v0",
        num_envs=NUM_ENVS,
        vectorization_mode=vectorization,
        vector_kwargs=vector_kwargs,
        dataset=str(tiny_flats.episodes_path),
        camera=SMALL_CAMERA,
        max_steps=12,
    )


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize(
    ("vectorization", "context"),
    [("sync", None), ("async", "fork"), ("async", "spawn")],
)
def test_vector_environments_equal_single_ones(
    tiny_flats: TinyFlats, vectorization: str, context: str | None, mode: AutoresetMode
) -> None:
    expected = single_runs(tiny_flats, mode)
    envs = make_vector(tiny_flats, vectorization, context, mode)
    assert isinstance(envs, SyncVectorEnv if vectorization == "sync" else AsyncVectorEnv)
    starts = EpisodeStarts.of(envs)
    observations, infos = envs.reset(seed=[100, 101, 102, 103])
    assert starts.reset().tolist() == [True] * NUM_ENVS
    kept: list[Any] = []
    for step in range(STEPS + 1):
        assert isinstance(observations["instruction"], tuple)
        for index in range(NUM_ENVS):
            observation, _, _, _, info = expected[index][step]
            assert observations["instruction"][index] == observation["instruction"]
            for name in ("rgb", "depth", "gps", "compass", "camera_pose"):
                assert np.array_equal(observations[name][index], observation[name])
            assert infos["episode_id"][index] == info["episode_id"]
            if "final" in info:
                assert infos["final_info"]["spl"][index] == info["final"]["spl"]
        kept.append(observations["instruction"])
        if step < STEPS:
            observations, rewards, terminations, truncations, infos = envs.step(actions_of(step))
            assert rewards == pytest.approx([run[step + 1][1] for run in expected])
            assert terminations.tolist() == [run[step + 1][2] for run in expected]
            assert truncations.tolist() == [run[step + 1][3] for run in expected]
            started = [run[step + 1][4]["steps"] == 0 for run in expected]
            assert starts.update(terminations, truncations).tolist() == started
    envs.close()
    assert kept == [tuple(run[step][0]["instruction"] for run in expected) for step in range(STEPS + 1)]
    assert len({instruction for instructions in kept for instruction in instructions}) > 3


def test_observations_lie_in_the_batched_space(tiny_flats: TinyFlats) -> None:
    envs = make_vector(tiny_flats, "async", "fork", AutoresetMode.NEXT_STEP)
    observations, infos = envs.reset(seed=0)
    assert observations in envs.observation_space
    assert infos["needs_memory"].dtype == object and infos["distance_to_goal"].shape == (NUM_ENVS,)
    envs.close()


def test_without_copies_the_instructions_are_live(tiny_flats: TinyFlats) -> None:
    envs = AsyncVectorEnv([lambda: tiny_flats.make() for _ in range(2)], copy=False)
    observations, _ = envs.reset(options={"episode_id": "10"})
    assert observations["instruction"][1].startswith("Leave the living room")
    envs.reset(options={"episode_id": "20"})
    assert observations["instruction"][1].startswith("Walk out of the kitchen")
    envs.close()


def test_async_without_shared_memory(tiny_flats: TinyFlats) -> None:
    envs = AsyncVectorEnv([lambda: tiny_flats.make() for _ in range(2)], shared_memory=False)
    observations, _ = envs.reset(options={"episode_id": "11"})
    assert observations["instruction"] == (tiny_flats.dataset.episode("11").instruction.text,) * 2
    envs.close()


def test_episode_starts_by_hand() -> None:
    ends = [([False, True], [False, False]), ([False, False], [True, False]), ([False, False], [False, False])]
    next_step, same_step = EpisodeStarts(2), EpisodeStarts(2, "SameStep")
    assert next_step.reset().all() and same_step.reset().all()
    assert [next_step.update(*end).tolist() for end in ends] == [[False, False], [False, True], [True, False]]
    assert [same_step.update(*end).tolist() for end in ends] == [[False, True], [True, False], [False, False]]


def test_episode_starts_refuses_what_it_cannot_know() -> None:
    with pytest.raises(ValueError, match="needs autoreset mode NEXT_STEP or SAME_STEP"):
        EpisodeStarts(2, AutoresetMode.DISABLED)
    with pytest.raises(ValueError, match=r"expected terminations and truncations of shape \(2,\)"):
        EpisodeStarts(2).update([True], [False])
