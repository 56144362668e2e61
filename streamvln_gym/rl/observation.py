"""The wrapper that puts the policy's whole context into the observation."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import ArrayLike, NDArray

from streamvln_gym.agents.observation import read_instruction, read_rgb
from streamvln_gym.agents.streamvln import StreamVLNAgentConfig
from streamvln_gym.arguments import is_whole
from streamvln_gym.errors import TrainingError
from streamvln_gym.models.processing_streamvln import StreamVLNProcessor
from streamvln_gym.rl.context import StreamContext
from streamvln_gym.rl.layout import ContextLayout
from streamvln_gym.wrappers import ActionChunk

# Ids that a character takes at most, in the scripts of the datasets (UTF-8 bytes).
_IDS_PER_CHARACTER = 3


class SlowFastObservation(gym.Wrapper, RecordConstructorArgs):
    """Everything that StreamVLN's next decision rests on, so that the decision is Markov.

    One action is one chunk, `MultiDiscrete([4] * chunk_size)`: what follows a STOP in it counts for nothing. Around an
    environment of single actions, the wrapper puts `ActionChunk` in between.

    Args:
        env: a `VLNEnv` with the sensors `rgb` and `instruction`, or wrappers around one.
        processor: `agent.processor` of the checkpoint that is to decide.
        config: how to stream, as of `StreamVLNAgent`.
        max_instruction: ids of the longest instruction; None: as many as the dataset's longest can take.
        gamma: discount within a chunk, see `ActionChunk`.
        **settings: fields of `StreamVLNAgentConfig`, in place of those of `config`.

    Attributes:
        layout: the observation's arrays and bytes, see `ContextLayout`.

    Raises:
        TypeError: `env` holds no `VLNEnv`, or `processor` is none.
        ValueError: a sensor is missing, or the chunks have another length than the checkpoint's.
    """

    def __init__(
        self,
        env: gym.Env,
        processor: StreamVLNProcessor,
        config: StreamVLNAgentConfig | None = None,
        *,
        max_instruction: int | None = None,
        gamma: float = 1.0,
        **settings: Any,
    ) -> None:
        if not isinstance(processor, StreamVLNProcessor):
            raise TypeError(f"processor must be a StreamVLNProcessor, e.g. agent.processor, got {processor!r}")
        text = _instructions(env)
        if max_instruction is None:
            max_instruction = text.max_length * (1 if all(c.isascii() for c in text.characters) else _IDS_PER_CHARACTER)
        if not is_whole(max_instruction, 1):
            raise ValueError(f"max_instruction must be a positive number of ids, got {max_instruction!r}")
        RecordConstructorArgs.__init__(
            self,
            processor=processor,
            config=config,
            max_instruction=max_instruction,
            gamma=gamma,
            **settings,
            _disable_deepcopy=True,
        )
        chosen = replace(config or StreamVLNAgentConfig(), **settings)
        self._context = StreamContext(processor, chosen, max_instruction)
        self.layout: ContextLayout = self._context.layout
        super().__init__(_chunked(env, self.layout.chunk_size, gamma))
        self.observation_space = self.layout.observation_space
        self.action_space = self.layout.action_space

    def reset(self, **kwargs: Any) -> tuple[dict[str, NDArray], dict[str, Any]]:
        """Starts an episode.

        Raises:
            ValueError: the instruction takes more ids than `max_instruction`.
        """
        observation, info = self.env.reset(**kwargs)
        self._context.reset(read_instruction(observation))
        self._context.see(read_rgb(observation))
        return self._context.observe(), info

    def step(self, action: ArrayLike) -> tuple[dict[str, NDArray], float, bool, bool, dict[str, Any]]:
        """Executes a chunk.

        Raises:
            ValueError: the chunk has another length, or an action is not in 0..3.
            TrainingError: the reward is NaN or infinite.
        """
        actions = np.asarray(action)
        observation, reward, terminated, truncated, info = self.env.step(actions)
        if not math.isfinite(float(reward)):
            raise TrainingError(
                f"the reward of episode {info.get('episode_id')!r} is {reward}, which would spoil every weight: look "
                "at the reward's configuration or the wrapper that makes it"
            )
        self._context.execute([int(value) for value in actions[: info["n_executed"]]])
        self._context.see(read_rgb(observation))
        return self._context.observe(), float(reward), terminated, truncated, info


def _instructions(env: gym.Env) -> spaces.Text:
    """The instruction's space.

    Raises:
        ValueError: a sensor is missing, or the instruction is no text.
    """
    sensors = env.observation_space.spaces if isinstance(env.observation_space, spaces.Dict) else {}
    for sensor in ("rgb", "instruction"):
        if sensor not in sensors:
            raise ValueError(f"the observation has no {sensor!r}: add it to the environment's `sensors`")
    text = sensors["instruction"]
    if not isinstance(text, spaces.Text):
        raise ValueError(
            "the observation's instruction is not text: leave TokenizeInstruction and SB3Observation out, "
            "SlowFastObservation makes the ids itself"
        )
    return text


def _chunked(env: gym.Env, chunk: int, gamma: float) -> gym.Env:
    """`env` with chunks as its actions.

    Raises:
        ValueError: it has chunks of another length, or other actions.
    """
    space = env.action_space
    if isinstance(space, spaces.Discrete) and space.n == 4:
        return ActionChunk(env, chunk, gamma)
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1 and (space.nvec == 4).all():
        if len(space.nvec) == chunk and gamma == 1.0:
            return env
        if len(space.nvec) == chunk:
            raise ValueError(
                "the environment has chunks already: give gamma to ActionChunk, not to SlowFastObservation"
            )
        raise ValueError(
            f"the environment takes chunks of {len(space.nvec)} actions, but this checkpoint decides {chunk}: leave "
            f"ActionChunk out, or use ActionChunk(env, chunk={chunk})"
        )
    raise ValueError(f"SlowFastObservation needs the actions Discrete(4) or chunks of them, got {space}")
