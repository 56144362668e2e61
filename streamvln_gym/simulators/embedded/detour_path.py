"""Paths over a mesh of convex polygons as Recast's Detour finds them: A* over edge midpoints, then string pulling."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from streamvln_gym.simulators.embedded.detour import (
    HEURISTIC_SCALE,
    ON_PORTAL_SQR,
    SAME_POINT_SQR,
    SEARCH_HALF_XZ,
    SEARCH_HALF_Y,
    _contains,
    _nearest_on_boundary,
    _segment_2d,
    nearest_polygon,
)

SEARCH_RADIUS = math.sqrt(2.0 * SEARCH_HALF_XZ**2 + SEARCH_HALF_Y**2)

_UNVISITED, _OPEN, _CLOSED = 0, 1, 2


@njit(cache=True, nogil=True)
def _sift_up(heap, total, hole, polygon):
    """Puts `polygon` into the heap at `hole` or above it."""
    parent = (hole - 1) // 2
    while hole > 0 and total[heap[parent]] > total[polygon]:
        heap[hole] = heap[parent]
        hole = parent
        parent = (hole - 1) // 2
    heap[hole] = polygon


@njit(cache=True, nogil=True)
def _pop(heap, total, size):
    """Takes the cheapest polygon out of a heap of `size` polygons (equal totals leave in Detour's order)."""
    top = heap[0]
    size -= 1
    last = heap[size]
    hole, child = 0, 1
    while child < size:
        if child + 1 < size and total[heap[child]] > total[heap[child + 1]]:
            child += 1
        heap[hole] = heap[child]
        hole = child
        child = 2 * hole + 1
    _sift_up(heap, total, hole, last)
    return top


@njit(cache=True, nogil=True)
def _distance(a, x, y, z):
    return math.sqrt((a[0] - x) ** 2 + (a[1] - y) ** 2 + (a[2] - z) ** 2)


@njit(cache=True, nogil=True)
def find_corridor(mesh, scratch, start, goal, x, y, z, goal_x, goal_y, goal_z):
    """Polygons from `start` to `goal` (Detour's findPath), written to `scratch.corridor`.

    A polygon's position is the middle of the edge by which it was first reached, and stays so.

    Returns:
        The corridor's length in polygons, 0 if the goal cannot be reached.
    """
    state, parent, cost, total = scratch.state, scratch.parent, scratch.cost, scratch.total
    entry, heap = scratch.entry, scratch.heap
    state[:] = _UNVISITED
    entry[start, 0], entry[start, 1], entry[start, 2] = x, y, z
    parent[start] = -1
    cost[start] = 0.0
    total[start] = _distance(entry[start], goal_x, goal_y, goal_z) * HEURISTIC_SCALE
    state[start] = _OPEN
    heap[0] = start
    size = 1
    while size > 0:
        current = _pop(heap, total, size)
        size -= 1
        state[current] = _CLOSED
        if current == goal:
            break
        count = mesh.counts[current]
        for j in range(count):
            other = mesh.neighbours[current, j]
            if other < 0 or other == parent[current]:
                continue
            if state[other] == _UNVISITED:
                i = j + 1 if j + 1 < count else 0
                for axis in range(3):
                    entry[other, axis] = (mesh.corners[current, j, axis] + mesh.corners[current, i, axis]) * 0.5
            new_cost = cost[current] + _distance(entry[current], entry[other, 0], entry[other, 1], entry[other, 2])
            to_goal = _distance(entry[other], goal_x, goal_y, goal_z)
            if other == goal:
                new_cost += to_goal
                new_total = new_cost
            else:
                new_total = new_cost + to_goal * HEURISTIC_SCALE
            if state[other] != _UNVISITED and new_total >= total[other]:
                continue
            parent[other] = current
            cost[other] = new_cost
            total[other] = new_total
            hole = size
            if state[other] == _OPEN:
                hole = 0
                while heap[hole] != other:
                    hole += 1
            else:
                size += 1
            state[other] = _OPEN
            _sift_up(heap, total, hole, other)
    if state[goal] != _CLOSED:
        return 0
    length = 0
    polygon = goal
    while polygon >= 0:
        length += 1
        polygon = parent[polygon]
    polygon = goal
    for k in range(length - 1, -1, -1):
        scratch.corridor[k] = polygon
        polygon = parent[polygon]
    return length


@njit(cache=True, nogil=True)
def _turn(ax, az, bx, bz, cx, cz):
    """Twice the signed 2D area of the triangle abc with Detour's sign."""
    return (cx - ax) * (bz - az) - (bx - ax) * (cz - az)


@njit(cache=True, nogil=True)
def _same(a, x, y, z):
    return (a[0] - x) ** 2 + (a[1] - y) ** 2 + (a[2] - z) ** 2 < SAME_POINT_SQR


@njit(cache=True, nogil=True)
def _append(points, count, x, y, z):
    """Appends a point unless it repeats the last one; returns the new count."""
    if count > 0 and _same(points[count - 1], x, y, z):
        return count
    points[count, 0], points[count, 1], points[count, 2] = x, y, z
    return count + 1


@njit(cache=True, nogil=True)
def _moved_inside(mesh, polygon, x, y, z):
    """The point of the polygon nearest to a point; one on the boundary, to rounding, keeps its height."""
    if _contains(mesh.corners[polygon], mesh.counts[polygon], x, z):
        return x, y, z
    near_x, near_y, near_z = _nearest_on_boundary(mesh.corners[polygon], mesh.counts[polygon], x, z)
    if (near_x - x) ** 2 + (near_z - z) ** 2 < SAME_POINT_SQR:
        near_y = y
    return near_x, near_y, near_z


@njit(cache=True, nogil=True)
def pull_string(mesh, scratch, length, x, y, z, goal_x, goal_y, goal_z):
    """Corners of the shortest line in the corridor (Detour's findStraightPath), written to `scratch.points`.

    The portal from one polygon to the next is its edge j with the corner j on the left and j + 1 on the right.

    Returns:
        The number of points, start and goal included.
    """
    corridor, points = scratch.corridor, scratch.points
    first, final = corridor[0], corridor[length - 1]
    x, y, z = _moved_inside(mesh, first, x, y, z)
    goal_x, goal_y, goal_z = _moved_inside(mesh, final, goal_x, goal_y, goal_z)
    apex, left, right = np.array((x, y, z)), np.array((x, y, z)), np.array((x, y, z))
    left_index, right_index = 0, 0
    count = _append(points, 0, x, y, z)
    i = 0
    while i < length:
        if i + 1 < length:
            polygon, j = corridor[i], 0
            while mesh.neighbours[polygon, j] != corridor[i + 1]:
                j += 1
            k = j + 1 if j + 1 < mesh.counts[polygon] else 0
            lx, ly, lz = mesh.corners[polygon, j, 0], mesh.corners[polygon, j, 1], mesh.corners[polygon, j, 2]
            rx, ry, rz = mesh.corners[polygon, k, 0], mesh.corners[polygon, k, 1], mesh.corners[polygon, k, 2]
            if i == 0 and _segment_2d(apex[0], apex[2], lx, lz, rx, rz)[0] < ON_PORTAL_SQR:
                i += 1  # the start lies on the first portal
                continue
        else:
            lx, ly, lz, rx, ry, rz = goal_x, goal_y, goal_z, goal_x, goal_y, goal_z
        if _turn(apex[0], apex[2], right[0], right[2], rx, rz) <= 0.0:
            narrows = _turn(apex[0], apex[2], left[0], left[2], rx, rz) > 0.0
            if narrows or _same(apex, right[0], right[1], right[2]):
                right[0], right[1], right[2] = rx, ry, rz
                right_index = i
            else:
                apex[:] = left
                right[:] = left
                count = _append(points, count, apex[0], apex[1], apex[2])
                right_index = left_index
                i = left_index + 1
                continue
        if _turn(apex[0], apex[2], left[0], left[2], lx, lz) >= 0.0:
            narrows = _turn(apex[0], apex[2], right[0], right[2], lx, lz) < 0.0
            if narrows or _same(apex, left[0], left[1], left[2]):
                left[0], left[1], left[2] = lx, ly, lz
                left_index = i
            else:
                apex[:] = right
                left[:] = right
                count = _append(points, count, apex[0], apex[1], apex[2])
                left_index = right_index
                i = right_index + 1
                continue
        i += 1
    return _append(points, count, goal_x, goal_y, goal_z)


@njit(cache=True, nogil=True)
def find_path(mesh, scratch, start, goal, x, y, z, goal_x, goal_y, goal_z):
    """Path between two points of the polygons `start` and `goal`, written to `scratch.points`.

    Returns:
        (number of points, length in metres); (0, inf) if there is no path.
    """
    if mesh.islands[start] != mesh.islands[goal]:
        return 0, np.inf
    length = find_corridor(mesh, scratch, start, goal, x, y, z, goal_x, goal_y, goal_z)
    if length == 0:
        return 0, np.inf
    count = pull_string(mesh, scratch, length, x, y, z, goal_x, goal_y, goal_z)
    points = scratch.points
    metres = 0.0
    for i in range(1, count):
        metres += _distance(points[i], points[i - 1, 0], points[i - 1, 1], points[i - 1, 2])
    return count, metres


@njit(cache=True, nogil=True)
def path_between(mesh, scratch, x, y, z, goal_x, goal_y, goal_z):
    """Path between any two points, which are first moved to the mesh; written to `scratch.points`.

    Returns:
        (number of points, length in metres); (0, inf) if there is no path, (-1, inf) if the start is off the mesh.
    """
    start, x, y, z = nearest_polygon(mesh, x, y, z, -1)
    if start < 0:
        return -1, np.inf
    goal, goal_x, goal_y, goal_z = nearest_polygon(mesh, goal_x, goal_y, goal_z, -1)
    if goal < 0:
        return 0, np.inf
    return find_path(mesh, scratch, start, goal, x, y, z, goal_x, goal_y, goal_z)


@njit(cache=True, nogil=True)
def distance_to_goals(mesh, scratch, x, y, z, goals):
    """Length of the shortest path to the nearest of `goals` (N, 3): inf if none is reachable, -1 if the start is off
    the mesh. Goals are tried in the order of their straight distances, as long as those can still win."""
    start, x, y, z = nearest_polygon(mesh, x, y, z, -1)
    if start < 0:
        return -1.0
    number = goals.shape[0]
    straight = np.empty(number)
    for k in range(number):
        straight[k] = _distance(goals[k], x, y, z)
    best = np.inf
    for _ in range(number):
        k = int(np.argmin(straight))
        # A goal beside the mesh is moved onto it, so it may turn out a little nearer than it looks.
        if straight[k] - SEARCH_RADIUS >= best:
            break
        straight[k] = np.inf
        goal, goal_x, goal_y, goal_z = nearest_polygon(mesh, goals[k, 0], goals[k, 1], goals[k, 2], -1)
        if goal >= 0:
            best = min(best, find_path(mesh, scratch, start, goal, x, y, z, goal_x, goal_y, goal_z)[1])
    return best
