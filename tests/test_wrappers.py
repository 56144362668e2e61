"""Wrappers: ids, stable-baselines3, chunks, the expert; and Gymnasium's own around the environment."""

from __future__ import annotations

import math
import threading
import warnings
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import DelayObservation, FrameStackObservation, RecordEpisodeStatistics, RecordVideo, TimeLimit

from streamvln_gym.env import VLNEnv
from streamvln_gym.errors import NavigationError
from streamvln_gym.simulators.base import CameraConfig
from streamvln_gym.spaces import SENSORS
from streamvln_gym.vlnce import VLNCEDataset, write_dataset
from streamvln_gym.wrappers import PAD, ActionChunk, ExpertAction, SB3Observation, TokenizeInstruction
from tests.conftest import SMALL_CAMERA, TinyFlats

STOP, FORWARD, LEFT, RIGHT = range(4)


def bytes_of(text: str) -> list[int]:
    """A tokenizer that needs no file."""
    return list(text.encode("utf-8"))


def check_wrapped(env: gym.Env) -> None:
    """Gymnasium's checker, where the only warning allowed is that it would rather see no wrapper."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*is different from the unwrapped version")
        check_env(env, skip_render_check=True)


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def test_tokenize_instruction_gives_padded_ids(env: VLNEnv) -> None:
    wrapped = TokenizeInstruction(env, bytes_of, max_length=100)
    observation, _ = wrapped.reset()
    ids = observation["instruction"]
    assert bytes(ids[ids != PAD].tolist()).decode() == env.episode.instruction.text
    assert ids.shape == (100,) and ids.dtype == np.int64 and observation in wrapped.observation_space
    check_wrapped(wrapped)


def test_tokenize_instruction_follows_the_episodes(env: VLNEnv) -> None:
    wrapped = TokenizeInstruction(env, bytes_of, max_length=200)
    first = wrapped.reset()[0]["instruction"]
    second = wrapped.reset()[0]["instruction"]
    assert not np.array_equal(first, second)
    first[:] = 7
    assert not np.array_equal(wrapped.step(LEFT)[0]["instruction"], first)


def test_tokenizers_that_do_not_fit_are_refused(tiny_flats: TinyFlats, env: VLNEnv) -> None:
    with pytest.raises(ValueError, match="pass a larger max_length"):
        TokenizeInstruction(env, bytes_of, max_length=10).reset()
    with pytest.raises(TypeError, match="must be a callable"):
        TokenizeInstruction(env, "bytes", max_length=10)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_length must be a positive number"):
        TokenizeInstruction(env, bytes_of, max_length=0)
    with pytest.raises(ValueError, match="no 'instruction': add it"):
        TokenizeInstruction(tiny_flats.make(sensors=("rgb",)), bytes_of)


def test_sb3_observation_passes_its_checker_without_a_warning(tiny_flats: TinyFlats) -> None:
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checker.check_env(SB3Observation(tiny_flats.make(), bytes_of), warn=True)


def test_sb3_observation_keeps_what_the_sensors_say(env: VLNEnv) -> None:
    plain, _ = env.reset()
    wrapped = SB3Observation(env, bytes_of)
    observation = wrapped.observation(plain)
    assert observation in wrapped.observation_space
    assert observation["depth"].dtype == np.uint8
    assert np.abs(observation["depth"] / 25.5 - plain["depth"]).max() <= 0.5 / 25.5 + 1e-6
    assert np.array_equal(observation["camera_pose"].reshape(4, 4), plain["camera_pose"])
    assert np.array_equal(observation["rgb"], plain["rgb"])


def test_sb3_observation_works_in_sb3s_own_vector_environment(tiny_flats: TinyFlats) -> None:
    vec_env = pytest.importorskip("stable_baselines3.common.vec_env")
    envs = vec_env.DummyVecEnv([lambda: SB3Observation(tiny_flats.make(), bytes_of) for _ in range(2)])
    observations = envs.reset()
    assert observations["instruction"].shape[0] == 2
    envs.step([STOP, LEFT])
    assert envs.step([LEFT, LEFT])[3][0]["episode_id"] == "11"


def test_sb3_observation_does_not_take_semantic(tiny_flats: TinyFlats) -> None:
    with pytest.raises(ValueError, match="does not take the sensor 'semantic'"):
        SB3Observation(tiny_flats.make(sensors=SENSORS), bytes_of)


def test_a_chunk_equals_its_single_steps(tiny_flats: TinyFlats) -> None:
    chunked, single = ActionChunk(tiny_flats.make(), gamma=0.9), tiny_flats.make()
    assert chunked.action_space == gym.spaces.MultiDiscrete([4, 4, 4, 4])
    chunked.reset()
    single.reset()
    observation, reward, terminated, truncated, info = chunked.step([FORWARD, LEFT, FORWARD, RIGHT])
    steps = [single.step(action) for action in (FORWARD, LEFT, FORWARD, RIGHT)]
    assert same(observation, steps[-1][0])
    assert reward == pytest.approx(sum(0.9**k * step[1] for k, step in enumerate(steps)))
    assert not terminated and not truncated
    assert info == {**steps[-1][-1], "n_executed": 4}


def test_a_chunk_ends_with_stop(tiny_flats: TinyFlats) -> None:
    env = ActionChunk(tiny_flats.make())
    env.reset()
    *_, terminated, truncated, info = env.step(np.array([LEFT, STOP, FORWARD, FORWARD]))
    assert (terminated, truncated, info["n_executed"], info["path_length"]) == (True, False, 2, 0.0)


def test_a_chunk_renders_the_last_frame_only(tiny_flats: TinyFlats, monkeypatch: pytest.MonkeyPatch) -> None:
    env = ActionChunk(tiny_flats.make(max_steps=6), chunk=4)
    env.reset()
    simulator = env.unwrapped.simulator
    rendered: list[float] = []
    observe = simulator.observe
    monkeypatch.setattr(simulator, "observe", lambda sensors: rendered.append(simulator.state.yaw) or observe(sensors))
    for expected in (False, True):
        rendered.clear()
        observation, _, _, truncated, info = env.step([LEFT] * 4)
        assert truncated is expected and rendered == [simulator.state.yaw]
        assert np.array_equal(observation["rgb"], observe(("rgb",))["rgb"])
    assert info["n_executed"] == 2


def test_a_chunk_looks_through_the_wrappers_inside(tiny_flats: TinyFlats) -> None:
    inside = RecordEpisodeStatistics(TimeLimit(TokenizeInstruction(tiny_flats.make(), bytes_of), 3))
    env = ActionChunk(inside)
    env.reset()
    observation, reward, _, truncated, info = env.step([LEFT] * 4)
    assert truncated and info["n_executed"] == 3 == info["episode"]["l"]
    assert info["episode"]["r"] == pytest.approx(reward)
    assert observation["instruction"].dtype == np.int64 and observation in env.observation_space
    assert np.array_equal(observation["rgb"], env.unwrapped.observe()["rgb"])


@pytest.mark.parametrize(
    ("action", "error", "words"),
    [([1, 2, 3], ValueError, "must hold 4 actions"), ([[1] * 4], ValueError, "must hold 4 actions"),
     ([1.0] * 4, TypeError, "must be an integer"), ([1, 2, 9, 1], ValueError, r"must lie in 0\.\.3, got"),
     ([True] * 4, TypeError, "must be an integer")],
)  # fmt: skip
def test_wrong_chunks_are_refused(env: VLNEnv, action, error, words) -> None:
    chunked = ActionChunk(env)
    chunked.reset()
    with pytest.raises(error, match=words):
        chunked.step(action)


def test_wrong_wrapper_arguments_are_refused(env: VLNEnv) -> None:
    for chunk in (0, 1.5, True):
        with pytest.raises(ValueError, match="chunk must be a positive integer"):
            ActionChunk(env, chunk)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="gamma must lie in"):
        ActionChunk(env, gamma=1.5)
    with pytest.raises(ValueError, match="n must be a positive integer"):
        ExpertAction(env, 0)
    with pytest.raises(ValueError, match="max_length must be a positive number of ids, got '9'"):
        TokenizeInstruction(env, bytes_of, max_length="9")  # type: ignore[arg-type]
    words = TokenizeInstruction(env, str.split)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="tokenize must give a sequence of integer ids"):
        words.reset()


@pytest.mark.parametrize(
    ("tokenize", "error", "words"),
    [
        (lambda text: None, TypeError, "must give a sequence of integer ids, got None"),
        (lambda text: text, TypeError, "must give a sequence of integer ids, got 'Leave"),
        (lambda text: [7, -5], ValueError, r"ids from -5 to 7: they must lie in 0\.\."),
        (lambda text: [2**40], ValueError, "they must lie in 0"),
        (lambda text: [1] * 600, ValueError, "pass a larger max_length"),
    ],
)
def test_wrong_ids_are_refused(tiny_flats: TinyFlats, tokenize, error, words) -> None:
    for wrapper in (TokenizeInstruction, SB3Observation):
        with pytest.raises(error, match=words):
            wrapper(tiny_flats.make(), tokenize).reset()


def test_a_tokenizer_that_cannot_be_copied(tiny_flats: TinyFlats) -> None:
    class Held:
        def __init__(self) -> None:
            self.own = threading.Lock()

        def encode(self, text: str) -> list[int]:
            return [1, 2]

    observation, _ = TokenizeInstruction(tiny_flats.make(), Held().encode).reset()
    assert observation["instruction"][:3].tolist() == [1, 2, PAD]


def test_an_instruction_is_made_ids_once(tiny_flats: TinyFlats) -> None:
    for inner, outer in ((TokenizeInstruction, SB3Observation), (SB3Observation, TokenizeInstruction)):
        with pytest.raises(ValueError, match="the instruction is no text any more"):
            outer(inner(tiny_flats.make(), bytes_of), bytes_of)


def test_depth_without_a_limit_has_no_bytes(tiny_flats: TinyFlats) -> None:
    with pytest.raises(ValueError, match="give the camera a finite one"):
        SB3Observation(tiny_flats.make(camera=CameraConfig(64, 48, max_depth=math.inf)), bytes_of)


def test_a_chunk_around_wrappers_with_a_memory(tiny_flats: TinyFlats) -> None:
    chunks = ((FORWARD, LEFT, FORWARD, FORWARD), (LEFT, LEFT, FORWARD, STOP))
    for wrap in (lambda env: FrameStackObservation(env, 3), lambda env: DelayObservation(env, 2)):
        inside = wrap(tiny_flats.make(sensors=("rgb", "gps"), max_steps=7))
        chunked, single = ActionChunk(inside), wrap(tiny_flats.make(sensors=("rgb", "gps")))
        assert same(chunked.reset()[0], single.reset()[0])
        for chunk in chunks:
            observation, *_ = chunked.step(chunk)
            steps = [single.step(action)[0] for action in chunk]
            expected = steps[2] if chunk is chunks[1] else steps[3]  # 7 steps are all
            assert observation in chunked.observation_space and same(observation, expected)


@pytest.mark.parametrize(
    "wrap",
    [
        ActionChunk,
        lambda env: ActionChunk(env, 3, gamma=0.5),
        lambda env: ExpertAction(env, 2),
        lambda env: SB3Observation(env, bytes_of),
        lambda env: TokenizeInstruction(env, bytes_of, max_length=300),
    ],
)
def test_wrappers_can_be_made_again_of_their_specification(tiny_flats: TinyFlats, wrap) -> None:
    env = wrap(gym.make("StreamVLN-Flats-v0", dataset=str(tiny_flats.episodes_path), camera=CameraConfig(64, 48)))
    again = gym.make(env.spec)
    assert type(again) is type(env)
    assert again.observation_space == env.observation_space and again.action_space == env.action_space
    assert same(again.reset(seed=3)[0], env.reset(seed=3)[0])


def test_wrappers_name_an_environment_that_they_cannot_wrap() -> None:
    for wrapper in (ActionChunk, ExpertAction):
        with pytest.raises(TypeError, match=r"goes around a VLNEnv.*CartPole"):
            wrapper(gym.make("CartPole-v1"))
    for ids in (TokenizeInstruction, SB3Observation):
        with pytest.raises(TypeError, match=r"goes around a VLNEnv.*but these observations are Box"):
            ids(gym.make("CartPole-v1"), bytes_of)


def test_a_chunk_passes_gymnasiums_checker(tiny_flats: TinyFlats) -> None:
    check_wrapped(ActionChunk(tiny_flats.make()))


@pytest.mark.parametrize("chunked", ["inside", "outside", None])
def test_the_experts_actions_lead_to_success(tiny_flats: TinyFlats, chunked: str | None) -> None:
    env: gym.Env = tiny_flats.make(sensors=("instruction",))
    if chunked == "inside":
        env = ExpertAction(ActionChunk(env))
    elif chunked == "outside":
        env = ActionChunk(ExpertAction(env))
    else:
        env = ExpertAction(env)
    for episode_id in tiny_flats.dataset.episode_ids:
        _, info = env.reset(options={"episode_id": episode_id})
        ended = False
        while not ended:
            assert info["expert_actions"].shape == (4,) and info["expert_actions"].dtype == np.int64
            actions = info["expert_actions"]
            *_, terminated, truncated, info = env.step(actions if chunked else int(actions[0]))
            ended = terminated or truncated
        assert info["success"] == 1.0 and info["spl"] >= 0.97
        assert info["expert_actions"].tolist() == [STOP] * 4


def test_the_expert_recovers_after_other_actions(tiny_flats: TinyFlats) -> None:
    env = ExpertAction(tiny_flats.make(sensors=("instruction",)), n=1)
    _, info = env.reset()
    rng = np.random.default_rng(0)
    for _ in range(40):
        *_, info = env.step(int(rng.integers(1, 4)))
    while info["expert_actions"][0] != STOP:
        *_, info = env.step(info["expert_actions"][0])
    *_, terminated, _, info = env.step(STOP)
    assert terminated and info["success"] == 1.0


def test_the_expert_needs_a_goal(tiny_flats: TinyFlats, tmp_path: Path) -> None:
    bare = replace(tiny_flats.dataset.episode("10"), goals=(), gt_locations=None)
    write_dataset(tmp_path / "bare.json.gz", [bare])
    env = ExpertAction(tiny_flats.make(dataset=VLNCEDataset.load(tmp_path / "bare.json.gz", tiny_flats.scenes_dir)))
    with pytest.raises(NavigationError, match="has no goal"):
        env.reset()


def test_record_video_and_statistics_keep_the_metrics(tiny_flats: TinyFlats, tmp_path: Path) -> None:
    pytest.importorskip("moviepy", reason="Gymnasium's RecordVideo needs moviepy")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = gym.make(
            "StreamVLN-Flats-v0", dataset=tiny_flats.episodes_path, camera=SMALL_CAMERA, render_mode="rgb_array"
        )
        env = RecordEpisodeStatistics(RecordVideo(made, str(tmp_path / "videos"), episode_trigger=lambda number: True))
        env.reset(seed=0)
        for action in (FORWARD, LEFT, STOP):
            *_, info = env.step(action)
        env.close()
    assert info["episode"]["l"] == 3 and info["steps"] == 3 and "spl" in info
    assert [path.suffix for path in (tmp_path / "videos").iterdir()] == [".mp4"]


def test_a_time_limit_loses_no_metric(tiny_flats: TinyFlats) -> None:
    env = gym.make("StreamVLN-Flats-v0", dataset=tiny_flats.episodes_path, camera=SMALL_CAMERA, max_episode_steps=2)
    env.reset()
    env.step(FORWARD)
    *_, truncated, info = env.step(FORWARD)
    assert truncated and info["path_length"] == pytest.approx(0.5) and "ndtw" in info


def test_a_small_camera_is_configuration(tiny_flats: TinyFlats) -> None:
    env = tiny_flats.make(camera=CameraConfig(width=112, height=112, vfov=63.45, supersampling=2))
    observation, info = env.reset()
    assert observation["rgb"].shape == (112, 112, 3)
    assert info["intrinsics"][0, 0] != info["intrinsics"][1, 1]
