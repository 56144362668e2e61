"""Queries over a mesh of convex polygons, answered as Recast's Detour answers them (compiled with numba).

Points are (x, y, z) in metres, Y up; "2D" means the x-z plane. A polygon's edge j runs from its corner j to its corner
j + 1. Detour's rules are reproduced to the tie, because habitat's golden records depend on them: which polygon owns a
point on a shared edge, in what order neighbours are expanded, when a path's corner is emitted.

The kernels take the arrays of `MeshArrays` (read only) and of `Scratch` (overwritten by every call).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

SEARCH_HALF_XZ = 2.0  # habitat looks for the nearest polygon in a box of these half extents
SEARCH_HALF_Y = 4.0
CLIMB = float(np.float32(0.2))  # habitat's default of the agent's maximal climb, metres
MAX_NEARBY = 64  # moveAlongSurface visits at most so many polygons ...
MAX_WAITING = 48  # ... and keeps at most so many waiting
HEURISTIC_SCALE = 0.999
SAME_POINT_SQR = (1.0 / 16384.0) ** 2
ON_PORTAL_SQR = 0.001**2


class MeshArrays(NamedTuple):
    """A mesh of P polygons with at most six corners, laid out for the kernels.

    Attributes:
        corners: float64 (P, 6, 3).
        counts: int32 (P,), corners of each polygon.
        neighbours: int32 (P, 6), polygon across edge j, or -1 for a wall.
        islands: int32 (P,).
        boxes: float64 (P, 6), min x, y, z and max x, y, z.
        surface_first: int32 (P + 1,), where a polygon's triangles begin in `surface`; a level polygon has none.
        surface: float64 (S, 3, 3), triangles that give the height.
        edge_first: int32 (P + 1,), where a polygon's segments begin in `edges`.
        edges: float64 (E, 2, 3), the boundary of the triangles, of polygons whose triangles have points of their own.
        climb: over a polygon, height differences up to this count as none.
        grid: float64 (5,), origin x, origin z, cells per metre, columns, rows.
        grid_first: int32 (cells + 1,), where a cell's polygons begin in `grid_polygons`.
        grid_polygons: int32, polygons whose box meets the cell, in their order.
    """

    corners: NDArray[np.float64]
    counts: NDArray[np.int32]
    neighbours: NDArray[np.int32]
    islands: NDArray[np.int32]
    boxes: NDArray[np.float64]
    surface_first: NDArray[np.int32]
    surface: NDArray[np.float64]
    edge_first: NDArray[np.int32]
    edges: NDArray[np.float64]
    climb: float
    grid: NDArray[np.float64]
    grid_first: NDArray[np.int32]
    grid_polygons: NDArray[np.int32]


class Scratch(NamedTuple):
    """Buffers that the searches overwrite.

    Attributes:
        state: int8 (P,), 0 unvisited, 1 open, 2 closed.
        parent: int32 (P,).
        cost: float64 (P,), metres from the start.
        total: float64 (P,), cost plus the scaled distance to the goal.
        entry: float64 (P, 3), where the search enters the polygon.
        heap: int32 (P + 1,), open polygons, or a plain queue.
        corridor: int32 (P,), polygons from start to goal.
        points: float64 (2 P + 4, 3), corners of the path.
    """

    state: NDArray[np.int8]
    parent: NDArray[np.int32]
    cost: NDArray[np.float64]
    total: NDArray[np.float64]
    entry: NDArray[np.float64]
    heap: NDArray[np.int32]
    corridor: NDArray[np.int32]
    points: NDArray[np.float64]

    @classmethod
    def for_polygons(cls, count: int) -> Scratch:
        """Buffers for a mesh of `count` polygons."""
        return cls(
            state=np.zeros(count, np.int8),
            parent=np.zeros(count, np.int32),
            cost=np.zeros(count),
            total=np.zeros(count),
            entry=np.zeros((count, 3)),
            heap=np.zeros(max(count + 1, MAX_NEARBY), np.int32),
            corridor=np.zeros(count, np.int32),
            points=np.zeros((2 * count + 4, 3)),
        )


@njit(cache=True, nogil=True)
def _segment_2d(px, pz, ax, az, bx, bz):
    """Squared 2D distance from p to the segment ab, and the parameter of the nearest point."""
    dx, dz = bx - ax, bz - az
    length = dx * dx + dz * dz
    t = dx * (px - ax) + dz * (pz - az)
    if length > 0.0:
        t /= length
    t = min(1.0, max(0.0, t))
    ex, ez = ax + t * dx - px, az + t * dz - pz
    return ex * ex + ez * ez, t


@njit(cache=True, nogil=True)
def _contains(corners, count, x, z):
    """Whether the polygon contains (x, z): even-odd rule, half open, so that one of two neighbours owns an edge."""
    inside = False
    j = count - 1
    for i in range(count):
        xi, zi, xj, zj = corners[i, 0], corners[i, 2], corners[j, 0], corners[j, 2]
        if (zi > z) != (zj > z) and x < (xj - xi) * (z - zi) / (zj - zi) + xi:
            inside = not inside
        j = i
    return inside


@njit(cache=True, nogil=True)
def _nearest_on_boundary(corners, count, x, z):
    """The point of the polygon's boundary that is nearest in 2D: x, y, z."""
    best, edge, best_t = np.inf, 0, 0.0
    for j in range(count):
        i = j + 1 if j + 1 < count else 0
        d, t = _segment_2d(x, z, corners[j, 0], corners[j, 2], corners[i, 0], corners[i, 2])
        if d < best:
            best, edge, best_t = d, j, t
    i = edge + 1 if edge + 1 < count else 0
    return (
        corners[edge, 0] + best_t * (corners[i, 0] - corners[edge, 0]),
        corners[edge, 1] + best_t * (corners[i, 1] - corners[edge, 1]),
        corners[edge, 2] + best_t * (corners[i, 2] - corners[edge, 2]),
    )


@njit(cache=True, nogil=True)
def _nearest_on_edges(mesh, polygon, x, z):
    """The point of the polygon's boundary that is nearest in 2D, with the height of its surface there: x, y, z."""
    first, end = mesh.edge_first[polygon], mesh.edge_first[polygon + 1]
    if first == end:
        return _nearest_on_boundary(mesh.corners[polygon], mesh.counts[polygon], x, z)
    best, found, best_t = np.inf, first, 0.0
    for k in range(first, end):
        d, t = _segment_2d(x, z, mesh.edges[k, 0, 0], mesh.edges[k, 0, 2], mesh.edges[k, 1, 0], mesh.edges[k, 1, 2])
        if d < best:
            best, found, best_t = d, k, t
    a, b = mesh.edges[found, 0], mesh.edges[found, 1]
    return a[0] + best_t * (b[0] - a[0]), a[1] + best_t * (b[1] - a[1]), a[2] + best_t * (b[2] - a[2])


@njit(cache=True, nogil=True)
def surface_height(mesh, polygon, x, z):
    """Height of the polygon's surface over a point (x, z) inside it (Detour's getPolyHeight)."""
    first, end = mesh.surface_first[polygon], mesh.surface_first[polygon + 1]
    if first == end:
        return mesh.corners[polygon, 0, 1]
    for k in range(first, end):
        a, b, c = mesh.surface[k, 0], mesh.surface[k, 1], mesh.surface[k, 2]
        ux, uz = c[0] - a[0], c[2] - a[2]
        vx, vz = b[0] - a[0], b[2] - a[2]
        wx, wz = x - a[0], z - a[2]
        scale = ux * vz - uz * vx
        if abs(scale) < 1e-6:
            continue
        u = (vz * wx - vx * wz) / scale
        v = (ux * wz - uz * wx) / scale
        if u >= -1e-9 and v >= -1e-9 and u + v <= 1.0 + 1e-9:
            return a[1] + u * (c[1] - a[1]) + v * (b[1] - a[1])
    return _nearest_on_edges(mesh, polygon, x, z)[1]


@njit(cache=True, nogil=True)
def nearest_polygon(mesh, x, y, z, island):
    """The polygon nearest to a point (Detour's findNearestPoly with habitat's search box).

    Over a polygon, a height difference up to the climb counts as distance 0; elsewhere the distance is 3D to the
    boundary. Only polygons of `island` are candidates unless it is negative.

    Returns:
        (polygon, x, y, z) with the nearest point on it; polygon is -1 if the search box is empty.
    """
    column = math.floor((x - mesh.grid[0]) * mesh.grid[2])
    row = math.floor((z - mesh.grid[1]) * mesh.grid[2])
    if 0 <= column < mesh.grid[3] and 0 <= row < mesh.grid[4]:
        cell = int(row) * int(mesh.grid[3]) + int(column)
        for k in range(mesh.grid_first[cell], mesh.grid_first[cell + 1]):
            p = mesh.grid_polygons[k]
            if island >= 0 and mesh.islands[p] != island:
                continue
            if y < mesh.boxes[p, 1] - mesh.climb or y > mesh.boxes[p, 4] + mesh.climb:
                continue
            if _contains(mesh.corners[p], mesh.counts[p], x, z):
                height = surface_height(mesh, p, x, z)
                if abs(height - y) <= mesh.climb:
                    return p, x, height, z
    return _nearest_polygon_in_box(mesh, x, y, z, island)


@njit(cache=True, nogil=True)
def _nearest_polygon_in_box(mesh, x, y, z, island):
    """`nearest_polygon` for a point that is over no polygon of about its height."""
    best, found, best_x, best_y, best_z = np.inf, -1, x, y, z
    for p in range(mesh.counts.shape[0]):
        gap_x = max(0.0, mesh.boxes[p, 0] - x, x - mesh.boxes[p, 3])
        gap_z = max(0.0, mesh.boxes[p, 2] - z, z - mesh.boxes[p, 5])
        if gap_x > SEARCH_HALF_XZ or gap_z > SEARCH_HALF_XZ or gap_x * gap_x + gap_z * gap_z >= best:
            continue
        if y - SEARCH_HALF_Y > mesh.boxes[p, 4] or y + SEARCH_HALF_Y < mesh.boxes[p, 1]:
            continue
        if island >= 0 and mesh.islands[p] != island:
            continue
        if _contains(mesh.corners[p], mesh.counts[p], x, z):
            px, py, pz = x, surface_height(mesh, p, x, z), z
            distance = max(0.0, abs(py - y) - mesh.climb) ** 2
        else:
            px, py, pz = _nearest_on_edges(mesh, p, x, z)
            distance = (px - x) ** 2 + (py - y) ** 2 + (pz - z) ** 2
        if distance < best:
            best, found, best_x, best_y, best_z = distance, p, px, py, pz
    return found, best_x, best_y, best_z


@njit(cache=True, nogil=True)
def distance_to_mesh(mesh, x, y, z):
    """3D distance from a point to the mesh, metres, however far."""
    best = np.inf
    for p in range(mesh.counts.shape[0]):
        if _contains(mesh.corners[p], mesh.counts[p], x, z):
            best = min(best, abs(surface_height(mesh, p, x, z) - y))
        else:
            px, py, pz = _nearest_on_edges(mesh, p, x, z)
            best = min(best, math.sqrt((px - x) ** 2 + (py - y) ** 2 + (pz - z) ** 2))
    return best


@njit(cache=True, nogil=True)
def move_along_surface(mesh, scratch, polygon, x, y, z, end_x, end_y, end_z):
    """Moves from a point of `polygon` towards an end, sliding along walls (Detour's moveAlongSurface).

    The polygons around the middle of the way are flooded; the end is taken if one of them contains it, otherwise the
    point of their walls that is nearest to it.

    Returns:
        (polygon, x, y, z) where the movement ends, y on the polygon's surface.
    """
    middle_x, middle_z = x + 0.5 * (end_x - x), z + 0.5 * (end_z - z)
    radius = math.sqrt((end_x - x) ** 2 + (end_y - y) ** 2 + (end_z - z) ** 2) / 2.0 + 0.001
    queue = scratch.heap
    queue[0] = polygon
    head, tail = 0, 1
    best, best_polygon, best_x, best_z = np.inf, polygon, x, z
    while head < tail:
        current = queue[head]
        head += 1
        corners, count = mesh.corners[current], mesh.counts[current]
        if _contains(corners, count, end_x, end_z):
            best_polygon, best_x, best_z = current, end_x, end_z
            break
        j = count - 1
        for i in range(count):
            ax, az, bx, bz = corners[j, 0], corners[j, 2], corners[i, 0], corners[i, 2]
            neighbour = mesh.neighbours[current, j]
            if neighbour < 0:
                distance, t = _segment_2d(end_x, end_z, ax, az, bx, bz)
                if distance < best:
                    best, best_polygon = distance, current
                    best_x, best_z = ax + t * (bx - ax), az + t * (bz - az)
            elif tail < MAX_NEARBY and tail - head < MAX_WAITING:
                visited = False
                for k in range(tail):
                    visited |= queue[k] == neighbour
                if not visited and _segment_2d(middle_x, middle_z, ax, az, bx, bz)[0] <= radius * radius:
                    queue[tail] = neighbour
                    tail += 1
            j = i
    return best_polygon, best_x, surface_height(mesh, best_polygon, best_x, best_z), best_z


@njit(cache=True, nogil=True)
def try_step(mesh, scratch, x, y, z, end_x, end_y, end_z):
    """One step with sliding as habitat's PathFinder.try_step makes it.

    Returns:
        (polygon, x, y, z); polygon is -1 if the start is off the mesh. Where no polygon is near the asked end, the
        start is returned unmoved.
    """
    start, start_x, start_y, start_z = nearest_polygon(mesh, x, y, z, -1)
    if start < 0:
        return start, x, y, z
    if nearest_polygon(mesh, end_x, end_y, end_z, -1)[0] < 0:
        return start, x, y, z
    last, new_x, new_y, new_z = move_along_surface(mesh, scratch, start, start_x, start_y, start_z, end_x, end_y, end_z)
    there = nearest_polygon(mesh, new_x, new_y, new_z, -1)[0]
    if there >= 0 and mesh.islands[there] != mesh.islands[start]:
        # An infinitely thin wall: the point is on an edge of two islands. Habitat nudges it into the right one.
        cx, cy, cz = 0.0, 0.0, 0.0
        count = mesh.counts[last]
        for i in range(count):
            cx += mesh.corners[last, i, 0] / count
            cy += mesh.corners[last, i, 1] / count
            cz += mesh.corners[last, i, 2] / count
        dx, dy, dz = cx - new_x, cy - new_y, cz - new_z
        scale = 1e-4 / max(math.sqrt(dx * dx + dy * dy + dz * dz), 1e-12)
        new_x, new_y, new_z = new_x + scale * dx, new_y + scale * dy, new_z + scale * dz
    return last, new_x, new_y, new_z


@njit(cache=True, nogil=True)
def distance_to_wall(mesh, scratch, polygon, x, z, radius):
    """2D distance from a point of `polygon` to the nearest wall that is reached within `radius`; at most `radius`."""
    state, queue = scratch.state, scratch.heap
    state[:] = 0
    queue[0] = polygon
    state[polygon] = 1
    head, tail = 0, 1
    best = radius * radius
    while head < tail:
        current = queue[head]
        head += 1
        corners, count = mesh.corners[current], mesh.counts[current]
        for j in range(count):
            i = j + 1 if j + 1 < count else 0
            distance = _segment_2d(x, z, corners[j, 0], corners[j, 2], corners[i, 0], corners[i, 2])[0]
            neighbour = mesh.neighbours[current, j]
            if distance >= best:
                continue
            if neighbour < 0:
                best = distance
            elif state[neighbour] == 0:
                state[neighbour] = 1
                queue[tail] = neighbour
                tail += 1
    return math.sqrt(best)


@njit(cache=True, nogil=True)
def polygon_under(mesh, x, y, z, max_y_delta):
    """The polygon that (x, y, z) lies on, to 1 cm horizontally and `max_y_delta` vertically, and the point on it.

    Returns:
        (polygon, x, z); polygon is -1 if there is none.
    """
    polygon, near_x, near_y, near_z = nearest_polygon(mesh, x, y, z, -1)
    if polygon >= 0 and abs(near_y - y) <= max_y_delta and math.hypot(near_x - x, near_z - z) <= 1e-2:
        return polygon, near_x, near_z
    return -1, x, z


@njit(cache=True, nogil=True)
def is_clear(mesh, scratch, x, y, z, island, clearance, max_y_delta):
    """Whether (x, y, z) lies on an island of the mesh, as `polygon_under` says, and no wall is nearer."""
    polygon, x, z = polygon_under(mesh, x, y, z, max_y_delta)
    if polygon < 0 or mesh.islands[polygon] != island:
        return False
    return distance_to_wall(mesh, scratch, polygon, x, z, 2.0 * clearance) >= clearance


@njit(cache=True, nogil=True)
def distance_to_obstacle(mesh, scratch, x, y, z, radius):
    """`distance_to_wall` from the point of the mesh nearest to (x, y, z); -1 if the point is off the mesh."""
    polygon, x, y, z = nearest_polygon(mesh, x, y, z, -1)
    return -1.0 if polygon < 0 else distance_to_wall(mesh, scratch, polygon, x, z, radius)
