"""Agents that look at nothing: the floor that every learned agent has to beat."""

from __future__ import annotations

import numpy as np

from streamvln_gym.agents.base import Observation

STOP, FORWARD = 0, 1
# VLN-CE's hand-crafted baseline takes the mean length of an R2R-CE path and walks it.
MEAN_FORWARD_STEPS = 37


class RandomAgent:
    """Draws actions independently of what it sees.

    Args:
        seed: of the generator; it runs on across episodes.
        probabilities: of STOP, FORWARD, LEFT and RIGHT; the default is VLN-CE's random baseline, action frequencies of
            its training paths.

    Raises:
        ValueError: the probabilities are not four numbers that sum to 1.
    """

    needs_picture = False

    def __init__(
        self, seed: int | None = None, probabilities: tuple[float, float, float, float] = (0.02, 0.68, 0.15, 0.15)
    ) -> None:
        if len(probabilities) != 4 or min(probabilities) < 0 or abs(sum(probabilities) - 1) > 1e-9:
            raise ValueError(f"probabilities must be four numbers >= 0 that sum to 1, got {probabilities}")
        self._random = np.random.default_rng(seed)
        self._probabilities = probabilities

    def reset(self) -> None:
        """Nothing to forget; the generator runs on, so that episodes differ."""

    def act(self, obs: Observation) -> int:
        return int(self._random.choice(4, p=self._probabilities))


class ForwardAgent:
    """Walks straight ahead for a fixed number of steps and stops (VLN-CE's hand-crafted baseline, without its turns).

    Args:
        steps: FORWARD actions before STOP.
    """

    needs_picture = False

    def __init__(self, steps: int = MEAN_FORWARD_STEPS) -> None:
        if steps < 0:
            raise ValueError(f"steps must not be negative, got {steps}")
        self._steps = steps
        self._taken = 0

    def reset(self) -> None:
        self._taken = 0

    def act(self, obs: Observation) -> int:
        if self._taken >= self._steps:
            return STOP
        self._taken += 1
        return FORWARD
