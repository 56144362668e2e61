"""Divides the walkable floor into regions without holes: Recast's watershed over the distance field."""

from __future__ import annotations

import numpy as np
from numba import njit

EXPAND_ITERATIONS = 8
_STACKS = 8


@njit(cache=True, nogil=True)
def watershed(links, walkable, distance, greatest):
    """Region of each span, int32 (N,), 0 for none, and one more than the last region's number.

    The floor is flooded from the places farthest from walls; regions grow level by level, and what no region reaches
    starts a new one.
    """
    count = len(distance)
    region, reach = np.zeros(count, np.int32), np.zeros(count, np.int32)
    stack, left_over, buffer = np.empty(count, np.int32), np.empty(count, np.int32), np.empty(count, np.int32)
    changes = np.empty((count, 3), np.int32)
    by_level, begin = np.empty(0, np.int32), np.zeros(_STACKS + 1, np.int32)
    size, number, turn = 0, 1, -1
    level = (greatest + 1) & ~1
    while level > 0:
        level = max(level - 2, 0)
        turn = (turn + 1) % _STACKS
        if turn == 0:
            by_level, begin = _sort_by_level(level >> 1, walkable, distance, region)
        n_left = 0
        if turn > 0:
            for j in range(size):
                if stack[j] >= 0 and region[stack[j]] == 0:
                    left_over[n_left] = stack[j]
                    n_left += 1
        size = 0
        for j in range(begin[turn], begin[turn + 1]):
            stack[size] = by_level[j]
            size += 1
        for j in range(n_left):
            stack[size] = left_over[j]
            size += 1
        for j in range(size):
            if region[stack[j]] != 0:
                stack[j] = -1
        _expand(links, walkable, region, reach, stack, size, changes, EXPAND_ITERATIONS if level > 0 else -1)
        for j in range(size):
            i = stack[j]
            if i >= 0 and region[i] == 0 and _flood(links, walkable, distance, region, reach, buffer, i, level, number):
                number += 1
    size = 0
    for i in range(count):
        if region[i] == 0 and walkable[i]:
            stack[size] = i
            size += 1
    _expand(links, walkable, region, reach, stack, size, changes, -1)
    return region, number


@njit(cache=True, nogil=True)
def _sort_by_level(start, walkable, distance, region):
    """Spans without a region, sorted into the next levels: span numbers and where each level begins."""
    begin = np.zeros(_STACKS + 1, np.int32)
    for i in range(len(distance)):
        if walkable[i] and region[i] == 0:
            place = max(start - (distance[i] >> 1), 0)
            if place < _STACKS:
                begin[place + 1] += 1
    begin = np.cumsum(begin).astype(np.int32)
    fill = begin.copy()
    spans = np.empty(begin[-1], np.int32)
    for i in range(len(distance)):
        if walkable[i] and region[i] == 0:
            place = max(start - (distance[i] >> 1), 0)
            if place < _STACKS:
                spans[fill[place]] = i
                fill[place] += 1
    return spans, begin


@njit(cache=True, nogil=True)
def _expand(links, walkable, region, reach, stack, size, changes, iterations):
    """Grows the regions into the spans of the stack, at most `iterations` cells far (-1: as far as they go)."""
    done = 0
    while size > 0:
        failed, n_changes = 0, 0
        for j in range(size):
            i = stack[j]
            if i < 0:
                failed += 1
                continue
            number, nearest = region[i], 0xFFFF
            for direction in range(4):
                other = links[i, direction]
                if other >= 0 and walkable[other] and region[other] > 0 and reach[other] + 2 < nearest:
                    number, nearest = region[other], reach[other] + 2
            if number:
                stack[j] = -1
                changes[n_changes, 0], changes[n_changes, 1], changes[n_changes, 2] = i, number, nearest
                n_changes += 1
            else:
                failed += 1
        for j in range(n_changes):
            region[changes[j, 0]] = changes[j, 1]
            reach[changes[j, 0]] = changes[j, 2]
        done += 1
        if failed == size or done == iterations:
            break


@njit(cache=True, nogil=True)
def _flood(links, walkable, distance, region, reach, stack, first, level, number):
    """Starts a region at span `first` and floods it down to the level before; False if it touches others at once."""
    stack[0] = first
    size, marked = 1, 0
    region[first], reach[first] = number, 0
    lowest = max(level - 2, 0)
    while size > 0:
        size -= 1
        i = stack[size]
        if _touches_another(links, walkable, region, i, number):
            region[i] = 0
            continue
        marked += 1
        for direction in range(4):
            other = links[i, direction]
            if other >= 0 and walkable[other] and distance[other] >= lowest and region[other] == 0:
                region[other], reach[other] = number, 0
                stack[size] = other
                size += 1
    return marked > 0


@njit(cache=True, nogil=True)
def _touches_another(links, walkable, region, i, number):
    """Whether one of the eight spans around i belongs to another region than `number`."""
    for direction in range(4):
        a = links[i, direction]
        if a < 0 or not walkable[a]:
            continue
        if region[a] != 0 and region[a] != number:
            return True
        b = links[a, (direction + 1) & 3]
        if b >= 0 and walkable[b] and region[b] != 0 and region[b] != number:
            return True
    return False
