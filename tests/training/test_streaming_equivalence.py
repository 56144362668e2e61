"""What the agent streams is what a training window of the same frames and actions says, and scores the same."""

import numpy as np
import pytest
import torch

from streamvln_gym.agents import StreamVLNAgent, StreamVLNAgentConfig
from streamvln_gym.models.configuration_streamvln import IGNORE_LABEL
from streamvln_gym.training import StreamVLNCollator, StreamVLNWindows, Trajectory, WindowConfig
from tests.thin_network import thin_parts
from tests.training.conftest import INSTRUCTIONS, INTRINSICS, depth, pose

CONJUNCTIONS = ("there is ",)


class StopAt:
    """Forbids STOP until `now` is set, and then everything else."""

    def __init__(self, stop_id):
        self.stop_id = stop_id
        self.now = False

    def __call__(self, input_ids, scores):
        scores[:, self.stop_id] = torch.inf if self.now else -torch.inf
        return scores


def make_parts(**settings):
    model, processor = thin_parts(0.2, **settings)
    # Weights this wide amplify rounding: float64 leaves none that matters.
    return model.double(), processor


def stream(agent, stop, frames):
    """Acts to the end of `frames`, where the agent stops.

    Returns the actions, and each call with its logits (tokens, vocab) before any restriction.
    """
    agent.session.record = True
    actions, calls = [], []
    for step in range(len(frames)):
        stop.now = step == len(frames) - 1
        observation = {
            "rgb": frames.picture(step),
            "instruction": INSTRUCTIONS[0],
            "depth": (depth(step) / 1000).astype(np.float32)[..., None],
            "camera_pose": np.array(pose(step)),
            "intrinsics": np.array(INTRINSICS),
        }
        before = agent.stats.calls
        actions.append(agent.act(observation))
        if agent.stats.calls > before:
            calls.append((agent.last_call, torch.stack(agent.session.logits)))
    return actions, calls


@pytest.mark.parametrize(
    ("settings", "length"),
    [
        ({}, 73),
        ({"memory_strategy": "none"}, 41),
        ({"memory_strategy": "temporal_pool", "num_history": 5}, 41),
        ({"memory_strategy": "voxel", "voxel_pruning": {"voxel_size": 0.5}}, 73),
        ({"window_steps": 12, "num_history": 7, "memory_prompt": "training"}, 29),
        ({"window_steps": 12, "chunk_size": 5}, 41),
    ],
)
def test_windows_equal_the_stream(writer, settings, length):
    model, processor = make_parts(**settings)
    video = writer.pictures("a", length, geometry=True)
    stop = StopAt(processor.action_ids[0])
    agent = StreamVLNAgent(model, processor, StreamVLNAgentConfig(conjunctions=CONJUNCTIONS), logits_processor=[stop])
    frames = Trajectory("", 0, INSTRUCTIONS[:1], (0,) * length, video)
    actions, calls = stream(agent, stop, frames)
    assert actions[-1] == 0
    assert set(actions[:-1]) == {1, 2, 3}

    folder = writer.annotate({**writer.entry("a", actions[:-1]), "instructions": [INSTRUCTIONS[0]]})
    dataset = StreamVLNWindows(folder, processor, WindowConfig(conjunctions=CONJUNCTIONS))
    assert dataset.trajectories[0].actions == tuple(actions)
    assert len(dataset) == agent.stats.windows
    newline = processor.tokenizer.encode("\n", add_special_tokens=False)
    for index, window in enumerate(dataset.windows):
        within = [(call, logits) for call, logits in calls if window.start <= call.step < window.stop]
        _, _, encoded = dataset.encode(index)
        streamed = []
        for call, _ in within:
            # A prompt opens with what the cache lacks of the answer before.
            streamed[len(streamed) - (call is not within[0][0]) :] = [*call.prompt_ids, *call.answer_ids]
        assert encoded.input_ids == streamed + newline
        assert encoded.frame_steps == [call.step for call, _ in within]
        assert encoded.history_steps == within[0][0].history_steps

        targets = [label for label in encoded.labels if label != IGNORE_LABEL]
        assert targets == [token for call, _ in within for token in call.answer_ids]
        with torch.inference_mode():
            trained = model(**StreamVLNCollator()([dataset[index]]))
        streamed_logits = torch.cat([logits for _, logits in within])
        # The loss takes its logits in float32, that is rounded.
        torch.testing.assert_close(trained.logits, streamed_logits.float(), rtol=1e-6, atol=1e-6)
