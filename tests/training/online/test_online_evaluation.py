"""What online DAgger says of a policy in an evaluation is what the environment says of the agent."""

import numpy as np
import pytest
import torch

from streamvln_gym.agents import StreamVLNAgent
from streamvln_gym.simulators.base import CameraConfig
from streamvln_gym.simulators.embedded.simulator import EmbeddedSimulator
from streamvln_gym.training.online.collector import Collector
from streamvln_gym.training.online.config import CollectConfig, OnlineConfig, OptimizeConfig
from streamvln_gym.training.online.layout import DialogueLayout
from streamvln_gym.training.online.pictures import PicturesOfWorkers
from streamvln_gym.training.online.stream_arrays import RESULTS
from streamvln_gym.training.online.streams import Stream
from streamvln_gym.training.online.worker import StreamsSpec
from streamvln_gym.training.online.workers import WorkerPool
from tests.training.online.test_online_equivalence import small_network

STOP_ID, FORWARD_ID, LEFT_ID = 0, 1, 2
MAX_STEPS = 75


def plans(demonstration, rng):
    """Action sequences with their step limits: right, cut off at both sides of the limit, lost, stopped too soon."""
    shown, wandering = list(demonstration), rng.choice([1, 1, 1, 2, 3], 600).tolist()
    yield from ((shown, 500), (shown, len(shown)), (shown, len(shown) - 1), ([0], 500))
    yield from ((wandering, 120), ([*wandering[:41], 0], 500), ([*shown[: len(shown) // 2], *wandering], 99))


def test_a_stream_is_judged_as_the_environment_judges(tiny_flats):
    env = tiny_flats.make()
    stream = Stream(EmbeddedSimulator(env.camera), env.dataset, CollectConfig())
    rng = np.random.default_rng(0)
    successes = []
    for episode_id in env.dataset.episode_ids:
        for actions, limit in plans(env.dataset.episode(episode_id).gt_actions, rng):
            env.max_steps = stream.max_steps = limit
            env.reset(options={"episode_id": episode_id})
            stream.begin(env.dataset.episode(episode_id))
            over = ended = False
            for begin in range(0, len(actions), 4):
                executed, over = stream.play(actions[begin : begin + 4])
                for action in executed:
                    assert not ended
                    _, terminated, truncated, info = env.advance(action)
                    ended = terminated or truncated
                if over:
                    break
            assert over and ended
            result = stream.metrics.result
            assert result == {name: info[name] for name in result}
            successes.append(result["success"])
    assert 0.2 < np.mean(successes) < 0.8


@pytest.mark.parametrize("stops", [True, False])
def test_an_evaluation_is_the_agents(tiny_flats, stops):
    torch.set_num_threads(1)
    model, processor = small_network()
    ids, head = processor.action_ids, model.lm_head.weight
    if not stops:  # halfway between two others, STOP never wins
        with torch.no_grad():
            head[ids[STOP_ID]] = (head[ids[FORWARD_ID]] + head[ids[LEFT_ID]]) / 2.0
    dataset, network = tiny_flats.dataset, processor.config
    collect = CollectConfig(workers=1, streams=3, shelf=1, supersampling=1)
    config = OnlineConfig(collect=collect, evaluate_steps=MAX_STEPS, optimize=OptimizeConfig(buffer_frames=300))
    scenes = tuple(dict.fromkeys(dataset.scene_of(episode_id) for episode_id in dataset.episode_ids))
    sizes = (network.image_size, network.patches_per_side, network.chunk_size)
    pool = WorkerPool([StreamsSpec(str(tiny_flats.episodes_path), "train", None, scenes, 0, 3, *sizes, (0,), collect)])
    try:
        pool.train(1000)
        layout = DialogueLayout(processor)
        pictures = PicturesOfWorkers(pool.arrays, torch.device("cpu"))
        collector = Collector(pool, pictures, model, processor, layout, config, np.random.default_rng(0))
        collector.wait()
        collector.decide(collector.take(), model, 0.0)
        collector.wait()
        found = collector.evaluate(model, dataset.episode_ids)
    finally:
        pool.close()
    env = tiny_flats.make(camera=CameraConfig.of_size(network.image_size, network.image_size, 1), max_steps=MAX_STEPS)
    agent = StreamVLNAgent(model.eval(), processor)
    for row, episode_id in zip(found, dataset.episode_ids, strict=True):
        observation, info = env.reset(options={"episode_id": episode_id})
        agent.reset()
        terminated = truncated = False
        while not (terminated or truncated):
            observation, _, terminated, truncated, info = env.step(agent.act(observation))
        expected = [*(float(info[name]) for name in RESULTS[:5]), float(terminated)]
        np.testing.assert_allclose(row[:-1], expected, rtol=1e-5, atol=1e-6)
        assert truncated is not stops
