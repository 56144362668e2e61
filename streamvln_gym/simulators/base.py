"""What every simulator offers: a scene, an agent in it, a camera on the agent, distances over the navigation mesh."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamvln_gym.arguments import is_finite, is_real, is_whole
from streamvln_gym.geometry import quaternion_to_yaw, wrap_angle, yaw_to_quaternion

FORWARD_METRES = 0.25
TURN_DEGREES = 15.0
COLLISION_SLACK_SQR = 1e-5
"""Square metres, habitat-sim's: an agent collided if squared distance moved + this < squared distance asked."""

_TURN = math.radians(TURN_DEGREES)


class Action(IntEnum):
    """VLN-CE's four actions."""

    STOP = 0
    FORWARD = 1
    LEFT = 2
    RIGHT = 3


@dataclass(frozen=True)
class CameraConfig:
    """A pinhole camera on the agent, looking level.

    Attributes:
        width: pixels.
        height: pixels.
        hfov: horizontal field of view, degrees.
        vfov: vertical field of view, degrees; None means square pixels.
        mount_height: metres above the agent's base (the navigation mesh).
        min_depth: metres; nearer depth is reported as this.
        max_depth: metres; farther depth, and rays that hit nothing, are reported as this.
        supersampling: the picture is rendered this many times wider and higher and then averaged.
    """

    width: int = 640
    height: int = 480
    hfov: float = 79.0
    vfov: float | None = None
    mount_height: float = 1.25
    min_depth: float = 0.0
    max_depth: float = 10.0
    supersampling: int = 1

    def __post_init__(self) -> None:
        for name in ("width", "height", "supersampling"):
            value = getattr(self, name)
            if not is_whole(value, 1):
                raise ValueError(f"CameraConfig.{name} must be a positive integer, got {value!r}")
            object.__setattr__(self, name, int(value))  # numpy's go through, too
        for name in ("hfov", "vfov"):
            value = getattr(self, name)
            if value is not None and not (is_finite(value) and 0.0 < value < 180.0):
                raise ValueError(f"CameraConfig.{name} must lie between 0 and 180 degrees, got {value!r}")
        if not is_finite(self.mount_height):
            raise ValueError(f"CameraConfig.mount_height must be a finite number of metres, got {self.mount_height!r}")
        limits = (self.min_depth, self.max_depth)
        if not all(is_real(limit) for limit in limits) or not 0.0 <= self.min_depth < self.max_depth:
            raise ValueError(
                f"CameraConfig needs 0 <= min_depth < max_depth, got {self.min_depth!r} and {self.max_depth!r}"
            )

    @classmethod
    def of_size(cls, width: int, height: int, supersampling: int = 1) -> CameraConfig:
        """The view of the default camera, in pictures of any size."""
        view = cls()
        vfov = 2.0 * math.degrees(math.atan2(view.height / 2.0, view.focal_lengths[1]))
        square = width * view.height == height * view.width
        return cls(width, height, view.hfov, None if square else vfov, supersampling=supersampling)

    @property
    def focal_lengths(self) -> tuple[float, float]:
        """(fx, fy) in pixels."""
        fx = self.width / 2.0 / math.tan(math.radians(self.hfov) / 2.0)
        if self.vfov is None:
            return fx, fx
        return fx, self.height / 2.0 / math.tan(math.radians(self.vfov) / 2.0)

    @property
    def intrinsics(self) -> NDArray[np.float64]:
        """Camera matrix (3, 3) for integer pixel indices: the principal point is ((W-1)/2, (H-1)/2)."""
        fx, fy = self.focal_lengths
        return np.array([[fx, 0.0, (self.width - 1) / 2.0], [0.0, fy, (self.height - 1) / 2.0], [0.0, 0.0, 1.0]])


@dataclass(frozen=True)
class AgentState:
    """Where the agent stands.

    Attributes:
        position: float64 (3,), metres, on the navigation mesh.
        yaw: radians, counter-clockwise seen from above, 0 faces -Z.
    """

    position: NDArray[np.float64]
    yaw: float

    @property
    def rotation(self) -> NDArray[np.float64]:
        """Quaternion (x, y, z, w), shape (4,)."""
        return yaw_to_quaternion(self.yaw)

    @classmethod
    def from_rotation(cls, position: ArrayLike, rotation: ArrayLike) -> AgentState:
        """The state of an episode file's position and quaternion (x, y, z, w)."""
        return cls(np.asarray(position, dtype=np.float64), quaternion_to_yaw(rotation))


def point_ahead(state: AgentState) -> tuple[float, float, float]:
    """Where FORWARD leads to if nothing is in the way, metres."""
    x, y, z = state.position.tolist()
    return x - FORWARD_METRES * math.sin(state.yaw), y, z - FORWARD_METRES * math.cos(state.yaw)


def turned(state: AgentState, action: int) -> AgentState:
    """The state after LEFT or RIGHT; the same after any other action."""
    if action == Action.LEFT:
        return AgentState(state.position, wrap_angle(state.yaw + _TURN))
    if action == Action.RIGHT:
        return AgentState(state.position, wrap_angle(state.yaw - _TURN))
    return state


class Simulator(Protocol):
    """A scene, an agent in it, and a camera on the agent. `load_scene`, then `set_state`, then the rest."""

    name: str
    camera: CameraConfig

    def load_scene(self, scene: Path) -> None:
        """Loads a scene's GLB and what lies beside it; does nothing if it is loaded already.

        Raises:
            SceneError: the file is missing or cannot be read.
        """

    @property
    def state(self) -> AgentState:
        """The agent's present state."""

    def set_state(self, state: AgentState) -> None:
        """Puts the agent somewhere.

        Raises:
            NavigationError: the position is not on the navigation mesh.
        """

    def step(self, action: int) -> bool:
        """Executes FORWARD, LEFT or RIGHT and returns whether the agent collided (STOP does nothing)."""

    def try_step(self, state: AgentState, action: int) -> tuple[AgentState, bool]:
        """The state that `action` would lead to from `state`, and whether it collides; the agent does not move."""

    def observe(self, sensors: Collection[str]) -> dict[str, NDArray]:
        """Renders what the camera sees.

        Args:
            sensors: any of "rgb" (uint8 (H, W, 3)), "depth" (float32 (H, W, 1), metres), "semantic" (int32
                (H, W, 1), class ids of `semantic_classes`).
        """

    @property
    def semantic_classes(self) -> Mapping[int, str]:
        """Names of the class ids of the "semantic" sensor; empty where the scene has none."""

    def geodesic_distance(self, position: ArrayLike, goals: ArrayLike) -> float:
        """Length in metres of the shortest walkable path from `position` (3,) to the nearest of `goals` ((3,) or
        (N, 3)); inf if none can be reached."""

    def shortest_path(self, start: ArrayLike, end: ArrayLike) -> NDArray[np.float64] | None:
        """Corner points (N, 3) of the shortest walkable path, or None if there is none."""

    def snap_point(self, point: ArrayLike) -> NDArray[np.float64] | None:
        """The nearest point of the navigation mesh, shape (3,), or None if nothing is near."""

    def is_navigable(self, point: ArrayLike) -> bool:
        """Whether `point` (3,) lies on the navigation mesh."""

    def close(self) -> None:
        """Frees the scene."""
