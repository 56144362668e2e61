"""How a navigation mesh is built: habitat's NavMeshSettings."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np

MAX_CORNERS = 6  # Detour's limit
MAX_VOXELS_UP = 8191  # Recast's span heights have 13 bits
_MAX_EXPONENT = 1e9


@dataclass(frozen=True)
class NavMeshSettings:
    """Habitat's settings with habitat's defaults (the order is that of its `.navmesh` files).

    Attributes:
        cell_size: side of a voxel in the horizontal plane, metres.
        cell_height: height of a voxel, metres.
        agent_height: free height that the agent needs, metres; rounded up to voxels.
        agent_radius: distance that the mesh keeps from walls, metres; rounded up to voxels.
        agent_max_climb: height of a step that the agent can climb, metres; rounded down to voxels.
        agent_max_slope: steepest floor, degrees.
        region_min_size: parts with fewer than this squared voxels are dropped.
        region_merge_size: regions with fewer than this squared voxels are merged with a neighbour.
        edge_max_len: longest edge along walls, metres; 0 means any.
        edge_max_error: how far a simplified wall may leave the voxels, voxels.
        verts_per_poly: most corners of a polygon, 3 to 6.
        detail_sample_dist: distance of height samples, voxels; below 0.9 there are none.
        detail_sample_max_error: how far the detail mesh may leave the heights, voxel heights.
        filter_low_hanging_obstacles: the agent steps over low things such as kerbs.
        filter_ledge_spans: ledges and steep places are not walkable.
        filter_walkable_low_height_spans: places without headroom are not walkable.
        include_static_objects: kept as a file says; the embedded simulator's scenes have no objects.

    Raises:
        ValueError: a number is out of range.
    """

    cell_size: float = 0.05
    cell_height: float = 0.2
    agent_height: float = 1.5
    agent_radius: float = 0.1
    agent_max_climb: float = 0.2
    agent_max_slope: float = 45.0
    region_min_size: float = 20.0
    region_merge_size: float = 20.0
    edge_max_len: float = 12.0
    edge_max_error: float = 1.3
    verts_per_poly: float = 6.0
    detail_sample_dist: float = 6.0
    detail_sample_max_error: float = 1.0
    filter_low_hanging_obstacles: bool = True
    filter_ledge_spans: bool = True
    filter_walkable_low_height_spans: bool = True
    include_static_objects: bool = False

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not isinstance(value, bool) and not (math.isfinite(value) and 0.0 <= value < _MAX_EXPONENT):
                raise ValueError(f"NavMeshSettings.{item.name} must be a finite number >= 0, got {value!r}")
        for name in ("cell_size", "cell_height", "agent_height"):
            if getattr(self, name) <= 0.0:
                raise ValueError(f"NavMeshSettings.{name} must be positive, got {getattr(self, name)!r}")
        if not 3 <= int(self.verts_per_poly) <= MAX_CORNERS:
            raise ValueError(f"NavMeshSettings.verts_per_poly must be 3 to {MAX_CORNERS}, got {self.verts_per_poly!r}")
        if self.agent_max_slope > 90.0:
            raise ValueError(
                f"NavMeshSettings.agent_max_slope must be at most 90 degrees, got {self.agent_max_slope!r}"
            )
        if self.radius_voxels > 127:
            raise ValueError(
                f"NavMeshSettings.agent_radius is {self.radius_voxels} voxels, Recast allows 127; raise cell_size"
            )

    # Habitat computes in float32, and the rounding of 0.2 / 0.2 or 0.1 / 0.05 depends on it.
    @property
    def height_voxels(self) -> int:
        """Headroom in voxels."""
        return math.ceil(np.float32(self.agent_height) / np.float32(self.cell_height))

    @property
    def climb_voxels(self) -> int:
        """Highest step in voxels."""
        return math.floor(np.float32(self.agent_max_climb) / np.float32(self.cell_height))

    @property
    def radius_voxels(self) -> int:
        """Distance from walls in voxels."""
        return math.ceil(np.float32(self.agent_radius) / np.float32(self.cell_size))

    @property
    def edge_voxels(self) -> int:
        """Longest wall edge in voxels."""
        return int(np.float32(self.edge_max_len) / np.float32(self.cell_size))

    @property
    def sample_distance(self) -> np.float32:
        """Distance of height samples in metres, 0 for none."""
        if self.detail_sample_dist < 0.9:
            return np.float32(0.0)
        return np.float32(np.float32(self.cell_size) * np.float32(self.detail_sample_dist))

    @property
    def sample_error(self) -> np.float32:
        """Accepted error of heights in metres."""
        return np.float32(np.float32(self.cell_height) * np.float32(self.detail_sample_max_error))
