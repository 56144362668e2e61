"""Runs in Rerun's viewer: what a recording holds, and what is said where there can be none."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from streamvln_gym.errors import StreamVLNGymError
from streamvln_gym.panel import PANEL_HEIGHT
from streamvln_gym.rollout import RolloutConfig, rollout
from streamvln_gym.viewer import TIMELINE, RunViewer, ViewerError
from streamvln_gym.visualization import WIDTH
from tests.conftest import TinyFlats
from tests.test_panel import view_at

needs_rerun = pytest.mark.skipif(
    importlib.util.find_spec("rerun") is None, reason="rerun-sdk is not installed (extra 'viewer', Python >= 3.11)"
)


def read(path: Path) -> dict[str, list[dict[str, Any]]]:
    """A recording's rows by entity, in the order of its timeline; columns without their archetype's name."""
    from rerun.chunk import RrdReader

    rows: dict[str, list[dict[str, Any]]] = {}
    for chunk in RrdReader(path).stream():
        batch = chunk.to_record_batch()
        for row in batch.select([name for name in batch.schema.names if name != "log_time"]).to_pylist():
            named = {name.rsplit(":", 1)[-1]: value for name, value in row.items()}
            rows.setdefault(chunk.entity_path, []).append({k: v for k, v in named.items() if v is not None})
    for found in rows.values():
        found.sort(key=lambda row: row.get(TIMELINE, -1))
    return rows


def scalars(rows: dict[str, list[dict[str, Any]]], entity: str) -> list[float]:
    return [row["scalars"][0] for row in rows[entity] if "scalars" in row]


@needs_rerun
def test_a_recording_holds_the_run(tiny_flats: TinyFlats, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "run.rrd"
    settings: dict[str, Any] = {"data": tiny_flats.episodes_path, "split": "tiny", "device": "cpu", "video": None}
    records = rollout(RolloutConfig(episodes=2, max_steps=6, rerun=path, **settings))
    rows = read(path)
    steps = [len(record["actions"]) + 1 for record in records]
    for entity in ("world/camera/rgb", "world/camera/depth", "world/path", "metrics/spl", "agent/panel"):
        frames = [row[TIMELINE] for row in rows[f"/{entity}"]]
        assert frames == list(range(sum(steps))), entity
    texts = [row["text"][0] for row in rows["/episode"]]
    assert [record["instruction"] in text for record, text in zip(records, texts, strict=True)] == [True, True]
    for name in ("navigation_error", "path_length", "success", "steps"):
        values = scalars(rows, f"/metrics/{name}")
        assert values[steps[0] - 1] == pytest.approx(records[0][name]) and values[-1] == pytest.approx(records[1][name])
    assert len(rows["/world/reference_path"]) == len(rows["/world/goal"]) == 2


@needs_rerun
def test_the_agents_view_is_recorded(tiny_flats: TinyFlats, tmp_path: Path) -> None:
    env = tiny_flats.make()
    observation, info = env.reset()
    with RunViewer(tmp_path / "run.rrd") as viewer:
        viewer.begin(env)
        for step in (63, 64, 65, 68):
            viewer.log(env, observation, info, view_at(step))
        viewer.begin(env)  # the next episode
        viewer.log(env, observation, info, view_at(0))
    rows = read(tmp_path / "run.rrd")
    assert scalars(rows, "/agent/kv_length") == [view_at(step).kv_length for step in (63, 64, 65, 68, 0)]
    assert scalars(rows, "/agent/window_position") == [31, 0, 1, 4, 0]
    assert scalars(rows, "/agent/memory_tokens") == [128] * 4 + [0]
    called = [row[TIMELINE] for row in rows["/agent/call_milliseconds"] if "scalars" in row]
    assert called == [1, 3, 4]
    for place in range(8):  # logged where a window shows other frames than the last one
        assert [row[TIMELINE] for row in rows[f"/agent/memory/{place}"]] == [0, 1]
    assert [row[TIMELINE] for row in rows["/agent"]] == [4], "what the last episode showed is cleared"
    sizes = {Image.open(io.BytesIO(bytes(row["blob"][0]))).size for row in rows["/agent/panel"]}
    assert sizes == {(WIDTH, PANEL_HEIGHT)}


@needs_rerun
def test_pictures_pose_and_depth_are_the_environments(tiny_flats: TinyFlats, tmp_path: Path) -> None:
    env = tiny_flats.make()
    observation, info = env.reset()
    seen = []
    with RunViewer(tmp_path / "run.rrd") as viewer:
        viewer.begin(env)
        for action in (1, 2, 1):
            viewer.log(env, observation, info)
            seen.append((observation, env.trajectory[-1]))
            observation, _, _, _, info = env.step(action)
    rows = read(tmp_path / "run.rrd")
    poses = [row for row in rows["/world/camera"] if "translation" in row]
    for (shown, state), pose, depth, rgb in zip(
        seen, poses, rows["/world/camera/depth"], rows["/world/camera/rgb"], strict=True
    ):
        assert pose["translation"][0] == pytest.approx(state.position + (0.0, env.camera.mount_height, 0.0), abs=1e-5)
        matrix = np.array(pose["mat3x3"][0]).reshape(3, 3).T  # column by column
        assert matrix @ (0.0, 0.0, 1.0) == pytest.approx((-np.sin(state.yaw), 0.0, -np.cos(state.yaw)), abs=1e-6)
        assert matrix @ (0.0, 1.0, 0.0) == pytest.approx((0.0, -1.0, 0.0))
        metres = np.asarray(Image.open(io.BytesIO(bytes(depth["blob"][0])))) / 1000.0
        far = shown["depth"][..., 0] >= env.camera.max_depth
        assert metres[far].max(initial=0.0) == 0.0
        assert metres[~far] == pytest.approx(shown["depth"][..., 0][~far], abs=0.00051)
        picture = np.asarray(Image.open(io.BytesIO(bytes(rgb["blob"][0])))).astype(int)
        assert np.abs(picture - shown["rgb"]).mean() < 6.0
    pinhole = next(row for row in rows["/world/camera"] if "image_from_camera" in row)
    intrinsics = np.array(pinhole["image_from_camera"][0]).reshape(3, 3).T
    assert intrinsics == pytest.approx(env.camera.intrinsics, rel=1e-6)
    assert not [entity for entity in rows if entity.startswith("/agent") and any(TIMELINE in r for r in rows[entity])]


@needs_rerun
def test_what_was_logged_before_an_error_can_be_read(tiny_flats: TinyFlats, tmp_path: Path) -> None:
    env = tiny_flats.make()
    observation, info = env.reset()
    with pytest.raises(RuntimeError, match="broke"), RunViewer(tmp_path / "run.rrd") as viewer:
        viewer.begin(env)
        viewer.log(env, observation, info)
        raise RuntimeError("the agent broke")
    assert scalars(read(tmp_path / "run.rrd"), "/metrics/steps") == [0.0]


@needs_rerun
def test_the_run_goes_on_without_a_closed_viewer(
    tiny_flats: TinyFlats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = tiny_flats.make()
    observation, info = env.reset()
    with RunViewer(tmp_path / "run.rrd") as viewer:
        viewer.begin(env)
        closed = object()  # nothing can be logged to it
        viewer._viewer = closed
        viewer._recordings.append(closed)
        monkeypatch.setattr("streamvln_gym.viewer._listens", lambda port: False)
        with pytest.warns(UserWarning, match="viewer was closed"):
            viewer.log(env, observation, info)
        viewer.log(env, observation, info)
    assert scalars(read(tmp_path / "run.rrd"), "/metrics/steps") == [0.0, 0.0]


def test_without_rerun_the_pip_line_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "rerun" else find(name, *rest))
    with pytest.raises(ViewerError, match=r"pip install 'streamvln-gym\[viewer\]'"):
        rollout(RolloutConfig(agent="oracle", video=None, rerun=tmp_path / "run.rrd"))
    assert issubclass(ViewerError, StreamVLNGymError)


@needs_rerun
def test_without_a_screen_recording_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ViewerError, match=r"no screen.*--rerun NAME\.rrd"):
        RunViewer(live=True)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ends in \.rrd, but got .*run\.mp4"):
        RunViewer(tmp_path / "run.mp4")
    with pytest.raises(ValueError, match="needs a file"):
        RunViewer()
