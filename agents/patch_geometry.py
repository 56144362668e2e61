"""Where the patches of an observation lie: what voxel pruning wants to know of a frame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamvln_gym.models.voxel_pruning import patch_points

_REMEDIES = {
    "depth": "make the environment with the sensor 'depth'",
    "camera_pose": "make the environment with the sensor 'camera_pose'",
    "intrinsics": "add info['intrinsics'] of env.reset() to the observation, or set "
    "StreamVLNAgentConfig(intrinsics=...) for the depth picture's size",
}
GEOMETRY_KEYS = tuple(_REMEDIES)


class PatchGeometry:
    """Reads `depth`, `camera_pose` and `intrinsics` of an observation.

    Args:
        centres: (side,) see `voxel_pruning.token_centres`.
        max_depth: metres from which on a reading is no point.
        intrinsics: (3, 3) for the depth picture's size, in place of the observation's (a robot's camera).
    """

    def __init__(
        self, centres: NDArray[np.float64], max_depth: float = 10.0, intrinsics: ArrayLike | None = None
    ) -> None:
        self._centres = centres
        self._max_depth = max_depth
        self._intrinsics = intrinsics

    def points(self, obs: Mapping[str, Any]) -> NDArray[np.float32]:
        """The patches' points (tokens_per_frame, 3), metres in the episode frame, NaN where there is none.

        Raises:
            ValueError: the observation lacks something, or it has another shape.
        """
        missing = [key for key in _REMEDIES if key not in obs and (key != "intrinsics" or self._intrinsics is None)]
        if missing:
            raise ValueError(
                f"the memory strategy 'voxel' needs obs[{missing[0]!r}]: {_REMEDIES[missing[0]]}; or use 'pooled'"
                + (f" (also missing: {', '.join(missing[1:])})" if missing[1:] else "")
            )
        intrinsics = obs["intrinsics"] if self._intrinsics is None else self._intrinsics
        depth = np.asarray(obs["depth"])
        try:
            return patch_points(depth, intrinsics, obs["camera_pose"], self._centres, self._max_depth)
        except ValueError as error:
            raise ValueError(f"the memory strategy 'voxel' cannot use the observation: {error}") from error
