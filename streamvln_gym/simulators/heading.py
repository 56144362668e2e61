"""Which way to step: the headings of the turning grid, compared by what a FORWARD from each would gain."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamvln_gym.simulators.base import FORWARD_METRES, TURN_DEGREES, Action, AgentState

HALF_CIRCLE = round(180.0 / TURN_DEGREES)
"""Turns that make half a circle."""

GOOD_GAIN = 0.99 * FORWARD_METRES * math.cos(math.radians(TURN_DEGREES / 2.0))
"""Metres that a FORWARD gains at least whose heading is at most half a turn off (1 % left for rounding)."""

TURN_COST = 0.01
"""Metres of gain that a turn is worth, where no heading has a good gain."""


RULE = (FORWARD_METRES, math.radians(TURN_DEGREES), HALF_CIRCLE, GOOD_GAIN, TURN_COST)
"""All that the rule depends on: metres of a FORWARD, radians of a turn, and the three above."""


class Steps(Protocol):
    """What of a `Simulator` is asked."""

    def try_step(self, state: AgentState, action: int) -> tuple[AgentState, bool]:
        """The state that `action` would lead to from `state`, and whether it collides."""

    def geodesic_distance(self, position: ArrayLike, goals: ArrayLike) -> float:
        """Metres of the shortest walkable path."""


def best_turns(simulator: Steps, state: AgentState, goal: NDArray[np.float64], distance: float) -> int:
    """Turns (left positive) before the FORWARD that comes nearer to `goal`: the fewest that gain all a step can, else
    those with the best gain.

    Args:
        simulator: gives steps and geodesic distances.
        state: where the agent stands.
        goal: (3,), metres.
        distance: geodesic metres from `state` to `goal`.
    """
    best_score, best = -math.inf, 0
    for k in range(2 * HALF_CIRCLE):  # 0, 1, -1, 2, -2, ..., half a circle (once)
        turns = (k + 1) // 2 if k % 2 else -(k // 2)
        yaw = state.yaw + turns * math.radians(TURN_DEGREES)
        ahead, _ = simulator.try_step(AgentState(state.position, yaw), Action.FORWARD)
        gain = distance - simulator.geodesic_distance(ahead.position, goal)
        if gain >= GOOD_GAIN:
            return turns
        score = gain - TURN_COST * abs(turns)
        if score > best_score:
            best_score, best = score, turns
    return best
