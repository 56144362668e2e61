"""A rollout buffer whose minibatches hold whole windows."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.buffers import DictRolloutBuffer
from stable_baselines3.common.type_aliases import DictRolloutBufferSamples


class WindowRolloutBuffer(DictRolloutBuffer):
    """Draws decisions window by window instead of one by one: what is of one window comes together.

    `StreamVLNActorCriticPolicy` evaluates all of a window's decisions in one sequence (`share_windows`), which saves
    most of PPO's work. Windows are drawn at random; each epoch still sees every decision once.

        PPO(StreamVLNActorCriticPolicy, envs, rollout_buffer_class=WindowRolloutBuffer, normalize_advantage=False, ...)

    Advantages are normalised here, over the whole rollout: PPO's own `normalize_advantage` would take the mean over a
    minibatch, which is a window or a few, and with it most of what makes one window better than another.

    Args:
        normalize_advantage: whether (`rollout_buffer_kwargs={"normalize_advantage": False}` leaves them).

    Raises:
        ValueError: the observations have no windows.
    """

    def __init__(self, *args: Any, normalize_advantage: bool = True, **kwargs: Any) -> None:
        self.normalize_advantage = normalize_advantage
        super().__init__(*args, **kwargs)
        if "window_steps" not in self.observation_space.spaces:  # type: ignore[attr-defined]
            raise ValueError(
                f"WindowRolloutBuffer needs observations of SlowFastObservation, got {self.observation_space}: wrap "
                "the environments in it, or leave rollout_buffer_class out"
            )

    def get(self, batch_size: int | None = None) -> Generator[DictRolloutBufferSamples, None, None]:  # type: ignore[override]
        """Minibatches of `batch_size` decisions (the last one may be smaller); None means all at once."""
        assert self.full, "the rollout is not complete"
        if not self.generator_ready:
            self._order = self._windows()
            for key, values in self.observations.items():
                self.observations[key] = self.swap_and_flatten(values)
            for name in ("actions", "values", "log_probs", "advantages", "returns"):
                self.__dict__[name] = self.swap_and_flatten(self.__dict__[name])
            if self.normalize_advantage:
                self.advantages = (self.advantages - self.advantages.mean()) / (self.advantages.std() + 1e-8)
            self.generator_ready = True
        drawn = np.concatenate([self._order[index] for index in np.random.permutation(len(self._order))])
        size = batch_size or len(drawn)
        for begin in range(0, len(drawn), size):
            yield self._get_samples(drawn[begin : begin + size])

    def _windows(self) -> list[NDArray[np.int64]]:
        """Numbers of the decisions, environment by environment, in runs of one window."""
        opened = self.observations["window_steps"][:, :, 0].T  # (envs, steps)
        starts = self.episode_starts.T > 0
        fresh = np.ones_like(starts)
        fresh[:, 1:] = (opened[:, 1:] != opened[:, :-1]) | starts[:, 1:]
        numbers = np.arange(fresh.size)
        return np.split(numbers, np.flatnonzero(fresh.ravel())[1:])
