"""stable-baselines3's `evaluate_policy`, through the agent and through the policy, plays the agent's episodes."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from streamvln_gym.agents import StreamVLNAgent, StreamVLNAgentConfig
from streamvln_gym.env import VLNEnv
from streamvln_gym.rl import SlowFastObservation, StreamVLNActorCriticPolicy
from streamvln_gym.simulators.base import CameraConfig
from streamvln_gym.wrappers import SB3Observation
from tests.conftest import TinyFlats
from tests.rl.conftest import batch, make_agent

STEPS = 70


def plain_env(tiny_flats: TinyFlats, agent: StreamVLNAgent, tokenize: Any = None) -> SB3Observation:
    env = tiny_flats.make(max_steps=STEPS, sensors=("rgb", "instruction"))
    return SB3Observation(env, tokenize or agent.tokenize, 128)


def played_alone(
    agent: StreamVLNAgent, tiny_flats: TinyFlats, seed: int, episodes: int, sensors: tuple = ("rgb", "instruction")
) -> list[tuple[list, float]]:
    """Actions and return of each episode with the agent's own `act`."""
    single = StreamVLNAgent(agent.model, agent.processor, agent.config)
    env = tiny_flats.make(max_steps=STEPS, sensors=sensors)
    played = []
    for number in range(episodes):
        obs, _ = env.reset(seed=seed if number == 0 else None)
        single.reset()
        actions, total, done = [], 0.0, False
        while not done:
            actions.append(single.act(obs))
            obs, reward, terminated, truncated, _ = env.step(actions[-1])
            total += reward
            done = terminated or truncated
        played.append((actions, total))
    return played


def evaluated(policy: Any, envs: DummyVecEnv, episodes: int) -> tuple[dict[int, list], list[float]]:
    """Actions of each environment in order, and the returns of the episodes as they ended."""
    actions: dict[int, list] = {slot: [] for slot in range(envs.num_envs)}

    def note(given: dict, _: dict) -> None:
        actions[given["i"]].append(given["actions"][given["i"]])

    envs.seed(5)
    returns, _ = evaluate_policy(
        policy, envs, episodes, callback=note, return_episode_rewards=True, warn=False, deterministic=True
    )
    return actions, returns


def test_evaluate_policy_through_agent_and_policy(agent, tiny_flats, make_env, make_policy):
    count, episodes = 2, 4
    alone = [played_alone(agent, tiny_flats, 5 + slot, episodes // count) for slot in range(count)]
    returns = sorted(total for part in alone for _, total in part)
    assert len(set(returns)) > 1

    plain = DummyVecEnv([lambda: plain_env(tiny_flats, agent)] * count)
    actions, got = evaluated(StreamVLNAgent(agent.model, agent.processor), plain, episodes)
    assert sorted(got) == pytest.approx(returns, abs=1e-5)
    for slot in range(count):
        expected = [action for played, _ in alone[slot] for action in played]
        assert actions[slot][: len(expected)] == expected

    text = DummyVecEnv([lambda: tiny_flats.make(max_steps=STEPS, sensors=("rgb", "instruction"))] * count)
    with_text, got = evaluated(StreamVLNAgent(agent.model, agent.processor), text, episodes)
    assert sorted(got) == pytest.approx(returns, abs=1e-5) and with_text == actions

    chunked = DummyVecEnv([lambda: make_env(max_steps=STEPS)] * count)
    actions, got = evaluated(make_policy(chunked), chunked, episodes)
    assert sorted(got) == pytest.approx(returns, abs=1e-5)
    for slot in range(count):
        first = alone[slot][0][0]
        assert np.concatenate(actions[slot]).tolist()[: len(first)] == first


def test_evaluate_policy_takes_the_environment_as_it_is(tiny_flats, agent):
    seen = []

    class Watched(StreamVLNAgent):
        def act_batch(self, observations, *arguments):
            seen.append(observations["instruction"])
            return super().act_batch(observations, *arguments)

    watched = Watched(agent.model, agent.processor)
    alone, _ = evaluate_policy(watched, tiny_flats.make(max_steps=12), 1, return_episode_rewards=True, warn=False)
    instruction = tiny_flats.make().reset()[0]["instruction"]
    assert seen and all(list(shown) == [instruction] for shown in seen)
    seen.clear()
    with closing(SubprocVecEnv([partial(tiny_flats.make, max_steps=12)] * 2, "spawn")) as processes:
        beside, _ = evaluate_policy(watched, processes, 2, return_episode_rewards=True, warn=False)
    assert beside == pytest.approx(alone * 2, abs=1e-5)
    assert seen and all(list(shown) == [instruction] * 2 for shown in seen)


def test_evaluate_policy_with_voxel_pruning(tiny_flats):
    """Depth and poses reach the memory; what SB3Observation makes of them is refused."""
    agent, sensors = make_agent(4), ("rgb", "depth", "camera_pose", "instruction")
    _, info = tiny_flats.make(sensors=sensors).reset()
    voxel = StreamVLNAgentConfig(memory_strategy="voxel", intrinsics=info["intrinsics"])
    alone = played_alone(StreamVLNAgent(agent.model, agent.processor, voxel), tiny_flats, 5, 3, sensors)
    assert max(len(actions) for actions, _ in alone) > 40, "so that a later window shows memory"
    envs = DummyVecEnv([lambda: tiny_flats.make(max_steps=STEPS, sensors=sensors)])
    actions, returns = evaluated(StreamVLNAgent(agent.model, agent.processor, voxel), envs, 3)
    expected = [action for played, _ in alone for action in played]
    assert actions[0][: len(expected)] == expected
    assert returns == pytest.approx([total for _, total in alone], abs=1e-5)
    obs, _ = SB3Observation(tiny_flats.make(), agent.tokenize).reset(seed=5)
    with pytest.raises(TypeError, match=r"must be floating-point metres, got uint8.*SB3Observation scales depth"):
        StreamVLNAgent(agent.model, agent.processor, voxel).predict(obs)


@pytest.mark.long
def test_the_shipped_checkpoint_in_flats():
    """Through `agent.predict` and through the policy: the same episodes, action by action, as the agent's own."""
    agent = StreamVLNAgent.from_pretrained()
    settings = {"split": "val_seen", "scenes": 2, "sensors": ("rgb", "instruction"), "max_steps": 200}
    camera = CameraConfig(width=112, height=112, vfov=63.5)
    single, count = VLNEnv("flats", "embedded", camera=camera, **settings), 6
    alone = []
    for number in range(count):
        obs, _ = single.reset(seed=3 if number == 0 else None)
        agent.reset()
        actions, total, done = [], 0.0, False
        while not done:
            actions.append(agent.act(obs))
            obs, reward, terminated, truncated, _ = single.step(actions[-1])
            total += reward
            done = terminated or truncated
        alone.append((actions, total))
    assert max(len(actions) for actions, _ in alone) > 64
    plain = DummyVecEnv(
        [lambda: SB3Observation(VLNEnv("flats", "embedded", camera=camera, **settings), agent.tokenize)]
    )
    chunked = DummyVecEnv(
        [lambda: SlowFastObservation(VLNEnv("flats", "embedded", camera=camera, **settings), agent.processor)]
    )
    policy = StreamVLNActorCriticPolicy(chunked.observation_space, chunked.action_space, lambda _: 0.0)
    for player, envs in ((agent, plain), (policy, chunked)):
        envs.seed(3)
        seen: list[np.ndarray] = []
        returns, _ = evaluate_policy(
            player,
            envs,
            count,
            callback=lambda given, _, seen=seen: seen.append(np.atleast_1d(given["actions"][0])),
            return_episode_rewards=True,
            warn=False,
        )
        assert returns == pytest.approx([total for _, total in alone], abs=1e-5)
        first = alone[0][0]
        assert np.concatenate(seen).tolist()[: len(first)] == first


def test_predict_takes_whatever_sb3observation_shows(agent, tiny_flats):
    """All sensors, too: the depth that it scales is not what the agent reads."""
    env = tiny_flats.make()
    obs, _ = env.reset(seed=0)
    converted = SB3Observation(env, agent.tokenize).observation(obs)
    assert converted["depth"].dtype == np.uint8
    assert agent.predict(converted)[0] == StreamVLNAgent(agent.model, agent.processor).act(obs)


def test_predict_takes_one_observation_too(agent, tiny_flats):
    env = plain_env(tiny_flats, agent)
    single = StreamVLNAgent(agent.model, agent.processor)
    obs, _ = env.reset(seed=0)
    action, state = StreamVLNAgent(agent.model, agent.processor).predict(obs)
    assert action.shape == ()
    text = env.unwrapped.observe()
    assert int(action) == single.act(text)
    other = StreamVLNAgent(agent.model, agent.processor)
    assert int(other.predict(text)[0]) == int(action), "text is taken as it is"


def test_evaluations_may_take_turns(agent, tiny_flats):
    """The state holds the streams, so that one agent can serve two sets of environments."""
    serving = StreamVLNAgent(agent.model, agent.processor)
    envs = [DummyVecEnv([lambda: plain_env(tiny_flats, agent)]) for _ in range(2)]
    own = [StreamVLNAgent(agent.model, agent.processor) for _ in range(2)]
    observations, states, own_states = [], [None, None], [None, None]
    for number, env in enumerate(envs):
        env.seed(number)
        observations.append(env.reset())
    starts = [np.ones(1, bool)] * 2
    for _ in range(40):
        for number, env in enumerate(envs):
            action, states[number] = serving.predict(observations[number], states[number], starts[number])
            expected, own_states[number] = own[number].predict(observations[number], own_states[number], starts[number])
            assert action == expected
            observations[number], _, starts[number], _ = env.step(action)


def test_drawn_actions_follow_the_probabilities(agent, tiny_flats, make_env, make_policy):
    env = plain_env(tiny_flats, agent)
    obs, _ = env.reset(options={"episode_id": "10"})
    seen, _ = make_env().reset(options={"episode_id": "10"})
    many = 300
    observations = {key: np.stack([value] * many) for key, value in obs.items()}
    actions, _ = StreamVLNAgent(agent.model, agent.processor).predict(observations, deterministic=False)
    policy = make_policy(make_env())
    drawn = policy(batch(*[seen] * many))[0][:, 0].numpy()
    with torch.no_grad():
        hidden = policy.dialogues.prefill(policy._context(batch(seen)))
        expected = policy._scores(hidden).softmax(1)[0].numpy()
    for got in (actions, drawn):
        shares = np.bincount(got, minlength=4) / many
        assert np.abs(shares - expected).max() < 4 * np.sqrt(0.25 / many)


@pytest.mark.parametrize("tokenize", [lambda text: [ord(c) for c in text], lambda text: list(text.encode()), len])
def test_another_tokenizers_ids_are_refused(agent, tiny_flats, tokenize):
    made = tokenize if tokenize is not len else lambda text: [5000 + len(word) for word in text.split()]
    env = plain_env(tiny_flats, agent, made)
    env = SB3Observation(env.env, made, 128)
    obs, _ = env.reset(seed=0)
    with pytest.raises(ValueError, match=r"not made by this agent's tokenizer.*agent\.tokenize"):
        agent.predict(obs)


def test_other_bad_calls_of_predict(agent, tiny_flats):
    env = plain_env(tiny_flats, agent)
    obs, _ = env.reset(seed=0)
    with pytest.raises(TypeError, match="state must be what the last predict"):
        agent.predict(obs, state=np.zeros(3))
    with pytest.raises(TypeError, match="must hold ids"):
        agent.predict({**obs, "instruction": np.zeros(4)})
    with pytest.raises(ValueError, match="no 'instruction'"):
        agent.predict({"rgb": obs["rgb"]})
    with pytest.raises(TypeError, match="must be a dict"):
        agent.predict(obs["rgb"])
    with pytest.raises(ValueError, match="episode_start must have shape"):
        agent.predict(obs, episode_start=np.ones(2, bool))


def test_text_that_the_tokenizer_changes_is_refused():
    from streamvln_gym.agents.sb3 import encode_instruction

    class Lossy:
        def encode(self, text, add_special_tokens=False):
            return [1] * len(text.split())

        def decode(self, ids, **_):
            return "x " * len(ids)

    with pytest.raises(ValueError, match="normalise the instruction"):
        encode_instruction(Lossy(), "Go to the bed.")
