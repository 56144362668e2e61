"""The navigation mesh: where the agent can stand, how it slides along walls, and how far it is to a goal.

A mesh of convex polygons with Detour's queries is what habitat navigates on; asked on habitat's own polygons, this
class gives habitat's answers (see tests/data/golden_habitat/navigation). All points are (x, y, z) in metres, Y up.
"""

from __future__ import annotations

import io
import math
import os
import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamvln_gym.errors import NavigationError, SceneError
from streamvln_gym.simulators import heading
from streamvln_gym.simulators.base import COLLISION_SLACK_SQR
from streamvln_gym.simulators.embedded import detour, detour_heading, detour_path
from streamvln_gym.simulators.embedded.navmesh_arrays import (
    check_neighbours,
    check_polygons,
    derive_neighbours,
    kernel_arrays,
    label_islands,
    padded_rows,
    signed_areas,
)
from streamvln_gym.simulators.embedded.navmesh_surface import SurfaceDetail, check_detail
from streamvln_gym.whole_writes import whole_file

FORMAT_VERSION = 1
DETAIL_VERSION = 2  # of a mesh with detail, or with another climb than habitat's default
_FILE_KEYS = ("version", "vertices", "polygons", "neighbours")
_BUILT_OF = "built_of"
_MAX_Y_DELTA = 0.5  # metres above or below the mesh at which a point still lies on it, as in habitat
_DETAIL_KEYS = ("point_first", "points", "triangle_first", "triangles")
# What numpy and zipfile raise for a damaged file; RuntimeError and its kind stand for flags it cannot have.
_UNREADABLE = (
    ValueError, TypeError, OSError, EOFError, KeyError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error
)  # fmt: skip
_FILE_DATE = (1980, 1, 1, 0, 0, 0)


class NavigationMesh:
    """Convex polygons of at most six corners with neighbours; queries as Detour answers them.

    A mesh object holds the buffers of its searches: use it from one thread at a time, and load the file again for
    another thread.

    Attributes:
        vertices: float32 (V, 3), metres.
        polygons: int32 (P, 6), vertex numbers, padded with -1; corners run clockwise in the (x, z) plane with x to
            the right and z up, as habitat's do.
        vertex_counts: int32 (P,).
        neighbours: int32 (P, 6), the polygon across the edge from corner j to corner j + 1, or -1 for a wall.
        islands: int32 (P,), number of the connected part that the polygon belongs to.
        island_areas: float64 (I,), square metres in the horizontal plane.
        detail: triangles that give the heights over the polygons, or None: then the corners alone give them.
        climb: the agent's maximal climb, metres.
    """

    def __init__(
        self,
        vertices: NDArray,
        polygons: NDArray,
        neighbours: NDArray,
        detail: SurfaceDetail | None = None,
        climb: float = detour.CLIMB,
    ) -> None:
        """Takes arrays that are known to be right; `from_polygons` is the checked way to build a mesh."""
        self.vertices: NDArray[np.float32] = np.array(vertices, dtype=np.float32, order="C")
        self.polygons: NDArray[np.int32] = np.array(polygons, dtype=np.int32, order="C")
        self.neighbours: NDArray[np.int32] = np.array(neighbours, dtype=np.int32, order="C")
        self.vertex_counts: NDArray[np.int32] = (self.polygons >= 0).sum(axis=1).astype(np.int32)
        self.islands: NDArray[np.int32] = label_islands(self.neighbours)
        corners = self.vertices.astype(np.float64)[self.polygons]
        self._areas = -signed_areas(corners, self.vertex_counts)
        self.island_areas: NDArray[np.float64] = np.bincount(self.islands, weights=self._areas).astype(np.float64)
        self.detail = detail
        self.climb = float(climb)
        self._arrays = kernel_arrays(corners, self.vertex_counts, self.neighbours, self.islands, detail, self.climb)
        self._scratch = detour.Scratch.for_polygons(len(self.polygons))
        for array in (self.vertices, self.polygons, self.neighbours, self.vertex_counts, self.islands):
            array.flags.writeable = False

    @classmethod
    def from_polygons(
        cls,
        vertices: ArrayLike,
        polygons: ArrayLike,
        neighbours: ArrayLike | None = None,
        detail: SurfaceDetail | None = None,
        climb: float = detour.CLIMB,
    ) -> NavigationMesh:
        """Builds a mesh and checks it.

        Args:
            vertices: (V, 3), metres.
            polygons: (P, n <= 6) vertex numbers, padded with -1.
            neighbours: (P, n) polygon across each edge, -1 for a wall; None derives them from shared edges.
            detail: triangles that give the heights over the polygons, for ramps and stairs.
            climb: the agent's maximal climb, metres: a point so far over or under a polygon counts as on it.

        Raises:
            ValueError: the arrays have wrong shapes, point outside one another, or a polygon is not convex, has no
                area or runs the wrong way round.
        """
        vertices = np.asarray(vertices, dtype=np.float32)
        if vertices.ndim != 2 or vertices.shape[1] != 3:
            raise ValueError(f"vertices must have shape (V, 3), got {vertices.shape}")
        if not np.isfinite(vertices).all():
            raise ValueError(f"vertex {int(np.argmin(np.isfinite(vertices).all(axis=1)))} is not finite")
        polygons = padded_rows("polygons", polygons)
        if len(polygons) == 0:
            raise ValueError("a navigation mesh needs at least one polygon, got none")
        check_polygons(vertices, polygons)
        if detail is not None:
            check_detail(detail, (polygons >= 0).sum(axis=1).astype(np.int32))
        if not 0.0 <= climb < math.inf:
            raise ValueError(f"climb must be a finite number of metres >= 0, got {climb!r}")
        if neighbours is None:
            return cls(vertices, polygons, derive_neighbours(polygons), detail, climb)
        neighbours = padded_rows("neighbours", neighbours)
        check_neighbours(neighbours, polygons)
        return cls(vertices, polygons, neighbours, detail, climb)

    def save(self, path: str | os.PathLike[str], built_of: str | None = None) -> None:
        """Writes the mesh as .npz: the same mesh gives the same bytes, and the file appears whole or not at all.

        Args:
            path: the file.
            built_of: names what it was built of, for `built_of`.
        """
        path = Path(path)
        plain = self.detail is None and self.climb == detour.CLIMB
        arrays: dict[str, NDArray] = {
            "version": np.array(FORMAT_VERSION if plain else DETAIL_VERSION, dtype=np.int32),
            "vertices": self.vertices,
            "polygons": self.polygons,
            "neighbours": self.neighbours,
        }
        if not plain:
            arrays["climb"] = np.array(self.climb)
        if self.detail is not None:
            arrays.update(zip(_DETAIL_KEYS, self.detail, strict=True))
        if built_of is not None:
            arrays[_BUILT_OF] = np.array(built_of)
        with (
            whole_file(path, shared=True) as partial,
            zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive,
        ):
            for name, array in arrays.items():
                buffer = io.BytesIO()
                np.lib.format.write_array(buffer, array, version=(1, 0), allow_pickle=False)
                entry = zipfile.ZipInfo(f"{name}.npy", date_time=_FILE_DATE)
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, buffer.getvalue())

    @staticmethod
    def built_of(path: str | os.PathLike[str]) -> str | None:
        """What a mesh that `save` wrote was built of; None where that was not said, or the file cannot be read."""
        try:
            with np.load(path, allow_pickle=False) as archive:
                return str(archive[_BUILT_OF]) if _BUILT_OF in archive.files else None
        except (*_UNREADABLE, AttributeError, TypeError):  # `load` will say what is wrong with it
            return None

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> NavigationMesh:
        """Reads a mesh that `save` wrote.

        Raises:
            SceneError: the file is missing, truncated, corrupt or of another version.
        """
        path = Path(path)
        remedy = "delete it and build the scene again, or copy the file again from where it is whole"
        if not path.is_file():
            raise SceneError(f"there is no navigation mesh at {path}; build the scene first or correct the path")
        try:
            loaded = np.load(path, allow_pickle=False)
            if not isinstance(loaded, np.lib.npyio.NpzFile):
                raise ValueError("it is one array, not an archive of arrays")
            with loaded as archive:
                missing = [key for key in _FILE_KEYS if key not in archive.files]
                if missing:
                    raise ValueError(f"it has no array {missing[0]!r}")
                version, vertices, polygons, neighbours = (archive[key] for key in _FILE_KEYS)
                if version.shape != () or int(version) not in (FORMAT_VERSION, DETAIL_VERSION):
                    raise ValueError(f"its format version is {version}, this package reads up to {DETAIL_VERSION}")
                if int(version) == FORMAT_VERSION:
                    return cls.from_polygons(vertices, polygons, neighbours)
                detail = None
                if _DETAIL_KEYS[0] in archive.files:
                    detail = SurfaceDetail(*(archive[key] for key in _DETAIL_KEYS))
                return cls.from_polygons(vertices, polygons, neighbours, detail, float(archive["climb"]))
        except _UNREADABLE as error:
            raise SceneError(f"the navigation mesh {path} cannot be read ({error}); {remedy}") from error

    @property
    def corners(self) -> list[NDArray[np.float64]]:
        """The corners (N, 3) of every polygon, metres."""
        vertices = self.vertices.astype(np.float64)
        return [vertices[row[:count]] for row, count in zip(self.polygons, self.vertex_counts, strict=True)]

    @property
    def largest_island(self) -> int:
        """The island with the largest area."""
        return int(np.argmax(self.island_areas))

    def snap_point(self, point: ArrayLike, island: int | None = None) -> NDArray[np.float64] | None:
        """The point of the mesh nearest to `point` (3,), as float64 (3,), or None.

        As in habitat, polygons within 2 m horizontally and 4 m vertically are considered.

        Args:
            point: (3,), metres.
            island: consider only this island; None means all.
        """
        x, y, z = _coordinates(point, "point")
        polygon, x, y, z = detour.nearest_polygon(self._arrays, x, y, z, self._island_number(island))
        return None if polygon < 0 else np.array((x, y, z))

    def is_navigable(self, point: ArrayLike, max_y_delta: float = _MAX_Y_DELTA) -> bool:
        """Whether `point` (3,) lies on the mesh: within 1 cm horizontally and `max_y_delta` metres vertically."""
        x, y, z = _coordinates(point, "point")
        return detour.polygon_under(self._arrays, x, y, z, float(max_y_delta))[0] >= 0

    def island_of(self, point: ArrayLike) -> int:
        """The island of the polygon nearest to `point` (3,), or -1 if none is near."""
        x, y, z = _coordinates(point, "point")
        polygon = detour.nearest_polygon(self._arrays, x, y, z, -1)[0]
        return -1 if polygon < 0 else int(self.islands[polygon])

    def move_along_surface(self, start: ArrayLike, end: ArrayLike) -> NDArray[np.float64]:
        """Where a movement from `start` (3,) towards `end` (3,) comes to rest, sliding along walls; float64 (3,).

        Raises:
            NavigationError: `start` is off the mesh.
        """
        x, y, z = _coordinates(start, "start")
        end_x, end_y, end_z = _coordinates(end, "end")
        polygon, x, y, z = detour.try_step(self._arrays, self._scratch, x, y, z, end_x, end_y, end_z)
        if polygon < 0:
            raise self._off_mesh(start, "start")
        return np.array((x, y, z))

    def try_step(self, start: ArrayLike, end: ArrayLike) -> tuple[NDArray[np.float64], bool]:
        """`move_along_surface`, and whether the agent collided on the way.

        Habitat's rule for a collision: squared distance moved + 1e-5 < squared distance asked.

        Raises:
            NavigationError: `start` is off the mesh.
        """
        x, y, z = _coordinates(start, "start")
        end_x, end_y, end_z = _coordinates(end, "end")
        polygon, new_x, new_y, new_z = detour.try_step(self._arrays, self._scratch, x, y, z, end_x, end_y, end_z)
        if polygon < 0:
            raise self._off_mesh(start, "start")
        moved = (new_x - x) ** 2 + (new_y - y) ** 2 + (new_z - z) ** 2
        asked = (end_x - x) ** 2 + (end_y - y) ** 2 + (end_z - z) ** 2
        return np.array((new_x, new_y, new_z)), moved + COLLISION_SLACK_SQR < asked

    def find_path(self, start: ArrayLike, end: ArrayLike) -> NDArray[np.float64] | None:
        """Corner points, float64 (N, 3), of the path from `start` (3,) to `end` (3,), both moved onto the mesh.

        The path is habitat's: the shortest within the polygons that A* over edge midpoints chooses, which can be some
        per cent longer than the shortest of all. None if `end` is on another island or off the mesh.

        Raises:
            NavigationError: `start` is off the mesh.
        """
        x, y, z = _coordinates(start, "start")
        end_x, end_y, end_z = _coordinates(end, "end")
        count = detour_path.path_between(self._arrays, self._scratch, x, y, z, end_x, end_y, end_z)[0]
        if count < 0:
            raise self._off_mesh(start, "start")
        return None if count == 0 else self._scratch.points[:count].copy()

    def geodesic_distance(self, start: ArrayLike, goals: ArrayLike) -> float:
        """Length in metres of `find_path` from `start` (3,) to the nearest of `goals` ((3,) or (N, 3)).

        Goals on another island or off the mesh count as inf.

        Raises:
            NavigationError: `start` is off the mesh.
        """
        x, y, z = _coordinates(start, "start")
        if np.shape(goals) == (3,):
            goal = _coordinates(goals, "goals")
            count, distance = detour_path.path_between(self._arrays, self._scratch, x, y, z, *goal)
            on_mesh = count >= 0
        else:
            distance = detour_path.distance_to_goals(self._arrays, self._scratch, x, y, z, _goals(goals))
            on_mesh = distance >= 0.0
        if not on_mesh:
            raise self._off_mesh(start, "start")
        return distance

    def best_turns(self, position: ArrayLike, yaw: float, goal: ArrayLike, distance: float) -> int:
        """`simulators.heading.best_turns` from `position` (3,) and `yaw` (radians) to `goal` (3,).

        Raises:
            NavigationError: `position` is off the mesh.
        """
        x, y, z = _coordinates(position, "position")
        goal_x, goal_y, goal_z = _coordinates(goal, "goal")
        turns = detour_heading.best_turns(
            self._arrays, self._scratch, x, y, z, float(yaw), goal_x, goal_y, goal_z, float(distance), heading.RULE
        )
        if turns == detour_heading.OFF_MESH:
            raise self._off_mesh(position, "position")
        return turns

    def random_point(self, rng: np.random.Generator, island: int | None = None) -> NDArray[np.float64]:
        """A point, float64 (3,), drawn uniformly by area from the mesh or from one island."""
        weights = self._areas if island is None else self._areas * (self.islands == self._island_number(island))
        bounds = np.cumsum(weights)
        polygon = int(np.searchsorted(bounds, rng.random() * bounds[-1], side="right"))
        polygon = min(polygon, int(np.flatnonzero(weights)[-1]))
        corners = self._arrays.corners[polygon, : self.vertex_counts[polygon]]
        fan = np.stack([np.broadcast_to(corners[0], (len(corners) - 2, 3)), corners[1:-1], corners[2:]], axis=1)
        edges_a, edges_b = fan[:, 1] - fan[:, 0], fan[:, 2] - fan[:, 0]
        bounds = np.cumsum(np.abs(edges_a[:, 0] * edges_b[:, 2] - edges_a[:, 2] * edges_b[:, 0]))
        triangle = min(int(np.searchsorted(bounds, rng.random() * bounds[-1], side="right")), len(fan) - 1)
        u, v = rng.random(2)
        if u + v > 1.0:
            u, v = 1.0 - u, 1.0 - v
        x, _, z = fan[triangle, 0] + u * edges_a[triangle] + v * edges_b[triangle]
        return np.array((x, detour.surface_height(self._arrays, polygon, x, z), z))

    def distance_to_obstacle(self, point: ArrayLike, max_radius: float = 2.0) -> float:
        """Horizontal distance in metres from `point` (3,), moved onto the mesh, to the nearest wall; at most
        `max_radius`.

        Raises:
            NavigationError: `point` is off the mesh.
        """
        x, y, z = _coordinates(point, "point")
        distance = detour.distance_to_obstacle(self._arrays, self._scratch, x, y, z, float(max_radius))
        if distance < 0.0:
            raise self._off_mesh(point, "point")
        return distance

    def is_clear(self, point: ArrayLike, island: int, clearance: float) -> bool:
        """Whether `point` (3,) is navigable, on that island, and at least `clearance` metres from the nearest wall."""
        x, y, z = _coordinates(point, "point")
        island = self._island_number(island)
        return detour.is_clear(self._arrays, self._scratch, x, y, z, island, float(clearance), _MAX_Y_DELTA)

    def _island_number(self, island: int | None) -> int:
        if island is None:
            return -1
        if not 0 <= island < len(self.island_areas):
            raise ValueError(f"island must lie in 0..{len(self.island_areas) - 1}, got {island!r}")
        return int(island)

    def _off_mesh(self, point: ArrayLike, name: str) -> NavigationError:
        x, y, z = _coordinates(point, name)
        distance = detour.distance_to_mesh(self._arrays, x, y, z)
        return NavigationError(
            f"{name} ({x:.3f}, {y:.3f}, {z:.3f}) is off the navigation mesh, {distance:.2f} m away from it; "
            "choose a position on it (snap_point, random_point) or check that the right scene is loaded"
        )


def compile_kernels() -> None:
    """Compiles (or loads from numba's cache) everything that a mesh runs, so that no later call has to wait."""
    square = NavigationMesh.from_polygons([[0, 0, 0], [0, 0, 1], [1, 0, 1], [1, 0, 0]], [[0, 1, 2, 3]])
    start, end = np.array((0.2, 0.0, 0.2)), np.array((0.4, 0.0, 0.4))
    square.snap_point(start)
    square.try_step(start, end)
    square.find_path(start, end)
    square.geodesic_distance(start, [end])
    square.best_turns(start, 0.0, end, square.geodesic_distance(start, end))
    square.random_point(np.random.default_rng(0))
    square.distance_to_obstacle(start)
    square.is_navigable(start)
    square.is_clear(start, 0, 0.1)
    square._off_mesh(start, "start")


def _coordinates(point: ArrayLike, name: str) -> tuple[float, float, float]:
    """The coordinates of a point, checked."""
    array = np.asarray(point, dtype=np.float64)
    if array.shape != (3,):
        raise ValueError(f"{name} must be one point of shape (3,), got shape {array.shape}")
    x, y, z = array.tolist()
    if not math.isfinite(x + y + z):
        raise ValueError(f"{name} must be finite, got ({x}, {y}, {z})")
    return x, y, z


def _goals(goals: ArrayLike) -> NDArray[np.float64]:
    """Several goals (N, 3), checked."""
    array = np.array(goals, dtype=np.float64, order="C")  # a copy: numba would compile anew for a read-only array
    if array.ndim != 2 or array.shape[1] != 3 or len(array) == 0:
        raise ValueError(f"goals must have shape (3,) or (N, 3) with N >= 1, got {np.shape(goals)}")
    if not math.isfinite(sum(array.ravel().tolist())):
        raise ValueError(f"goals must be finite, got {array.tolist()}")
    return array
