"""The picture for people: what is drawn where."""

from __future__ import annotations

import numpy as np
import pytest

from streamvln_gym.fonts import font_of
from streamvln_gym.simulators.base import CameraConfig
from streamvln_gym.visualization import (
    _GOAL,
    _MAP,
    _REFERENCE,
    _TRAVELLED,
    HEIGHT,
    WIDTH,
    TopDownMap,
    _cut,
    _wrapped,
    depth_colours,
)
from tests.conftest import TinyFlats


def count(frame: np.ndarray, colour: tuple[int, int, int]) -> int:
    """Pixels of (nearly) a colour in the map."""
    x0, y0, x1, y1 = _MAP
    part = frame[y0:y1, x0:x1].astype(int)
    return int((np.abs(part - colour).max(axis=2) < 12).sum())


def test_frame_shows_view_map_and_text(tiny_flats: TinyFlats) -> None:
    env = tiny_flats.make(render_mode="rgb_array", camera=CameraConfig(width=160, height=120))
    observation, _ = env.reset()
    frame = env.render()
    assert frame.shape == (HEIGHT, WIDTH, 3) and frame.dtype == np.uint8
    assert np.abs(frame[200:220, 270:290].astype(int) - observation["rgb"][60, 80]).max() < 30
    assert count(frame, _REFERENCE) > 100 and count(frame, _GOAL) > 50
    assert (frame[430:590, :1270].max(axis=2) > 200).sum() > 300  # the instruction's letters
    travelled = count(frame, _TRAVELLED)
    for _ in range(8):
        env.step(1)
    assert count(env.render(), _TRAVELLED) > travelled + 50
    assert np.array_equal(env.render(), env.render())


def test_frame_does_not_depend_on_the_sensors(tiny_flats: TinyFlats) -> None:
    frames = []
    for sensors in (("instruction",), ("rgb", "depth", "gps")):
        env = tiny_flats.make(render_mode="rgb_array", sensors=sensors)
        env.reset()
        env.step(2)
        frames.append(env.render())
    assert np.array_equal(*frames)


def test_rendering_changes_nothing(tiny_flats: TinyFlats) -> None:
    shown, plain = tiny_flats.make(render_mode="rgb_array"), tiny_flats.make()
    shown.reset()
    plain.reset()
    for action in (1, 2, 1):
        shown.render()
        first, second = shown.step(action), plain.step(action)
        assert first[4] == second[4] and np.array_equal(first[0]["rgb"], second[0]["rgb"])


def test_without_a_render_mode_nothing_is_drawn(env, recwarn: pytest.WarningsRecorder) -> None:
    env.reset()
    assert env.render() is None
    assert "render_mode='rgb_array'" in str(recwarn.pop(UserWarning).message)


def test_long_and_foreign_instructions_fit(tiny_flats: TinyFlats) -> None:
    from dataclasses import replace

    from streamvln_gym.episodes import Instruction
    from streamvln_gym.visualization import EpisodeFrame

    env = tiny_flats.make(render_mode="rgb_array")
    env.reset()
    for text in ("Walk on and on. " * 120, "", "दरवाज़े से निकलकर"):
        episode = replace(env.episode, instruction=Instruction(text))
        frame = EpisodeFrame(env.simulator, episode)
        observation = env.observe()
        drawn = frame.draw(observation["rgb"], observation["depth"], env.trajectory, {})
        assert drawn.shape == (HEIGHT, WIDTH, 3)


@pytest.mark.filterwarnings("ignore:no font of this machine")
@pytest.mark.parametrize("text", ["You turn around to your right and walk. " * 84, "走" * 3000])
def test_an_instruction_that_is_too_long_leaves_caption_and_legend_alone(tiny_flats: TinyFlats, text: str) -> None:
    from dataclasses import replace

    from streamvln_gym.episodes import Instruction
    from streamvln_gym.visualization import EpisodeFrame

    env = tiny_flats.make(render_mode="rgb_array")
    env.reset()
    observation = env.observe()
    frames = []
    for told in (text, ""):
        drawn = EpisodeFrame(env.simulator, replace(env.episode, instruction=Instruction(told)))
        frames.append(drawn.draw(observation["rgb"], observation["depth"], env.trajectory, {}))
    assert np.array_equal(frames[0][570:], frames[1][570:]) and not np.array_equal(*frames)
    assert np.array_equal(frames[0][:, 1268:], frames[1][:, 1268:])  # nothing runs out at the right


def test_words_are_broken_where_they_are_wider_than_the_line() -> None:
    font = font_of(20)
    lines = _wrapped("go " + "W" * 100 + " on", font, 200)
    assert lines[0] == "go" and "".join(lines[1:]).replace(" ", "") == "W" * 100 + "on" and len(lines) > 5
    assert all(font.getlength(line) <= 200 for line in lines)
    assert _wrapped("WW", font, 1) == ["W", "W"], "no line is without a letter"
    assert all(line[0] == "e" for line in _wrapped("e\u0301" * 100, font, 200)), "an accent stays with its letter"


def test_what_is_cut_off_ends_with_an_ellipsis() -> None:
    font = font_of(20)
    assert _cut(["go on", "and on"], 2, font, 100) == ["go on", "and on"]
    assert _cut(["go on", "and on", "and on"], 2, font, 100) == ["go on", "and on…"]
    full = "W" * 10
    width = int(font.getlength(full))
    (last,) = _cut([full, full], 1, font, width)
    assert last.endswith("W…") and font.getlength(last) <= width


def test_map_of_a_simulator_without_polygons_shows_the_paths(env) -> None:
    env.reset()

    class Bare:
        """Has neither polygons nor a scene graph."""

    drawn = TopDownMap(Bare(), (200, 100), env.episode.reference_path).draw(  # type: ignore[arg-type]
        [env.trajectory[0].position], env.trajectory[0], env.episode.reference_path
    )
    assert drawn.size == (200, 100) and len(drawn.getcolors(20000)) > 2


def test_depth_colours_grow_darker_with_distance() -> None:
    colours = depth_colours(np.linspace(0.0, 10.0, 50, dtype=np.float32)[None], 10.0)
    assert colours.shape == (1, 50, 3) and colours.dtype == np.uint8
    brightness = colours[0].astype(int).sum(axis=1)
    assert (np.diff(brightness) <= 0).all() and brightness[0] > brightness[-1]


def test_depth_without_a_limit_is_scaled_by_what_is_seen() -> None:
    depth = np.array([[0.0, 1.0, 4.0, np.inf]], dtype=np.float32)
    assert np.array_equal(depth_colours(depth, np.inf), depth_colours(np.minimum(depth, 4.0), 4.0))
    nothing = np.full((1, 4), np.inf, dtype=np.float32)
    assert np.array_equal(depth_colours(nothing, np.inf), depth_colours(np.ones((1, 4), np.float32), 1.0))
