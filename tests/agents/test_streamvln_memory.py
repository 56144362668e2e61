"""The agent with each slow-memory strategy: what it shows, keeps and encodes."""

import numpy as np
import pytest
import torch

from streamvln_gym.agents import StreamVLNAgent, StreamVLNAgentConfig
from streamvln_gym.agents.slow_memory import history_steps
from streamvln_gym.models.configuration_streamvln import MEMORY_STRATEGIES, MEMORY_TOKEN_ID
from streamvln_gym.models.voxel_pruning import VoxelPruning, token_centres
from streamvln_gym.rollout import play
from streamvln_gym.simulators.base import CameraConfig
from tests.thin_network import NARROW, thin_parts

INTRINSICS = CameraConfig(width=32, height=24).intrinsics
EPISODE = 70


@pytest.fixture(scope="module")
def parts():
    return thin_parts(0.4, narrow=True, layers=1)


def observe(step, depth=2.0):
    """A random picture of a wall straight ahead; the camera moves sideways by 5 cm a step."""
    rng = np.random.default_rng([7, step])
    pose = np.diag([1.0, -1.0, -1.0, 1.0]).astype(np.float32)
    pose[:3, 3] = [0.05 * step, 1.25, 0.0]
    return {
        "rgb": rng.integers(0, 256, (24, 32, 3), dtype=np.uint8),
        "instruction": "Walk to the door.",
        "depth": np.full((24, 32, 1), depth, dtype=np.float32),
        "camera_pose": pose,
        "intrinsics": INTRINSICS,
    }


def play_episode(parts, strategy, steps=EPISODE, depth=2.0, **settings):
    """Agent, window calls and actions of an episode without STOP."""
    agent = StreamVLNAgent(*parts, memory_strategy=strategy, **settings)
    penalty = torch.zeros(agent.model.config.text_config.vocab_size)
    penalty[agent.processor.action_ids[0]] = -1e6
    handle = agent.model.lm_head.register_forward_hook(lambda module, inputs, output: output + penalty)
    actions, calls = [], []
    try:
        for step in range(steps):
            before = agent.stats.windows
            actions.append(agent.act(observe(step, depth)))
            if agent.stats.windows > before:
                calls.append(agent.last_call)
    finally:
        handle.remove()
    return agent, calls, actions


@pytest.mark.parametrize(
    ("strategy", "tokens"), [("none", 0), ("pooled", 8 * 16), ("full", 8 * 64), ("temporal_pool", 4 * 64)]
)
def test_memory_tokens_of_a_window(parts, strategy, tokens):
    agent, calls, actions = play_episode(parts, strategy)
    assert [call.step for call in calls] == [0, 32, 64]
    for call in calls[1:]:
        has_memory = strategy != "none"
        assert call.prompt_ids.count(MEMORY_TOKEN_ID) == has_memory
        assert call.prefill_length == len(call.prompt_ids) - 1 - has_memory + 16 + tokens
        assert call.history_steps == (history_steps(call.step, 8) if has_memory else [])
    assert agent.stats.current_frames == agent.stats.calls == 18
    assert agent.stats.history_frames == 0, "no frame is encoded twice"
    assert len(actions) == EPISODE


def test_voxel_memory_shrinks_where_frames_overlap(parts):
    agent, calls, _ = play_episode(parts, "voxel")
    pooled = play_episode(parts, "pooled")[1]
    assert calls[0].prefill_length == pooled[0].prefill_length
    assert all(call.prefill_length < other.prefill_length for call, other in zip(calls[1:], pooled[1:], strict=True))
    assert agent.stats.history_frames == 0
    # The same count from the wall's geometry alone.
    centres = token_centres(agent.model.config)
    x = ((np.floor(centres * 32) - 15.5) / INTRINSICS[0, 0]) * 2.0
    y = 1.25 - ((np.floor(centres * 24) - 11.5) / INTRINSICS[1, 1]) * 2.0
    cells = set()
    for step in history_steps(32, 8):
        for row in y:
            cells |= {
                (int(np.floor(np.float32(column + 0.05 * step) / 0.25)), int(np.floor(row / 0.25))) for column in x
            }
    assert calls[1].prefill_length == pooled[1].prefill_length - 8 * 16 + len(cells)


def test_voxel_without_valid_depth_is_bit_identical_to_pooled(parts):
    pooled = play_episode(parts, "pooled")
    for depth in (0.0, 10.0):
        voxel = play_episode(parts, "voxel", depth=depth)
        assert voxel[1:] == pooled[1:]
    assert play_episode(parts, None)[1:] == pooled[1:], "pooled is the default"


def test_chunks_that_miss_the_sampled_steps_encode_history_once(parts):
    """With 5 actions a chunk most sampled steps were no call's: their pictures carry their points along."""
    pruning = VoxelPruning(voxel_size=0.1, threshold=0.0)
    agent, calls, _ = play_episode(parts, "voxel", chunk_size=5, voxel_pruning=pruning)
    assert [call.history_steps for call in calls[1:]] == [history_steps(35, 8), history_steps(65, 8)]
    called = set(range(0, EPISODE, 5))
    later = {step for call in calls for step in call.history_steps} - called
    assert agent.stats.history_frames == len(later) > 0
    full, full_calls, _ = play_episode(parts, "full", chunk_size=5)
    assert full.stats.history_frames == len(later)
    assert full_calls[1].history_steps == calls[1].history_steps


@pytest.mark.parametrize("strategy", MEMORY_STRATEGIES)
def test_memory_stays_bounded(parts, strategy):
    agent = StreamVLNAgent(*parts, memory_strategy=strategy, max_steps=64)
    memory = agent.stream.memory
    per_frame = {"none": 0, "pooled": 16, "full": 64, "temporal_pool": 64, "voxel": 16}[strategy] * NARROW * 4
    points = 16 * 3 * 4 if strategy == "voxel" else 0
    sizes = []
    for step in range(0, 1200, 4):
        tokens = torch.zeros(per_frame // (NARROW * 4), NARROW)
        geometry = np.zeros((16, 3), dtype=np.float32) if points else None
        memory.add(step, tokens, points=geometry)
        sizes.append(memory.nbytes)
    assert max(sizes) <= (memory.capacity + 1) * (per_frame + points)
    assert max(sizes[len(sizes) // 2 :]) <= max(sizes[: len(sizes) // 2])


def test_checkpoint_names_the_strategy_and_the_agent_overrides_it(parts, tmp_path):
    model, processor = parts
    model.config.memory_strategy = "voxel"
    model.config.voxel_pruning = {"voxel_size": 0.5}
    try:
        StreamVLNAgent(model, processor).save_pretrained(tmp_path)
    finally:
        model.config.memory_strategy = "pooled"
        model.config.voxel_pruning = {}
    loaded = StreamVLNAgent.from_pretrained(tmp_path)
    assert loaded._strategy.pruning == VoxelPruning(voxel_size=0.5)
    with pytest.raises(ValueError, match=r"needs obs\['depth'\]"):
        loaded.act({key: value for key, value in observe(0).items() if key in ("rgb", "instruction")})
    overridden = StreamVLNAgent.from_pretrained(tmp_path, StreamVLNAgentConfig(memory_strategy="pooled"))
    assert overridden.act({key: value for key, value in observe(0).items() if key in ("rgb", "instruction")}) in range(
        4
    )
    with pytest.raises(ValueError, match="memory_strategy must be one of"):
        StreamVLNAgent(model, processor, memory_strategy="everything")


@pytest.mark.parametrize("key", ["depth", "camera_pose", "intrinsics"])
def test_what_a_voxel_agent_misses_is_said(parts, key):
    agent = StreamVLNAgent(*parts, memory_strategy="voxel")
    obs = observe(0)
    del obs[key]
    with pytest.raises(ValueError, match=rf"needs obs\['{key}'\].*or use 'pooled'"):
        agent.act(obs)
    assert agent.step == 0
    if key != "depth":
        with pytest.raises(ValueError, match=f"cannot use the observation: {key} must be"):
            agent.act({**observe(0), key: np.zeros((5, 2))})


def test_configured_intrinsics_count_more_than_the_observations(parts):
    agent = StreamVLNAgent(*parts, memory_strategy="voxel", intrinsics=INTRINSICS)
    obs = observe(0)
    expected = agent._look(obs).sight.points
    np.testing.assert_array_equal(agent._look({**obs, "intrinsics": np.eye(3)}).sight.points, expected)
    del obs["intrinsics"]
    np.testing.assert_array_equal(agent._look(obs).sight.points, expected)
    assert agent.act(obs) in range(4)


def test_rollout_gives_the_intrinsics(parts, tiny_flats):
    agent = StreamVLNAgent(*parts, memory_strategy="voxel")
    env = tiny_flats.make(max_steps=6)
    record = play(env, agent, env.dataset.episode_ids[0])
    assert 1 <= len(record["actions"]) <= 6


@pytest.mark.parametrize("strategy", MEMORY_STRATEGIES)
def test_agent_and_training_see_the_same_window(parts, strategy):
    """The embeddings that open the second window equal those of a training sample of the same prompt and frames."""
    model, processor = parts
    agent = StreamVLNAgent(model, processor, memory_strategy=strategy)
    agent.session.record = True
    points = {}
    geometry = StreamVLNAgent(model, processor, memory_strategy="voxel")._geometry
    for step in range(0, 36, 4):
        points[step] = geometry.points(observe(step))
        agent.predict_chunk(observe(step), n_executed=4 if step else 0)
    assert agent.last_call.step == 32
    history = agent.last_call.history_steps
    pixels = torch.from_numpy(processor.images([observe(step)["rgb"] for step in [*history, 32]]))
    shown = torch.from_numpy(np.stack([points[step] for step in history])) if history else None
    model.config.memory_strategy = strategy
    try:
        with torch.no_grad():
            expected, _, _ = model._embed_batch(
                torch.tensor([agent.last_call.prompt_ids]),
                pixels,
                (torch.tensor([len(history)]), torch.tensor(history), shown),
                None,
                None,
            )
    finally:
        model.config.memory_strategy = "pooled"
    torch.testing.assert_close(agent.session.embeddings[0], expected, rtol=1e-5, atol=1e-5)
    assert (strategy == "none") == (not history)
