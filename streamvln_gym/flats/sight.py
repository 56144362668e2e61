"""Which objects come into sight on a demonstration."""

from __future__ import annotations

import numpy as np

from streamvln_gym.expert import Demonstration
from streamvln_gym.simulators.base import CameraConfig
from streamvln_gym.simulators.embedded.renderer import Renderer

_CAMERA = CameraConfig(width=160, height=120)
_PIXELS = 16  # of 19,200: fewer is a sliver that nobody recognises


def objects_in_sight(renderer: Renderer, demonstration: Demonstration, last_step: int | None = None) -> frozenset[int]:
    """Renders a demonstration.

    Args:
        renderer: of the flat.
        demonstration: where the agent stands and looks.
        last_step: what comes into sight only after it does not count; None: all steps count.

    Returns:
        The ids of the objects that at least one picture shows clearly.
    """
    seen: set[int] = set()
    end = None if last_step is None else last_step + 1
    for place, yaw in zip(demonstration.positions[:end], demonstration.yaws[:end], strict=True):
        frame = renderer.render(place, float(yaw), _CAMERA, ("instance",))["instance"]
        seen.update(np.flatnonzero(np.bincount(frame[frame >= 0]) >= _PIXELS).tolist())
    return frozenset(seen)
