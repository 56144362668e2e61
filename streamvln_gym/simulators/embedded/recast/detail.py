"""Detail meshes: triangles over each polygon that follow the voxels' heights (Recast's rcBuildPolyMeshDetail).

As in Recast, the points that a detail mesh adds lie one voxel height above the polygons' corners.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from streamvln_gym.simulators.embedded.recast.compact import CompactField
from streamvln_gym.simulators.embedded.recast.delaunay import triangulate_hull, triangulate_points
from streamvln_gym.simulators.embedded.recast.heights import height_at, height_patch
from streamvln_gym.simulators.embedded.recast.polymesh import PolyMesh
from streamvln_gym.simulators.embedded.recast.settings import NavMeshSettings

MAX_POINTS = 127
MAX_TRIANGLES = 255
_MAX_EDGE_POINTS = 32
_ZERO, _HALF, _ONE, _TWO = np.float32(0.0), np.float32(0.5), np.float32(1.0), np.float32(2.0)
_TINY, _BARYCENTRIC_EPSILON = np.float32(1e-6), np.float32(1e-4)
_ON_EDGE_SQR = np.float32(0.001) * np.float32(0.001)
_JITTER, _JITTER_RANGE = np.float32(0.1), np.float32(65535.0)
_FAR = np.float32(3.4028234663852886e38)


class DetailMesh(NamedTuple):
    """Detail meshes of P polygons, one after the other.

    Attributes:
        point_start: int32 (P + 1,), where a polygon's points begin.
        points: float32 (D, 3), metres; a polygon's corners come first.
        triangle_start: int32 (P + 1,).
        triangles: uint8 (T, 4), numbers of the polygon's points, and bits 0, 2, 4 for sides on the polygon's edge.
    """

    point_start: NDArray[np.int32]
    points: NDArray[np.float32]
    triangle_start: NDArray[np.int32]
    triangles: NDArray[np.uint8]


def build_detail(
    mesh: PolyMesh,
    floor: CompactField,
    region: NDArray[np.int32],
    origin: NDArray[np.float32],
    settings: NavMeshSettings,
) -> DetailMesh:
    """Detail meshes of the polygons; `origin` is the grid's lowest corner, float32 (3,), metres."""
    cell, cell_height = np.float32(settings.cell_size), np.float32(settings.cell_height)
    scale = np.array([cell, cell_height, cell], np.float32)
    radius = max(1, math.ceil(np.float32(settings.edge_max_error)))
    lift = origin.copy()
    lift[1] += cell_height
    points, triangles = [np.empty((0, 3), np.float32)], [np.empty((0, 4), np.uint8)]
    for polygon, own_region in zip(mesh.polygons, mesh.regions.tolist(), strict=True):
        corners = mesh.vertices[polygon[polygon >= 0]].astype(np.int64)
        patch, x0, z0 = height_patch(
            floor.start, floor.column, floor.floor, floor.links, region, floor.width, floor.depth, corners, own_region
        )
        outline = corners.astype(np.float32) * scale
        own_points, own_triangles = _detail(
            outline, patch, x0, z0, settings.sample_distance, settings.sample_error, radius, cell, cell_height
        )
        own_points += lift
        points.append(own_points)
        triangles.append(edge_flags(own_points, own_triangles[:MAX_TRIANGLES], outline + origin))
    return DetailMesh(
        np.cumsum([len(part) for part in points], dtype=np.int32),
        np.concatenate(points),
        np.cumsum([len(part) for part in triangles], dtype=np.int32),
        np.concatenate(triangles),
    )


@njit(cache=True, nogil=True)
def _distance_2d(p, a, b):
    """Squared distance in the plane from p to the segment ab."""
    px, pz, dx, dz = b[0] - a[0], b[2] - a[2], p[0] - a[0], p[2] - a[2]
    length = px * px + pz * pz
    t = px * dx + pz * dz
    if length > _ZERO:
        t /= length
    t = min(max(t, _ZERO), _ONE)
    dx, dz = a[0] + t * px - p[0], a[2] + t * pz - p[2]
    return dx * dx + dz * dz


@njit(cache=True, nogil=True)
def _distance_3d(p, a, b):
    """Squared distance from p to the segment ab."""
    px, py, pz = b[0] - a[0], b[1] - a[1], b[2] - a[2]
    dx, dy, dz = p[0] - a[0], p[1] - a[1], p[2] - a[2]
    length = px * px + py * py + pz * pz
    t = px * dx + py * dy + pz * dz
    if length > _ZERO:
        t /= length
    t = min(max(t, _ZERO), _ONE)
    dx, dy, dz = a[0] + t * px - p[0], a[1] + t * py - p[1], a[2] + t * pz - p[2]
    return dx * dx + dy * dy + dz * dz


@njit(cache=True, nogil=True)
def _min_extent(outline):
    """The polygon's least width, metres."""
    least = _FAR
    n = len(outline)
    for i in range(n):
        following = (i + 1) % n
        greatest = _ZERO
        for j in range(n):
            if j != i and j != following:
                greatest = max(greatest, _distance_2d(outline[j], outline[i], outline[following]))
        least = min(least, greatest)
    return np.sqrt(least)


@njit(cache=True, nogil=True)
def _edge_points(a, b, room, patch, x0, z0, distance, max_error, radius, cell, cell_height):
    """Points (n, 3) strictly between a and b where the heights leave the straight line, in order from a to b."""
    swapped = a[2] > b[2] if abs(a[0] - b[0]) < _TINY else a[0] > b[0]  # an edge has the same points from either side
    if swapped:
        a, b = b, a
    dx, dy, dz = b[0] - a[0], b[1] - a[1], b[2] - a[2]
    steps = min(1 + int(math.floor(np.sqrt(dx * dx + dz * dz) / distance)), _MAX_EDGE_POINTS - 1)
    steps = min(steps, room)
    if steps < 1:
        return np.empty((0, 3), np.float32)
    samples = np.empty((steps + 1, 3), np.float32)
    inverse = _ONE / cell
    for k in range(steps + 1):
        u = np.float32(k) / np.float32(steps)
        samples[k, 0], samples[k, 1], samples[k, 2] = a[0] + dx * u, a[1] + dy * u, a[2] + dz * u
        samples[k, 1] = np.float32(height_at(patch, x0, z0, samples[k], inverse, cell_height, radius)) * cell_height
    kept = np.empty(steps + 2, np.int32)
    kept[0], kept[1] = 0, steps
    count, k = 2, 0
    while k < count - 1:
        worst, found = _ZERO, -1
        for m in range(kept[k] + 1, kept[k + 1]):
            deviation = _distance_3d(samples[m], samples[kept[k]], samples[kept[k + 1]])
            if deviation > worst:
                worst, found = deviation, m
        if found >= 0 and worst > max_error * max_error:
            for m in range(count, k + 1, -1):
                kept[m] = kept[m - 1]
            kept[k + 1] = found
            count += 1
        else:
            k += 1
    result = np.empty((count - 2, 3), np.float32)
    for k in range(count - 2):
        result[count - 3 - k if swapped else k] = samples[kept[k + 1]]
    return result


@njit(cache=True, nogil=True)
def _depth_inside(outline, x, z):
    """Distance from (x, z) to the outline, negative inside (squared, as in Recast)."""
    point = np.array([x, _ZERO, z], np.float32)
    nearest, inside = _FAR, False
    j = len(outline) - 1
    for i in range(len(outline)):
        xi, zi, xj, zj = outline[i, 0], outline[i, 2], outline[j, 0], outline[j, 2]
        if (zi > z) != (zj > z) and x < (xj - xi) * (z - zi) / (zj - zi) + xi:
            inside = not inside
        nearest = min(nearest, _distance_2d(point, outline[j], outline[i]))
        j = i
    return -nearest if inside else nearest


@njit(cache=True, nogil=True)
def _inner_samples(outline, patch, x0, z0, distance, radius, cell, cell_height):
    """Grid points (n, 3) inside the outline, away from its edges: x and z in steps of `distance`, height in voxels."""
    low, high = outline[0].copy(), outline[0].copy()
    for i in range(1, len(outline)):
        for k in range(3):
            low[k], high[k] = min(low[k], outline[i, k]), max(high[k], outline[i, k])
    left, right = int(math.floor(low[0] / distance)), int(math.ceil(high[0] / distance))
    near, far = int(math.floor(low[2] / distance)), int(math.ceil(high[2] / distance))
    samples = np.empty((max(right - left, 0) * max(far - near, 0), 3), np.int32)
    point = np.empty(3, np.float32)
    inverse = _ONE / cell
    count = 0
    for z in range(near, far):
        for x in range(left, right):
            point[0], point[2] = np.float32(x) * distance, np.float32(z) * distance
            point[1] = (high[1] + low[1]) * _HALF
            if _depth_inside(outline, point[0], point[2]) > -distance / _TWO:
                continue
            samples[count, 0], samples[count, 2] = x, z
            samples[count, 1] = height_at(patch, x0, z0, point, inverse, cell_height, radius)
            count += 1
    return samples[:count]


@njit(cache=True, nogil=True)
def _height_error(p, points, triangles):
    """How far p is above or below the triangles, metres; -1 if it is over none."""
    least = _FAR
    for t in range(len(triangles)):
        a, b, c = points[triangles[t, 0]], points[triangles[t, 1]], points[triangles[t, 2]]
        ux, uz, vx, vz, wx, wz = c[0] - a[0], c[2] - a[2], b[0] - a[0], b[2] - a[2], p[0] - a[0], p[2] - a[2]
        uu, uv, uw = ux * ux + uz * uz, ux * vx + uz * vz, ux * wx + uz * wz
        vv, vw = vx * vx + vz * vz, vx * wx + vz * wz
        scale = uu * vv - uv * uv
        inverse = _ONE / scale if scale != _ZERO else np.float32(np.inf)
        u, v = (vv * uw - uv * vw) * inverse, (uu * vw - uv * uw) * inverse
        if u >= -_BARYCENTRIC_EPSILON and v >= -_BARYCENTRIC_EPSILON and u + v <= _ONE + _BARYCENTRIC_EPSILON:
            least = min(least, abs(a[1] + (c[1] - a[1]) * u + (b[1] - a[1]) * v - p[1]))
    return -_ONE if least == _FAR else least


@njit(cache=True, nogil=True)
def _jitter(i, factor):
    """A number in -1 to 1 that keeps samples from lying on one grid."""
    return np.float32((i * factor) & 0xFFFF) / _JITTER_RANGE * _TWO - _ONE


@njit(cache=True, nogil=True)
def _detail(outline, patch, x0, z0, distance, max_error, radius, cell, cell_height):
    """Points (n, 3) and triangles (m, 3) over a polygon, metres from the grid's origin."""
    points, hull = np.empty((MAX_POINTS, 3), np.float32), np.empty(MAX_POINTS, np.int32)
    corners = len(outline)
    points[:corners] = outline
    count, hull_count = corners, 0
    j = corners - 1
    for i in range(corners):
        hull[hull_count] = j
        hull_count += 1
        if distance > _ZERO:
            room = MAX_POINTS - 1 - count
            added = _edge_points(
                outline[j], outline[i], room, patch, x0, z0, distance, max_error, radius, cell, cell_height
            )
            for k in range(len(added)):
                points[count] = added[k]
                hull[hull_count] = count
                count += 1
                hull_count += 1
        j = i
    triangles = triangulate_hull(points, hull[:hull_count], corners)
    if distance == _ZERO or _min_extent(outline) < distance * _TWO:
        return points[:count].copy(), triangles
    samples = _inner_samples(outline, patch, x0, z0, distance, radius, cell, cell_height)
    used = np.zeros(len(samples), np.bool_)
    point, best = np.empty(3, np.float32), np.empty(3, np.float32)
    for _ in range(len(samples)):
        if count >= MAX_POINTS:
            break
        worst, found = _ZERO, -1
        for i in range(len(samples)):
            if used[i]:
                continue
            point[0] = np.float32(samples[i, 0]) * distance + _jitter(i, 0x8DA6B343) * cell * _JITTER
            point[1] = np.float32(samples[i, 1]) * cell_height
            point[2] = np.float32(samples[i, 2]) * distance + _jitter(i, 0xD8163841) * cell * _JITTER
            error = _height_error(point, points, triangles)
            if error > worst:
                worst, found = error, i
                best[:] = point
        if found < 0 or worst <= max_error:
            break
        used[found] = True
        points[count] = best
        count += 1
        triangles = triangulate_points(points[:count], hull[:hull_count])
    return points[:count].copy(), triangles


@njit(cache=True, nogil=True)
def edge_flags(points, triangles, outline):
    """Triangles uint8 (m, 4) with bits 0, 2 and 4 for the sides that lie on the polygon's outline."""
    flagged = np.zeros((len(triangles), 4), np.uint8)
    for t in range(len(triangles)):
        flags = 0
        for side in range(3):
            flagged[t, side] = triangles[t, side]
            a, b = points[triangles[t, side]], points[triangles[t, (side + 1) % 3]]
            j = len(outline) - 1
            for i in range(len(outline)):
                if (
                    _distance_2d(a, outline[j], outline[i]) < _ON_EDGE_SQR
                    and _distance_2d(b, outline[j], outline[i]) < _ON_EDGE_SQR
                ):
                    flags |= 1 << (2 * side)
                j = i
        flagged[t, 3] = flags
    return flagged
