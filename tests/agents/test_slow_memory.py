"""Sampling rule and bounded space of the slow memory."""

import numpy as np
import pytest
import torch

from streamvln_gym.agents.slow_memory import SlowMemory, history_steps


@pytest.mark.parametrize("num_history", [1, 2, 4, 8])
def test_sampling_rule_for_every_window_start(num_history):
    for t0 in range(1, 201):
        steps = history_steps(t0, num_history)
        stride = max(t0 // num_history, 1)
        assert steps == [index * stride for index in range(min(num_history, t0))]
        assert max(steps) < t0
    assert history_steps(0, num_history) == []
    assert history_steps(20, 0) == []


def test_sampling_rule_examples():
    assert history_steps(32, 8) == [0, 4, 8, 12, 16, 20, 24, 28]
    assert history_steps(33, 8) == history_steps(32, 8)
    assert history_steps(64, 8) == [0, 8, 16, 24, 32, 40, 48, 56]
    assert history_steps(20, 8) == [0, 2, 4, 6, 8, 10, 12, 14]
    assert history_steps(3, 8) == [0, 1, 2]
    assert history_steps(100, 8) == [0, 12, 24, 36, 48, 60, 72, 84]


def tokens(step: int) -> torch.Tensor:
    return torch.full((2, 3), float(step))


def test_exact_up_to_max_steps_with_every_fourth_frame():
    memory = SlowMemory(8, 32, 4, max_steps=500)
    held = []
    for step in range(0, 500, 4):
        if step % 32 == 0 and step:
            sampled = memory.sample(step)
            assert [frame.step for frame in sampled] == history_steps(step, 8)
            assert all(frame.tokens[0, 0] == frame.step for frame in sampled)
        memory.add(step, tokens(step))
        held.append(len(memory))
    assert memory.capacity == 36
    assert max(held) <= memory.capacity + 1


@pytest.mark.parametrize("chunk", [3, 4, 5])
def test_frames_between_calls_are_kept_where_a_window_shows_them(chunk):
    """One frame a step; calls every `chunk` steps, so a window's first call comes late and its steps have no tokens."""
    memory = SlowMemory(8, 32, chunk, max_steps=300)
    window = 0
    for step in range(300):
        is_call = step % chunk == 0
        if is_call and step // 32 != window:
            window = step // 32
            assert [frame.step for frame in memory.sample(step)] == history_steps(step, 8)
        if is_call:
            memory.add(step, tokens(step))
        else:
            memory.add(step, picture=np.full((1, 1, 3), step % 256, np.uint8))
        assert len(memory) <= memory.capacity + 1


def test_unseen_steps_take_the_nearest_earlier_frame():
    memory = SlowMemory(8, 32, 5, max_steps=300)
    for step in range(0, 35, 5):
        memory.add(step, tokens(step))
    sampled = [frame.step for frame in memory.sample(35)]
    assert sampled == [step // 5 * 5 for step in history_steps(35, 8)]


def test_space_stays_bounded_and_even_long_after_max_steps():
    memory = SlowMemory(8, 32, 4, max_steps=100)
    for step in range(0, 5000, 4):
        if step % 32 == 0 and step > 300:
            sampled = np.array([frame.step for frame in memory.sample(step)])
            wanted = np.array(history_steps(step, 8))
            assert len(sampled) == 8
            assert (sampled <= wanted).all()
            # Spacing is at most two strides of the kept grid, which holds at least capacity / 2 frames.
            assert (wanted - sampled).max() <= 4 * step / memory.capacity + 4
        memory.add(step, tokens(step))
        assert len(memory) <= memory.capacity + 1
        assert memory.steps[0] == 0


def test_pictures_are_shrunk_when_they_are_filed_and_counted_in_bytes():
    memory = SlowMemory(8, 32, 4, max_steps=100, shrink=lambda picture: picture[:2, :2].copy())
    memory.add(0, picture=np.zeros((8, 8, 3), np.uint8))
    assert memory.nbytes == 192
    memory.add(1, picture=np.zeros((8, 8, 3), np.uint8))
    assert memory.nbytes == 192 + 12
    memory.add(2, tokens(2))
    assert memory.steps == [0, 2], "no window shows step 1"
    assert memory.nbytes == 12 + 24
    memory.reset()
    assert len(memory) == 0
    assert memory.sample(32) == []


def test_misuse_is_refused():
    memory = SlowMemory()
    memory.add(4, tokens(4))
    with pytest.raises(ValueError, match="time order"):
        memory.add(4, tokens(4))
    with pytest.raises(ValueError, match="either tokens or picture"):
        memory.add(5)
