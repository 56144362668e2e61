"""The embedded navigation mesh with the methods of habitat-sim's `PathFinder` that navigation tasks use."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from streamvln_gym.simulators.embedded.navmesh import NavigationMesh


class EmbeddedPathFinder:
    """Names and conventions are habitat-sim's; points are (3,) metres, results float32.

    Args:
        mesh: what answers.
        seed: of the random points, or a generator to draw them with; `seed` seeds that one anew.
    """

    is_loaded = True

    def __init__(self, mesh: NavigationMesh, seed: int | np.random.Generator = 0) -> None:
        self._mesh = mesh
        self._rng = np.random.default_rng(seed)

    def seed(self, new_seed: int) -> None:
        """Seeds `get_random_navigable_point`."""
        # In place, because the generator may be shared with the pathfinders of other scenes.
        self._rng.bit_generator.state = np.random.default_rng(new_seed).bit_generator.state

    def is_navigable(self, pt: ArrayLike, max_y_delta: float = 0.5) -> bool:
        """Whether a point lies on the mesh, within `max_y_delta` metres vertically."""
        return self._mesh.is_navigable(pt, max_y_delta)

    def snap_point(self, point: ArrayLike, island_index: int = -1) -> NDArray[np.float32]:
        """The nearest point of the mesh (of one island, if its number is given), NaN if none is near."""
        snapped = self._mesh.snap_point(point, None if island_index < 0 else island_index)
        return np.full(3, np.nan, np.float32) if snapped is None else snapped.astype(np.float32)

    def try_step(self, start: ArrayLike, end: ArrayLike) -> NDArray[np.float32]:
        """Where a movement from `start` towards `end` comes to rest, sliding along walls."""
        return self._mesh.move_along_surface(start, end).astype(np.float32)

    def get_island(self, point: ArrayLike) -> int:
        """The island that a point is on, -1 if it is on none."""
        return self._mesh.island_of(point)

    def island_radius(self, pt: ArrayLike) -> float:
        """Metres from the mean of the corners of the point's island to the farthest one; 0 if it is on none.

        As in habitat-sim a corner counts once for every polygon that has it.
        """
        polygons = self._mesh.polygons[self._mesh.islands == self._mesh.island_of(pt)]
        corners = self._mesh.vertices[polygons[polygons >= 0]].astype(np.float64)
        if len(corners) == 0:
            return 0.0
        return float(np.linalg.norm(corners - corners.mean(axis=0), axis=1).max())

    def get_random_navigable_point(self, max_tries: int = 10, island_index: int = -1) -> NDArray[np.float32]:
        """A point drawn uniformly by area (`max_tries` is habitat-sim's and not needed)."""
        return self._mesh.random_point(self._rng, None if island_index < 0 else island_index).astype(np.float32)

    def distance_to_closest_obstacle(self, pt: ArrayLike, max_search_radius: float = 2.0) -> float:
        """Horizontal metres to the nearest wall, at most `max_search_radius`."""
        return self._mesh.distance_to_obstacle(pt, max_search_radius)

    def get_bounds(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The lowest and the highest corner of the mesh (habitat-sim's are those of the scene)."""
        return self._mesh.vertices.min(axis=0), self._mesh.vertices.max(axis=0)

    def build_navmesh_vertices(self, island_index: int = -1) -> list[NDArray[np.float32]]:
        """The corners of the mesh's triangles."""
        return list(self._mesh.vertices[self._triangles(island_index)].reshape(-1, 3))

    def build_navmesh_vertex_indices(self, island_index: int = -1) -> list[int]:
        """For every triangle its three places in `build_navmesh_vertices`."""
        return list(range(self._triangles(island_index).size))

    def get_topdown_view(self, meters_per_pixel: float, height: float, eps: float = 0.5) -> NDArray[np.bool_]:
        """A map of what can be walked on within `eps` metres of a height, bool (z, x)."""
        low, high = (bound.astype(np.float64) for bound in self.get_bounds())
        size = [max(1, int((high[axis] - low[axis]) / meters_per_pixel)) for axis in (0, 2)]
        picture = Image.new("1", (size[0], size[1]))
        draw: Any = ImageDraw.Draw(picture)
        for corners, count in zip(self._mesh.polygons, self._mesh.vertex_counts, strict=True):
            points = self._mesh.vertices[corners[:count]].astype(np.float64)
            if points[:, 1].min() - eps <= height <= points[:, 1].max() + eps:
                draw.polygon([tuple(p) for p in (points[:, [0, 2]] - low[[0, 2]]) / meters_per_pixel], fill=1)
        return np.asarray(picture, dtype=np.bool_)

    def _triangles(self, island: int) -> NDArray[np.int32]:
        """Fans over the polygons, int32 (T, 3)."""
        fans = [
            (corners[0], corners[k], corners[k + 1])
            for corners, count, number in zip(
                self._mesh.polygons, self._mesh.vertex_counts, self._mesh.islands, strict=True
            )
            if island in (-1, number)
            for k in range(1, count - 1)
        ]
        return np.asarray(fans, dtype=np.int32).reshape(-1, 3)
