"""The streaming loop against a recording of the published evaluation loop: same ids, cache lengths, logits, actions."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Qwen2Config, SiglipVisionConfig

from streamvln_gym.agents import StreamVLNAgent, StreamVLNAgentConfig
from streamvln_gym.models import StreamVLNConfig, StreamVLNForConditionalGeneration, StreamVLNProcessor
from streamvln_gym.models.decoding import ActionGrammar

GOLDEN = Path(__file__).parents[1] / "data" / "golden_streamvln"


class RecordedTokenizer:
    """Answers with the recorded ids of each piece of text; another piece is a KeyError."""

    def __init__(self, pieces):
        self.pieces = pieces
        self.strings = {ids[0]: text for text, ids in pieces.items() if len(ids) == 1}

    def __len__(self):
        return 1 + max(max(ids) for ids in self.pieces.values())

    def encode(self, text, add_special_tokens=True):
        return list(self.pieces[text])

    def decode(self, ids, skip_special_tokens=False):
        texts = [self.strings.get(token, "") for token in ids]
        return "".join(text for text in texts if not (skip_special_tokens and text.startswith("<|")))


class MovesOnly(ActionGrammar):
    """The recording's restriction: four moves and no header."""

    def allowed(self, answer):
        return tuple(token for token in super().allowed(answer) if token != self.stop_id)


@pytest.fixture(scope="module")
def recording():
    return json.loads((GOLDEN / "streaming.json").read_text(encoding="utf-8")), np.load(GOLDEN / "arrays.npz")


@pytest.fixture(scope="module")
def agent(recording):
    story, _ = recording
    vision = SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=384,
        patch_size=14,
        vision_use_head=False,
    )
    text = Qwen2Config(
        vocab_size=story["vocab_size"],
        hidden_size=32,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )
    config = StreamVLNConfig(vision, text, prompt_style="published")
    model = StreamVLNForConditionalGeneration.from_seed(config)
    weights = np.load(GOLDEN / "weights.npz")
    model.load_state_dict({name: torch.from_numpy(value.astype(np.float32)) for name, value in weights.items()})
    # The answer header is not part of this recording, so its text has no recorded ids.
    story["pieces"].setdefault("<|im_start|>assistant\n", [0])
    processor = StreamVLNProcessor(config, RecordedTokenizer(story["pieces"]))
    agent = StreamVLNAgent(model, processor, StreamVLNAgentConfig(seed=2024))
    stop, *moves = processor.action_ids
    agent._grammar = MovesOnly(stop, tuple(moves), processor.turn_end_id)
    return agent


def test_first_ten_calls(agent, recording):
    story, arrays = recording
    grids = dict(zip(arrays["frame_steps"].tolist(), arrays["frames"], strict=True))
    blank = np.zeros((480, 640, 3), np.uint8)
    logits: list[np.ndarray] = []
    handle = agent.model.lm_head.register_forward_hook(lambda module, inputs, output: logits.append(output[0].numpy()))
    actions, calls = [], []
    for step in range(40):
        rgb = grids[step].repeat(10, 0).repeat(10, 1) if step in grids else blank
        before = agent.stats.calls
        actions.append(agent.act({"rgb": rgb, "instruction": story["instruction"]}))
        if agent.stats.calls > before:
            call = agent.last_call
            calls.append(
                {
                    "step": call.step,
                    "answer": call.answer_ids,
                    "kv_after": agent._window.cached_length,
                    "prefill": call.prefill_length,
                }
            )
            np.testing.assert_allclose(
                np.stack(logits)[:, story["action_ids"]], arrays["action_logits"][len(calls) - 1], atol=2e-4
            )
            logits.clear()
        if step == 0:
            for recorded, layer in zip(arrays["kv_first_call"], keys_and_values(agent), strict=True):
                np.testing.assert_allclose(layer[..., ::16, :], recorded, atol=2e-4)
    handle.remove()
    assert calls == story["calls"]
    assert actions == story["actions"]
    assert agent.stats.tower_frames == 10


def keys_and_values(agent):
    """Per layer (2, kv_heads, positions, head_dim)."""
    return [torch.cat([layer.keys, layer.values]).numpy() for layer in agent._window.cache.layers]
