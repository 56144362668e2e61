"""The floors over walkable spans, linked and shrunk by the agent's radius (Recast's compact heightfield)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from streamvln_gym.simulators.embedded.recast.filters import SKY, STEP_X, STEP_Z
from streamvln_gym.simulators.embedded.recast.heightfield import Heightfield
from streamvln_gym.simulators.embedded.recast.settings import NavMeshSettings

_MAX_LAYERS = 62
_FAR = 0xFFFF


class CompactField(NamedTuple):
    """N floor spans, in the order of their columns.

    Attributes:
        width, depth: cells along x and z.
        start: int32 (width * depth + 1,), where a column's floor spans begin.
        column: int32 (N,), x + z * width of each.
        floor: int32 (N,), height in voxels.
        links: int32 (N, 4), the floor span that one can walk to in direction -x, +z, +x, -z, or -1.
        walkable: bool (N,), False where the agent's radius does not fit.
    """

    width: int
    depth: int
    start: NDArray[np.int32]
    column: NDArray[np.int32]
    floor: NDArray[np.int32]
    links: NDArray[np.int32]
    walkable: NDArray[np.bool_]


def compact_field(field: Heightfield, settings: NavMeshSettings) -> CompactField:
    """The floors of a filtered heightfield, eroded by the agent's radius."""
    start, column, floor, links = _connect(
        field.start, field.low, field.high, field.walkable, field.width, field.depth,
        settings.height_voxels, settings.climb_voxels,
    )  # fmt: skip
    walkable = _erode(links, settings.radius_voxels)
    return CompactField(field.width, field.depth, start, column, floor, links, walkable)


@njit(cache=True, nogil=True)
def _connect(start, low, high, walkable, width, depth, height, climb):
    """Floor spans and their links."""
    count = 0
    for i in range(len(walkable)):
        count += walkable[i]
    first = np.zeros(width * depth + 1, np.int32)
    column, floor, free = np.empty(count, np.int32), np.empty(count, np.int32), np.empty(count, np.int32)
    links = np.full((count, 4), -1, np.int32)
    n = 0
    for cell in range(width * depth):
        for i in range(start[cell], start[cell + 1]):
            if walkable[i]:
                ceiling = low[i + 1] if i + 1 < start[cell + 1] else SKY
                column[n], floor[n] = cell, high[i]
                free[n] = min(max(ceiling - high[i], 0), 0xFF)
                n += 1
        first[cell + 1] = n
    for i in range(count):
        x, z = column[i] % width, column[i] // width
        for direction in range(4):
            other_x, other_z = x + STEP_X[direction], z + STEP_Z[direction]
            if other_x < 0 or other_z < 0 or other_x >= width or other_z >= depth:
                continue
            other = other_x + other_z * width
            for k in range(first[other], min(first[other + 1], first[other] + _MAX_LAYERS + 1)):
                bottom = max(floor[i], floor[k])
                top = min(floor[i] + free[i], floor[k] + free[k])
                if top - bottom >= height and abs(floor[k] - floor[i]) <= climb:
                    links[i, direction] = k
                    break
    return first, column, floor, links


@njit(cache=True, nogil=True)
def sweep_distances(links, distance):
    """Spreads distances from the borders in two sweeps: 2 for a straight step, 3 for a diagonal one."""
    count = len(distance)
    for i in range(count):
        _relax(links, distance, i, 0, 3)
        _relax(links, distance, i, 3, 2)
    for i in range(count - 1, -1, -1):
        _relax(links, distance, i, 2, 1)
        _relax(links, distance, i, 1, 0)


@njit(cache=True, nogil=True)
def _relax(links, distance, i, direction, turn):
    """Distance of span i by way of its neighbour in `direction`, and of that one's neighbour in direction `turn`."""
    a = links[i, direction]
    if a >= 0:
        distance[i] = min(distance[i], distance[a] + 2)
        b = links[a, turn]
        if b >= 0:
            distance[i] = min(distance[i], distance[b] + 3)


@njit(cache=True, nogil=True)
def _erode(links, radius):
    """Which spans are at least `radius` voxels from a border."""
    distance = np.full(len(links), 0xFF, np.int32)
    for i in range(len(links)):
        if min(links[i, 0], links[i, 1], links[i, 2], links[i, 3]) < 0:
            distance[i] = 0
    sweep_distances(links, distance)
    return distance >= 2 * radius


@njit(cache=True, nogil=True)
def distance_field(links, walkable):
    """Distance of each span to the border of its area, int32 (N,), blurred; and the greatest before blurring."""
    distance = np.full(len(links), _FAR, np.int32)
    for i in range(len(links)):
        for direction in range(4):
            other = links[i, direction]
            if other < 0 or walkable[other] != walkable[i]:
                distance[i] = 0
    sweep_distances(links, distance)
    greatest = distance.max() if len(distance) else 0
    blurred = distance.copy()
    for i in range(len(links)):
        if distance[i] <= 2:
            continue
        total = distance[i]
        for direction in range(4):
            a = links[i, direction]
            if a < 0:
                total += 2 * distance[i]
                continue
            total += distance[a]
            b = links[a, (direction + 1) & 3]
            total += distance[b] if b >= 0 else distance[i]
        blurred[i] = (total + 5) // 9
    return blurred, greatest
