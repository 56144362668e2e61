"""What the splits promise, over all of val_unseen (val_seen and fuzzing: --long)."""

import collections
import re

import numpy as np
import pytest

from streamvln_gym.agents import OracleAgent
from streamvln_gym.env import VLNEnv
from streamvln_gym.flats.dataset import FlatsDataset
from streamvln_gym.flats.task import MEMORY_KINDS
from streamvln_gym.metrics import summarize


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("splits")


@pytest.fixture(scope="module", params=["val_unseen", pytest.param("val_seen", marks=pytest.mark.long)])
def split(request, root):
    dataset = FlatsDataset(request.param, root)
    dataset.build(workers=2)
    return dataset


def test_size(split):
    assert len(split.seeds) == 40
    assert len(split) >= 500


def test_a_quarter_needs_memory_and_no_kind_is_rare(split):
    kinds = collections.Counter(split.episode(episode_id).needs_memory for episode_id in split.episode_ids)
    assert set(kinds) == {"", *MEMORY_KINDS}
    assert 1 - kinds[""] / len(split) >= 0.25
    for kind in MEMORY_KINDS:
        assert kinds[kind] / len(split) >= 0.03, kinds


def test_the_writer_has_many_words(split):
    texts = [split.episode(episode_id).instruction.text for episode_id in split.episode_ids]
    words = {word for text in texts for word in re.findall(r"[a-z']+", text.lower())}
    assert len(words) >= 400
    assert len(set(texts)) == len(texts)


def test_plain_episodes_are_as_long_as_r2r_s(split):
    episodes = [split.episode(episode_id) for episode_id in split.episode_ids]
    plain = [len(e.gt_actions) for e in episodes if not e.needs_memory]
    assert 45 <= np.mean(plain) <= 65
    assert max(len(e.gt_actions) for e in episodes) <= 200


def test_the_oracle_solves_all(split):
    env = VLNEnv(dataset=split, sensors=("instruction",))
    agent = OracleAgent(env)
    results = []
    for episode_id in split.episode_ids:
        observation, info = env.reset(options={"episode_id": episode_id})
        agent.reset()
        finished = False
        while not finished:
            observation, _, terminated, truncated, info = env.step(agent.act(observation))
            finished = terminated or truncated
        results.append(info)
    env.close()
    means = summarize(results)
    assert means["success"] == 1.0
    assert means["spl"] >= 0.97
    assert min(result["spl"] for result in results) > 0.9


@pytest.mark.parametrize("actions", [3_000, pytest.param(50_000, marks=pytest.mark.long)])
def test_random_actions_never_leave_the_mesh(split, actions):
    env = VLNEnv(dataset=split, sensors=("gps", "compass", "camera_pose"), max_steps=actions)
    rng = np.random.default_rng(0)
    for scene_id in split.scene_ids[:10]:
        env.reset(options={"scene_id": scene_id})
        mesh = env.simulator.navmesh
        for action in rng.choice([1, 1, 1, 2, 3], actions // 10):
            observation, reward, _, _, info = env.step(int(action))
            position = env.simulator.state.position
            assert mesh.is_navigable(position, 0.05)
            assert mesh.island_of(position) == mesh.largest_island
            assert np.isfinite([reward, info["distance_to_goal"], *observation["gps"], *position]).all()
    env.close()
