"""`simulators.heading.best_turns` on a mesh, all headings in one call: the expert's inner loop."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from streamvln_gym.simulators.embedded.detour import nearest_polygon, try_step
from streamvln_gym.simulators.embedded.detour_path import find_path

OFF_MESH = -1000


@njit(cache=True, nogil=True)
def best_turns(mesh, scratch, x, y, z, yaw, goal_x, goal_y, goal_z, distance, rule):
    """Turns (left positive) before the FORWARD towards a goal that is `distance` metres away; `OFF_MESH` if (x, y, z)
    is off the mesh. `rule` is `heading.RULE`: given, for numba's cache would not notice that a constant has changed."""
    metres, turn, half_circle, good_gain, turn_cost = rule
    goal, goal_x, goal_y, goal_z = nearest_polygon(mesh, goal_x, goal_y, goal_z, -1)
    best_score, best = -np.inf, 0
    for k in range(2 * half_circle):
        turns = (k + 1) // 2 if k % 2 else -(k // 2)
        ahead = yaw + turns * turn
        end_x, end_z = x - metres * math.sin(ahead), z - metres * math.cos(ahead)
        start, new_x, new_y, new_z = try_step(mesh, scratch, x, y, z, end_x, y, end_z)
        if start < 0:
            return OFF_MESH
        left = np.inf
        start, new_x, new_y, new_z = nearest_polygon(mesh, new_x, new_y, new_z, -1)
        if start >= 0 and goal >= 0:
            left = find_path(mesh, scratch, start, goal, new_x, new_y, new_z, goal_x, goal_y, goal_z)[1]
        gain = distance - left
        if gain >= good_gain:
            return turns
        score = gain - turn_cost * abs(turns)
        if score > best_score:
            best_score, best = score, turns
    return best
