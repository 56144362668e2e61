"""What every agent offers, and what it may expect to see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

# What an environment of this package shows at one step; see `Agent.act`.
Observation = Mapping[str, Any]


@runtime_checkable
class Agent(Protocol):
    """A policy that keeps its own state between steps.

    Call `reset` at the start of every episode and `act` once per environment step:

        agent.reset()
        obs, info = env.reset()
        done = False
        while not done:
            obs, reward, terminated, truncated, info = env.step(agent.act(obs))
            done = terminated or truncated

    An agent may have a bool `needs_picture`: False says that the next `act` does not look at the observation's
    pictures, so that they need not be rendered.
    """

    def reset(self) -> None:
        """Forgets the episode."""
        ...

    def act(self, obs: Observation) -> int:
        """Chooses the next action.

        Args:
            obs: observation of the current step. Which keys are there depends on the environment's sensors and which
                are read on the agent:

                * `rgb`: uint8 (height, width, 3), the camera's picture.
                * `instruction`: str, the same at every step of an episode.
                * `depth`: float32 (height, width, 1), metres in [0, 10].
                * `gps`: float32 (2,), metres (forward, right) in the start frame.
                * `compass`: float32 (1,), radians.
                * `camera_pose`: float32 (4, 4), camera (x right, y down, z forward) to episode frame.
                * `intrinsics`: float (3, 3), `info["intrinsics"]` of `env.reset()`, which a caller adds for agents
                  that back-project the depth picture.
                * `semantic`: int32 (height, width, 1), class ids.

        Returns:
            0 STOP, 1 FORWARD (0.25 m), 2 LEFT (15 degrees), 3 RIGHT (15 degrees).
        """
        ...
