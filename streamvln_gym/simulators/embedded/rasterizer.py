"""Visibility: which triangle does each pixel show, and how far away is it? (numba kernels)

Clusters of triangles are drawn front to back into a buffer of triangle numbers and inverse depths; clusters that lie
behind what is drawn already are skipped. Camera axes here are x right, y up, d forward. A pixel (i, j) is sampled at
(i + 0.5, j + 0.5). Edges that two triangles share get the same numbers in both, so that no pixel between them is lost.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

NEAR = 0.01  # metres
FAR = 1000.0  # metres
_OCCLUSION_TEST_PIXELS = 40_000  # testing larger boxes costs more than it saves


@njit(cache=True, nogil=True, error_model="numpy")
def find_clusters(box_centre, box_half, rotation, position, tan_x, tan_y, found, distance):
    """Lists the clusters whose boxes reach into the view.

    Args:
        box_centre: float32 (C, 3), metres.
        box_half: float32 (C, 3), half the boxes' sizes.
        rotation: float64 (3, 3), world to camera; rows are the right, up and backward axes.
        position: float64 (3,), the camera.
        tan_x: half the picture's width over the focal length.
        tan_y: the same for its height.
        found: int32 (C,), receives the clusters' numbers.
        distance: float32 (C,), receives the squared distances from the camera to their boxes.

    Returns:
        How many there are.
    """
    planes = np.empty((5, 3))
    for k in range(3):
        planes[0, k] = -rotation[2, k]
        planes[1, k] = -tan_x * rotation[2, k] - rotation[0, k]
        planes[2, k] = -tan_x * rotation[2, k] + rotation[0, k]
        planes[3, k] = -tan_y * rotation[2, k] - rotation[1, k]
        planes[4, k] = -tan_y * rotation[2, k] + rotation[1, k]
    count = 0
    for c in range(len(box_centre)):
        inside = True
        for p in range(5):
            reach = 0.0
            for k in range(3):
                reach += planes[p, k] * (box_centre[c, k] - position[k]) + abs(planes[p, k]) * box_half[c, k]
            if reach < 0.0:
                inside = False
        if not inside:
            continue
        squared = 0.0
        for k in range(3):
            gap = max(abs(box_centre[c, k] - position[k]) - box_half[c, k], 0.0)
            squared += gap * gap
        found[count] = c
        distance[count] = squared
        count += 1
    return count


@njit(cache=True, nogil=True, error_model="numpy")
def _is_occluded(centre, half, rotation, position, focal, inverse_depth):
    """Whether a box lies wholly behind what is drawn. centre, half: (3,); the rest as in `rasterize`."""
    height, width = inverse_depth.shape
    x_low = y_low = d_low = 1e30
    x_high = y_high = -1e30
    for corner in range(8):
        x = centre[0] - position[0] + (half[0] if corner & 1 else -half[0])
        y = centre[1] - position[1] + (half[1] if corner & 2 else -half[1])
        z = centre[2] - position[2] + (half[2] if corner & 4 else -half[2])
        d = -(rotation[2, 0] * x + rotation[2, 1] * y + rotation[2, 2] * z)
        if d < NEAR:
            return False
        u = width / 2 + focal[0] * (rotation[0, 0] * x + rotation[0, 1] * y + rotation[0, 2] * z) / d
        v = height / 2 - focal[1] * (rotation[1, 0] * x + rotation[1, 1] * y + rotation[1, 2] * z) / d
        x_low, x_high = min(x_low, u), max(x_high, u)
        y_low, y_high = min(y_low, v), max(y_high, v)
        d_low = min(d_low, d)
    x0, x1 = int(min(max(x_low - 1.0, 0.0), width)), int(min(max(x_high + 2.0, 0.0), width))
    y0, y1 = int(min(max(y_low - 1.0, 0.0), height)), int(min(max(y_high + 2.0, 0.0), height))
    if x1 <= x0 or y1 <= y0:
        return True
    if (x1 - x0) * (y1 - y0) > _OCCLUSION_TEST_PIXELS:
        return False
    nearest = np.float32(1.0 / d_low)
    for y in range(y0, y1):
        row = inverse_depth[y, x0:x1]
        lowest = row[0]
        for k in range(row.size):
            lowest = min(lowest, row[k])
        if lowest < nearest:
            return False
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def _scan_edge(x0, y0, x1, y1, left, right, width, height):
    """Widens the spans left[y] <= x < right[y] by one edge of a convex polygon."""
    if y0 > y1 or (y0 == y1 and x0 > x1):  # one order for both triangles of an edge
        x0, y0, x1, y1 = x1, y1, x0, y0
    first = math.ceil(min(max(y0 - 0.5, 0.0), height))
    last = math.ceil(min(max(y1 - 0.5, 0.0), height))
    if first >= last:
        return
    slope = (x1 - x0) / (y1 - y0)
    for y in range(first, last):
        x = math.ceil(min(max(x0 + (y + 0.5 - y0) * slope - 0.5, 0.0), width))
        left[y] = min(left[y], x)
        right[y] = max(right[y], x)


@njit(cache=True, nogil=True, error_model="numpy")
def _view_triangle(triangles, t, rotation, position, corner):
    """Corners (3, 3) of triangle t as x right, y up, d forward; returns how many lie beyond the near plane."""
    in_front = 0
    for v in range(3):
        x = triangles[t, 3 * v] - position[0]
        y = triangles[t, 3 * v + 1] - position[1]
        z = triangles[t, 3 * v + 2] - position[2]
        corner[v, 0] = rotation[0, 0] * x + rotation[0, 1] * y + rotation[0, 2] * z
        corner[v, 1] = rotation[1, 0] * x + rotation[1, 1] * y + rotation[1, 2] * z
        corner[v, 2] = -(rotation[2, 0] * x + rotation[2, 1] * y + rotation[2, 2] * z)
        if corner[v, 2] >= NEAR:
            in_front += 1
    return in_front


@njit(cache=True, nogil=True, error_model="numpy")
def _project(corner, focal, width, height, px, py):
    """Pixel coordinates px, py (4,) of a triangle cut off at the near plane; returns how many corners it has then."""
    n = 0
    for v in range(3):
        d = corner[v, 2]
        if d >= NEAR:
            px[n] = width / 2 + focal[0] * corner[v, 0] / d
            py[n] = height / 2 - focal[1] * corner[v, 1] / d
            n += 1
        w = (v + 1) % 3
        if (d >= NEAR) != (corner[w, 2] >= NEAR):
            a, b = (v, w) if d < NEAR else (w, v)  # one order for both triangles of an edge
            s = (NEAR - corner[a, 2]) / (corner[b, 2] - corner[a, 2])
            px[n] = width / 2 + focal[0] * (corner[a, 0] + s * (corner[b, 0] - corner[a, 0])) / NEAR
            py[n] = height / 2 - focal[1] * (corner[a, 1] + s * (corner[b, 1] - corner[a, 1])) / NEAR
            n += 1
    return n


@njit(cache=True, nogil=True, error_model="numpy")
def _scan_polygon(px, py, n, left, right, width, height):
    """Finds the spans of a convex polygon of n corners; returns its rows [top, bottom), empty if it covers no pixel."""
    x_low, x_high, y_low, y_high = px[0], px[0], py[0], py[0]
    for v in range(1, n):
        x_low, x_high = min(x_low, px[v]), max(x_high, px[v])
        y_low, y_high = min(y_low, py[v]), max(y_high, py[v])
    if x_high < 0.5 or y_high < 0.5 or x_low > width - 0.5 or y_low > height - 0.5:
        return 0, 0
    top = math.ceil(max(y_low - 0.5, 0.0))
    bottom = math.ceil(min(y_high - 0.5, height))
    if top >= bottom or math.ceil(x_low - 0.5) >= math.ceil(x_high - 0.5):
        return 0, 0
    for y in range(top, bottom):
        left[y] = width
        right[y] = 0
    for v in range(n):
        w = v + 1 if v + 1 < n else 0
        _scan_edge(px[v], py[v], px[w], py[w], left, right, width, height)
    return top, bottom


@njit(cache=True, nogil=True, error_model="numpy")
def _fill_spans(normals, t, offset, rotation, focal, top, bottom, left, right, inverse_depth, ids):
    """Writes triangle t where it is nearer than what is there: 1 / depth = (normal . ray) / offset is affine."""
    height, width = ids.shape
    scale_x, scale_y = 1.0 / (offset * focal[0]), -1.0 / (offset * focal[1])
    step_x = (
        rotation[0, 0] * normals[t, 0] + rotation[0, 1] * normals[t, 1] + rotation[0, 2] * normals[t, 2]
    ) * scale_x
    step_y = (
        rotation[1, 0] * normals[t, 0] + rotation[1, 1] * normals[t, 1] + rotation[1, 2] * normals[t, 2]
    ) * scale_y
    middle = (
        -(rotation[2, 0] * normals[t, 0] + rotation[2, 1] * normals[t, 1] + rotation[2, 2] * normals[t, 2]) / offset
    )
    step = np.float32(step_x)
    for y in range(top, bottom):
        x0 = left[y]
        if x0 >= right[y]:
            continue
        depths = inverse_depth[y, x0 : right[y]]
        numbers = ids[y, x0 : right[y]]
        first = np.float32(middle + step_x * (x0 + 0.5 - width / 2) + step_y * (y + 0.5 - height / 2))
        for k in range(depths.size):
            value = first + step * np.float32(k)
            if value > depths[k]:
                depths[k] = value
                numbers[k] = t


@njit(cache=True, nogil=True, error_model="numpy")
def rasterize(
    triangles,
    normals,
    double_sided,
    cluster_start,
    box_centre,
    box_half,
    order,
    rotation,
    position,
    focal,
    inverse_depth,
    ids,
    left,
    right,
):
    """Draws clusters into the visibility buffer.

    Args:
        triangles: float32 (T, 9), corners in world coordinates, sorted by cluster.
        normals: float64 (T, 3), unit normals.
        double_sided: bool (T,).
        cluster_start: int32 (C + 1,), the first triangle of each cluster.
        box_centre, box_half: float32 (C, 3), the clusters' boxes.
        order: int32, the clusters to draw, nearest first.
        rotation, position: as in `find_clusters`.
        focal: float64 (2,), focal lengths in pixels.
        inverse_depth: float32 (H, W), receives 1 / depth; 1 / FAR where nothing is.
        ids: int32 (H, W), receives triangle numbers; -1 where nothing is.
        left, right: int64 (H,), work space.
    """
    height, width = ids.shape
    ids[:] = -1
    inverse_depth[:] = np.float32(1.0 / FAR)
    corner = np.empty((3, 3))
    px, py = np.empty(4), np.empty(4)
    for cluster in order:
        if _is_occluded(box_centre[cluster], box_half[cluster], rotation, position, focal, inverse_depth):
            continue
        for t in range(cluster_start[cluster], cluster_start[cluster + 1]):
            offset = 0.0  # of the triangle's plane from the camera, along the normal
            for k in range(3):
                offset += normals[t, k] * (triangles[t, k] - position[k])
            if offset == 0.0 or (offset > 0.0 and not double_sided[t]):
                continue
            if _view_triangle(triangles, t, rotation, position, corner) == 0:
                continue
            n = _project(corner, focal, width, height, px, py)
            top, bottom = _scan_polygon(px, py, n, left, right, width, height)
            if top < bottom:
                _fill_spans(normals, t, offset, rotation, focal, top, bottom, left, right, inverse_depth, ids)
