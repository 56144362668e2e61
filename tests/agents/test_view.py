"""What a watched agent shows of itself: window, memory, queue, calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from streamvln_gym.agents import AgentView, StreamVLNAgent, WatchedAgent
from streamvln_gym.agents.slow_memory import history_steps
from streamvln_gym.agents.view import CALLS_SHOWN, THUMBNAIL
from tests.thin_network import thin_parts


@pytest.fixture(scope="module")
def parts() -> Iterator[Any]:
    """A network that never says STOP, so that episodes go on."""
    model, processor = thin_parts(0.2)
    penalty = torch.zeros(model.config.text_config.vocab_size)
    penalty[processor.action_ids[0]] = -1e6
    handle = model.lm_head.register_forward_hook(lambda module, inputs, output: output + penalty)
    yield model, processor
    handle.remove()


def observe(step: int) -> dict[str, Any]:
    rng = np.random.default_rng(step)
    blocks = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return {"rgb": blocks.repeat(10, 0).repeat(10, 1), "instruction": "Go to the piano."}


def views(agent: WatchedAgent, steps: int, begin: int = 0) -> list[AgentView]:
    found = []
    for step in range(begin, begin + steps):
        action = agent.act(observe(step))
        assert agent.view is not None and agent.view.action == action
        found.append(agent.view)
    return found


def test_a_watched_agent_acts_as_it_did(parts: Any) -> None:
    plain, watched = StreamVLNAgent(*parts), StreamVLNAgent(*parts).watch()
    assert [plain.act(observe(step)) for step in range(70)] == [view.action for view in views(watched, 70)]
    assert plain.stats == watched.agent.stats


def test_window_memory_queue_and_calls(parts: Any) -> None:
    agent = StreamVLNAgent(*parts).watch()
    for step, view in enumerate(views(agent, 100)):
        start = step // 32 * 32
        assert (view.step, view.window, view.window_start, view.position) == (step, step // 32, start, step % 32)
        assert view.called == (step % 4 == 0)
        assert view.chunk[step % 4] == view.action and view.chunk[step % 4 + 1 :] == view.queue
        assert [frame.step for frame in view.memory] == history_steps(start, 8)
        assert view.memory_tokens == 16 * len(view.memory)
        assert (view.num_history, view.memory_strategy, view.window_steps) == (8, "pooled", 32)
        assert [call.step for call in view.calls] == list(range(0, step + 1, 4))
        assert [call.step for call in view.calls if call.opened] == list(range(0, step + 1, 32))
        assert view.kv_length == view.calls[-1].kv_length > 0
        assert view.milliseconds > 0.0 and (not view.called or view.calls[-1].milliseconds == view.milliseconds)
    assert agent.agent.last_call is not None and view.kv_length == agent.agent.last_call.kv_after
    assert view.calls[-1].prefill_length == agent.agent.last_call.prefill_length


def test_the_cache_of_a_fast_agent_is_shown_too() -> None:
    agent = StreamVLNAgent(*thin_parts(0.2), fast=True).watch()
    for step in range(9):
        (view,) = views(agent, 1, step)
        assert agent.agent.last_call is not None
        assert view.kv_length == agent.agent.last_call.kv_after > 0


def test_pictures_are_what_the_network_saw(parts: Any) -> None:
    agent = StreamVLNAgent(*parts).watch()
    view = views(agent, 70)[-1]
    assert len(view.memory) == 8 and view.aspect == pytest.approx(80 / 60)
    for frame in view.memory:
        assert np.array_equal(frame.picture, parts[1].resize(observe(frame.step)["rgb"]))
        assert max(frame.picture.shape[:2]) <= THUMBNAIL


def test_a_chunk_that_runs_over_the_boundary(parts: Any) -> None:
    agent = StreamVLNAgent(*parts, chunk_size=5).watch()
    seen = views(agent, 40)
    over, opened = seen[33], seen[35]
    assert (over.window_start, over.window, over.position) == (0, 0, 33) and not over.memory
    assert (opened.window_start, opened.window, opened.position) == (35, 1, 3) and opened.called
    assert [frame.step for frame in opened.memory] == history_steps(35, 8) == agent.agent.last_call.history_steps
    for frame in opened.memory:  # most of them came with no call
        assert np.array_equal(frame.picture, parts[1].resize(observe(frame.step)["rgb"]))


@pytest.mark.parametrize(
    ("settings", "frames", "tokens"),
    [
        ({"memory_strategy": "none"}, 0, 0),
        ({"num_history": 0}, 0, 0),
        ({"memory_strategy": "full"}, 8, 8 * 64),
        ({"memory_strategy": "temporal_pool"}, 8, 4 * 64),
        ({"num_history": 3, "memory_strategy": "pooled"}, 3, 3 * 16),
    ],
)
def test_strategies(parts: Any, settings: dict[str, Any], frames: int, tokens: int) -> None:
    model = parts[0]
    patches = model.config.vision_config.image_size // model.config.vision_config.patch_size
    assert patches**2 == 64 and model.config.tokens_per_frame == 16
    view = views(StreamVLNAgent(*parts, **settings).watch(), 34)[-1]
    assert (len(view.memory), view.memory_tokens) == (frames, tokens)
    assert (view.num_history == 0) == (frames == 0)


def test_space_is_bounded(parts: Any) -> None:
    agent = StreamVLNAgent(*parts, max_steps=64).watch()
    last = views(agent, 400)[-1]
    assert len(agent._pictures) <= agent.agent.stream.memory.capacity + 1
    assert len(last.calls) == CALLS_SHOWN < agent.agent.stats.calls
    assert all(frame.picture is not None for frame in last.memory)


def test_who_looks_late_sees_no_earlier_pictures(parts: Any) -> None:
    plain = StreamVLNAgent(*parts)
    for step in range(20):
        plain.act(observe(step))
    view = views(plain.watch(), 20, begin=20)[-1]
    steps = history_steps(32, 8)
    assert [frame.step for frame in view.memory] == steps
    assert [frame.picture is not None for frame in view.memory] == [step >= 20 for step in steps]


def test_reset_forgets(parts: Any) -> None:
    agent = StreamVLNAgent(*parts).watch()
    first = views(agent, 40)
    agent.reset()
    assert agent.view is None
    again = views(agent, 40)
    assert [view.action for view in first] == [view.action for view in again]
    assert not again[0].memory and len(again[0].calls) == 1


def test_a_view_stays_as_it_was(parts: Any) -> None:
    """Views are snapshots: what the agent does later changes none of them."""
    agent = StreamVLNAgent(*parts).watch()
    early = views(agent, 34)[-1]
    pictures = [frame.picture.copy() for frame in early.memory]
    views(agent, 40, begin=34)
    assert early.step == 33 and len(early.calls) == 9
    assert all(np.array_equal(frame.picture, kept) for frame, kept in zip(early.memory, pictures, strict=True))


def test_nobody_looking_keeps_nothing(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Callable[..., Any]:
        raise AssertionError("an agent that nobody watches made a view")

    monkeypatch.setattr(WatchedAgent, "act", fail)
    monkeypatch.setattr(WatchedAgent, "_keep_picture", fail)
    agent = StreamVLNAgent(*parts)
    assert agent.act(observe(0)) in (1, 2, 3)
    assert not hasattr(agent, "view")
