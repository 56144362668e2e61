"""A batch in Gymnasium's vector environments plays the episodes that single agents play."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from streamvln_gym.agents import StreamVLNAgent
from streamvln_gym.vector import EpisodeStarts
from streamvln_gym.wrappers import ActionChunk
from tests.thin_network import thin_parts

ENVS, CALLS, MAX_STEPS = 3, 24, 14


@pytest.fixture(scope="module")
def parts():
    """A network of one thin layer whose answers depend on what it sees."""
    return thin_parts(0.2, narrow=True, layers=1, seed=2)


def make_agent(parts) -> StreamVLNAgent:
    """STOP is rare, so that episodes are of all lengths."""
    stop = parts[1].action_ids[0]

    def rarely_stop(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores[:, stop] -= 1.0
        return scores

    return StreamVLNAgent(*parts, logits_processor=[rarely_stop])


def pad(chunk: list[int]) -> np.ndarray:
    """What follows a STOP is ignored, and only a chunk with STOP is short."""
    return np.array(chunk + [0] * (4 - len(chunk)))


def played_alone(parts, env: gym.Env, seed: int, chunked: bool) -> list:
    """The decisions of an agent of its own over `CALLS` decisions, episode after episode."""
    agent, decisions, over = make_agent(parts), [], True
    observation, info = {}, {}
    while len(decisions) < CALLS:
        if over:
            observation, info = env.reset(seed=None if decisions else seed)
            agent.reset()
        if chunked:
            decisions.append(agent.predict_chunk(observation, info.get("n_executed")))
            observation, _, terminated, truncated, info = env.step(pad(decisions[-1]))
        else:
            decisions.append(agent.act(observation))
            observation, _, terminated, truncated, info = env.step(decisions[-1])
        over = terminated or truncated
    return decisions


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("chunked", [False, True])
def test_vector_environments(parts, tiny_flats, mode, chunked):
    def make() -> gym.Env:
        env = tiny_flats.make(max_steps=MAX_STEPS)
        return ActionChunk(env) if chunked else env

    envs = SyncVectorEnv([make] * ENVS, autoreset_mode=mode)
    starts, agent = EpisodeStarts.of(envs), make_agent(parts)
    observations, infos = envs.reset(seed=list(range(ENVS)))
    episode_starts, ended = starts.reset(), np.zeros(ENVS, bool)
    decisions: list[list] = [[] for _ in range(ENVS)]
    while min(map(len, decisions)) < CALLS:
        # After an end, NEXT_STEP ignores the action.
        active = ~ended if mode is AutoresetMode.NEXT_STEP else None
        if chunked:
            chosen = agent.predict_chunk_batch(observations, episode_starts, infos.get("n_executed"), active)
            actions = np.stack([pad(chunk) for chunk in chosen])
        else:
            chosen = agent.act_batch(observations, episode_starts, active)
            actions = np.array(chosen)
        for stream in range(ENVS):
            if active is None or active[stream]:
                decisions[stream].append(chosen[stream])
        observations, _, terminations, truncations, infos = envs.step(actions)
        ended = terminations | truncations
        episode_starts = starts.update(terminations, truncations)
    for seed in range(ENVS):
        assert decisions[seed][:CALLS] == played_alone(parts, make(), seed, chunked)
    assert len({action for part in decisions[0] for action in np.ravel(part).tolist()}) >= 3
    envs.close()
