"""What comes into sight on a demonstration."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamvln_gym.expert import Demonstration
from streamvln_gym.geometry import yaw_matrix
from streamvln_gym.simulators.base import CameraConfig
from streamvln_gym.simulators.embedded.renderer import Renderer
from streamvln_gym.simulators.embedded.scene import Scene

_CAMERA = CameraConfig(width=160, height=120)
_CLEAR_PIXELS = 16  # of 19,200: fewer is a sliver that nobody recognises
_SLACK = 0.01  # metres by which boxes are widened, far above any rounding
_FAR = 1e6  # metres


@dataclass(frozen=True)
class ObjectBoxes:
    """The boxes around what is drawn of each object.

    Attributes:
        centre: float64 (objects, 3), metres.
        half: float64 (objects, 3), half the boxes' sizes; negative, so that they hold nothing, if nothing is drawn.
    """

    centre: NDArray[np.float64]
    half: NDArray[np.float64]

    @classmethod
    def of(cls, scene: Scene, objects: int) -> ObjectBoxes:
        """The boxes of a scene with instance ids 0 to `objects` - 1.

        Raises:
            ValueError: the scene has no instance ids.
        """
        if scene.instances is None:
            raise ValueError("this scene has no instance ids: load it with those beside its GLB")
        low, high = np.full((objects, 3), _FAR), np.full((objects, 3), -_FAR)
        np.minimum.at(low, scene.instances, scene.triangles.min(axis=1))
        np.maximum.at(high, scene.instances, scene.triangles.max(axis=1))
        return cls((low + high) / 2, (high - low) / 2 + _SLACK)

    def in_view(self, demonstration: Demonstration) -> NDArray[np.bool_]:
        """Whether each box reaches into each step's picture, bool (steps, objects).

        Objects out of view are in no pixel; those in view may be hidden.
        """
        turns = np.array([yaw_matrix(yaw) for yaw in demonstration.yaws.tolist()])
        eyes = demonstration.positions + np.array([0.0, _CAMERA.mount_height, 0.0])
        inside = np.ones((len(turns), len(self.centre)), bool)
        for normal in _view_planes():
            planes = turns @ normal  # (steps, 3), in the world
            reach = planes @ self.centre.T + np.abs(planes) @ self.half.T
            inside &= reach >= (planes * eyes).sum(axis=1, keepdims=True)
        return inside


def _view_planes() -> NDArray[np.float64]:
    """Normals (5, 3), pointing inwards, of the planes around the camera's view: behind, left, right, bottom, top."""
    fx, fy = _CAMERA.focal_lengths
    x, y = 2 * fx / _CAMERA.width, 2 * fy / _CAMERA.height
    return np.array([[0, 0, -1], [x, 0, -1], [-x, 0, -1], [0, y, -1], [0, -y, -1]])


class Sight:
    """What every step of a demonstration shows; a step is drawn when an answer depends on it, and once.

    Args:
        renderer: of the flat.
        boxes: of the flat's objects.
        demonstration: where the agent stands and looks.
    """

    def __init__(self, renderer: Renderer, boxes: ObjectBoxes, demonstration: Demonstration) -> None:
        self._renderer = renderer
        self._boxes = boxes
        self._demonstration = demonstration
        self._in_view = boxes.in_view(demonstration)
        self._pixels = np.zeros(self._in_view.shape, np.int64)
        self._drawn = np.zeros(len(demonstration.positions), bool)

    def pixels(self, step: int) -> NDArray[np.int64]:
        """How many of the picture's 19,200 pixels show each object, int64 (objects,), at a step."""
        if not self._drawn[step]:
            place, yaw = self._demonstration.positions[step], float(self._demonstration.yaws[step])
            frame = self._renderer.render(place, yaw, _CAMERA, ("instance",))["instance"]
            self._pixels[step] = np.bincount(frame.ravel() + 1, minlength=len(self._boxes.centre) + 1)[1:]
            self._drawn[step] = True
        return self._pixels[step]

    def shows(self, step: int, objects: NDArray[np.bool_], pixels: int) -> bool:
        """Whether the picture at a step has at least so many pixels (one or more) of the marked objects together."""
        return bool((self._in_view[step] & objects).any()) and int(self.pixels(step)[objects].sum()) >= pixels

    def shows_clearly(self, item: int, last_step: int) -> bool:
        """Whether at least one picture up to `last_step` shows an object clearly."""
        steps = slice(last_step + 1)
        if (self._pixels[steps, item] >= _CLEAR_PIXELS).any():
            return True
        undrawn = np.flatnonzero(self._in_view[steps, item] & ~self._drawn[steps])
        gaps = np.linalg.norm(self._demonstration.positions[undrawn] - self._boxes.centre[item], axis=1)
        nearest_first = undrawn[np.argsort(gaps)]
        return any(self.pixels(step)[item] >= _CLEAR_PIXELS for step in nearest_first)

    def objects(self, last_step: int | None = None) -> Container[int]:
        """Ids of the objects that at least one picture shows clearly, up to `last_step` (None: to the end)."""
        return _SeenObjects(self, len(self._drawn) - 1 if last_step is None else last_step)


@dataclass(frozen=True)
class _SeenObjects(Container[int]):
    """The objects seen clearly up to a step, found out one by one."""

    sight: Sight
    last_step: int

    def __contains__(self, item: object) -> bool:
        return isinstance(item, int) and self.sight.shows_clearly(item, self.last_step)
