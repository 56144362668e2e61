"""Outlines of the regions: traced along the voxels, then simplified (Recast's contours)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from streamvln_gym.simulators.embedded.recast.compact import CompactField
from streamvln_gym.simulators.embedded.recast.regions import MAX_WALK
from streamvln_gym.simulators.embedded.recast.settings import NavMeshSettings

_ZERO, _ONE = np.float32(0.0), np.float32(1.0)
_REGION, _AREA_BORDER = 0xFFFF, 0x20000
_CORNER_X = np.array([0, 1, 1, 0], np.int32)
_CORNER_Z = np.array([1, 1, 0, 0], np.int32)


@dataclass
class Contour:
    """A simplified outline.

    Attributes:
        corners: int32 (n, 3), x, height, z in voxels; outlines and holes run opposite ways.
        region: the region that it bounds.
    """

    corners: NDArray[np.int32]
    region: int

    @property
    def is_hole(self) -> bool:
        """Whether it runs round a hole of its region."""
        x, z = self.corners[:, 0].astype(np.int64), self.corners[:, 2].astype(np.int64)
        area = int((x * np.roll(z, 1) - np.roll(x, 1) * z).sum())
        return int((area + 1) / 2) < 0  # C's division, which rounds towards 0


def trace_contours(floor: CompactField, region: NDArray[np.int32], settings: NavMeshSettings) -> list[Contour]:
    """Contours of all regions, holes apart, in the order in which their first spans come."""
    sides = _open_sides(floor.links, region)
    max_error = np.float32(settings.edge_max_error)
    contours = []
    for i in np.flatnonzero(sides).tolist():
        if sides[i] in (0, 0xF):  # walked already, or a lone voxel
            sides[i] = 0
            continue
        points = _walk(floor.links, floor.column, floor.floor, floor.walkable, floor.width, region, sides, i)
        corners = _simplify(points, max_error, settings.edge_voxels)
        if len(corners) >= 3:
            contours.append(Contour(corners, int(region[i])))
    return contours


@njit(cache=True, nogil=True)
def _open_sides(links, region):
    """Bit d is set where a span's side d borders on another region; 0 for spans without a region."""
    sides = np.zeros(len(region), np.uint8)
    for i in range(len(region)):
        if region[i] == 0:
            continue
        for direction in range(4):
            other = links[i, direction]
            if other < 0 or region[other] != region[i]:
                sides[i] |= 1 << direction
    return sides


@njit(cache=True, nogil=True)
def _corner_height(links, floor, i, direction):
    """Height of the corner between the sides `direction` and the next: the highest of the four spans around."""
    height = floor[i]
    for first, second in ((direction, (direction + 1) & 3), ((direction + 1) & 3, direction)):
        a = links[i, first]
        if a >= 0:
            height = max(height, floor[a])
            b = links[a, second]
            if b >= 0:
                height = max(height, floor[b])
    return height


@njit(cache=True, nogil=True)
def _walk(links, column, floor, walkable, width, region, sides, i):
    """Corners (n, 4) along an outline: x, height, z, and what is beyond the edge that ends there: the region's number,
    with a bit for floor that was eroded. Clears `sides`."""
    direction = 0
    while not sides[i] & (1 << direction):
        direction += 1
    first, first_direction = i, direction
    points = np.empty((256, 4), np.int32)
    count = 0
    for _ in range(MAX_WALK - 1):
        if sides[i] & (1 << direction):
            if count == len(points):
                larger = np.empty((2 * count, 4), np.int32)
                larger[:count] = points
                points = larger
            points[count, 0] = column[i] % width + _CORNER_X[direction]
            points[count, 1] = _corner_height(links, floor, i, direction)
            points[count, 2] = column[i] // width + _CORNER_Z[direction]
            other = links[i, direction]
            points[count, 3] = 0
            if other >= 0:
                points[count, 3] = region[other] if walkable[other] else _AREA_BORDER
            count += 1
            sides[i] &= ~(1 << direction) & 0xFF
            direction = (direction + 1) & 3
        else:
            i = links[i, direction]
            if i < 0:
                break
            direction = (direction + 3) & 3
        if i == first and direction == first_direction:
            break
    return points[:count].copy()


@njit(cache=True, nogil=True)
def _deviation(x, z, ax, az, bx, bz):
    """Squared distance from a point to a segment, float32 as in Recast."""
    dx, dz = np.float32(bx - ax), np.float32(bz - az)
    length = dx * dx + dz * dz
    t = dx * np.float32(x - ax) + dz * np.float32(z - az)
    if length > _ZERO:
        t /= length
    t = min(max(t, _ZERO), _ONE)
    ex = np.float32(ax) + t * dx - np.float32(x)
    ez = np.float32(az) + t * dz - np.float32(z)
    return ex * ex + ez * ez


@njit(cache=True, nogil=True)
def _insert(kept, count, place, point):
    """Inserts a point number at `place`; returns the array, larger if need be."""
    if count == len(kept):
        larger = np.empty(2 * count, np.int32)
        larger[:count] = kept
        kept = larger
    for j in range(count, place, -1):
        kept[j] = kept[j - 1]
    kept[place] = point
    return kept


@njit(cache=True, nogil=True)
def _first_points(points):
    """Point numbers to begin with: where the region beyond changes, or else two opposite corners."""
    kept = np.empty(64, np.int32)
    count, n = 0, len(points)
    has_neighbours = False
    for i in range(n):
        has_neighbours |= (points[i, 3] & _REGION) != 0
    for i in range(n):
        if has_neighbours and points[i, 3] != points[(i + 1) % n, 3]:
            kept = _insert(kept, count, count, i)
            count += 1
    if count == 0:
        low, high = 0, 0
        for i in range(n):
            x, z = points[i, 0], points[i, 2]
            if x < points[low, 0] or (x == points[low, 0] and z < points[low, 2]):
                low = i
            if x > points[high, 0] or (x == points[high, 0] and z > points[high, 2]):
                high = i
        kept[0], kept[1] = low, high
        count = 2
    return kept, count


@njit(cache=True, nogil=True)
def _farthest(points, a, b):
    """The wall point between points a and b that leaves their line the most, and its squared distance."""
    n = len(points)
    ax, az, bx, bz = points[a, 0], points[a, 2], points[b, 0], points[b, 2]
    # From either side a segment is walked in one direction, so that neighbouring regions simplify it alike.
    if bx > ax or (bx == ax and bz > az):
        step, i, end = 1, (a + 1) % n, b
    else:
        step, i, end = n - 1, (b + n - 1) % n, a
        ax, bx, az, bz = bx, ax, bz, az
    worst, found = _ZERO, -1
    if points[i, 3] & _REGION == 0:
        while i != end:
            deviation = _deviation(points[i, 0], points[i, 2], ax, az, bx, bz)
            if deviation > worst:
                worst, found = deviation, i
            i = (i + step) % n
    return found, worst


@njit(cache=True, nogil=True)
def _middle(points, a, b, max_length):
    """The point halfway along a wall edge that is too long, or -1."""
    n = len(points)
    if points[(a + 1) % n, 3] & _REGION != 0:
        return -1
    dx, dz = points[b, 0] - points[a, 0], points[b, 2] - points[a, 2]
    between = b - a if b >= a else b + n - a
    if dx * dx + dz * dz <= max_length * max_length or between <= 1:
        return -1
    forwards = dx > 0 or (dx == 0 and dz > 0)
    return (a + (between if forwards else between + 1) // 2) % n


@njit(cache=True, nogil=True)
def _simplify(points, max_error, max_length):
    """Corners (n, 3) of the outline `points`, no farther from it than `max_error` voxels along walls."""
    kept, count = _first_points(points)
    i = 0
    while i < count:
        found, worst = _farthest(points, kept[i], kept[(i + 1) % count])
        if found >= 0 and worst > max_error * max_error:
            kept = _insert(kept, count, i + 1, found)
            count += 1
        else:
            i += 1
    i = 0
    while max_length > 0 and i < count:
        found = _middle(points, kept[i], kept[(i + 1) % count], max_length)
        if found >= 0:
            kept = _insert(kept, count, i + 1, found)
            count += 1
        else:
            i += 1
    corners = np.empty((count, 3), np.int32)
    for j in range(count):
        corners[j] = points[kept[j], :3]
    i = 0
    while i < count:  # neighbours at one place would confuse the triangulation
        j = i + 1 if i + 1 < count else 0
        if corners[i, 0] == corners[j, 0] and corners[i, 2] == corners[j, 2]:
            for k in range(i, count - 1):
                corners[k] = corners[k + 1]
            count -= 1
        i += 1
    return corners[:count].copy()
