"""Voxel pruning of the slow memory (StreamVLN, Algorithm 1): of what frames show twice, only the latest token stays.

Every token's patch is back-projected into the episode frame; tokens whose points share a voxel within one window of
steps are copies of each other. Everything here is numpy and knows nothing of tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from streamvln_gym.models.configuration_streamvln import StreamVLNConfig

NO_VOXEL = -1
_MOST_METRES = 100.0
_NEARLY = 1e-3


@dataclass(frozen=True)
class VoxelPruning:
    """How much is pruned.

    Attributes:
        voxel_size: edge of a voxel, metres.
        window_steps: K, environment steps within which a voxel is shown only once.
        threshold: theta, the share of its tokens below which a frame is dropped altogether.
        max_depth: metres from which on a depth reading is no point (the sensor's clipping distance).
    """

    voxel_size: float = 0.25
    window_steps: int = 32
    threshold: float = 0.05
    max_depth: float = 10.0

    def __post_init__(self) -> None:
        for name in ("voxel_size", "max_depth"):
            value = getattr(self, name)
            if not value > 0.0:
                raise ValueError(f"VoxelPruning.{name} must be a positive number of metres, got {value!r}")
        if self.window_steps < 1:
            raise ValueError(f"VoxelPruning.window_steps must be at least 1, got {self.window_steps!r}")
        if not 0.0 <= self.threshold <= 1.0:
            raise ValueError(f"VoxelPruning.threshold must lie in [0, 1], got {self.threshold!r}")

    def keep(self, points: NDArray[np.float32], steps: ArrayLike) -> NDArray[np.bool_]:
        """Which tokens stay: `keep_mask` of the points' voxels.

        Args:
            points: (frames, tokens, 3) metres as `patch_points` makes them, NaN where there is no point.
            steps: (frames,) environment steps.

        Returns:
            (frames, tokens) bool.
        """
        return keep_mask(voxel_ids(points, self.voxel_size), steps, self.window_steps, self.threshold)


def token_centres(config: StreamVLNConfig) -> NDArray[np.float64]:
    """Centres of the pooled tokens along either side of the picture, as shares of its width or height.

    The tower's grid leaves out the pixels beyond its last whole patch, and pooling sets tokens at the middle of the
    patches that they stand for: evenly (bilinear), or one per block of `pooling_stride` (average and max).

    Returns:
        (tokens_per_side,) float64, ascending, in (0, 1).
    """
    tokens, patches = config.tokens_per_side, config.patches_per_side
    if config.pooling_mode == "bilinear":
        centres = (np.arange(tokens) + 0.5) * patches / tokens
    else:
        first = np.arange(tokens) * config.pooling_stride
        centres = (first + np.minimum(first + config.pooling_stride, patches)) / 2.0
    return centres * int(config.vision_config.patch_size) / config.image_size


def patch_points(
    depth: NDArray, intrinsics: ArrayLike, camera_pose: ArrayLike, centres: NDArray[np.float64], max_depth: float = 10.0
) -> NDArray[np.float32]:
    """Back-projects every token's patch into the episode frame.

    A patch's depth is that of the one pixel that holds its centre: no average, which would invent points between an
    edge and what lies behind it.

    Args:
        depth: (height, width) or (height, width, 1), metres along the viewing axis.
        intrinsics: (3, 3) for integer pixel indices of the depth picture.
        camera_pose: (4, 4), camera (x right, y down, z forward) to episode frame.
        centres: (side,) shares of width and height, see `token_centres`.
        max_depth: metres.

    Returns:
        (side * side, 3) float32 metres, row-major; NaN where depth is 0, negative, NaN or at least `max_depth`.

    Raises:
        ValueError: an array has another shape or cannot be what it should: a focal length is not positive, the
            principal point lies outside of the picture, the pose is no rotation and translation, or all patches lie
            more than a hundred metres off.
    """
    picture = np.asarray(depth)
    picture = picture[..., 0] if picture.ndim == 3 and picture.shape[2] == 1 else picture
    if picture.ndim != 2 or 0 in picture.shape:
        raise ValueError(f"depth must have shape (height, width) or (height, width, 1), got {np.shape(depth)}")
    matrix = _matrix("intrinsics", intrinsics, 3)
    if not (matrix[0, 0] > 0.0 and matrix[1, 1] > 0.0):
        raise ValueError(f"the focal lengths of intrinsics must be positive, got {matrix[0, 0]} and {matrix[1, 1]}")
    pose = _rigid(camera_pose)
    height, width = picture.shape
    if not (0.0 <= matrix[0, 2] <= width and 0.0 <= matrix[1, 2] <= height):
        raise ValueError(
            f"intrinsics are of another picture: their centre ({matrix[0, 2]:g}, {matrix[1, 2]:g}) lies outside of the "
            f"depth picture, {width} x {height} pixels. Scale them with the picture."
        )
    v = np.floor(centres * height).astype(np.int64)[:, None]
    u = np.floor(centres * width).astype(np.int64)[None, :]
    z = picture[v, u].astype(np.float64)
    read = z[np.isfinite(z) & (z > 0.0)]
    if read.size and read.min() > _MOST_METRES:
        raise ValueError(f"the nearest of these depths is {read.min():g} m: is it in millimetres? Give metres")
    valid = (z > 0.0) & (z < max_depth)  # false for NaN
    z = np.where(valid, z, np.nan)
    y = (v - matrix[1, 2]) / matrix[1, 1] * z
    x = (u - matrix[0, 2] - matrix[0, 1] * (v - matrix[1, 2]) / matrix[1, 1]) / matrix[0, 0] * z
    points = np.stack([x, y, z], axis=-1).reshape(-1, 3)
    return (points @ pose[:3, :3].T + pose[:3, 3]).astype(np.float32)


def voxel_ids(points: NDArray, voxel_size: float) -> NDArray[np.int64]:
    """Numbers the voxels that hold points.

    Args:
        points: (..., 3) metres, NaN where there is none.
        voxel_size: metres.

    Returns:
        (...) int64: equal for points of one voxel, -1 where there is no point.
    """
    flat = np.asarray(points, dtype=np.float64).reshape(-1, 3)
    valid = np.isfinite(flat).all(axis=1)
    ids = np.full(len(flat), NO_VOXEL, dtype=np.int64)
    if valid.any():
        cells = np.floor(flat[valid] / voxel_size).astype(np.int64)
        cells -= cells.min(axis=0)
        spans = cells.max(axis=0) + 1
        numbers = (cells[:, 0] * spans[1] + cells[:, 1]) * spans[2] + cells[:, 2]
        ids[valid] = np.unique(numbers, return_inverse=True)[1]
    return ids.reshape(np.shape(points)[:-1])


def keep_mask(voxels: NDArray[np.int64], steps: ArrayLike, window_steps: int, threshold: float) -> NDArray[np.bool_]:
    """Algorithm 1: which tokens stay.

    With p = step // window_steps, each (p, voxel) keeps its latest token: that of the largest step, within a frame the
    last in row-major order, and with equal steps that of the last frame. Tokens without a voxel stay. Then every frame
    that keeps less than `threshold` of its tokens loses them all.

    Args:
        voxels: (frames, tokens) voxel of each token, negative for none.
        steps: (frames,) environment steps, not negative.
        window_steps: K.
        threshold: theta.

    Returns:
        (frames, tokens) bool.

    Raises:
        ValueError: the shapes do not fit.
    """
    times = np.asarray(steps, dtype=np.int64)
    if voxels.ndim != 2 or times.shape != voxels.shape[:1]:
        raise ValueError(
            f"voxels must be (frames, tokens) with one step per frame, got shapes {voxels.shape} and {times.shape}"
        )
    frames, tokens = voxels.shape
    keep = voxels < 0
    # From the latest token to the earliest, so that the first of each (p, voxel) is the one to keep.
    order = np.argsort(times, kind="stable")[::-1]
    ids = voxels[order, ::-1].reshape(-1)
    placed = np.flatnonzero(ids >= 0)
    if len(placed):
        periods = np.repeat(times[order] // window_steps, tokens)[placed]
        keys = periods * (ids.max() + 1) + ids[placed]
        latest = placed[np.unique(keys, return_index=True)[1]]
        keep[order[latest // tokens], tokens - 1 - latest % tokens] = True
    keep[keep.sum(axis=1) < threshold * tokens] = False
    return keep


def _rigid(camera_pose: ArrayLike) -> NDArray[np.float64]:
    """A pose (4, 4) that is a rotation (or a reflection) and a translation."""
    pose = _matrix("camera_pose", camera_pose, 4)
    turn = pose[:3, :3]
    if np.abs(turn @ turn.T - np.eye(3)).max() > _NEARLY or np.abs(pose[3] - (0.0, 0.0, 0.0, 1.0)).max() > _NEARLY:
        raise ValueError(f"camera_pose must be a rotation and a translation, got {pose.tolist()}")
    return pose


def _matrix(name: str, value: ArrayLike, size: int) -> NDArray[np.float64]:
    matrix = np.asarray(value, dtype=np.float64)
    if matrix.shape != (size, size) or not np.isfinite(matrix).all():
        got = f"shape {matrix.shape}" if matrix.shape != (size, size) else "NaN or infinity in it"
        raise ValueError(f"{name} must be a finite ({size}, {size}) matrix, got {got}")
    return matrix
