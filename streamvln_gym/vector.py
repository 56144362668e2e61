"""Vector environments: where do episodes start?"""

from __future__ import annotations

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import ArrayLike, NDArray


class EpisodeStarts:
    """Derives from the ends of episodes which of a vector environment's observations start an episode.

    With `AutoresetMode.NEXT_STEP` (Gymnasium's default) the call after an end ignores that environment's action and
    returns the first observation of the next episode; with `SAME_STEP` (stable-baselines3's way) the call that ends an
    episode returns it already.

    Example:
        >>> starts = EpisodeStarts.of(envs)
        >>> observations, infos = envs.reset()
        >>> episode_starts = starts.reset()
        >>> while True:
        ...     actions = policy(observations, episode_starts)
        ...     observations, rewards, terminations, truncations, infos = envs.step(actions)
        ...     episode_starts = starts.update(terminations, truncations)

    Args:
        num_envs: number of environments.
        autoreset_mode: NEXT_STEP or SAME_STEP.

    Raises:
        ValueError: the mode is DISABLED, where only the caller knows which environments it reset.
    """

    def __init__(self, num_envs: int, autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP) -> None:
        self.num_envs = num_envs
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        if self.autoreset_mode is AutoresetMode.DISABLED:
            raise ValueError(
                "EpisodeStarts needs autoreset mode NEXT_STEP or SAME_STEP; with DISABLED, the environments that you "
                "reset are the ones that start: pass your own `reset_mask`"
            )
        self._ended = np.zeros(num_envs, dtype=np.bool_)

    @classmethod
    def of(cls, envs: VectorEnv) -> EpisodeStarts:
        """For a vector environment, with the autoreset mode that it states in its metadata."""
        return cls(envs.num_envs, envs.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))

    def reset(self) -> NDArray[np.bool_]:
        """After `envs.reset()`: every environment starts, bool (num_envs,)."""
        self._ended = np.zeros(self.num_envs, dtype=np.bool_)
        return np.ones(self.num_envs, dtype=np.bool_)

    def update(self, terminations: ArrayLike, truncations: ArrayLike) -> NDArray[np.bool_]:
        """After `envs.step()`: which of the observations that it returned start an episode, bool (num_envs,)."""
        ended = np.logical_or(terminations, truncations)
        if ended.shape != (self.num_envs,):
            raise ValueError(f"expected terminations and truncations of shape ({self.num_envs},), got {ended.shape}")
        starts = ended if self.autoreset_mode is AutoresetMode.SAME_STEP else self._ended
        self._ended = ended
        return starts.copy()
