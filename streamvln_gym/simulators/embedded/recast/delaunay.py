"""Triangulations of a polygon with points on its edges and inside (Recast's detail meshes), float32 in (x, z)."""

from __future__ import annotations

import numpy as np
from numba import njit

_UNDEFINED, _HULL = -1, -2
_CROSS_EPSILON, _CIRCLE_EPSILON, _TOLERANCE = np.float32(1e-5), np.float32(1e-6), np.float32(0.001)
_ZERO, _ONE, _TWO = np.float32(0.0), np.float32(1.0), np.float32(2.0)


@njit(cache=True, nogil=True)
def length_2d(a, b):
    """Distance of two points (3,) in the plane."""
    dx, dz = b[0] - a[0], b[2] - a[2]
    return np.sqrt(dx * dx + dz * dz)


@njit(cache=True, nogil=True)
def triangulate_hull(points, hull, corner_count):
    """Triangles (n, 3) of a convex outline: the ear of the shortest perimeter, then on to either side.

    Args:
        points: float32 (N, 3), the first `corner_count` of which are the polygon's corners.
        hull: int32 (H,), point numbers along the outline.
    """
    n = len(hull)
    triangles = np.empty((n - 2, 3), np.int32)
    start, left, right = 0, 1, n - 1
    shortest = np.float32(np.inf)
    for i in range(n):
        if hull[i] >= corner_count:  # lies on an edge, so that it makes no ear
            continue
        before, after = i - 1 if i > 0 else n - 1, i + 1 if i + 1 < n else 0
        a, b, c = points[hull[before]], points[hull[i]], points[hull[after]]
        perimeter = length_2d(a, b) + length_2d(b, c) + length_2d(c, a)
        if perimeter < shortest:
            start, left, right, shortest = i, after, before, perimeter
    triangles[0, 0], triangles[0, 1], triangles[0, 2] = hull[start], hull[left], hull[right]
    for count in range(1, n - 2):
        next_left, next_right = left + 1 if left + 1 < n else 0, right - 1 if right > 0 else n - 1
        a, b = points[hull[left]], points[hull[right]]
        by_left = length_2d(a, points[hull[next_left]]) + length_2d(points[hull[next_left]], b)
        by_right = length_2d(b, points[hull[next_right]]) + length_2d(a, points[hull[next_right]])
        triangles[count, 0], triangles[count, 2] = hull[left], hull[right]
        if by_left < by_right:
            triangles[count, 1] = hull[next_left]
            left = next_left
        else:
            triangles[count, 1] = hull[next_right]
            right = next_right
    return triangles


@njit(cache=True, nogil=True)
def _cross(a, b, c):
    return (b[0] - a[0]) * (c[2] - a[2]) - (b[2] - a[2]) * (c[0] - a[0])


@njit(cache=True, nogil=True)
def _circle(a, b, c, circle):
    """Writes centre x, z and radius of the circle through three points."""
    bx, bz, cx, cz = b[0] - a[0], b[2] - a[2], c[0] - a[0], c[2] - a[2]
    cross = bx * cz - bz * cx
    circle[0], circle[1], circle[2] = a[0], a[2], _ZERO
    if abs(cross) > _CIRCLE_EPSILON:
        b_sqr, c_sqr = bx * bx + bz * bz, cx * cx + cz * cz
        x = (b_sqr * cz - c_sqr * bz) / (_TWO * cross)
        z = (c_sqr * bx - b_sqr * cx) / (_TWO * cross)
        circle[0], circle[1], circle[2] = x + a[0], z + a[2], np.sqrt(x * x + z * z)


@njit(cache=True, nogil=True)
def _overlaps(points, edges, count, s, t):
    """Whether the line from s to t crosses an edge with which it shares no end."""
    for i in range(count):
        a, b = edges[i, 0], edges[i, 1]
        if a == s or a == t or b == s or b == t:
            continue
        a1 = _cross(points[a], points[b], points[t])
        a2 = _cross(points[a], points[b], points[s])
        if a1 * a2 < _ZERO:
            a3 = _cross(points[s], points[t], points[a])
            if a3 * (a3 + a2 - a1) < _ZERO:
                return True
    return False


@njit(cache=True, nogil=True)
def _set_face(edges, e, s, t, face):
    """Names the face to the left of the edge from s to t, if it has none."""
    if edges[e, 0] == s and edges[e, 1] == t and edges[e, 2] == _UNDEFINED:
        edges[e, 2] = face
    elif edges[e, 1] == s and edges[e, 0] == t and edges[e, 3] == _UNDEFINED:
        edges[e, 3] = face


@njit(cache=True, nogil=True)
def _best_point(points, edges, count, s, t):
    """The point left of s to t whose circle with both is empty, or -1."""
    found = -1
    circle = np.empty(3, np.float32)
    for u in range(len(points)):
        if u == s or u == t or not _cross(points[s], points[t], points[u]) > _CROSS_EPSILON:
            continue
        if found >= 0:
            dx, dz = points[u, 0] - circle[0], points[u, 2] - circle[1]
            distance = np.sqrt(dx * dx + dz * dz)
            if distance > circle[2] * (_ONE + _TOLERANCE):
                continue
            if not distance < circle[2] * (_ONE - _TOLERANCE) and (
                _overlaps(points, edges, count, s, u) or _overlaps(points, edges, count, t, u)
            ):
                continue
        found = u
        _circle(points[s], points[t], points[u], circle)
    return found


@njit(cache=True, nogil=True)
def _link(edges, count, s, t, face):
    """Gives the edge from s to t its face, adding the edge if it is new; returns the number of edges."""
    for e in range(count):
        if (edges[e, 0] == s and edges[e, 1] == t) or (edges[e, 0] == t and edges[e, 1] == s):
            _set_face(edges, e, s, t, face)
            return count
    if count < len(edges):
        edges[count, 0], edges[count, 1], edges[count, 2], edges[count, 3] = s, t, face, _UNDEFINED
        return count + 1
    return count


@njit(cache=True, nogil=True)
def triangulate_points(points, hull):
    """Delaunay triangles (n, 3) of `points`, float32 (N, 3), within the outline `hull`, int32 (H,)."""
    edges = np.empty((10 * len(points), 4), np.int32)
    count, faces = 0, 0
    j = len(hull) - 1
    for i in range(len(hull)):
        count = _link(edges, count, hull[j], hull[i], _HULL)
        j = i
    current = 0
    while current < count:
        for side in (2, 3):
            if edges[current, side] != _UNDEFINED:
                continue
            s, t = edges[current, 0], edges[current, 1]
            if side == 3:
                s, t = t, s
            u = _best_point(points, edges, count, s, t)
            if u < 0:
                _set_face(edges, current, s, t, _HULL)
                continue
            _set_face(edges, current, s, t, faces)
            count = _link(edges, count, u, s, faces)
            count = _link(edges, count, t, u, faces)
            faces += 1
        current += 1
    return _faces(edges, count, faces)


@njit(cache=True, nogil=True)
def _faces(edges, count, faces):
    """Triangles (n, 3) from edges with their faces; incomplete ones are left out."""
    triangles = np.full((faces, 3), -1, np.int32)
    for i in range(count):
        if edges[i, 3] >= 0:
            triangle = triangles[edges[i, 3]]
            if triangle[0] == -1:
                triangle[0], triangle[1] = edges[i, 0], edges[i, 1]
            elif triangle[0] == edges[i, 1]:
                triangle[2] = edges[i, 0]
            elif triangle[1] == edges[i, 0]:
                triangle[2] = edges[i, 1]
        if edges[i, 2] >= 0:
            triangle = triangles[edges[i, 2]]
            if triangle[0] == -1:
                triangle[0], triangle[1] = edges[i, 1], edges[i, 0]
            elif triangle[0] == edges[i, 0]:
                triangle[2] = edges[i, 1]
            elif triangle[1] == edges[i, 1]:
                triangle[2] = edges[i, 0]
    i = 0
    while i < faces:
        if triangles[i].min() < 0:
            faces -= 1
            triangles[i] = triangles[faces]
        else:
            i += 1
    return triangles[:faces].copy()
