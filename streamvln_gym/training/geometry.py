"""Depth and camera poses of trajectory folders, for slow memories that know where their patches lie.

Two additions to the published format, which its own readers do not look at:

    <folder>/<video>/depth/000.png   16-bit grey, millimetres along the viewing axis; 0 is no reading
    <folder>/<video>/camera.json     {"intrinsics": (3, 3), "poses": one (4, 4) camera-to-episode-frame matrix per step}
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from streamvln_gym.errors import DatasetError
from streamvln_gym.models.configuration_streamvln import StreamVLNConfig
from streamvln_gym.models.voxel_pruning import patch_points, token_centres
from streamvln_gym.training.trajectories import Trajectory

MILLIMETRES = 1000.0


def history_points(trajectory: Trajectory, steps: Sequence[int], config: StreamVLNConfig) -> NDArray[np.float32]:
    """Where the pooled patches of past frames lie.

    Args:
        trajectory: must have been recorded with depth and poses.
        steps: the frames.
        config: of the network; gives the grid of patches and the depth from which on a reading is no point.

    Returns:
        (frames, tokens_per_frame, 3) float32, metres in the episode frame; NaN where depth is invalid.

    Raises:
        DatasetError: depth pictures or poses are missing or malformed.
    """
    intrinsics, poses = _read_cameras(trajectory)
    centres, max_depth = token_centres(config), config.voxel_pruning["max_depth"]
    return np.stack(
        [patch_points(_read_depth(trajectory, step), intrinsics, poses[step], centres, max_depth) for step in steps]
    )


def _read_depth(trajectory: Trajectory, step: int) -> NDArray[np.float32]:
    """(height, width) float32 metres."""
    path = trajectory.folder / "depth" / f"{step:03d}.png"
    try:
        with Image.open(path) as image:
            values = np.array(image)
    except FileNotFoundError as error:
        raise DatasetError(f"there is no {path} (depth of step {step}, {trajectory.source}): {_remedy()}") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise DatasetError(f"{path} (depth of step {step}, {trajectory.source}): {error}; {_remedy()}") from error
    if values.dtype.kind not in "ui" or values.dtype.itemsize < 2 or values.ndim != 2:
        raise DatasetError(
            f"{path} ({trajectory.source}) must be a 16-bit grey picture in millimetres, got {values.dtype} "
            f"{values.shape}"
        )
    return (values / MILLIMETRES).astype(np.float32)


def _read_cameras(trajectory: Trajectory) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Intrinsics (3, 3) and poses (steps, 4, 4)."""
    path: Path = trajectory.folder / "camera.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        intrinsics = np.asarray(content["intrinsics"], dtype=np.float64)
        poses = np.asarray(content["poses"], dtype=np.float64)
    except FileNotFoundError as error:
        raise DatasetError(f"there is no {path} (camera poses, {trajectory.source}): {_remedy()}") from error
    except OSError as error:
        raise DatasetError(f"{path} ({trajectory.source}): {error.strerror}; {_remedy()}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{path} ({trajectory.source}) is malformed: {error!r}; {_remedy()}") from error
    shapes = (intrinsics.shape, poses.shape)
    expected = ((3, 3), (len(trajectory), 4, 4))
    if shapes != expected:
        raise DatasetError(
            f"{path} ({trajectory.source}): intrinsics and poses have shapes {shapes}, but must have {expected}"
        )
    return intrinsics, poses


def _remedy() -> str:
    return "record the trajectory with depth and poses (--depth True), or train with memory_strategy='pooled'"
