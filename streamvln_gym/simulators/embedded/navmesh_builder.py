"""Builds a navigation mesh from a floor plan: shrink the walkable area, triangulate it, merge triangles.

Everything happens on a grid of 1/1024 m, on which float32 and float64 arithmetic is exact, so that convexity and shared
edges are decided without tolerances. The result is the same for the same plan and the same GEOS version.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np
import shapely
from shapely.geometry import MultiPolygon, Polygon, box
from shapely.geometry.base import BaseGeometry

from streamvln_gym.errors import SceneError
from streamvln_gym.simulators.embedded.navmesh import NavigationMesh
from streamvln_gym.simulators.embedded.navmesh_arrays import MAX_CORNERS

GRID = 1.0 / 1024.0  # metres
SLIVER_WIDTH = 0.02  # metres; what is left narrower than this after shrinking is dropped
MIN_PART_AREA = 1.0  # square metres; habitat drops smaller regions too (regionMinSize of 20 cells squared)

Area: TypeAlias = Polygon | MultiPolygon
Rect: TypeAlias = Sequence[float]
"""(x0, z0, x1, z1), metres."""


def walkable_area(
    floors: Iterable[Rect], doorways: Iterable[Rect], obstacles: Iterable[Rect | BaseGeometry] = ()
) -> Area:
    """Union of floors and doorways without the obstacles, in the (x, z) plane.

    Args:
        floors: rectangles (x0, z0, x1, z1) of the rooms' floors, metres.
        doorways: rectangles of the openings; they must touch or overlap the floors that they join.
        obstacles: rectangles or shapely polygons of what stands on the floor.

    Raises:
        ValueError: a rectangle is not four finite numbers with x0 < x1 and z0 < z1.
    """
    ground = [_rectangle(rect, "floors") for rect in floors] + [_rectangle(rect, "doorways") for rect in doorways]
    if not ground:
        raise ValueError("walkable_area needs at least one floor, got none")
    blocked = [o if isinstance(o, BaseGeometry) else _rectangle(o, "obstacles") for o in obstacles]
    area = shapely.union_all(ground, grid_size=GRID)
    if blocked:
        area = shapely.difference(area, shapely.union_all(blocked, grid_size=GRID), grid_size=GRID)
    return area


def build_navigation_mesh(
    walkable: Area, height: float = 0.2, agent_radius: float = 0.10, min_part_area: float = MIN_PART_AREA
) -> NavigationMesh:
    """The mesh of the places where the agent's centre can be.

    Args:
        walkable: where there is floor and no obstacle, in the (x, z) plane, metres.
        height: y of the mesh, metres. Habitat's meshes lie 0.2 m (one cell of its voxels) over the floor.
        agent_radius: metres by which walls are kept away.
        min_part_area: parts of the shrunk area smaller than this are dropped, square metres.

    Raises:
        TypeError: `walkable` is no polygon.
        ValueError: `agent_radius` is negative or `height` is not finite.
        SceneError: nothing is left to stand on.
    """
    if not isinstance(walkable, Polygon | MultiPolygon):
        raise TypeError(f"walkable must be a shapely Polygon or MultiPolygon, got {type(walkable).__name__}")
    if not (math.isfinite(height) and 0.0 <= agent_radius < math.inf):
        raise ValueError(f"needs a finite height and agent_radius >= 0, got {height!r} and {agent_radius!r}")
    parts = shrink(walkable, agent_radius, min_part_area)
    if not parts:
        raise SceneError(
            f"no walkable area is left after keeping {agent_radius} m from walls and dropping parts under "
            f"{min_part_area} m2 (the area given has {walkable.area:.3f} m2); make rooms wider or obstacles fewer"
        )
    numbers: dict[tuple[int, int], int] = {}
    polygons: list[list[int]] = []
    for part in parts:
        triangles = _triangulate(part, numbers)
        polygons += _merge(triangles, list(numbers))
    points = np.array(list(numbers), dtype=np.float64) * GRID
    vertices = np.column_stack([points[:, 0], np.full(len(points), height), points[:, 1]]).astype(np.float32)
    rows = np.full((len(polygons), MAX_CORNERS), -1, dtype=np.int32)
    for row, polygon in zip(rows, polygons, strict=True):
        row[: len(polygon)] = polygon
    return NavigationMesh.from_polygons(vertices, rows)


def shrink(walkable: Area, agent_radius: float, min_part_area: float = MIN_PART_AREA) -> list[Polygon]:
    """`walkable` without a margin of `agent_radius` along its boundary, as polygons on the grid in a fixed order.

    Corners are mitred: a rectangle stays a rectangle. Slivers and parts under `min_part_area` are left out.
    """
    half = SLIVER_WIDTH / 2.0
    core = walkable.buffer(-(agent_radius + half), join_style="mitre").buffer(half, join_style="mitre")
    on_grid = shapely.set_precision(core.simplify(GRID / 4.0), GRID)
    parts = [part for part in shapely.get_parts(on_grid) if part.geom_type == "Polygon" and part.area >= min_part_area]
    return sorted(
        (shapely.normalize(shapely.simplify(part, 0.0)) for part in parts), key=lambda part: (part.bounds, part.wkb)
    )


def _rectangle(rect: Rect | BaseGeometry, name: str) -> Polygon:
    values = np.asarray(rect, dtype=np.float64)
    if values.shape != (4,) or not np.isfinite(values).all() or values[0] >= values[2] or values[1] >= values[3]:
        raise ValueError(f"{name} must be finite rectangles (x0, z0, x1, z1) with x0 < x1 and z0 < z1, got {rect!r}")
    return box(*values)


def _triangulate(part: Polygon, numbers: dict[tuple[int, int], int]) -> list[list[int]]:
    """Constrained Delaunay triangles of a polygon, clockwise in (x, z), as vertex numbers; new vertices are added to
    `numbers`, which maps grid coordinates to vertex numbers."""
    rings = shapely.get_coordinates(shapely.constrained_delaunay_triangles(part))
    corners = np.rint(rings.reshape(-1, 4, 2)[:, :3] / GRID).astype(np.int64)
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    corners[area > 0] = corners[area > 0][:, ::-1]
    triangles = []
    for triangle in corners.tolist():
        keys = [(x, z) for x, z in triangle]
        first = keys.index(min(keys))
        triangles.append(keys[first:] + keys[:first])
    triangles.sort()
    return [[numbers.setdefault(key, len(numbers)) for key in triangle] for triangle in triangles]


def _merge(pieces: list[list[int]], points: list[tuple[int, int]]) -> list[list[int]]:
    """Merges polygons across their longest shared edges, as Recast does, as long as they stay convex and small."""
    owner = {edge: p for p, piece in enumerate(pieces) for edge in _edges(piece)}
    candidates = [(-math.dist(points[a], points[b]), a, b) for (a, b) in owner if a < b and (b, a) in owner]
    heapq.heapify(candidates)
    while candidates:
        _, a, b = heapq.heappop(candidates)
        first, second = owner[a, b], owner[b, a]
        merged = _joined(pieces[first], pieces[second], a, b)
        if first == second or len(merged) > MAX_CORNERS or not _is_convex(merged, points):
            continue
        pieces[first], pieces[second] = merged, []
        for edge in _edges(merged):
            owner[edge] = first
    return [piece for piece in pieces if piece]


def _edges(piece: list[int]) -> Iterable[tuple[int, int]]:
    return zip(piece, piece[1:] + piece[:1], strict=True)


def _joined(first: list[int], second: list[int], a: int, b: int) -> list[int]:
    """The outline of two polygons that share the edge from a to b (from b to a in the second)."""
    i, j = first.index(b), second.index(a)
    return first[i:] + first[:i] + (second[j:] + second[:j])[1:-1]


def _is_convex(piece: list[int], points: list[tuple[int, int]]) -> bool:
    """Whether a polygon that runs clockwise is strictly convex (exact: integer coordinates).

    Strictly, as in Recast: allowing straight corners gives fewer but longer polygons, and longer detours on them.
    """
    n = len(piece)
    for k in range(n):
        (ax, az), (bx, bz), (cx, cz) = points[piece[k - 2]], points[piece[k - 1]], points[piece[k]]
        if (bx - ax) * (cz - bz) - (bz - az) * (cx - bx) >= 0:
            return False
    return True
