"""What comes into sight on a demonstration."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamvln_gym.expert import Demonstration
from streamvln_gym.simulators.base import CameraConfig
from streamvln_gym.simulators.embedded.renderer import Renderer

_CAMERA = CameraConfig(width=160, height=120)
_CLEAR_PIXELS = 16  # of 19,200: fewer is a sliver that nobody recognises


class Sight:
    """What every step of a demonstration shows; a step is drawn when it is first asked for, and once.

    Args:
        renderer: of the flat.
        demonstration: where the agent stands and looks.
        objects: how many objects the flat has.
    """

    def __init__(self, renderer: Renderer, demonstration: Demonstration, objects: int) -> None:
        self._renderer = renderer
        self._demonstration = demonstration
        self._objects = objects
        self._pixels: dict[int, NDArray[np.int64]] = {}

    def pixels(self, step: int) -> NDArray[np.int64]:
        """How many of the picture's 19,200 pixels show each object, int64 (objects,), at a step."""
        if step not in self._pixels:
            place, yaw = self._demonstration.positions[step], float(self._demonstration.yaws[step])
            frame = self._renderer.render(place, yaw, _CAMERA, ("instance",))["instance"]
            self._pixels[step] = np.bincount(frame[frame >= 0], minlength=self._objects)
        return self._pixels[step]

    def objects(self, last_step: int | None = None) -> frozenset[int]:
        """Ids of the objects that at least one picture shows clearly, up to `last_step` (None: to the end)."""
        steps = len(self._demonstration.positions) if last_step is None else last_step + 1
        clear = np.any([self.pixels(step) >= _CLEAR_PIXELS for step in range(steps)], axis=0)
        return frozenset(np.flatnonzero(clear).tolist())
