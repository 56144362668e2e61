"""Shows a run in Rerun's viewer (https://rerun.io), live or recorded: the episode in 3D, and the agent at work."""

from __future__ import annotations

import importlib.util
import io
import math
import os
import shutil
import socket
import sys
import sysconfig
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from streamvln_gym.errors import StreamVLNGymError
from streamvln_gym.geometry import yaw_matrix
from streamvln_gym.metrics import METRICS

if TYPE_CHECKING:
    from streamvln_gym.agents.view import AgentView
    from streamvln_gym.simulators.base import AgentState, CameraConfig

APPLICATION = "streamvln-gym"
TIMELINE = "frame"
PIP_LINE = "pip install 'streamvln-gym[viewer]'"

_CAMERA_AXES = np.array([1.0, -1.0, -1.0])  # signs of the columns: the camera's x right, y down, z forward
_JPEG_QUALITY = 90
_PORT = 9876  # the viewer's own
_REFERENCE, _TRAVELLED, _GOAL, _FLOOR = (64, 120, 216), (214, 96, 32), (34, 150, 70), (150, 148, 140)
_MEMORY, _WINDOW = (243, 178, 66), (106, 172, 246)  # as in the panel


class ViewerError(StreamVLNGymError):
    """A run cannot be shown or recorded."""


class RunViewer:
    """Logs episodes to Rerun; a context manager.

    All episodes of a run are one recording, one after the other on the timeline "frame". A file is written as the run
    goes, so that what was logged before an error can be looked at.

    | entity | what |
    | --- | --- |
    | `world/camera`, `world/camera/rgb`, `world/camera/depth` | pose and pinhole, the picture (JPEG), depth (PNG, mm) |
    | `world/reference_path`, `world/path`, `world/goal`, `world/floor` | lines and points, metres, Y up |
    | `episode` | ids and instruction |
    | `metrics/...` | every metric as a time series |
    | `agent/...` | `milliseconds` of every act; of calls `call_milliseconds`, `prefill_length`; `kv_length`, |
    | | `memory_tokens`, `window_position`; the panel of the videos |
    | `agent/memory/0`, ... | the frames of the slow memory |

    Args:
        file: .rrd file to write.
        live: open the viewer and show the run in it.

    Raises:
        ViewerError: rerun-sdk is missing, or there is no screen to show the viewer on.
        ValueError: neither is wanted, or the file has another ending.
    """

    def __init__(self, file: Path | None = None, live: bool = False) -> None:
        if file is None and not live:
            raise ValueError("RunViewer needs a file to write, or live=True")
        if file is not None and file.suffix != ".rrd":
            raise ValueError(f"a recording for Rerun's viewer ends in .rrd, but got {file}: use --rerun NAME.rrd")
        if importlib.util.find_spec("rerun") is None:
            raise ViewerError(f"Rerun's viewer is not installed (package rerun-sdk): {PIP_LINE}")
        if live and not _has_screen():
            raise ViewerError(
                "there is no screen to open Rerun's viewer on: record with --rerun NAME.rrd, and open that file "
                "where there is one (rerun NAME.rrd)"
            )
        self._file, self._live = file, live
        self._frame = 0
        self._recordings: list[Any] = []
        self._viewer: Any = None
        self._memory_shown: tuple[int, ...] = ()

    def __enter__(self) -> RunViewer:
        import rerun as rr

        self._rr = rr
        if self._live:
            self._recordings.append(self._open_viewer())
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            recording = rr.RecordingStream(APPLICATION)
            recording.save(self._file, default_blueprint=_blueprint())
            self._recordings.append(recording)
        self._log("world", rr.ViewCoordinates.RIGHT_HAND_Y_UP, static=True)
        self._log("agent/kv_length", rr.SeriesLines(colors=[_WINDOW], widths=[2.0]), static=True)
        self._log("agent/prefill_length", rr.SeriesPoints(colors=[_MEMORY], marker_sizes=[3.0]), static=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._drop_closed_viewer()
        for recording in self._recordings:
            recording.flush()
            recording.disconnect()

    def begin(self, env: gym.Env) -> None:
        """An episode begins: what stays the same in it; whatever an earlier one showed is cleared.

        Args:
            env: a `VLNEnv` after its `reset`, wrapped or not.
        """
        rr, base = self._rr, env.unwrapped
        episode, camera = base.episode, base.camera  # type: ignore[attr-defined]
        self._set_time()
        if self._frame:
            for root in ("agent", "metrics"):
                self._log(root, rr.Clear(recursive=True))
        self._memory_shown = ()
        heading = f"**{base.dataset.name}/{base.dataset.split}**, episode {episode.episode_id}"  # type: ignore[attr-defined]
        memory = f", needs memory: {episode.needs_memory}" if episode.needs_memory else ""
        text = f"{heading}, scene {episode.scene_id}{memory}\n\n{episode.instruction.text}"
        self._log("episode", rr.TextDocument(text, media_type=rr.MediaType.MARKDOWN))
        self._line("world/reference_path", np.array(episode.reference_path), _REFERENCE)
        goals = np.array([goal.position for goal in episode.goals]).reshape(-1, 3)
        self._log("world/goal", rr.Points3D(goals, colors=[_GOAL], radii=[0.12]))
        polygons = getattr(base.simulator, "floor_polygons", [])  # type: ignore[attr-defined]
        outlines = [np.concatenate([polygon, polygon[:1]]) for polygon in map(np.asarray, polygons)]
        self._log("world/floor", rr.LineStrips3D(outlines, colors=[_FLOOR], radii=[0.004]))
        pinhole = rr.Pinhole(
            image_from_camera=camera.intrinsics,
            resolution=[camera.width, camera.height],
            camera_xyz=rr.ViewCoordinates.RDF,
            image_plane_distance=0.4,
        )
        self._log("world/camera", pinhole, static=True)

    def log(
        self, env: gym.Env, observation: Mapping[str, Any], info: Mapping[str, Any], view: AgentView | None = None
    ) -> None:
        """One step.

        Args:
            env: the environment.
            observation: its present one; pictures that it lacks are left out.
            info: its present one.
            view: of the agent after it looked at `observation`, None for agents that have none.
        """
        rr, base = self._rr, env.unwrapped
        self._set_time()
        trajectory, camera = base.trajectory, base.camera  # type: ignore[attr-defined]
        self._log("world/camera", camera_transform(trajectory[-1], camera))
        self._line("world/path", np.array([state.position for state in trajectory]), _TRAVELLED)
        if "rgb" in observation:
            self._log("world/camera/rgb", rr.Image(observation["rgb"]).compress(jpeg_quality=_JPEG_QUALITY))
        if "depth" in observation:
            blob = _depth_png(observation["depth"], camera.max_depth)
            self._log("world/camera/depth", rr.EncodedDepthImage(blob, media_type="image/png"))
        for name in METRICS:
            if name in info and math.isfinite(info[name]):
                self._log(f"metrics/{name}", rr.Scalars(float(info[name])))
        if view is not None:
            self._log_agent(view)
        self._frame += 1

    def _log_agent(self, view: AgentView) -> None:
        from streamvln_gym.panel import draw_panel

        rr = self._rr
        values: dict[str, float] = {
            "milliseconds": view.milliseconds,
            "kv_length": view.kv_length,
            "memory_tokens": view.memory_tokens,
            "window_position": view.position,
        }
        if view.called:
            values |= {
                "call_milliseconds": view.calls[-1].milliseconds,
                "prefill_length": view.calls[-1].prefill_length,
            }
        for name, value in values.items():
            self._log(f"agent/{name}", rr.Scalars(float(value)))
        self._log("agent/panel", rr.Image(draw_panel(view)).compress(jpeg_quality=_JPEG_QUALITY))
        steps = tuple(frame.step for frame in view.memory)
        if steps != self._memory_shown:
            self._log("agent/memory", rr.Clear(recursive=True))
            for place, frame in enumerate(view.memory):
                if frame.picture is not None:
                    self._log(f"agent/memory/{place}", rr.Image(frame.picture).compress(jpeg_quality=_JPEG_QUALITY))
            self._memory_shown = steps

    def _open_viewer(self) -> Any:
        """A recording that goes to the viewer, which is opened where none is."""
        recording = self._rr.RecordingStream(APPLICATION)
        if shutil.which("rerun") is None:  # a virtual environment that is used without being activated
            os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", ""), sysconfig.get_path("scripts")])
        remedy = "record with --rerun NAME.rrd instead, and open that file later (rerun NAME.rrd)"
        try:
            recording.spawn(port=_PORT, connect=False)
        except RuntimeError as error:
            raise ViewerError(f"Rerun's viewer did not open: {remedy} ({error})") from error
        if not _listens(_PORT):  # whatever is logged would wait for it
            raise ViewerError(f"Rerun's viewer does not answer on port {_PORT}: {remedy}")
        recording.connect_grpc(default_blueprint=_blueprint())
        self._viewer = recording
        return recording

    def _drop_closed_viewer(self) -> None:
        """Goes on without the viewer once its window was closed: whatever is logged then waits for it."""
        if self._viewer is not None and not _listens(_PORT):
            warnings.warn("Rerun's viewer was closed; the run goes on without it", stacklevel=3)
            self._recordings.remove(self._viewer)
            self._viewer = None

    def _line(self, entity: str, points: NDArray[np.float64], colour: tuple[int, int, int]) -> None:
        """A path, a little above the floor."""
        raised = points.reshape(-1, 3) + np.array((0.0, 0.03, 0.0))
        self._log(entity, self._rr.LineStrips3D([raised], colors=[colour], radii=[0.02]))

    def _set_time(self) -> None:
        self._drop_closed_viewer()
        for recording in self._recordings:
            recording.set_time(TIMELINE, sequence=self._frame)

    def _log(self, entity: str, what: Any, static: bool = False) -> None:
        for recording in self._recordings:
            recording.log(entity, what, static=static)


def camera_transform(state: AgentState, camera: CameraConfig) -> Any:
    """The camera's pose as a `rerun.Transform3D`, in the simulator's world (metres, Y up)."""
    import rerun as rr

    position = state.position + np.array((0.0, camera.mount_height, 0.0))
    return rr.Transform3D(translation=position, mat3x3=yaw_matrix(state.yaw) * _CAMERA_AXES)


def _depth_png(depth: NDArray[np.float32], max_depth: float) -> bytes:
    """Depth (H, W[, 1]) in metres as a PNG of 16-bit millimetres; 0 where the sensor saw nothing."""
    flat = np.asarray(depth).reshape(depth.shape[:2])
    millimetres = np.where(flat < max_depth, np.rint(1000.0 * flat), 0.0).clip(0, 65535).astype(np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(millimetres).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _blueprint() -> Any:
    """What the viewer shows where."""
    import rerun.blueprint as rrb

    world = rrb.Spatial3DView(origin="world", name="Flat")
    camera = rrb.Vertical(
        rrb.Spatial2DView(origin="world/camera", contents="world/camera/rgb", name="What the agent sees"),
        rrb.Spatial2DView(origin="world/camera", contents="world/camera/depth", name="Depth"),
    )
    text = rrb.TextDocumentView(origin="episode", name="Instruction")
    plots = rrb.Vertical(
        text,
        rrb.TimeSeriesView(
            contents=["metrics/navigation_error", "metrics/path_length"], name="Distance to the goal, path (m)"
        ),
        rrb.TimeSeriesView(contents=["agent/milliseconds"], name="Milliseconds of an action"),
        rrb.TimeSeriesView(contents=["agent/kv_length", "agent/prefill_length"], name="KV cache, prefill (positions)"),
    )
    panel = rrb.Spatial2DView(origin="agent/panel", name="Memory, window, queue")
    top = rrb.Horizontal(world, camera, plots, column_shares=[4, 3, 3])
    return rrb.Blueprint(
        rrb.Vertical(top, panel, row_shares=[3, 1]),
        rrb.TimePanel(timeline=TIMELINE, state="collapsed"),
        rrb.BlueprintPanel(state="collapsed"),
        rrb.SelectionPanel(state="collapsed"),
    )


def _listens(port: int) -> bool:
    """Whether something on this machine takes connections on a port."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5.0):
            return True
    except OSError:
        return False


def _has_screen() -> bool:
    """Whether a window can be opened; on Linux the session's display says so."""
    return not sys.platform.startswith("linux") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
