"""Where one cannot stand though the floor is level: Recast's three filters. They change `Heightfield.walkable`."""

from __future__ import annotations

import numpy as np
from numba import njit

from streamvln_gym.simulators.embedded.recast.heightfield import Heightfield
from streamvln_gym.simulators.embedded.recast.settings import NavMeshSettings

SKY = 0xFFFF  # voxels; nothing is above
STEP_X = np.array([-1, 0, 1, 0], np.int32)  # Recast's four directions
STEP_Z = np.array([0, 1, 0, -1], np.int32)


def filter_spans(field: Heightfield, settings: NavMeshSettings) -> None:
    """Applies the filters that the settings ask for, in habitat's order."""
    start, low, high, walkable = field.start, field.low, field.high, field.walkable
    height, climb = settings.height_voxels, settings.climb_voxels
    if settings.filter_low_hanging_obstacles:
        _step_over_low_obstacles(start, high, walkable, climb)
    if settings.filter_ledge_spans:
        _drop_ledges(start, low, high, walkable, field.width, field.depth, height, climb)
    if settings.filter_walkable_low_height_spans:
        _drop_low_ceilings(start, low, high, walkable, height)


@njit(cache=True, nogil=True)
def _step_over_low_obstacles(start, high, walkable, climb):
    """A span that is not walkable becomes so if the one right below it is, at most a step lower."""
    for column in range(len(start) - 1):
        below_was_walkable = False
        for i in range(start[column], start[column + 1]):
            was_walkable = walkable[i]
            if not was_walkable and below_was_walkable and abs(high[i] - high[i - 1]) <= climb:
                walkable[i] = walkable[i - 1]
            below_was_walkable = was_walkable  # as it was: walkability spreads over one obstacle only


@njit(cache=True, nogil=True)
def _drop_ledges(start, low, high, walkable, width, depth, height, climb):
    """Spans beside a drop of more than a step, or on a slope of more than a step between neighbours."""
    for z in range(depth):
        for x in range(width):
            column = x + z * width
            for i in range(start[column], start[column + 1]):
                if not walkable[i]:
                    continue
                floor = high[i]
                ceiling = low[i + 1] if i + 1 < start[column + 1] else SKY
                drop, least, greatest = SKY, floor, floor
                for direction in range(4):
                    other_x, other_z = x + STEP_X[direction], z + STEP_Z[direction]
                    if other_x < 0 or other_z < 0 or other_x >= width or other_z >= depth:
                        drop = min(drop, -climb - floor)
                        continue
                    other = other_x + other_z * width
                    begin, end = start[other], start[other + 1]
                    beyond = low[begin] if begin < end else SKY
                    if min(ceiling, beyond) - max(floor, -climb) > height:
                        drop = min(drop, -climb - floor)
                    for k in range(begin, end):
                        beyond = low[k + 1] if k + 1 < end else SKY
                        if min(ceiling, beyond) - max(floor, high[k]) > height:
                            drop = min(drop, high[k] - floor)
                            if abs(high[k] - floor) <= climb:
                                least, greatest = min(least, high[k]), max(greatest, high[k])
                if drop < -climb or greatest - least > climb:
                    walkable[i] = False


@njit(cache=True, nogil=True)
def _drop_low_ceilings(start, low, high, walkable, height):
    """Spans with less headroom than the agent needs."""
    for column in range(len(start) - 1):
        for i in range(start[column], start[column + 1]):
            ceiling = low[i + 1] if i + 1 < start[column + 1] else SKY
            if ceiling - high[i] < height:
                walkable[i] = False
