"""The streaming loop: clock, windows, memory, queue, checkpoints."""

import copy
import math
import pickle
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from streamvln_gym.agents import Agent, StreamVLNAgent, StreamVLNAgentConfig
from streamvln_gym.agents.slow_memory import history_steps
from streamvln_gym.errors import CheckpointError
from streamvln_gym.models.configuration_streamvln import IMAGE_TOKEN_ID, MEMORY_TOKEN_ID
from streamvln_gym.models.dialogue import ConjunctionPicker
from tests.thin_network import NARROW, thin_parts

INSTRUCTION = "Leave the bedroom, go down the hallway and wait by the piano."


@pytest.fixture(scope="module")
def parts():
    return thin_parts(0.3, narrow=True, seed=1)


def observe(step: int, seed: int = 0) -> dict:
    rng = np.random.default_rng([seed, step])
    blocks = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return {"rgb": blocks.repeat(10, 0).repeat(10, 1), "instruction": INSTRUCTION}


def never_stop(agent):
    """Forbids STOP, so that an episode of random answers goes on."""
    penalty = torch.zeros(agent.model.config.text_config.vocab_size)
    penalty[agent.processor.action_ids[0]] = -1e6
    head = agent.model.lm_head
    return head.register_forward_hook(lambda module, inputs, output: output + penalty)


@pytest.fixture
def agent(parts):
    agent = StreamVLNAgent(*parts)
    handle = never_stop(agent)
    yield agent
    handle.remove()


def run_episode(agent, steps, seed=0):
    """Returns actions and the calls made."""
    actions, calls = [], []
    for step in range(steps):
        before = agent.stats.calls
        actions.append(agent.act(observe(step, seed)))
        if agent.stats.calls > before:
            calls.append(agent.last_call)
    return actions, calls


def test_untrained_agent_says_so_and_acts():
    agent = StreamVLNAgent.untrained()
    assert isinstance(agent, Agent)
    assert agent.trained is False
    assert agent.act(observe(0)) in range(4)


def test_calls_windows_and_memory(agent):
    actions, calls = run_episode(agent, 100)
    assert set(actions) == {1, 2, 3}
    assert [call.step for call in calls] == list(range(0, 100, 4))
    for previous, call in zip([None, *calls], calls, strict=False):
        first = call.step % 32 == 0
        assert call.history_steps == (history_steps(call.step, 8) if first else [])
        assert call.prompt_ids.count(IMAGE_TOKEN_ID) == 1
        assert call.prompt_ids.count(MEMORY_TOKEN_ID) == (first and call.step > 0)
        assert call.prefill_length == len(call.prompt_ids) - 1 + 16 + (8 * 16 - 1 if first and call.step else 0)
        carried = [] if first else previous.answer_ids[-2:]
        assert call.prompt_ids[: len(carried)] == carried, "the last move, which decided nothing, and <|im_end|>"
        assert (agent.processor.turn_end_id in call.prompt_ids[:2]) == (not first)
        assert len(call.answer_ids) == 5
    assert agent.stats.windows == 4


def test_one_tower_pass_per_frame(agent):
    passes = []
    handle = agent.model.vision_tower.register_forward_hook(lambda m, i, o: passes.append(len(o.last_hidden_state)))
    run_episode(agent, 100)
    handle.remove()
    assert passes == [1] * 25
    assert agent.stats.tower_frames == agent.stats.calls == 25
    assert agent.stats.history_frames == 0


def test_cache_grows_within_a_window_and_restarts(agent):
    lengths = []
    for step in range(72):
        before = agent.stats.calls
        agent.act(observe(step))
        if agent.stats.calls > before:
            lengths.append((step, agent.session.kv_length, agent.last_call))
    total = 0
    for step, length, call in lengths:
        total = (0 if step % 32 == 0 else total) + call.prefill_length + len(call.answer_ids) - 2
        assert length == total, "everything but the last move and <|im_end|> is cached"


def test_streaming_answers_equal_those_of_one_shot_prefill(parts):
    """The logits that chose each first action, recomputed from the whole window's embeddings at once, in float64."""
    agent = StreamVLNAgent(copy.deepcopy(parts[0]).double(), parts[1])
    never_stop(agent)
    agent.session.record = True
    model, seen = agent.model, []
    extend = model.extend
    fresh = []

    def watched(embeddings, cache, branches=0):
        assert branches == 0, "a session that records does not look ahead"
        if cache.get_seq_length() == 0:
            fresh.append(len(seen))
        seen.append((embeddings, extend(embeddings, cache)))
        return seen[-1][1]

    model.extend = watched
    try:
        run_episode(agent, 68)
    finally:
        del model.extend
    with torch.inference_mode():
        seen = [(embeddings, model.lm_head(hidden)) for embeddings, hidden in seen]
    assert len(fresh) == 3
    for start, end in zip(fresh, [*fresh[1:], len(seen)], strict=True):
        part = seen[start:end]
        with torch.inference_mode():
            whole = model(inputs_embeds=torch.cat([embeddings for embeddings, _ in part], 1)).logits[0]
        ends = np.cumsum([embeddings.shape[1] for embeddings, _ in part]) - 1
        streamed = torch.cat([logits for _, logits in part])
        torch.testing.assert_close(streamed, whole[ends], rtol=0, atol=1e-9)


@pytest.mark.parametrize("chunk", [1, 3, 5, 7])
def test_chunks_that_straddle_a_window(parts, chunk):
    """The queue survives the boundary; the next window's first call comes late and still shows memory."""
    agent = StreamVLNAgent(*parts, StreamVLNAgentConfig(chunk_size=chunk))
    handle = never_stop(agent)
    _, calls = run_episode(agent, 136)
    handle.remove()
    assert [call.step for call in calls] == list(range(0, 136, chunk))
    openings = [call for call in calls if MEMORY_TOKEN_ID in call.prompt_ids]
    assert [call.step for call in openings] == [-(-boundary // chunk) * chunk for boundary in (32, 64, 96, 128)]
    for call in openings:
        assert call.history_steps == history_steps(call.step, 8)
    not_called = {step for call in openings for step in call.history_steps if step % chunk}
    assert agent.stats.history_frames == len(not_called), "encoded on demand, once each"
    assert agent.stats.current_frames == len(calls)


def test_window_and_history_are_configuration(parts):
    agent = StreamVLNAgent(*parts, StreamVLNAgentConfig(window_steps=12, num_history=5))
    handle = never_stop(agent)
    _, calls = run_episode(agent, 60)
    handle.remove()
    openings = {call.step: call.history_steps for call in calls if call.history_steps}
    assert openings == {step: history_steps(step, 5) for step in (12, 24, 36, 48)}


def test_without_memory_no_sentence(parts):
    agent = StreamVLNAgent(*parts, StreamVLNAgentConfig(num_history=0))
    handle = never_stop(agent)
    _, calls = run_episode(agent, 40)
    handle.remove()
    assert all(MEMORY_TOKEN_ID not in call.prompt_ids for call in calls)
    assert agent.stats.windows == 2


def test_skipped_frames_with_predict_chunk(agent):
    """Only call frames are shown; where fewer actions were executed, the clock follows."""
    assert len(agent.predict_chunk(observe(0))) == 4
    agent.predict_chunk(observe(3), n_executed=3)
    assert agent.step == 3
    for step in range(6, 31, 3):
        agent.predict_chunk(observe(step), n_executed=3)
    agent.predict_chunk(observe(33), n_executed=3)
    assert agent.step == 33
    assert agent.last_call.history_steps == [step // 3 * 3 for step in history_steps(33, 8)]
    agent.predict_chunk(observe(37))
    assert agent.step == 37
    for wrong in (2.0, math.nan, True):
        with pytest.raises(ValueError, match="n_executed must be a number of actions, 0 or more"):
            agent.predict_chunk(observe(34), n_executed=wrong)
    with pytest.raises(ValueError, match="n_executed"):
        agent.predict_chunk(observe(38), n_executed=-1)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda agent: pickle.loads(pickle.dumps(agent))])
def test_a_copy_goes_on_as_the_original(parts, copied, fast):
    agent = StreamVLNAgent(*parts, fast=fast)
    for step in range(38):
        agent.act(observe(step))
    other = copied(agent)
    assert [other.act(observe(step)) for step in range(38, 80)] == [agent.act(observe(step)) for step in range(38, 80)]
    assert other.step == agent.step == 80


def test_act_and_predict_chunk_share_the_clock(agent):
    agent.act(observe(0))
    agent.act(observe(1))
    agent.predict_chunk(observe(2))
    assert agent.step == 2
    agent.act(observe(6))
    assert agent.step == 7
    assert agent.last_call.step == 6


def test_asking_twice_at_one_step_is_refused(agent):
    agent.predict_chunk(observe(0))
    with pytest.raises(ValueError, match="already seen step 0"):
        agent.predict_chunk(observe(0), n_executed=0)


def test_memory_is_bounded_over_600_steps(parts):
    agent = StreamVLNAgent(*parts, StreamVLNAgentConfig(max_steps=200))
    handle = never_stop(agent)
    held = []
    for step in range(600):
        agent.act(observe(step))
        held.append(len(agent.stream.memory))
    handle.remove()
    capacity = agent.stream.memory.capacity
    assert max(held) <= capacity + 1
    assert agent.stream.memory.nbytes <= (capacity + 1) * 16 * NARROW * 4
    assert agent.session.kv_length < 700
    assert agent.stats.tower_frames == 150


def test_reset_makes_episodes_independent(agent):
    first, _ = run_episode(agent, 70, seed=1)
    agent.reset()
    second, _ = run_episode(agent, 70, seed=2)
    agent.reset()
    again, _ = run_episode(agent, 70, seed=1)
    assert again == first
    assert second != first, "actions depend on what is seen"


def test_memory_changes_the_answers(agent, parts):
    """Two episodes that differ only before step 32 and agree from there on."""
    logits = []
    for seed in (1, 2):
        agent.reset()
        run_episode(agent, 32, seed)
        seen = []
        handle = agent.model.lm_head.register_forward_hook(lambda m, i, o, seen=seen: seen.append(o))
        agent.act(observe(32, seed=9))
        handle.remove()
        logits.append(seen[0])
    assert (logits[0] - logits[1]).abs().max() > 1e-2


def test_unparsable_answers_stop(parts):
    agent = StreamVLNAgent(*parts, StreamVLNAgentConfig(constrained=False, max_new_tokens=1))
    unwanted = torch.zeros(parts[0].config.text_config.vocab_size)
    unwanted[agent.processor.action_ids] = -1e6
    handle = parts[0].lm_head.register_forward_hook(lambda m, i, o: o + unwanted)
    actions, calls = run_episode(agent, 3)
    handle.remove()
    assert actions == [0, 0, 0]
    assert agent.stats.parse_failures == len(calls) == 3
    cut = calls[0].answer_ids[0]
    assert calls[1].prompt_ids[:2] == [cut, agent.processor.turn_end_id], "a cut answer's turn is closed"


def test_free_answers_are_cut_at_chunk_plus_4(parts):
    agent = StreamVLNAgent(*parts, StreamVLNAgentConfig(constrained=False))
    endless = torch.zeros(parts[0].config.text_config.vocab_size)
    endless[agent.processor.turn_end_id] = -1e6
    handle = parts[0].lm_head.register_forward_hook(lambda m, i, o: o + endless)
    agent.predict_chunk(observe(0))
    handle.remove()
    assert len(agent.last_call.answer_ids) == 8


def test_window_is_the_training_dialogue_token_for_token(agent):
    """Style "trained": prompts and answers of a window, joined, are the ids of the whole dialogue's text."""
    _, calls = run_episode(agent, 64)
    builder, picker = agent._caller.dialogue, ConjunctionPicker(seed=0)
    for first in (0, 8):
        ids, text = [], ""
        for index, call in enumerate(calls[first : first + 8]):
            # The carried last move and <|im_end|> open each later prompt, so the answers count without theirs.
            ids += call.prompt_ids + call.answer_ids[:-2]
            words = picker.next()
            turn = builder.later_turn(words) if index else builder.first_turn(INSTRUCTION, words, first > 0)
            actions = agent.processor.parse_actions(call.answer_ids)
            text += ("<|im_end|>" if index else "") + turn + "".join("S↑←→"[action] for action in actions)
        assert [*ids, call.answer_ids[-2]] == builder.encode(text)
        assert text.count("<|im_end|>\n<|im_start|>user\n") == 8


def test_repetition_penalty_of_the_checkpoint_is_honoured(agent):
    expected, _ = run_episode(agent, 40)
    agent.reset()
    agent.model.generation_config.repetition_penalty = 4.0
    try:
        actual, _ = run_episode(agent, 40)
    finally:
        agent.model.generation_config.repetition_penalty = 1.0
    assert actual != expected


def test_published_style_answers_with_a_second_header(parts):
    agent = StreamVLNAgent(*parts, StreamVLNAgentConfig(prompt_style="published", constrained=True))
    handle = never_stop(agent)
    _, calls = run_episode(agent, 8)
    handle.remove()
    header = agent.processor.tokenizer.encode("<|im_start|>assistant\n", add_special_tokens=False)
    end = agent.processor.turn_end_id
    newline = agent.processor.tokenizer.encode("\n", add_special_tokens=False)[0]
    for call in calls:
        assert call.answer_ids[: len(header)] == header
        assert call.prompt_ids[-len(header) - 2 :] == [*header, end, newline]
    assert calls[1].prompt_ids[2] == header[0], "no newline between an answer and the next turn"


def test_episode_of_one_step_and_changed_instructions(agent):
    agent.act(observe(0))
    agent.reset()
    assert agent.step == 0
    other = {**observe(0), "instruction": "Go to the kitchen."}
    agent.act(other)
    with pytest.raises(ValueError, match=r"agent\.reset\(\)"):
        agent.act(observe(1))


def test_bad_observations_leave_the_clock_alone(agent):
    with pytest.raises(ValueError, match="'rgb'"):
        agent.act({"instruction": INSTRUCTION})
    with pytest.raises(TypeError, match="uint8"):
        agent.act({**observe(0), "rgb": np.zeros((4, 4, 3))})
    for special in ("<image>", "<memory>", "<|im_start|>", "<|im_end|>", "<|endoftext|>"):
        with pytest.raises(ValueError, match=re.escape(special)):
            agent.act({**observe(0), "instruction": f"Find the {special}."})
    assert agent.step == 0
    assert agent.stats.calls == 0


def test_the_caller_may_reuse_its_buffers(parts):
    agents = [StreamVLNAgent(*parts, StreamVLNAgentConfig(chunk_size=3)) for _ in range(2)]
    handle = never_stop(agents[0])
    buffer = {**observe(0)}
    buffer["rgb"] = buffer["rgb"].copy()
    for step in range(70):
        fresh = observe(step)
        buffer["rgb"][...] = fresh["rgb"]
        assert agents[0].act(buffer) == agents[1].act(fresh)
    handle.remove()


def test_save_and_load_give_the_same_actions(agent, tmp_path):
    agent.save_pretrained(tmp_path)
    loaded = StreamVLNAgent.from_pretrained(tmp_path)
    handle = never_stop(loaded)
    expected, _ = run_episode(agent, 70)
    actual, _ = run_episode(loaded, 70)
    handle.remove()
    assert actual == expected
    assert loaded.trained is False


def test_same_seed_same_actions_other_seed_other_weights():
    first, again, other = (StreamVLNAgent.untrained(seed) for seed in (7, 7, 8))
    assert first.predict_chunk(observe(0)) == again.predict_chunk(observe(0))
    assert not torch.equal(first.model.lm_head.weight, other.model.lm_head.weight)


def test_checkpoint_errors_say_what_is_wrong(agent, tmp_path):
    with pytest.raises(CheckpointError, match="there is no folder"):
        StreamVLNAgent.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        StreamVLNAgent.from_pretrained(tmp_path)
    folder = tmp_path / "checkpoint"
    agent.save_pretrained(folder)
    config = (folder / "config.json").read_text()
    for text, message in [
        ("{", "no valid JSON"),
        ('{"model_type": "bert"}', "type 'bert'"),
        (
            config.replace('"pooling_mode": "bilinear"', '"pooling_mode": "sum"'),
            "no usable configuration.*pooling_mode",
        ),
        (config.replace('"vocab_size": 1344', '"vocab_size": 1000'), "do not belong together"),
        (config.replace('"vocab_size": 1344', '"vocab_size": 1408'), "weights"),
        (config.replace('"intermediate_size": 128', '"intermediate_size": 144'), "weights"),
    ]:
        assert text != config
        (folder / "config.json").write_text(text)
        with pytest.raises(CheckpointError, match=message):
            StreamVLNAgent.from_pretrained(folder)
    (folder / "config.json").write_text(config)
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    for lacking in ("language_model.norm.weight", "language_model.embed_tokens.weight"):  # the second is the head, too
        save_file({name: tensor for name, tensor in tensors.items() if name != lacking}, weights, {"format": "pt"})
        with pytest.raises(CheckpointError, match=rf"missing keys: .*{lacking}"):
            StreamVLNAgent.from_pretrained(folder)
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot be read"):
        StreamVLNAgent.from_pretrained(folder)
    weights.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        StreamVLNAgent.from_pretrained(folder)


def test_configuration_refuses_nonsense():
    for name, value in {"window_steps": 0, "chunk_size": 0, "num_history": -1, "max_steps": 0}.items():
        with pytest.raises(ValueError, match=name):
            StreamVLNAgentConfig(**{name: value})


def test_a_failed_call_loses_the_window_and_nothing_else(agent, monkeypatch):
    run_episode(agent, 8)
    working = agent.session.generate

    def fail():
        raise RuntimeError("out of memory")

    monkeypatch.setattr(agent.session, "generate", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        agent.act(observe(8))
    monkeypatch.setattr(agent.session, "generate", working)
    agent.act(observe(8))
    assert agent.step == 9
    assert agent.last_call.kv_before == 0
    assert agent.last_call.history_steps == [0, 0, 0, 0, 4, 4, 4, 7]  # nearest kept frames of 0..7


def test_a_refused_observation_leaves_no_trace(parts):
    agent = StreamVLNAgent(*parts, memory_strategy="voxel")
    with pytest.raises(ValueError, match="depth"):
        agent.act({**observe(0), "instruction": "Go away."})
    seen = {
        "depth": np.ones((60, 80, 1), np.float32),
        "camera_pose": np.eye(4),
        "intrinsics": np.diag([60.0, 60.0, 1.0]),
    }
    with pytest.raises(ValueError, match="focal lengths"):
        agent.act({**observe(0), **seen, "intrinsics": np.zeros((3, 3))})
    agent.act({**observe(0), **seen})
    assert agent.step == 1


def test_what_is_saved_streams_as_the_agent_did(parts, tmp_path):
    settings = {
        "num_history": 2, "window_steps": 16, "chunk_size": 3, "memory_strategy": "temporal_pool",
        "memory_prompt": "training", "repetition_penalty": 1.3,
    }  # fmt: skip
    agent = StreamVLNAgent(*parts, **settings)
    agent.save_pretrained(tmp_path)
    same = StreamVLNAgent.from_pretrained(tmp_path, dtype="float32")
    assert [same.act(observe(step)) for step in range(40)] == [agent.act(observe(step)) for step in range(40)]
    assert same.last_call == agent.last_call
    assert parts[0].config.num_history == 8, "the network at hand is as it was"
    assert parts[0].generation_config.repetition_penalty in (None, 1.0)


def test_windows_beyond_the_trained_positions_are_said(parts):
    with pytest.warns(UserWarning, match=r"up to \d+ positions, but the network knows 4096.*Lower num_history"):
        StreamVLNAgent(*parts, memory_strategy="full", num_history=70)


def test_names_of_dtypes_and_devices(tmp_path):
    agent = StreamVLNAgent.from_pretrained(dtype="bfloat16", device="auto")
    assert agent.model.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="there is no dtype 'int8' of weights"):
        StreamVLNAgent.from_pretrained(dtype="int8")
    with pytest.raises(ValueError, match="there is no device 'gpu'"):
        StreamVLNAgent.from_pretrained(device="gpu")
    with pytest.raises(ValueError, match="repetition_penalty must be a positive number, got '1'"):
        StreamVLNAgentConfig(repetition_penalty="1")


def test_predict_wants_geometry_where_the_memory_does(parts):
    agent = StreamVLNAgent(*parts, memory_strategy="voxel")
    with pytest.raises(ValueError, match=r"needs obs\['depth'\]: make the environment with the sensor 'depth'"):
        agent.predict({"rgb": np.zeros((1, 48, 64, 3), np.uint8), "instruction": ["Go."]})
