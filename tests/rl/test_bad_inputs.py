"""What is wrong is said in a sentence that ends with what to do."""

from __future__ import annotations

import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from streamvln_gym.errors import CheckpointError, TrainingError
from streamvln_gym.rl import (
    HoldActor,
    KeepBest,
    PooledFeatures,
    SaveArchive,
    SlowFastObservation,
    StreamVLNActorCriticPolicy,
    WindowRolloutBuffer,
)
from streamvln_gym.wrappers import ActionChunk, SB3Observation
from tests.rl.conftest import batch, make_agent


class Spoilt(gym.RewardWrapper):
    """Whose reward is NaN."""

    def reward(self, reward):
        return float("nan")


@pytest.mark.parametrize(
    ("sensors", "wrap", "message"),
    [
        (("rgb",), lambda env: env, "no 'instruction': add it to the environment's `sensors`"),
        (("instruction",), lambda env: env, "no 'rgb': add it"),
        (("rgb", "instruction"), lambda env: ActionChunk(env, 3), "chunks of 3 actions, but this checkpoint decides 4"),
        (("rgb", "instruction"), lambda env: SB3Observation(env, lambda t: [1], 4), "instruction is not text: leave"),
        (
            ("rgb", "instruction"),
            lambda env: gym.wrappers.TransformAction(env, int, gym.spaces.Discrete(7)),
            r"needs the actions Discrete\(4\) or chunks",
        ),
    ],
)
def test_environments_that_do_not_fit(tiny_flats, agent, sensors, wrap, message):
    with pytest.raises(ValueError, match=message):
        SlowFastObservation(wrap(tiny_flats.make(sensors=sensors)), agent.processor)


def test_other_arguments_of_the_observation(tiny_flats, agent, make_env):
    env = tiny_flats.make(sensors=("rgb", "instruction"))
    with pytest.raises(TypeError, match=r"processor must be a StreamVLNProcessor, e.g. agent.processor"):
        SlowFastObservation(env, agent)
    with pytest.raises(ValueError, match="max_instruction must be a positive number"):
        SlowFastObservation(env, agent.processor, max_instruction=0)
    with pytest.raises(ValueError, match=r"voxel.*pass memory_strategy='pooled'"):
        SlowFastObservation(env, agent.processor, memory_strategy="voxel")
    with pytest.raises(ValueError, match="give gamma to ActionChunk"):
        SlowFastObservation(ActionChunk(env), agent.processor, gamma=0.9)
    with pytest.raises(ValueError, match="no 'rgb'"):
        SlowFastObservation(gym.make("CartPole-v1"), agent.processor)
    with pytest.raises(ValueError, match="pass a larger max_instruction"):
        make_env(max_instruction=3).reset(seed=0)


def test_chunks_that_are_none(make_env):
    env = make_env()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="a chunk must hold 4 actions"):
        env.step([1, 1, 1])
    with pytest.raises(ValueError, match=r"must lie in 0\.\.3"):
        env.step([1, 1, 1, 4])


def test_a_reward_that_is_nan(tiny_flats, agent):
    env = SlowFastObservation(Spoilt(tiny_flats.make(sensors=("rgb", "instruction"))), agent.processor)
    env.reset(seed=0)
    with pytest.raises(TrainingError, match=r"the reward of episode .* is nan.*look at the reward's configuration"):
        env.step([1, 1, 1, 1])


def test_spaces_that_the_policy_cannot_read(make_env, make_policy, tiny_flats, tmp_path):
    env = make_env()
    plain = SB3Observation(ActionChunk(tiny_flats.make(sensors=("rgb", "instruction"))), lambda text: [1], 4)
    with pytest.raises(ValueError, match=r"cannot read the observation space.*wrap the environment in SlowFastObserv"):
        make_policy(plain)
    for space, message in (
        (gym.spaces.Discrete(4), "must be MultiDiscrete"),
        (gym.spaces.MultiDiscrete([4] * 3), "chunks of 3 actions, but this checkpoint decides 4"),
        (gym.spaces.MultiDiscrete([5] * 4), "must be MultiDiscrete"),
    ):
        env.action_space = space
        with pytest.raises(ValueError, match=message):
            make_policy(env)
    small = make_agent(image_size=56)
    small.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"does not fit this checkpoint, whose frames are \(56, 56, 3\)"):
        make_policy(make_env(), checkpoint=tmp_path)


def test_frames_and_features_are_not_mixed(make_env, make_policy, agent):
    envs = PooledFeatures(DummyVecEnv([make_env]), agent.model, agent.processor)
    mixed = gym.spaces.Dict({**envs.observation_space.spaces, **make_env().observation_space.spaces})
    envs.observation_space = mixed
    with pytest.raises(ValueError, match="mixes pictures and pooled features"):
        make_policy(envs)


@pytest.mark.parametrize("parts", [("vision",), ("projector", "language")])
def test_features_while_the_vision_learns(make_env, make_policy, agent, parts):
    envs = PooledFeatures(DummyVecEnv([make_env]), agent.model, agent.processor)
    for lora in (None, {"rank": 4}):
        with pytest.raises(
            ValueError, match=r"holds pooled features, but vision tower or projector learn.*leave Pooled"
        ):
            make_policy(envs, parts=parts, lora=lora)
    policy = make_policy(envs)
    policy.network.projector.requires_grad_(True)
    obs = {key: torch.from_numpy(value) for key, value in envs.reset().items()}
    with pytest.raises(ValueError, match="vision tower or projector learn"):
        policy.evaluate_actions(obs, torch.ones(1, 4))


def test_features_of_another_network(make_env, make_policy, agent):
    other = make_agent(seed=5)
    envs = PooledFeatures(DummyVecEnv([make_env]), other.model, other.processor)
    with pytest.raises(ValueError, match="another vision tower or projector than the policy's"):
        envs.check_same(make_policy(envs).network)
    with pytest.raises(ValueError, match="once"):
        PooledFeatures(envs, other.model, other.processor)


def test_another_tokenizers_dialogue(make_env, make_policy):
    env = make_env()
    policy = make_policy(env)
    obs = batch(env.reset(seed=0)[0])
    obs["dialogue"][0, 1] += 1
    with pytest.raises(ValueError, match="does not begin as this checkpoint's tokenizer writes it"):
        policy(obs)
    with pytest.raises(ValueError, match="tokenizer"):
        policy(batch(env.observation_space.sample()))


def test_observations_that_something_changed(make_env, checkpoint):
    """What stable-baselines3's own wrappers do to them."""
    settings = {"policy_kwargs": {"checkpoint": checkpoint}, "n_steps": 4, "batch_size": 4, "device": "cpu"}
    envs = DummyVecEnv([lambda: make_env(max_steps=20)])
    with pytest.raises(ValueError, match=r"ids are no whole numbers.*VecNormalize\(envs, norm_obs=False\)"):
        PPO(StreamVLNActorCriticPolicy, VecNormalize(envs), **settings).learn(4)
    with pytest.raises(ValueError, match="leave out what changes it afterwards, such as VecFrameStack"):
        PPO(StreamVLNActorCriticPolicy, VecFrameStack(envs, 2), **settings).learn(4)


def test_a_window_buffer_needs_windows():
    space = spaces.Dict({"rgb": spaces.Box(0, 255, (48, 48, 3), np.uint8)})
    with pytest.raises(ValueError, match=r"needs observations of SlowFastObservation, got Dict\('rgb'"):
        WindowRolloutBuffer(4, space, spaces.Discrete(4))


def test_frames_that_do_not_fit_the_dialogue(make_env, make_policy):
    env = make_env()
    policy = make_policy(env)
    obs = batch(env.reset(seed=0)[0])
    obs["window_steps"][0, 1] = 4
    with pytest.raises(ValueError, match="dialogue and its frames do not fit"):
        policy(obs)


def test_actions_that_are_no_chunks(make_env, make_policy):
    env = make_env()
    policy = make_policy(env)
    obs = batch(env.reset(seed=0)[0])
    with pytest.raises(ValueError, match=r"actions must have shape \(1, 4\)"):
        policy.evaluate_actions(obs, torch.ones(1, 3))
    with pytest.raises(ValueError, match=r"must lie in 0\.\.3"):
        policy.evaluate_actions(obs, torch.full((1, 4), 7))
    with pytest.raises(NotImplementedError, match="use forward"):
        policy.get_distribution(obs)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"use_sde": True}, ValueError, "use_sde"),
        ({"normalize_images": True}, ValueError, "normalize_images must be False"),
        ({"parts": ("head",)}, ValueError, "parts must be some of vision, projector, language"),
        ({"lora": {"dropout": 0.1}}, ValueError, "dropout is 0.1.*set it to 0"),
        ({"lora": 16}, TypeError, "lora must be LoraSettings or a dict"),
        ({"lora": {}, "parts": ()}, ValueError, "lora needs parts"),
        ({"parts": "language"}, ValueError, "parts must be some of .* got 'language'"),
        ({"adapter": "somewhere"}, ValueError, "an adapter was given without lora"),
        ({"adapter": "nowhere", "lora": {}}, CheckpointError, "holds no adapter"),
        ({"checkpoint": "/no/such/folder"}, CheckpointError, "there is no folder"),
        ({"dtype": "int8"}, ValueError, "dtype must be 'auto' or the name of a floating-point type"),
        ({"memory_strategy": "none"}, ValueError, "holds history frames, but memory_strategy='none'"),
        ({"memory_strategy": "most"}, ValueError, "memory_strategy must be one of"),
    ],
)
def test_settings_of_the_policy(make_env, make_policy, settings, error, message):
    with pytest.raises(error, match=message):
        make_policy(make_env(), **settings)


def test_adapters_of_another_base(make_env, make_policy, checkpoint, tmp_path):
    env = make_env()
    make_policy(env, lora={"rank": 4}).save_adapter(tmp_path / "adapter")
    other = make_agent(seed=7)
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(CheckpointError, match=r"trained on other weights.*pass the checkpoint"):
        make_policy(env, checkpoint=tmp_path / "other", lora={}, adapter=tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"has the rank 4, but lora says 32: pass lora=\{\}"):
        make_policy(env, lora={"rank": 32}, adapter=tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"is of parts=\('language',\), but parts=\('vision', 'language'\) was asked"):
        make_policy(env, lora={}, parts=("vision", "language"), adapter=tmp_path / "adapter")
    (tmp_path / "adapter" / "streamvln_base.json").unlink()
    narrow = make_agent(layers=1)
    narrow.save_pretrained(tmp_path / "narrow")
    with pytest.raises(CheckpointError, match="does not fit this network"):
        make_policy(env, checkpoint=tmp_path / "narrow", lora={}, adapter=tmp_path / "adapter")
    with pytest.raises(ValueError, match="has no adapters"):
        make_policy(env).save_adapter(tmp_path / "none")


@pytest.mark.parametrize("part", ["text_config", "vision_config"])
def test_a_checkpoint_with_dropout(make_env, make_policy, tmp_path, part):
    other = make_agent()
    getattr(other.model.config, part).attention_dropout = 0.1
    other.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"attention_dropout is not 0.*config\.json"):
        make_policy(make_env(), checkpoint=tmp_path)


def test_callbacks_with_bad_numbers(tmp_path):
    with pytest.raises(ValueError, match="rollouts must not be negative"):
        HoldActor(-1)
    with pytest.raises(ValueError, match="episodes and every must be at least 1"):
        KeepBest(None, tmp_path, episodes=0)
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        SaveArchive(tmp_path / "ppo.zip", every=0)
    plain = PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8)
    for callback, words in ((HoldActor(1), "HoldActor holds a"), (KeepBest(plain.env, tmp_path), "KeepBest keeps a")):
        with pytest.raises(TypeError, match=rf"{words} StreamVLNActorCriticPolicy's"):
            plain.learn(8, callback=callback)


def test_a_dialogue_that_does_not_fit_is_not_cut(make_env):
    env = make_env()
    env.reset(seed=0)
    context = env._context
    context._ids = list(np.zeros(context.layout.dialogue_ids + 1, int))
    with pytest.raises(ValueError, match="pass a larger max_instruction"):
        context.observe()


def test_without_stable_baselines3():
    code = (
        "import sys; sys.modules['stable_baselines3'] = None\n"
        "from streamvln_gym import rl\n"
        "assert 'torch' not in sys.modules\n"
        "rl.SlowFastObservation\n"
        "try: rl.StreamVLNActorCriticPolicy\n"
        "except ModuleNotFoundError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "needs stable-baselines3: pip install 'streamvln-gym[rl]'" in done.stdout
