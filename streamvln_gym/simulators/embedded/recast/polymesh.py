"""Convex polygons from contours: ears are cut off, then triangles merged along their longest edges (Recast)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from streamvln_gym.errors import SceneError
from streamvln_gym.simulators.embedded.recast.contours import Contour
from streamvln_gym.simulators.embedded.recast.plane import area2, crosses, in_cone, meets, same_place
from streamvln_gym.simulators.embedded.recast.settings import MAX_CORNERS

MAX_VERTICES = 0xFFFE  # Detour's vertex numbers have 16 bits
_SAME_HEIGHT = 2  # voxels; vertices of neighbouring regions at one place this close are one


class PolyMesh(NamedTuple):
    """Convex polygons in voxel coordinates.

    Attributes:
        vertices: int32 (V, 3), x, height, z in voxels.
        polygons: int32 (P, 6), vertex numbers, padded with -1.
        neighbours: int32 (P, 6), polygon across each edge, -1 for a wall.
        regions: int32 (P,).
    """

    vertices: NDArray[np.int32]
    polygons: NDArray[np.int32]
    neighbours: NDArray[np.int32]
    regions: NDArray[np.int32]


def build_polymesh(contours: list[Contour], max_corners: int) -> PolyMesh:
    """Polygons of at most `max_corners` corners.

    Raises:
        SceneError: there are more corners than one Detour tile can hold.
    """
    total = sum(len(contour.corners) for contour in contours)
    if total >= MAX_VERTICES:
        raise SceneError(
            f"the navigation mesh needs {total} vertices, a Detour tile holds {MAX_VERTICES - 1}. Build it with a "
            "larger NavMeshSettings.cell_size or edge_max_error, or from a part of the scene."
        )
    numbers: dict[tuple[int, int], list[tuple[int, int]]] = {}
    vertices: list[tuple[int, int, int]] = []
    rows, regions = [np.empty((0, MAX_CORNERS), np.int32)], []
    for contour in contours:
        triangles = _triangulate(contour.corners.astype(np.int64))
        indices = np.array([_vertex_number(tuple(corner), numbers, vertices) for corner in contour.corners.tolist()])
        used, place, local = np.unique(indices, return_index=True, return_inverse=True)
        polygons = np.full((len(triangles), MAX_CORNERS), -1, np.int32)
        polygons[:, :3] = local[triangles]
        count = _merge(polygons, contour.corners[place].astype(np.int64), max_corners)
        rows.append(np.where(polygons[:count] >= 0, used[polygons[:count]], -1).astype(np.int32))
        regions += [contour.region] * count
    polygons = np.concatenate(rows)
    return PolyMesh(
        np.array(vertices, np.int32).reshape(-1, 3),
        polygons,
        _adjacency(polygons, len(vertices)),
        np.array(regions, np.int32),
    )


def _vertex_number(
    corner: tuple[int, int, int],
    numbers: dict[tuple[int, int], list[tuple[int, int]]],
    vertices: list[tuple[int, int, int]],
) -> int:
    """Number of the vertex at a corner, which is added if there is none of about its height."""
    x, height, z = corner
    known = numbers.setdefault((x, z), [])
    for other_height, number in reversed(known):
        if abs(other_height - height) <= _SAME_HEIGHT:
            return number
    known.append((height, len(vertices)))
    vertices.append(corner)
    return len(vertices) - 1


@njit(cache=True, nogil=True)
def _is_diagonal(ring, i, j, corners, strict):
    """Whether the line between the ring's members i and j runs inside; not strict allows touching."""
    n = len(ring)
    a, b = corners[ring[i]], corners[ring[j]]
    before, after = corners[ring[i - 1 if i > 0 else n - 1]], corners[ring[i + 1 if i + 1 < n else 0]]
    if not in_cone(before, a, after, b, strict):
        return False
    for k in range(n):
        following = k + 1 if k + 1 < n else 0
        if k == i or following == i or k == j or following == j:
            continue
        c, d = corners[ring[k]], corners[ring[following]]
        if same_place(a, c) or same_place(b, c) or same_place(a, d) or same_place(b, d):
            continue
        if meets(a, b, c, d) if strict else crosses(a, b, c, d):
            return False
    return True


@njit(cache=True, nogil=True)
def _squared_length(corners, a, b):
    return (corners[b, 0] - corners[a, 0]) ** 2 + (corners[b, 2] - corners[a, 2]) ** 2


@njit(cache=True, nogil=True)
def _shortest_ear(ring, is_ear, corners):
    """The ring's member before the ear with the shortest cut, or -1."""
    n = len(ring)
    best, found = np.int64(-1), -1
    for i in range(n):
        if is_ear[(i + 1) % n]:
            length = _squared_length(corners, ring[i], ring[(i + 2) % n])
            if best < 0 or length < best:
                best, found = length, i
    if found >= 0:
        return found
    # Overlapping edges leave no proper ear. Recast then allows touching, and measures to the member after the next.
    for i in range(n):
        if _is_diagonal(ring, i, (i + 2) % n, corners, False):
            length = _squared_length(corners, ring[i], ring[(i + 3) % n])
            if best < 0 or length < best:
                best, found = length, i
    return found


@njit(cache=True, nogil=True)
def _triangulate(corners):
    """Triangles (n, 3) of the polygon `corners`, int64 (n, 3); fewer than n - 2 if it crosses itself badly."""
    n = len(corners)
    triangles = np.empty((max(n - 2, 0), 3), np.int64)
    ring, is_ear = np.arange(n), np.zeros(n, np.bool_)
    for i in range(n):
        is_ear[(i + 1) % n] = _is_diagonal(ring, i, (i + 2) % n, corners, True)
    count = 0
    while n > 3:
        i = _shortest_ear(ring[:n], is_ear[:n], corners)
        if i < 0:
            return triangles[:count]
        ear = (i + 1) % n
        triangles[count, 0], triangles[count, 1], triangles[count, 2] = ring[i], ring[ear], ring[(i + 2) % n]
        count += 1
        n -= 1
        for k in range(ear, n):
            ring[k], is_ear[k] = ring[k + 1], is_ear[k + 1]
        after = ear if ear < n else 0
        before = after - 1 if after > 0 else n - 1
        is_ear[before] = _is_diagonal(ring[:n], before - 1 if before > 0 else n - 1, after, corners, True)
        is_ear[after] = _is_diagonal(ring[:n], before, after + 1 if after + 1 < n else 0, corners, True)
    triangles[count] = ring[:3]
    return triangles[: count + 1]


@njit(cache=True, nogil=True)
def _corners_of(polygon):
    count = 0
    while count < len(polygon) and polygon[count] >= 0:
        count += 1
    return count


@njit(cache=True, nogil=True)
def _merge_value(a, b, vertices, max_corners):
    """Squared length of the edge along which two polygons can be merged, with its numbers in both; -1 if they can't."""
    na, nb = _corners_of(a), _corners_of(b)
    if na + nb - 2 > max_corners:
        return np.int64(-1), 0, 0
    edge_a, edge_b = -1, -1
    for i in range(na):
        low, high = min(a[i], a[(i + 1) % na]), max(a[i], a[(i + 1) % na])
        for j in range(nb):
            if min(b[j], b[(j + 1) % nb]) == low and max(b[j], b[(j + 1) % nb]) == high:
                edge_a, edge_b = i, j
                break
    if edge_a < 0:
        return np.int64(-1), 0, 0
    if area2(vertices[a[(edge_a + na - 1) % na]], vertices[a[edge_a]], vertices[b[(edge_b + 2) % nb]]) >= 0:
        return np.int64(-1), 0, 0
    if area2(vertices[b[(edge_b + nb - 1) % nb]], vertices[b[edge_b]], vertices[a[(edge_a + 2) % na]]) >= 0:
        return np.int64(-1), 0, 0
    return _squared_length(vertices, a[edge_a], a[(edge_a + 1) % na]), edge_a, edge_b


@njit(cache=True, nogil=True)
def _merge(polygons, vertices, max_corners):
    """Merges a contour's polygons in place, longest common edges first; returns how many are left."""
    kept = len(polygons)
    merged = np.empty(polygons.shape[1], np.int32)
    while max_corners > 3:
        best, first, second, edge_a, edge_b = np.int64(0), 0, 0, 0, 0
        for j in range(kept - 1):
            for k in range(j + 1, kept):
                value, ea, eb = _merge_value(polygons[j], polygons[k], vertices, max_corners)
                if value > best:
                    best, first, second, edge_a, edge_b = value, j, k, ea, eb
        if best == 0:
            break
        a, b = polygons[first], polygons[second]
        na, nb = _corners_of(a), _corners_of(b)
        merged[:] = -1
        for i in range(na - 1):
            merged[i] = a[(edge_a + 1 + i) % na]
        for i in range(nb - 1):
            merged[na - 1 + i] = b[(edge_b + 1 + i) % nb]
        polygons[first] = merged
        polygons[second] = polygons[kept - 1]
        kept -= 1
    return kept


@njit(cache=True, nogil=True)
def _adjacency(polygons, vertex_count):
    """Neighbours (P, 6) across the edges that two polygons share."""
    neighbours = np.full(polygons.shape, -1, np.int32)
    first = np.full(vertex_count, -1, np.int32)  # latest edge that begins at a vertex
    size = polygons.size
    following, end = np.empty(size, np.int32), np.empty(size, np.int32)
    owner, side = np.empty(size, np.int32), np.empty(size, np.int32)
    taken = np.zeros(size, np.bool_)
    count = 0
    for p in range(len(polygons)):
        n = _corners_of(polygons[p])
        for j in range(n):
            a, b = polygons[p, j], polygons[p, (j + 1) % n]
            if a < b:
                following[count], end[count], owner[count], side[count] = first[a], b, p, j
                first[a] = count
                count += 1
    for p in range(len(polygons)):
        n = _corners_of(polygons[p])
        for j in range(n):
            a, b = polygons[p, j], polygons[p, (j + 1) % n]
            if a <= b:
                continue
            edge = first[b]
            while edge >= 0:
                if end[edge] == a and not taken[edge]:
                    if owner[edge] != p:
                        taken[edge] = True
                        neighbours[p, j], neighbours[owner[edge], side[edge]] = owner[edge], p
                    break
                edge = following[edge]
    return neighbours
