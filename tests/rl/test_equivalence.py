"""The policy decides as the streaming agent does, and its log-probabilities are the streaming agent's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from streamvln_gym.agents import StreamVLNAgent
from tests.rl.conftest import batch, make_agent

MOVES = (1, 2, 3)


class Forced:
    """A logits processor that makes an agent say what it is told, and keeps the logits that it had for it."""

    def __init__(self, ids: list[int]) -> None:
        self.ids = ids
        self.chunk: list[int] = []
        self.logits: list[torch.Tensor] = []

    def __call__(self, answer: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.logits.append(scores[0, self.ids].clone())
        scores = scores.clone()
        scores[0, self.ids[self.chunk[len(self.logits) - 1]]] += 1e6
        return scores


def record(agent: StreamVLNAgent, env: Any, chunks: list[list[int]]) -> tuple[list[dict], list[torch.Tensor]]:
    """Plays chunks; the observations, and the streaming agent's logits (actions, 4) of each chunk."""
    forced = Forced(agent.processor.action_ids)
    streaming = StreamVLNAgent(agent.model, agent.processor, agent.config, logits_processor=[forced])
    obs, _ = env.reset(options={"episode_id": "10"})
    seen, logits = [], []
    for chunk in chunks:
        forced.chunk, forced.logits = chunk, []
        raw = env.unwrapped.observe()
        said = streaming.predict_chunk(raw)
        assert said == chunk[: len(said)]
        seen.append(obs)
        logits.append(torch.stack(forced.logits))
        obs, _, terminated, truncated, _ = env.step(chunk)
        if terminated or truncated:
            break
    assert terminated or truncated
    return seen, logits


def random_chunks(seed: int, count: int, stop_at: int | None) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    chunks = rng.choice(MOVES, (count, 4)).tolist()
    if stop_at is not None:
        chunks[-1][stop_at] = 0
    return chunks


@pytest.mark.parametrize(
    ("settings", "stop_at"),
    [
        ({}, 2),
        ({"memory_strategy": "none"}, 0),
        ({"memory_strategy": "temporal_pool"}, 1),
        ({"memory_strategy": "full", "num_history": 3}, None),
        ({"num_history": 5, "window_steps": 20}, 3),
        ({"conjunctions": ("there is ",), "memory_prompt": "robot"}, 2),
        ({"prompt_style": "published"}, 2),
    ],
)
def test_log_probs_of_a_whole_episode_are_the_streaming_agents(agent, make_env, make_policy, settings, stop_at):
    chunks = random_chunks(1, 29, stop_at)
    streaming = StreamVLNAgent(agent.model, agent.processor, **settings, constrained=True)
    env = make_env(max_steps=116, **settings)
    seen, expected = record(streaming, env, chunks)
    assert len(seen) == 29, "more than three windows"
    policy = make_policy(env, memory_strategy=settings.get("memory_strategy"), share_windows=False)
    alone, together = [], []
    actions = torch.tensor(chunks)
    with torch.no_grad():
        for number in range(len(seen)):
            _, log_prob, entropy = policy.evaluate_actions(batch(seen[number]), actions[number][None])
            alone.append((float(log_prob), float(entropy)))
        _, log_probs, entropies = policy.evaluate_actions(batch(*seen), actions)
        policy._arguments["share_windows"] = True
        _, shared, shared_entropies = policy.evaluate_actions(batch(*seen), actions)
    for number, logits in enumerate(expected):
        log_softmax = logits.log_softmax(-1)
        right = float(log_softmax[range(len(logits)), chunks[number][: len(logits)]].sum())
        entropy = float(-(log_softmax.exp() * log_softmax).sum())
        together.append((right, entropy))
    expected_log_probs, expected_entropies = torch.tensor(together).T
    for got in (torch.tensor(alone).T[0], log_probs, shared):
        assert torch.allclose(got, expected_log_probs, rtol=0, atol=1e-4)
    for got in (torch.tensor(alone).T[1], entropies, shared_entropies):
        assert torch.allclose(got, expected_entropies, rtol=0, atol=1e-4)


def test_what_follows_a_stop_counts_nothing(make_env, make_policy):
    env = make_env()
    policy = make_policy(env)
    obs, _ = env.reset(seed=0)
    chunks = torch.tensor([[1, 0, 0, 0], [1, 0, 3, 2], [1, 0, 1, 0]])
    with torch.no_grad():
        _, log_probs, entropies = policy.evaluate_actions(batch(obs, obs, obs), chunks)
    assert np.ptp(log_probs.numpy()) < 1e-6
    assert np.ptp(entropies.numpy()) < 1e-6


def test_probabilities_of_all_chunks_sum_to_one(make_env, make_policy):
    env = make_env()
    policy = make_policy(env)
    obs, _ = env.reset(seed=0)
    every = [[a, b, c, d] for a in range(4) for b in range(4) for c in range(4) for d in range(4)]
    different = [chunk for chunk in every if 0 not in chunk or not any(chunk[chunk.index(0) :])]
    with torch.no_grad():
        _, log_probs, entropies = policy.evaluate_actions(batch(*[obs] * len(different)), torch.tensor(different))
    assert float(log_probs.exp().sum()) == pytest.approx(1.0, abs=1e-4)
    exact = float(-(log_probs.exp() * log_probs).sum())
    assert float((log_probs.exp() * entropies).sum()) == pytest.approx(exact, abs=1e-3), "unbiased"


@pytest.mark.parametrize("settings", [{}, {"memory_strategy": "none"}, {"prompt_style": "published"}])
def test_greedy_episodes_are_the_streaming_agents(agent, make_env, make_policy, settings):
    env = make_env(**settings)
    policy = make_policy(env, memory_strategy=settings.get("memory_strategy"))
    streaming = StreamVLNAgent(agent.model, agent.processor, **settings, constrained=True)
    lengths = []
    for seed in range(3):
        obs, _ = env.reset(seed=seed)
        streaming.reset()
        done = False
        while not done:
            action, _ = policy.predict(obs, deterministic=True)
            said = streaming.predict_chunk(env.unwrapped.observe())
            assert action.tolist()[: len(said)] == said
            assert not any(action[len(said) :])
            obs, _, terminated, truncated, _ = env.step(action)
            done = terminated or truncated
        lengths.append(streaming.step)
    assert policy.dialogues.reused > 0 or max(lengths) == 0


def test_drawn_chunks_have_the_log_probs_they_are_trained_with(make_env, make_policy):
    """Rollout (with its cache) and training agree, over streams that start and end at different times."""
    envs = [make_env(max_steps=50 + 13 * number) for number in range(3)]
    policy = make_policy(envs[0])
    policy.set_training_mode(False)
    observations = [env.reset(seed=seed)[0] for seed, env in enumerate(envs)]
    for number in range(40):
        tensors = batch(*observations)
        actions, values, log_probs = policy(tensors)
        again_values, again, _ = policy.evaluate_actions(tensors, actions)
        assert torch.allclose(log_probs, again, atol=1e-4), number
        assert torch.allclose(values, again_values, atol=1e-4)
        assert torch.allclose(values, policy.predict_values(tensors), atol=1e-4)
        for slot, env in enumerate(envs):
            moves = np.where(actions[slot].numpy() == 0, 1, actions[slot].numpy())
            chunk = moves if number % 3 else actions[slot].numpy()
            observations[slot], _, terminated, truncated, _ = env.step(chunk)
            if terminated or truncated:
                observations[slot], _ = env.reset()
    assert policy.dialogues.reused > policy.dialogues.fed


def test_the_cache_is_not_used_where_anything_changed(make_env, make_policy):
    env = make_env()
    policy = make_policy(env)
    obs, _ = env.reset(seed=0)
    first = batch(obs)
    policy(first)
    obs, *_ = env.step([1, 1, 2, 1])
    later = batch(obs)
    _, _, expected = policy(later, deterministic=True)
    assert policy.dialogues.reused > 0
    before = policy.dialogues.reused
    policy(first)
    with torch.no_grad():
        next(iter(policy.network.parameters())).add_(0.0)
    _, _, again = policy(later, deterministic=True)
    assert policy.dialogues.reused == before, "weights were touched"
    assert torch.allclose(expected, again, atol=1e-5)
    policy(first)
    overwritten = {key: value.clone() for key, value in later.items()}
    for tensors in (first, overwritten):  # as a vector environment writes into its arrays again
        tensors["window"][0, : 112 * 112 * 3] = 0
    policy(overwritten)
    assert policy.dialogues.reused == before, "the first frame differs"


def test_repetition_penalty_is_the_agents(make_env, make_policy, tmp_path):
    other = make_agent(seed=3)
    other.model.generation_config.repetition_penalty = 1.4
    other.save_pretrained(tmp_path)
    loaded = StreamVLNAgent.from_pretrained(tmp_path)
    assert loaded.model.generation_config.repetition_penalty == 1.4
    env = make_env(of=other, max_steps=40)
    policy = make_policy(env, checkpoint=tmp_path)
    obs, _ = env.reset(seed=0)
    done = False
    while not done:
        actions, _, log_probs = policy(batch(obs), deterministic=True)
        said = loaded.predict_chunk(env.unwrapped.observe())
        assert actions[0].tolist()[: len(said)] == said
        _, again, _ = policy.evaluate_actions(batch(obs), actions)
        assert torch.allclose(log_probs, again, atol=1e-4)
        obs, _, terminated, truncated, _ = env.step(actions[0].numpy())
        done = terminated or truncated
