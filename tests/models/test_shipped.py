"""The checkpoint that ships in the package: an ordinary folder, trained, found without a network, and small."""

import json
import socket

import numpy as np
import pytest
import torch

from streamvln_gym.agents import StreamVLNAgent
from streamvln_gym.errors import CheckpointError
from streamvln_gym.models import StreamVLNConfig, StreamVLNProcessor, shipped
from streamvln_gym.models.conversion import find_tensors

LIMIT = 16 * 2**20  # bytes of the folder
CHECKPOINT_FILES = {
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}


def observe(step: int) -> dict:
    pixels = np.random.default_rng(step).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    return {"rgb": pixels, "instruction": "Leave the kitchen, turn left and stop by the sofa."}


@pytest.fixture(scope="module")
def agent() -> StreamVLNAgent:
    torch.set_num_threads(1)
    return StreamVLNAgent.from_pretrained()


def test_the_default_agent_is_trained_and_needs_no_network(monkeypatch):
    def refuse(*arguments, **settings):
        raise AssertionError("the default agent went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    agent = StreamVLNAgent.from_pretrained()
    assert agent.trained is True
    assert agent.model.config.trained is True
    assert agent.model.dtype == torch.float32
    assert agent.act(observe(0)) in range(4)


def test_the_default_agent_is_deterministic(agent):
    again = StreamVLNAgent.from_pretrained()
    agent.reset()
    assert [agent.act(observe(step)) for step in range(40)] == [again.act(observe(step)) for step in range(40)]


def test_its_name_and_its_folder_mean_the_same_weights(agent):
    named = StreamVLNAgent.from_pretrained("streamvln-tiny", dtype=torch.bfloat16)
    assert named.model.dtype == torch.bfloat16
    as_stored = StreamVLNAgent.from_pretrained(shipped.SHIPPED_FOLDER)
    weights = agent.model.state_dict()
    for other in (named, as_stored):
        for name, tensor in other.model.state_dict().items():
            torch.testing.assert_close(weights[name], tensor.float(), rtol=0, atol=0)


def test_its_network_is_that_of_random_weights_and_not_random(agent):
    random = StreamVLNAgent.untrained()
    assert random.trained is False
    assert {n: t.shape for n, t in agent.model.state_dict().items()} == {
        n: t.shape for n, t in random.model.state_dict().items()
    }
    assert not torch.equal(agent.model.lm_head.weight, random.model.lm_head.weight)
    config, tiny = agent.model.config, StreamVLNProcessor.tiny().config
    for name in ("image_size", "tokens_per_frame", "num_history", "window_steps", "chunk_size", "memory_strategy"):
        assert getattr(config, name) == getattr(tiny, name)


def test_the_folder_is_a_whole_small_checkpoint():
    names = {path.name for path in shipped.SHIPPED_FOLDER.iterdir()}
    assert names >= CHECKPOINT_FILES
    assert sum(path.stat().st_size for path in shipped.SHIPPED_FOLDER.iterdir()) <= LIMIT
    assert {stored.dtype for stored in find_tensors(shipped.SHIPPED_FOLDER).values()} == {"BF16"}
    values = json.loads((shipped.SHIPPED_FOLDER / "config.json").read_text())
    assert values["model_type"] == StreamVLNConfig.model_type
    assert "/" not in str(values.get("_name_or_path", ""))  # no path of the machine that trained it


def test_missing_weights_are_an_error_with_the_remedy(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text((shipped.SHIPPED_FOLDER / "config.json").read_text())
    monkeypatch.setattr(shipped, "SHIPPED_FOLDER", tmp_path)
    with pytest.raises(CheckpointError, match=r"lacks .*model\.safetensors: install the wheel.*untrained\(\)"):
        StreamVLNAgent.from_pretrained()
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"lacks .*config\.json"):
        StreamVLNAgent.from_pretrained("streamvln-tiny")


def test_the_seed_of_an_agent_is_that_of_its_conjunctions(agent):
    assert StreamVLNAgent.from_pretrained(seed=4).config.seed == 4
    assert StreamVLNAgent.untrained(1, seed=4).config.seed == 4
