"""Heights of the voxels under a polygon (Recast's height patches)."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from streamvln_gym.simulators.embedded.recast.filters import STEP_X, STEP_Z

UNSET = 0xFFFF
_NUDGE = np.float32(0.01)
_AROUND_X = np.array([0, -1, 0, 1, 1, 1, 0, -1, -1], np.int32)
_AROUND_Z = np.array([0, -1, -1, -1, 0, 1, 1, 1, 0], np.int32)


@njit(cache=True, nogil=True)
def height_patch(start, column, floor, links, region, width, depth, corners, own_region):
    """Heights int32 (rows, columns) around a polygon, `UNSET` where there are none, and its first cell (x, z).

    Heights come from the polygon's own region; from there they spread over linked spans to the rest of the box.

    Args:
        corners: int64 (n, 3), the polygon in voxels.
    """
    x0 = max(corners[:, 0].min() - 1, 0)
    x1 = min(corners[:, 0].max() + 1, width)
    z0 = max(corners[:, 2].min() - 1, 0)
    z1 = min(corners[:, 2].max() + 1, depth)
    patch = np.full((z1 - z0, x1 - x0), UNSET, np.int32)
    queue = np.empty(patch.size + 1, np.int32)
    tail = 0
    empty = True
    for z in range(z0, z1):
        for x in range(x0, x1):
            cell = x + z * width
            for i in range(start[cell], start[cell + 1]):
                if region[i] != own_region:
                    continue
                patch[z - z0, x - x0] = floor[i]
                empty = False
                for direction in range(4):
                    other = links[i, direction]
                    if other >= 0 and region[other] != own_region:
                        queue[tail] = i
                        tail += 1
                        break
                break
    if empty:
        seed = _span_at_centre(start, column, floor, links, width, corners, x0, z0, patch)
        patch[:] = UNSET
        patch[column[seed] // width - z0, column[seed] % width - x0] = floor[seed]
        queue[0] = seed
        tail = 1
    head = 0
    while head < tail:
        i = queue[head]
        head += 1
        for direction in range(4):
            other = links[i, direction]
            if other < 0:
                continue
            x, z = column[other] % width - x0, column[other] // width - z0
            if x < 0 or z < 0 or x >= patch.shape[1] or z >= patch.shape[0] or patch[z, x] != UNSET:
                continue
            patch[z, x] = floor[other]
            queue[tail] = other
            tail += 1
    return patch, x0, z0


@njit(cache=True, nogil=True)
def _span_at_corner(start, floor, width, corners, x0, z0, patch):
    """The span within one cell of a corner whose height is nearest to it, -1 if there is none."""
    best, found = UNSET, -1
    for j in range(len(corners)):
        for k in range(9):
            x, z = corners[j, 0] + _AROUND_X[k], corners[j, 2] + _AROUND_Z[k]
            if x < x0 or z < z0 or x >= x0 + patch.shape[1] or z >= z0 + patch.shape[0]:
                continue
            cell = x + z * width
            for i in range(start[cell], start[cell + 1]):
                gap = abs(corners[j, 1] - floor[i])
                if gap < best:
                    best, found = gap, i
    return found


@njit(cache=True, nogil=True)
def _span_at_centre(start, column, floor, links, width, corners, x0, z0, patch):
    """The span at a polygon's centre, found by walking there from a corner; else the last one reached.

    `patch` serves as a list of visited cells.
    """
    i = _span_at_corner(start, floor, width, corners, x0, z0, patch)
    centre_x, centre_z = corners[:, 0].sum() // len(corners), corners[:, 2].sum() // len(corners)
    order = np.arange(4)
    waiting = np.empty(4 * patch.size + 1, np.int32)
    waiting[0] = i
    size = 1
    patch[:] = 0
    while size > 0:
        size -= 1
        i = waiting[size]
        x, z = column[i] % width, column[i] // width
        if x == centre_x and z == centre_z:
            break
        if x == centre_x:
            straight = 1 if centre_z > z else 3
        else:
            straight = 2 if centre_x > x else 0
        order[straight], order[3] = order[3], order[straight]  # the straight way is tried first: pushed last
        for k in range(4):
            direction = order[k]
            other = links[i, direction]
            px, pz = x + STEP_X[direction] - x0, z + STEP_Z[direction] - z0
            if other < 0 or px < 0 or pz < 0 or px >= patch.shape[1] or pz >= patch.shape[0] or patch[pz, px] != 0:
                continue
            patch[pz, px] = 1
            waiting[size] = other
            size += 1
        order[straight], order[3] = order[3], order[straight]
    return i


@njit(cache=True, nogil=True)
def height_at(patch, x0, z0, point, inverse_cell, cell_height, radius):
    """Height in voxels at a point (3,) in metres from the grid's origin, float32.

    Where the voxel has none, the nearest ring of voxels up to `radius` away that has any is asked, and there the height
    closest to the point's.
    """
    column = int(math.floor(point[0] * inverse_cell + _NUDGE)) - x0
    row = int(math.floor(point[2] * inverse_cell + _NUDGE)) - z0
    column = min(max(column, 0), patch.shape[1] - 1)
    row = min(max(row, 0), patch.shape[0] - 1)
    height = patch[row, column]
    if height != UNSET:
        return height
    x, z, dx, dz = 1, 0, 1, 0
    ring_end, ring_size = 8, 16
    closest = np.float32(np.inf)
    for i in range((2 * radius + 1) ** 2 - 1):
        nx, nz = column + x, row + z
        if 0 <= nx < patch.shape[1] and 0 <= nz < patch.shape[0] and patch[nz, nx] != UNSET:
            gap = abs(np.float32(patch[nz, nx]) * cell_height - point[1])
            if gap < closest:
                height, closest = patch[nz, nx], gap
        if i + 1 == ring_end:
            if height != UNSET:
                break
            ring_end += ring_size
            ring_size += 8
        if x == z or (x < 0 and x == -z) or (x > 0 and x == 1 - z):
            dx, dz = -dz, dx
        x += dx
        z += dz
    return height
