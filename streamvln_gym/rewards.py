"""The reward for reinforcement learning; every term is configurable."""

from __future__ import annotations

import math
from dataclasses import dataclass

from streamvln_gym.arguments import is_finite


@dataclass(frozen=True)
class RewardConfig:
    """Reward of one step: `progress * (metres nearer the goal) + step + success * (stopped successfully)`.

    The defaults follow habitat's navigation reward: distance gained, a small time penalty, a bonus at the end. Where
    an episode has positions to visit first (`info.via`), the way to the goal leads over those not yet visited
    (`EpisodeMetrics.remaining`): who is told to go there and come back is not paid for staying.

    Attributes:
        progress: reward per metre by which the geodesic way to the goal became shorter in this step; the term is 0
            where either is infinite or the episode has no goal.
        step: added at every step (negative: time costs).
        success: added for a STOP that makes the episode a success (see `metrics`: within `success_distance` of the
            goal, and all of `info.via` visited where an episode has it).
    """

    progress: float = 1.0
    step: float = -0.01
    success: float = 2.5

    def __post_init__(self) -> None:
        for name in ("progress", "step", "success"):
            value = getattr(self, name)
            if not is_finite(value):
                raise ValueError(f"RewardConfig.{name} must be a finite number, got {value!r}")

    def __call__(self, distance_before: float | None, distance_after: float | None, succeeded: bool) -> float:
        """The reward of one step.

        Args:
            distance_before: geodesic way to the goal before the step, metres; None without a goal.
            distance_after: likewise after it.
            succeeded: whether this step was a STOP that made the episode a success.
        """
        reward = self.step + (self.success if succeeded else 0.0)
        if distance_before is not None and distance_after is not None:
            gained = distance_before - distance_after
            if math.isfinite(gained):
                reward += self.progress * gained
        return float(reward)
