"""Which way to step: the headings of the turning grid, compared by what a FORWARD from each would gain."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from streamvln_gym.simulators.base import FORWARD_METRES, TURN_DEGREES, Action, AgentState, Simulator

_HALF_CIRCLE = round(180.0 / TURN_DEGREES)
# A FORWARD whose heading is at most half a turn off gains at least this much (1 % left for rounding).
_GOOD_GAIN = 0.99 * FORWARD_METRES * math.cos(math.radians(TURN_DEGREES / 2.0))
_TURN_COST = 0.01  # metres of gain that a turn is worth where no heading has a good gain

RULE = (FORWARD_METRES, math.radians(TURN_DEGREES), _HALF_CIRCLE, _GOOD_GAIN, _TURN_COST)
"""All that the rule depends on: metres of a step, radians of a turn, turns of half a circle, good gain, turn's cost."""


def best_turns(simulator: Simulator, state: AgentState, goal: NDArray[np.float64], distance: float) -> int:
    """Turns (left positive) before the FORWARD that comes nearer to `goal`: the fewest that gain all a step can, else
    those with the best gain.

    Args:
        simulator: gives steps and geodesic distances.
        state: where the agent stands.
        goal: (3,), metres.
        distance: geodesic metres from `state` to `goal`.
    """
    _, turn, half_circle, good_gain, turn_cost = RULE
    best_score, best = -math.inf, 0
    for k in range(2 * half_circle):  # 0, 1, -1, 2, -2, ..., half a circle (once)
        turns = (k + 1) // 2 if k % 2 else -(k // 2)
        yaw = state.yaw + turns * turn
        ahead, _ = simulator.try_step(AgentState(state.position, yaw), Action.FORWARD)
        gain = distance - simulator.geodesic_distance(ahead.position, goal)
        if gain >= good_gain:
            return turns
        score = gain - turn_cost * abs(turns)
        if score > best_score:
            best_score, best = score, turns
    return best
