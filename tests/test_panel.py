"""The strip that shows a streaming agent at work."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from streamvln_gym.agents.view import AgentView, MemoryPicture, TimedCall
from streamvln_gym.episodes import Instruction
from streamvln_gym.panel import (
    MEMORY_COLOUR,
    PANEL_HEIGHT,
    WINDOW_COLOUR,
    draw_panel,
    memory_caption,
    window_caption,
)
from streamvln_gym.video import picture_of
from streamvln_gym.visualization import HEIGHT, INK, WIDTH
from tests.conftest import TinyFlats

QUEUE = (slice(36, 76), slice(992, 1266))
COSTS = (slice(86, 184), slice(1100, 1266))
STRIP = (slice(36, 120), slice(14, 966))
TIMELINE = (slice(146, 170), slice(14, 966))


def view_at(step: int, **changes: Any) -> AgentView:
    """The view of an agent in chunks of four."""
    start = step // 32 * 32
    calls = tuple(TimedCall(s, 20.0 + s % 7, 30, 75 + s % 32 * 7, s % 32 == 0) for s in range(0, step + 1, 4))
    picture = np.full((112, 112, 3), (20, 120, 60), np.uint8)
    memory = tuple(MemoryPicture(s, picture) for s in (range(0, start, start // 8) if start else ()))
    chunk = (1, 2, 3, 0)
    settings: dict[str, Any] = {
        "step": step,
        "action": chunk[step % 4],
        "chunk": chunk,
        "queue": chunk[step % 4 + 1 :],
        "called": step % 4 == 0,
        "milliseconds": 20.0,
        "calls": calls,
        "kv_length": calls[-1].kv_length,
        "window_steps": 32,
        "window_start": start,
        "memory": memory,
        "memory_tokens": 16 * len(memory),
        "num_history": 8,
        "memory_strategy": "pooled",
        "aspect": 4 / 3,
    }
    return AgentView(**{**settings, **changes})


def count(panel: np.ndarray, colour: tuple[int, int, int], where: tuple[slice, slice]) -> int:
    return int((np.abs(panel[where].astype(int) - colour).max(axis=2) < 12).sum())


@pytest.mark.parametrize("step", [0, 1, 31, 32, 33, 63, 64, 170, 499, 2_000])
def test_every_step_can_be_drawn(step: int) -> None:
    panel = draw_panel(view_at(step))
    assert panel.shape == (PANEL_HEIGHT, WIDTH, 3) and panel.dtype == np.uint8
    assert count(panel, WINDOW_COLOUR, TIMELINE) > 20 and count(panel, INK, TIMELINE) > 20
    assert np.array_equal(panel, draw_panel(view_at(step)))


def test_memory_shows_its_frames_and_steps() -> None:
    empty, full = draw_panel(view_at(5)), draw_panel(view_at(70))
    green = (20, 120, 60)
    assert count(empty, green, STRIP) == 0 and count(empty, MEMORY_COLOUR, TIMELINE) == 0
    assert count(full, green, STRIP) > 0.8 * 8 * 112 * 84
    assert count(full, MEMORY_COLOUR, TIMELINE) > 8 * 20
    unseen = replace(view_at(70), memory=tuple(MemoryPicture(step, None) for step in range(0, 64, 8)))
    assert count(draw_panel(unseen), green, STRIP) == 0


def test_the_marker_moves_along_the_window() -> None:
    places = []
    for step in range(64, 96):
        row = draw_panel(view_at(step))[150, 14:966].astype(int)
        places.append(np.flatnonzero(np.abs(row - INK).max(axis=1) < 12).mean())
    assert (np.diff(places) > 5).all()
    assert places[0] > 0.66 * 952 and places[-1] < 952  # the last of three windows


@pytest.mark.parametrize("place", range(4))
def test_the_queue_fills_the_present_action(place: int) -> None:
    panel = draw_panel(view_at(64 + place))
    filled = [count(panel, WINDOW_COLOUR, (QUEUE[0], slice(992 + 47 * k, 992 + 47 * k + 40))) for k in range(4)]
    assert int(np.argmax(filled)) == place and filled[place] > 900
    assert all(n < 500 for k, n in enumerate(filled) if k != place)
    assert all((n > 100) == (k >= place) for k, n in enumerate(filled))  # outlined: still to come


def test_bars_tell_window_openings_apart() -> None:
    panel = draw_panel(view_at(70))
    assert count(panel, MEMORY_COLOUR, COSTS) > 50 and count(panel, WINDOW_COLOUR, COSTS) > 500


@pytest.mark.parametrize(
    ("view", "caption"),
    [
        (view_at(0), "nothing yet; the next window opens with it, at step 32"),
        (view_at(70), "8 frames, 128 tokens"),
        (view_at(70, memory=view_at(70).memory[:1], memory_tokens=1568), "1 frame, 1,568 tokens"),
        (view_at(70, memory_strategy="full", memory_tokens=5832), "8 frames, 5,832 tokens, strategy 'full'"),
        (view_at(70, memory=(), memory_tokens=0, num_history=0, memory_strategy="none"), "none (strategy 'none')"),
    ],
)
def test_memory_in_words(view: AgentView, caption: str) -> None:
    assert memory_caption(view) == caption
    assert draw_panel(view).shape == (PANEL_HEIGHT, WIDTH, 3)


def test_window_in_words() -> None:
    assert window_caption(view_at(0)) == "Window 1: step 1 of 32"
    assert window_caption(view_at(69)) == "Window 3: step 6 of 32"
    assert window_caption(view_at(95)) == "Window 3: step 32 of 32"
    over = view_at(33, window_start=0, memory=())
    assert window_caption(over) == "Window 1: last chunk runs 2 over"
    assert draw_panel(over).shape == (PANEL_HEIGHT, WIDTH, 3)


@pytest.mark.parametrize(
    "changes",
    [
        {"chunk": (0,), "queue": (), "action": 0},
        {"chunk": (1,) * 40, "queue": (1,) * 39},
        {"chunk": (1,) * 40, "queue": ()},
        {"memory": tuple(MemoryPicture(s, None) for s in range(64)), "num_history": 64},
        {"memory": tuple(MemoryPicture(7, None) for _ in range(8))},
        {"window_steps": 1, "window_start": 70},
        {"window_steps": 500, "window_start": 0, "memory": ()},
        {"aspect": 0.5},
        {"aspect": 4.0},
        {"calls": (TimedCall(70, 0.0, 0, 0, True),), "kv_length": 0},
        {"calls": (TimedCall(70, 61_000.0, 3_000, 120_000, True),), "kv_length": 120_000},
    ],
)
def test_odd_settings_can_be_drawn(changes: dict[str, Any]) -> None:
    assert draw_panel(view_at(70, **changes)).shape == (PANEL_HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("text", ["Walk on and on. " * 120, "दरवाज़े से निकलकर, 走廊 → ←", "Go."])
def test_it_lies_below_any_episode(tiny_flats: TinyFlats, text: str) -> None:
    env = tiny_flats.make(render_mode="rgb_array")
    env.reset()
    env._run.episode = replace(env.episode, instruction=Instruction(text))  # type: ignore[union-attr]
    view = view_at(40)
    picture = picture_of(env, view)
    assert picture.shape == (HEIGHT + PANEL_HEIGHT, WIDTH, 3)
    assert np.array_equal(picture[:HEIGHT], picture_of(env)) and np.array_equal(picture[HEIGHT:], draw_panel(view))
