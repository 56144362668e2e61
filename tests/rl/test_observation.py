"""The observation: spaces, bytes, what is in it, and pooled features in place of pictures."""

from __future__ import annotations

import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import DictRolloutBuffer
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.vec_env import DummyVecEnv

from streamvln_gym.models.configuration_streamvln import IMAGE_TOKEN_ID, MEMORY_TOKEN_ID
from streamvln_gym.rl import PooledFeatures, WindowRolloutBuffer, rollout_buffer_bytes
from streamvln_gym.rl.embedding import Context
from tests.rl.conftest import batch


def test_sb3s_checker_has_no_complaint(make_env):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make_env(max_steps=30))
        check_env(make_env(max_steps=30, memory_strategy="none"))


def test_what_an_observation_holds(make_env, agent):
    env = make_env()
    obs, _ = env.reset(options={"episode_id": "10"})
    executed = []
    ids = agent.processor.action_ids
    for number in range(1, 20):
        chunk = [1 + number % 3, 1, 2, 3]
        executed.append(chunk)
        obs, _, terminated, truncated, info = env.step(chunk)
        assert not terminated and not truncated and info["n_executed"] == 4
        assert env.observation_space.contains(obs)
        step, turns = 4 * number, number % 8 + 1
        steps = obs["window_steps"]
        assert steps[:turns].tolist() == list(range(step - 4 * (turns - 1), step + 1, 4))
        assert (steps[turns:] == -1).all()
        start = step // 32 * 32
        expected = list(range(0, start, max(start // 8, 1)))[:8]
        assert obs["history_steps"][: len(expected)].tolist() == expected
        dialogue = obs["dialogue"][obs["dialogue"] != -1].tolist()
        assert dialogue.count(IMAGE_TOKEN_ID) == turns
        assert dialogue.count(MEMORY_TOKEN_ID) == bool(expected)
        actions = [token for token in dialogue if token in ids]
        assert actions == [ids[action] for part in executed[len(executed) - turns + 1 :] for action in part]
        picture = obs["window"].reshape(8, 112, 112, 3)[turns - 1]
        assert (picture == agent.processor.resize(env.unwrapped.observe()["rgb"])).all()
        assert not obs["window"].reshape(8, -1)[turns:].any()


def test_history_frames_are_those_of_their_steps(make_env):
    env = make_env()
    obs, _ = env.reset(options={"episode_id": "10"})
    frames = {}
    for number in range(20):
        window = obs["window"].reshape(8, -1)
        frames.update({int(s): window[i].copy() for i, s in enumerate(obs["window_steps"]) if s >= 0})
        history = obs["history"].reshape(8, -1)
        for place, step in enumerate(obs["history_steps"]):
            assert (history[place] == (frames[int(step)] if step >= 0 else 0)).all()
        obs, *_ = env.step([1, 2, 1, 3] if number % 2 else [1, 1, 1, 3])
    assert (obs["history_steps"] >= 0).all()


def test_an_episodes_end_within_a_chunk(make_env):
    env = make_env(max_steps=30)
    env.reset(seed=0)
    for _ in range(7):
        obs, _, terminated, truncated, info = env.step([2, 2, 3, 3])
    obs, _, terminated, truncated, info = env.step([2, 2, 3, 3])
    assert truncated and not terminated and info["n_executed"] == 2
    assert obs["window_steps"].tolist() == [30, *[-1] * 7], "a window is never too full"
    obs, _ = env.reset()
    obs, _, terminated, _, info = env.step([2, 0, 3, 3])
    assert terminated and info["n_executed"] == 2
    assert obs["window_steps"][:3].tolist() == [0, 2, -1]


def test_bytes_are_those_of_sb3s_buffer(make_env, make_policy):
    env = make_env()
    layout = env.layout
    assert layout.observation_bytes == sum(value.nbytes for value in env.reset()[0].values())
    assert layout.observation_bytes > 16 * 112 * 112 * 3
    buffer = DictRolloutBuffer(3, env.observation_space, env.action_space, n_envs=2)
    arrays = [buffer.actions, buffer.rewards, buffer.returns, buffer.episode_starts, buffer.values, buffer.log_probs]
    held = sum(array.nbytes for array in [*buffer.observations.values(), *arrays, buffer.advantages])
    assert layout.rollout_bytes(3, 2) == held
    assert rollout_buffer_bytes(env.observation_space, env.action_space, 3, 2) == held


def test_pooled_features_give_the_same_policy(make_env, make_policy, agent):
    def make():
        return DummyVecEnv([lambda: make_env(max_steps=60), lambda: make_env(max_steps=76)])

    pictures, features = make(), PooledFeatures(make(), agent.model, agent.processor)
    assert features.layout.observation_bytes < make_env().layout.observation_bytes
    seeing, pooled = make_policy(pictures), make_policy(features)
    features.check_same(pooled.network)
    one, two = (envs.reset() if envs.seed(3) else None for envs in (pictures, features))
    ended = 0
    for number in range(25):
        chunk = np.array([[1, 2, 1, 1 + number % 3], [1, 3, 3, 1]])
        tensors = [{key: torch.from_numpy(value) for key, value in obs.items()} for obs in (one, two)]
        with torch.no_grad():
            expected, got = (
                policy.evaluate_actions(seen, torch.from_numpy(chunk))
                for policy, seen in zip((seeing, pooled), tensors, strict=True)
            )
        assert torch.allclose(expected[1], got[1], atol=1e-4)
        assert seeing(tensors[0], deterministic=True)[0].tolist() == pooled(tensors[1], deterministic=True)[0].tolist()
        one, _, dones, infos = pictures.step(chunk)
        two, _, _, other = features.step(chunk)
        for slot in np.flatnonzero(dones):
            ended += 1
            last = [
                {k: torch.from_numpy(v[None]) for k, v in i[slot]["terminal_observation"].items()}
                for i in (infos, other)
            ]
            assert torch.allclose(seeing.predict_values(last[0]), pooled.predict_values(last[1]), atol=1e-4)
    assert ended >= 2
    assert features.encoded < 25 * 2 + 2 * 2 * 8 + 8, "each frame once, and once more where memory shows it again"


def test_windows_come_together_and_every_decision_once(make_env, make_policy, checkpoint):
    envs = DummyVecEnv([lambda: make_env(max_steps=44)] * 2)
    ppo = PPO(
        _policy(),
        envs,
        n_steps=30,
        batch_size=60,
        rollout_buffer_class=WindowRolloutBuffer,
        policy_kwargs={"checkpoint": checkpoint},
    )
    buffer = ppo.rollout_buffer
    _, callback = ppo._setup_learn(60)
    assert ppo.collect_rollouts(envs, callback, buffer, 30)
    before = {key: buffer.swap_and_flatten(value) for key, value in buffer.observations.items()}
    rows = []
    for part in buffer.get(16):
        for index in range(len(part.actions)):
            steps = part.observations["window_steps"][index]
            rows.append(tuple(steps.tolist()) + tuple(part.observations["dialogue"][index].tolist()))
    expected = [
        tuple(s.tolist()) + tuple(d.tolist()) for s, d in zip(before["window_steps"], before["dialogue"], strict=True)
    ]
    assert sorted(rows) == sorted(expected)
    changes = sum(a[0] != b[0] for a, b in pairwise(rows))
    assert changes < 30, "runs of one window"


def test_shared_windows_run_fewer_embeddings(make_env, make_policy):
    env = make_env()
    policy = make_policy(env)
    obs, _ = env.reset(seed=0)
    seen, chunks = [], []
    for number in range(16):
        chunks.append([1, 2 + number % 2, 1, 3])
        seen.append(obs)
        obs, *_ = env.step(chunks[-1])
    run = []
    policy.network.language_model.register_forward_hook(
        lambda m, i, o: run.append(o.last_hidden_state.shape[:2].numel())
    )
    tensors, actions = batch(*seen), torch.tensor(chunks)
    for share in (True, False):
        policy._arguments["share_windows"] = share
        policy.evaluate_actions(tensors, actions)
    assert run[0] * 6 < run[1]
    assert len(Context.read(tensors, env.layout)) == 16


def _policy():
    from streamvln_gym.rl import StreamVLNActorCriticPolicy

    return StreamVLNActorCriticPolicy


@pytest.mark.parametrize("strategy", ["temporal_pool", "full"])
def test_pooled_features_serve_pooled_memory_only(make_env, make_policy, agent, strategy):
    features = PooledFeatures(DummyVecEnv([lambda: make_env(memory_strategy=strategy)]), agent.model, agent.processor)
    with pytest.raises(ValueError, match="use pictures for others"):
        make_policy(features, memory_strategy=strategy)
