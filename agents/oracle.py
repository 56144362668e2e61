"""The oracle: it knows the map and the goal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streamvln_gym.errors import NavigationError
from streamvln_gym.expert import GeodesicFollower, expert_for


class OracleAgent:
    """Follows the episode's reference path (or the shortest path to its goal) and stops there.

    It reads the environment that it is built with, so it serves one environment in the same process; across processes
    the wrapper `ExpertAction` gives the same actions in `info`.

    Args:
        env: a `VLNEnv` or wrappers around one.
        along_reference: follow the reference path; otherwise take the shortest way that the episode allows.
    """

    needs_picture = False

    def __init__(self, env: Any, along_reference: bool = True) -> None:
        from streamvln_gym.env import VLNEnv

        if not isinstance(getattr(env, "unwrapped", None), VLNEnv):
            raise TypeError(
                f"an OracleAgent reads one VLNEnv, in this process, not {env!r}: for a vector environment wrap each "
                "one in ExpertAction"
            )
        self._env = env.unwrapped
        self._along_reference = along_reference
        self._follower: GeodesicFollower | None = None

    def reset(self) -> None:
        """Starts on the environment's present episode; call it after `env.reset()`."""
        self._follower = expert_for(self._env.simulator, self._env.episode, self._along_reference)

    def act(self, obs: Mapping[str, Any]) -> int:
        """The expert's action where the environment's agent stands; `obs` is not looked at.

        Raises:
            RuntimeError: `reset` was not called.
            NavigationError: no way leads to the goal.
        """
        if self._follower is None:
            raise RuntimeError("OracleAgent.act was called before reset: call agent.reset() after env.reset()")
        try:
            return self._follower.next_action(self._env.simulator.state)
        except NavigationError as error:
            name, dataset = self._env.episode.episode_id, self._env.dataset
            raise NavigationError(f"episode {name!r} of {dataset.name}/{dataset.split}: {error}") from error
