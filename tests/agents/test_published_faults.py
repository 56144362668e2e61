"""Every case where the published loop breaks; each test says what happens there and shows that it does not here."""

import numpy as np
import pytest
import torch

from streamvln_gym.agents import StreamVLNAgent
from tests.agents.test_streaming_fuzz import IMAGE, MEMORY, PlannedLength, frame_at
from tests.thin_network import thin_parts


@pytest.fixture(scope="module")
def parts():
    return thin_parts(0.3, narrow=True, seed=1)


def make_agent(parts, length=4, **settings):
    """An agent whose answers have `length` moves."""
    _, *arrows = parts[1].action_ids
    plan = PlannedLength(arrows, parts[1].turn_end_id, length)
    agent = StreamVLNAgent(*parts, constrained=False, logits_processor=[plan], **settings)
    agent.session.record = True
    return agent


def play(agent, steps, seed=0, first=0):
    """Calls `act` at every step; the model calls that came of it."""
    calls = []
    for step in range(first, first + steps):
        before = agent.stats.calls
        agent.act(frame_at(step, seed))
        if agent.stats.calls > before:
            calls.append(agent.last_call)
    return calls


@torch.inference_mode()
def features(agent, step, seed=0):
    pixels = agent.processor.images([frame_at(step, seed)["rgb"]])
    return agent.model.encode_images(torch.from_numpy(pixels))[0]


@torch.inference_mode()
def check_frames(agent, memory, current, seed=0):
    """The latest window's first prefill holds exactly these frames, in this order."""
    call, prompt = agent.last_call, agent.session.embeddings[0][0]
    assert call.history_steps == memory
    first = call.prompt_ids.index(MEMORY)
    expected = torch.cat([features(agent, step, seed) for step in memory])
    torch.testing.assert_close(prompt[first : first + len(expected)], expected, rtol=0, atol=1e-5)
    image = call.prompt_ids.index(IMAGE) + len(expected) - 1
    torch.testing.assert_close(prompt[image : image + 16], features(agent, current, seed), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("length", "opens"), [(3, 33), (5, 35)])
def test_chunks_that_straddle_a_window_boundary(parts, length, opens):
    """Published: `<memory>` in the prompt without history frames, "'NoneType' object is not subscriptable"."""
    agent = make_agent(parts, length)
    calls = play(agent, opens + 1)
    assert calls[-1].step == opens
    assert calls[-1].kv_before == 0
    check_frames(agent, [0, 4, 8, 12, 16, 20, 24, 28], opens)


def test_pending_actions_survive_the_boundary(parts):
    """Published: kept too; what breaks there is the call after them."""
    agent = make_agent(parts, 5)
    calls = play(agent, 36)
    assert [call.step for call in calls] == [0, 5, 10, 15, 20, 25, 30, 35]


def test_window_that_is_no_multiple_of_the_history(parts):
    """Published: at step 20 ten frames are sampled, memory takes 8, and `<image>` receives frame 16 instead of 20."""
    agent = make_agent(parts, window_steps=20)
    play(agent, 21)
    assert agent.last_call.step == 20
    check_frames(agent, [0, 2, 4, 6, 8, 10, 12, 14], 20)


def test_window_shorter_than_the_history(parts):
    """Published: "slice step cannot be zero"."""
    agent = make_agent(parts, window_steps=4)
    play(agent, 5)
    check_frames(agent, [0, 1, 2, 3], 4)


def test_model_call_at_every_step(parts):
    """Published: the window never resets, thousands of embeddings pile up, then "slice step cannot be zero"."""
    agent = make_agent(parts)
    longest = 0
    for step in range(70):
        agent.predict_chunk(frame_at(step, 0), None if step == 0 else 1)
        longest = max(longest, agent.session.kv_length)
        if step in (32, 64):
            check_frames(agent, list(range(0, step, step // 8)), step)
    assert agent.stats.windows == 3
    assert longest < 2000


def test_frames_that_the_caller_never_showed(parts):
    """Published: history is read by step number from the frames of every step; without them it fails."""
    agent = make_agent(parts)
    for step in range(0, 37, 6):
        agent.predict_chunk(frame_at(step, 0), None if step == 0 else 6)
    assert agent.stats.windows == 2
    agent.reset()
    for step in (0, 6, 12, 18, 24, 30, 33):
        agent.predict_chunk(frame_at(step, 0), 0 if step == 0 else 3 if step == 33 else 6)
    check_frames(agent, [0, 0, 6, 12, 12, 18, 24, 24], 33)
    assert agent.stats.history_frames == 0


def test_frames_between_calls_are_encoded_on_demand_and_counted_apart(parts):
    """Published: all history frames are encoded again at each window's start, also those encoded before."""
    passes = []
    agent = make_agent(parts, 3)
    handle = agent.model.vision_tower.register_forward_hook(lambda m, i, o: passes.append(len(o.last_hidden_state)))
    calls = play(agent, 34)
    handle.remove()
    assert agent.stats.current_frames == len(calls) == 12
    assert agent.stats.history_frames == 5, "steps 4, 8, 16, 20 and 28 were no call frames"
    assert sum(passes) == 17


def test_several_environments_with_one_network(parts):
    """Published: after `reset(n)` all environments share one embedding cache and overwrite each other."""
    expected = []
    for seed in (1, 2, 3):
        alone = make_agent(parts)
        expected.append([alone.act(frame_at(step, seed)) for step in range(70)])
    together = [make_agent(parts) for _ in range(3)]
    actual: list[list[int]] = [[], [], []]
    for step in range(70):
        for index, agent in enumerate(together):
            actual[index].append(agent.act(frame_at(step, index + 1)))
    assert actual == expected
    assert expected[0] != expected[1]


@pytest.mark.parametrize("steps", [1, 500])
def test_shortest_and_longest_episodes(parts, steps):
    """Published: every step keeps 2.36 MB of pictures, and the next episode must be told from this one by hand."""
    agent = make_agent(parts)
    for _ in range(2):
        agent.reset()
        calls = play(agent, steps)
        assert [call.step for call in calls] == list(range(0, steps, 4))
    assert agent.stats.tower_frames == 2 * -(-steps // 4)


@pytest.mark.parametrize("style", ["published", "trained"])
def test_unparsable_answer_is_stop_and_the_dialogue_goes_on(parts, style):
    """Published: no arrow found means STOP (the same), and the answer's ids stay in the dialogue (the same)."""
    agent = make_agent(parts, 0, prompt_style=style)
    assert agent.predict_chunk(frame_at(0, 0)) == [0]
    assert agent.stats.parse_failures == 1
    assert agent.last_call.answer_ids == [agent.processor.turn_end_id]
    agent._answers.logits_processor[0].length = 4
    assert len(agent.predict_chunk(frame_at(1, 0))) == 4
    assert agent.last_call.kv_before > 0


def test_repetition_penalty_sees_the_current_answer_only(parts):
    """Published: `do_sample=False` leaves generation_config.repetition_penalty on; it sees one answer."""
    seen = []

    def watcher(input_ids, scores):
        seen.append((input_ids.tolist(), scores.clone()))
        return scores

    settings = {"repetition_penalty": 2.0, "constrained": False, "max_new_tokens": 3}
    watch = StreamVLNAgent(*parts, logits_processor=[watcher], **settings)
    watch.session.record = True
    watch.predict_chunk(frame_at(0, 0))
    for (ids, scores), logits in zip(seen, watch.session.logits, strict=True):
        expected = logits.clone()
        for token in set(ids[0]):
            expected[token] = logits[token] * 2 if logits[token] < 0 else logits[token] / 2
        torch.testing.assert_close(scores[0], expected)
    assert [len(ids[0]) for ids, _ in seen] == list(range(len(seen)))


def test_instruction_with_markup_of_the_dialogue(parts):
    """Published: `<image>` in an instruction becomes a frame position that no frame fills."""
    agent = make_agent(parts)
    with pytest.raises(ValueError, match="<image>"):
        agent.act({"rgb": np.zeros((8, 8, 3), np.uint8), "instruction": "Find the <image>."})


def test_conjunctions_are_cycled_one_per_model_call(parts):
    """Published: drawn from Python's global random state, so a rerun sees other prompts."""
    phrases = ("there is ", "you can see ", "ahead of you is ")
    agent = make_agent(parts, conjunctions=phrases)
    for _ in range(2):
        agent.reset()
        calls = play(agent, 36)
        for number, call in enumerate(calls):
            text = agent.processor.tokenizer.decode([token for token in call.prompt_ids if token >= 0])
            assert phrases[number % 3].strip() in text
