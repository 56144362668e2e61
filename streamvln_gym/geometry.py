"""Angles, rotations and frames (habitat's conventions).

World frame: metres, right-handed, Y up; at yaw 0 the agent faces -Z and +X is to its right; a positive yaw turns
left (counter-clockwise seen from above). Quaternions are (x, y, z, w), as in VLN-CE's episode files.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray


def wrap_angle(angle: float) -> float:
    """Wraps an angle in radians to [-pi, pi)."""
    return (angle + math.pi) % (2.0 * math.pi) - math.pi


def yaw_to_quaternion(yaw: float) -> NDArray[np.float64]:
    """Quaternion (x, y, z, w), shape (4,), of a rotation by `yaw` radians around +Y."""
    return np.array([0.0, math.sin(yaw / 2.0), 0.0, math.cos(yaw / 2.0)])


def quaternion_to_yaw(rotation: ArrayLike) -> float:
    """Yaw in radians of a quaternion (x, y, z, w), found from where it turns the forward axis -Z."""
    x, y, z, w = np.asarray(rotation, dtype=np.float64)
    forward_x = -2.0 * (x * z + w * y)
    forward_z = -(1.0 - 2.0 * (x * x + y * y))
    return math.atan2(-forward_x, -forward_z)


def forward_vector(yaw: float) -> NDArray[np.float64]:
    """Unit vector, shape (3,), that an agent with this yaw (radians) faces."""
    return np.array([-math.sin(yaw), 0.0, -math.cos(yaw)])


def yaw_matrix(yaw: float) -> NDArray[np.float64]:
    """Rotation matrix (3, 3) around +Y: agent frame to world frame."""
    c, s = math.cos(yaw), math.sin(yaw)
    return np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])


def path_length(points: ArrayLike) -> float:
    """Length in metres of the polyline `points`, shape (N, 3)."""
    points = np.asarray(points, dtype=np.float64)
    return float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum()) if len(points) > 1 else 0.0
