"""Voxels of a scene: triangles cut along the grid's cells and piled up as solid spans (Recast's rasterisation)."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from streamvln_gym.simulators.embedded.recast.settings import MAX_VOXELS_UP, NavMeshSettings

_LOW, _HIGH, _WALKABLE, _NEXT = range(4)
_ZERO = np.float32(0.0)
_PI = np.float32(3.14159265)


class Heightfield(NamedTuple):
    """Columns of solid spans, bottom to top; column x + z * width has the spans start[column] to start[column + 1].

    Attributes:
        width, depth: cells along x and z.
        bounds: float32 (2, 3), metres.
        start: int32 (width * depth + 1,).
        low, high: int32 (S,), the span's voxels from low to below high.
        walkable: bool (S,), whether one can stand on its top.
    """

    width: int
    depth: int
    bounds: NDArray[np.float32]
    start: NDArray[np.int32]
    low: NDArray[np.int32]
    high: NDArray[np.int32]
    walkable: NDArray[np.bool_]


def grid_size(bounds: NDArray[np.float32], cell_size: float) -> tuple[int, int]:
    """Cells along x and z of a box, float32 (2, 3)."""
    extent = (bounds[1] - bounds[0]) / np.float32(cell_size) + np.float32(0.5)
    return int(extent[0]), int(extent[2])


def walkable_triangles(triangles: NDArray[np.float32], max_slope: float) -> NDArray[np.bool_]:
    """Whether each of `triangles`, float32 (T, 3, 3), faces upwards and is no steeper than `max_slope` degrees."""
    edge, other = triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
    x = edge[:, 1] * other[:, 2] - edge[:, 2] * other[:, 1]
    y = edge[:, 2] * other[:, 0] - edge[:, 0] * other[:, 2]
    z = edge[:, 0] * other[:, 1] - edge[:, 1] * other[:, 0]
    threshold = np.float32(math.cos(np.float32(max_slope) / np.float32(180.0) * _PI))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # triangles without area have no normal
        return y * (np.float32(1.0) / np.sqrt(x * x + y * y + z * z)) > threshold


def rasterize(triangles: NDArray[np.float32], bounds: NDArray[np.float32], settings: NavMeshSettings) -> Heightfield:
    """Voxels of `triangles`, float32 (T, 3, 3), within `bounds`, float32 (2, 3)."""
    width, depth = grid_size(bounds, settings.cell_size)
    walkable = walkable_triangles(triangles, settings.agent_max_slope)
    first, pool = _rasterize(
        triangles, walkable, bounds, width, depth,
        np.float32(settings.cell_size), np.float32(settings.cell_height), settings.climb_voxels,
    )  # fmt: skip
    start, low, high, walkable = _in_columns(first, pool)
    return Heightfield(width, depth, bounds, start, low, high, walkable)


@njit(cache=True, nogil=True)
def _divide(corners, count, near, far, offset, axis):
    """Cuts a convex polygon at `offset` on `axis` into `near` and `far`; returns their numbers of corners."""
    n_near, n_far = 0, 0
    b = count - 1
    for a in range(count):
        delta_a, delta_b = offset - corners[a, axis], offset - corners[b, axis]
        if (delta_a >= _ZERO) != (delta_b >= _ZERO):
            s = delta_b / (delta_b - delta_a)
            for k in range(3):
                value = corners[b, k] + (corners[a, k] - corners[b, k]) * s
                near[n_near, k] = value
                far[n_far, k] = value
            n_near += 1
            n_far += 1
            # A corner on the line itself was added just now.
            if delta_a > _ZERO:
                for k in range(3):
                    near[n_near, k] = corners[a, k]
                n_near += 1
            elif delta_a < _ZERO:
                for k in range(3):
                    far[n_far, k] = corners[a, k]
                n_far += 1
        else:
            if delta_a >= _ZERO:
                for k in range(3):
                    near[n_near, k] = corners[a, k]
                n_near += 1
            if delta_a <= _ZERO:
                for k in range(3):
                    far[n_far, k] = corners[a, k]
                n_far += 1
        b = a
    return n_near, n_far


@njit(cache=True, nogil=True)
def _add_span(pool, first, state, column, low, high, walkable, merge_threshold):
    """Adds a span to a column's list, merged with those that it meets. `state` is (used, first free) of the pool."""
    previous, current = -1, first[column]
    while current >= 0:
        if pool[current, _LOW] > high:
            break
        following = pool[current, _NEXT]
        if pool[current, _HIGH] < low:
            previous, current = current, following
            continue
        low = min(low, pool[current, _LOW])
        high = max(high, pool[current, _HIGH])
        if abs(high - pool[current, _HIGH]) <= merge_threshold:
            walkable = max(walkable, pool[current, _WALKABLE])
        pool[current, _NEXT] = state[1]
        state[1] = current
        if previous >= 0:
            pool[previous, _NEXT] = following
        else:
            first[column] = following
        current = following
    if state[1] >= 0:
        span = state[1]
        state[1] = pool[span, _NEXT]
    else:
        span = state[0]
        state[0] += 1
    pool[span, _LOW], pool[span, _HIGH], pool[span, _WALKABLE] = low, high, walkable
    if previous >= 0:
        pool[span, _NEXT] = pool[previous, _NEXT]
        pool[previous, _NEXT] = span
    else:
        pool[span, _NEXT] = first[column]
        first[column] = span


@njit(cache=True, nogil=True)
def _rasterize(triangles, walkable, bounds, width, depth, cell, cell_height, merge_threshold):
    """All triangles as spans in linked lists: first span of every column, and the pool (low, high, walkable, next)."""
    first = np.full(width * depth, -1, np.int32)
    pool = np.empty((1 << 16, 4), np.int32)
    state = np.array([0, -1], np.int64)
    inverse, inverse_height = np.float32(1.0) / cell, np.float32(1.0) / cell_height
    low_x, low_y, low_z = bounds[0, 0], bounds[0, 1], bounds[0, 2]
    top = bounds[1, 1] - low_y
    rest, row = np.empty((12, 3), np.float32), np.empty((12, 3), np.float32)
    piece, spare = np.empty((12, 3), np.float32), np.empty((12, 3), np.float32)
    for t in range(triangles.shape[0]):
        near, far = triangles[t, 0, 2], triangles[t, 0, 2]
        for c in range(3):
            near, far = min(near, triangles[t, c, 2]), max(far, triangles[t, c, 2])
            for k in range(3):
                rest[c, k] = triangles[t, c, k]
        z0 = min(max(int((near - low_z) * inverse), -1), depth - 1)
        z1 = min(max(int((far - low_z) * inverse), 0), depth - 1)
        count = 3
        for z in range(z0, z1 + 1):
            n_row, count = _divide(rest, count, row, spare, low_z + np.float32(z) * cell + cell, 2)
            rest, spare = spare, rest
            if n_row < 3 or z < 0:
                continue
            left, right = row[0, 0], row[0, 0]
            for k in range(1, n_row):
                left, right = min(left, row[k, 0]), max(right, row[k, 0])
            x0, x1 = int((left - low_x) * inverse), int((right - low_x) * inverse)
            if x1 < 0 or x0 >= width:
                continue
            x0, x1 = min(max(x0, -1), width - 1), min(max(x1, 0), width - 1)
            n_rest = n_row
            for x in range(x0, x1 + 1):
                n_piece, n_rest = _divide(row, n_rest, piece, spare, low_x + np.float32(x) * cell + cell, 0)
                row, spare = spare, row
                if n_piece < 3 or x < 0:
                    continue
                bottom, peak = piece[0, 1], piece[0, 1]
                for k in range(1, n_piece):
                    bottom, peak = min(bottom, piece[k, 1]), max(peak, piece[k, 1])
                bottom, peak = bottom - low_y, peak - low_y
                if peak < _ZERO or bottom > top:
                    continue
                bottom, peak = max(bottom, _ZERO), min(peak, top)
                low = min(max(int(math.floor(bottom * inverse_height)), 0), MAX_VOXELS_UP)
                high = min(max(int(math.ceil(peak * inverse_height)), low + 1), MAX_VOXELS_UP)
                if state[0] == pool.shape[0]:
                    larger = np.empty((2 * pool.shape[0], 4), np.int32)
                    larger[: pool.shape[0]] = pool
                    pool = larger
                _add_span(pool, first, state, x + z * width, low, high, int(walkable[t]), merge_threshold)
    return first, pool


@njit(cache=True, nogil=True)
def _in_columns(first, pool):
    """Lists of spans laid out one column after the other."""
    start = np.zeros(len(first) + 1, np.int32)
    for column in range(len(first)):
        start[column + 1] = start[column]
        span = first[column]
        while span >= 0:
            start[column + 1] += 1
            span = pool[span, _NEXT]
    low, high = np.empty(start[-1], np.int32), np.empty(start[-1], np.int32)
    walkable = np.empty(start[-1], np.bool_)
    for column in range(len(first)):
        span = first[column]
        for i in range(start[column], start[column + 1]):
            low[i], high[i], walkable[i] = pool[span, _LOW], pool[span, _HIGH], pool[span, _WALKABLE] != 0
            span = pool[span, _NEXT]
    return start, low, high, walkable
