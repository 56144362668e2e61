"""The streaming loop against recordings of the published evaluation loop: ids, cache, embeddings, logits, actions."""

import json

import numpy as np
import pytest
import torch

from streamvln_gym.agents import StreamVLNAgent
from tests.golden_streamvln import (
    COMPACT,
    NO_FULL,
    RESTRICTIONS,
    VISION_CONFIG,
    full_recording,
    recorded_frame,
    write_published_checkpoint,
)

NAMES = {"C1": "golden_C1_actions_only", "C2": "golden_C2_header"}


@pytest.fixture(scope="module")
def story():
    return json.loads((COMPACT / "streaming.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def arrays():
    return dict(np.load(COMPACT / "streaming.npz"))


@pytest.fixture(scope="module")
def compact_agent(tmp_path_factory):
    return StreamVLNAgent.from_pretrained(
        write_published_checkpoint(tmp_path_factory.mktemp("published")), vision_config=VISION_CONFIG
    )


def play(agent, run, recorded, grid):
    """Plays the 70 steps and yields (number, call, session) after each model call; checks everything exact."""
    played = StreamVLNAgent(agent.model, agent.processor, seed=2024, logits_processor=[RESTRICTIONS[run]])
    played.session.record = True
    actions, passes, number = [], [], 0
    handle = agent.model.vision_tower.register_forward_hook(lambda m, i, o: passes.append(len(o.last_hidden_state)))
    try:
        for step in range(70):
            actions.append(played.act({"rgb": recorded_frame(grid[step]), "instruction": recorded["instruction"]}))
            if played.stats.calls > number:
                yield number, played.last_call, played.session
                number += 1
    finally:
        handle.remove()
    assert actions == recorded["env_actions"]
    assert number == len(recorded["calls"]) == 18
    assert passes == [1] * 18, "the published loop encodes 9 frames at each window's start"


@pytest.mark.parametrize("run", ["C1", "C2"])
def test_all_calls_of_the_published_loop(compact_agent, story, arrays, run):
    recorded, previous = story[run], []
    sample = arrays["vocab_sample"][::5]
    for number, call, session in play(compact_agent, run, recorded, arrays["grid"]):
        expected = recorded["calls"][number]
        window_start = expected["kv_before"] == 0
        # The recorded prompts begin with the whole last answer, of which the cache holds all but the last id.
        in_cache = [] if window_start else previous[:-1]
        assert in_cache + call.prompt_ids == expected["prompt_ids"]
        assert call.answer_ids == expected["generated_ids"]
        assert (call.step, call.prefill_length) == (expected["step"], expected["prefill"])
        assert (call.kv_before, call.kv_after) == (expected["kv_before"], expected["kv_after"])
        assert session.positions == range(expected["kv_after"])
        assert session.carried_ids == [151645]
        assert [*call.history_steps, call.step] == expected["view_frames"]
        logits = torch.stack(session.logits).numpy()
        np.testing.assert_allclose(logits[:, sample], arrays[f"{run}_sample_logits"][number], atol=2e-4)
        np.testing.assert_allclose(
            logits[:, arrays["action_token_ids"]], arrays[f"{run}_action_logits"][number], atol=2e-4
        )
        if number == 0:
            for ours, theirs in zip(session.keys_and_values, arrays[f"{run}_kv_first"], strict=True):
                np.testing.assert_allclose(torch.cat(ours).numpy(), theirs, atol=2e-4)
        if run == "C1" and number in (0, 8):
            name, every = ("C1_embeds_first", 5) if number == 0 else ("C1_embeds_window", 25)
            np.testing.assert_allclose(session.embeddings[0][0, ::every].numpy(), arrays[name], atol=1e-5)
        previous = call.answer_ids


@pytest.mark.skipif(full_recording() is None, reason=NO_FULL)
@pytest.mark.parametrize("run", ["C1", "C2"])
def test_full_vocabulary_of_the_published_loop(tmp_path, run):
    """Logits at all sampled ids, their argmax and logsumexp over the whole vocabulary, whole embeddings and caches."""
    folder = full_recording()
    for part in ("tiny_checkpoint", "tokenizer"):
        for path in (folder / part).iterdir():
            (tmp_path / path.name).symlink_to(path)
    agent = StreamVLNAgent.from_pretrained(tmp_path, vision_config=VISION_CONFIG)
    arrays = np.load(folder / f"{NAMES[run]}.npz")
    details = json.loads((folder / f"{NAMES[run]}.json").read_text(encoding="utf-8"))
    recorded = {**details, "env_actions": arrays["env_actions"].tolist()}
    for number, call, session in play(agent, run, recorded, np.load(folder / "golden_C_frames.npz")["grid"]):
        name = f"call{number:02d}"
        logits = torch.stack(session.logits).double()
        assert call.answer_ids == arrays[f"{name}_generated_ids"].tolist()
        assert logits.argmax(1).tolist() == arrays[f"{name}_argmax"].tolist()
        np.testing.assert_allclose(logits.logsumexp(1), arrays[f"{name}_logsumexp"], atol=2e-4)
        np.testing.assert_allclose(
            logits[:, arrays["vocab_sample"]], arrays[f"{name}_sample_logits"], atol=2e-4, rtol=0
        )
        if f"{name}_inputs_embeds" in arrays:
            np.testing.assert_allclose(session.embeddings[0][0], arrays[f"{name}_inputs_embeds"], atol=1e-5)
        if f"{name}_kv_after" in arrays:
            for ours, theirs in zip(session.keys_and_values, arrays[f"{name}_kv_after"], strict=True):
                np.testing.assert_allclose(torch.cat(ours), theirs, atol=2e-4)


def test_logits_are_computed_only_for_tokens_that_are_chosen(compact_agent, story, arrays):
    """The published loop computes them at every prompt position."""
    shapes = []
    handle = compact_agent.model.lm_head.register_forward_hook(lambda m, i, o: shapes.append(tuple(o.shape)))
    free = StreamVLNAgent(compact_agent.model, compact_agent.processor, logits_processor=[RESTRICTIONS["C2"]])
    held = StreamVLNAgent(compact_agent.model, compact_agent.processor, constrained=True)
    observation = {"rgb": recorded_frame(arrays["grid"][0]), "instruction": story["C2"]["instruction"]}
    free.predict_chunk(observation)
    assert shapes == [(1, 152064)] * 8
    shapes.clear()
    chunk = held.predict_chunk(observation)
    handle.remove()
    assert shapes == [(1, 152064)] * len(chunk), "nothing for the header and the end, which the grammar forces"
    # The last move, which decided nothing, and <|im_end|> open the next prefill.
    assert held.last_call.kv_after == held.last_call.prefill_length + len(held.last_call.answer_ids) - 2
