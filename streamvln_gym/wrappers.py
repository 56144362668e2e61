"""Wrappers: instruction ids, stable-baselines3's spaces, action chunks, the expert's actions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, cast

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, RecordEpisodeStatistics, TimeLimit
from numpy.typing import ArrayLike, NDArray

from streamvln_gym.arguments import is_finite, is_whole
from streamvln_gym.expert import GeodesicFollower, expert_for
from streamvln_gym.simulators.base import Action
from streamvln_gym.spaces import POSITION_LIMIT

if TYPE_CHECKING:
    from streamvln_gym.env import VLNEnv

Tokenize = Callable[[str], Sequence[int]]

PAD = -1
"""Fills up instruction ids; no tokenizer has it as an id."""


class _InstructionIds:
    """Turns instructions into ids of fixed length; the last instruction's are kept, since it stays for an episode."""

    def __init__(self, tokenize: Tokenize, max_length: int) -> None:
        if not callable(tokenize):
            raise TypeError(f"tokenize must be a callable str -> ids, got {tokenize!r}")
        if not is_whole(max_length, 1):
            raise ValueError(f"max_length must be a positive number of ids, got {max_length!r}")
        self._tokenize = tokenize
        self._last: tuple[str | None, NDArray[np.int64]] = (None, np.empty(0, np.int64))
        self.space = spaces.Box(PAD, np.iinfo(np.int32).max, (int(max_length),), np.int64)

    def __call__(self, text: str) -> NDArray[np.int64]:
        if text != self._last[0]:
            (max_length,) = self.space.shape
            given = self._tokenize(text)
            ids = np.asarray(given)
            if ids.ndim != 1 or (len(ids) and not np.issubdtype(ids.dtype, np.integer)):
                raise TypeError(
                    f"tokenize must give a sequence of integer ids, got {given!r:.80}: pass a tokenizer's `encode`, say"
                )
            if len(ids) > max_length:
                raise ValueError(
                    f"tokenize gave ids of shape {ids.shape} for an instruction of {len(text)} characters, but "
                    f"max_length is {max_length}: pass a larger max_length"
                )
            if len(ids) and not (ids.min() > PAD and ids.max() <= np.iinfo(np.int32).max):
                raise ValueError(
                    f"tokenize gave ids from {ids.min()} to {ids.max()}: they must lie in 0..{np.iinfo(np.int32).max}"
                )
            self._last = (text, np.pad(ids.astype(np.int64), (0, max_length - len(ids)), constant_values=PAD))
        return self._last[1].copy()


class TokenizeInstruction(gym.ObservationWrapper, RecordConstructorArgs):
    """Replaces the instruction's text by token ids, int64 (max_length,), filled up with `PAD` (-1).

    Args:
        env: with an "instruction" in its observation.
        tokenize: any callable from a str to ids.
        max_length: number of ids; a longer instruction is an error.
    """

    def __init__(self, env: gym.Env, tokenize: Tokenize, max_length: int = 512) -> None:
        RecordConstructorArgs.__init__(self, tokenize=tokenize, max_length=max_length, _disable_deepcopy=True)
        super().__init__(env)
        _require_text(env)
        self._ids = _InstructionIds(tokenize, max_length)
        self.observation_space = _changed(env, {"instruction": self._ids.space})

    def observation(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        """The observation with ids instead of the text."""
        return {**observation, "instruction": self._ids(observation["instruction"])}


class SB3Observation(gym.ObservationWrapper, RecordConstructorArgs):
    """The observation in the spaces that stable-baselines3's checker takes without a warning.

    `rgb` stays uint8; `depth` becomes uint8 (255 is `camera.max_depth`); `camera_pose` becomes flat, float32 (16,);
    `instruction` becomes ids, int64 (max_length,), filled up with `PAD`; `gps` and `compass` stay. The sensor
    `semantic` has no place here. Let no `VecNormalize` normalise the ids: buffers keep an entry in its space's type.

    Args:
        env: a `VLNEnv` or wrappers around one.
        tokenize: any callable from a str to ids.
        max_length: number of ids; a longer instruction is an error.
    """

    def __init__(self, env: gym.Env, tokenize: Tokenize, max_length: int = 512) -> None:
        RecordConstructorArgs.__init__(self, tokenize=tokenize, max_length=max_length, _disable_deepcopy=True)
        super().__init__(env)
        if "instruction" in _sensor_spaces(env):
            _require_text(env)
        if "semantic" in _sensor_spaces(env):
            raise ValueError("SB3Observation does not take the sensor 'semantic': leave it out of `sensors`")
        self._ids = _InstructionIds(tokenize, max_length)
        self._max_depth = 1.0
        changed: dict[str, spaces.Space] = {}
        for name, space in _sensor_spaces(env).items():
            if name == "depth":
                self._max_depth = float(cast(spaces.Box, space).high.max())
                if not math.isfinite(self._max_depth):
                    raise ValueError("SB3Observation scales depth by camera.max_depth: give the camera a finite one")
                changed[name] = spaces.Box(0, 255, space.shape, np.uint8)
            elif name == "camera_pose":
                changed[name] = spaces.Box(-POSITION_LIMIT, POSITION_LIMIT, (16,), np.float32)
            elif name == "instruction":
                changed[name] = self._ids.space
        self.observation_space = _changed(env, changed)

    def observation(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        """The observation as described above."""
        converted = dict(observation)
        if "depth" in converted:
            converted["depth"] = np.rint(converted["depth"] * (255.0 / self._max_depth)).astype(np.uint8)
        if "camera_pose" in converted:
            converted["camera_pose"] = converted["camera_pose"].reshape(16)
        if "instruction" in converted:
            converted["instruction"] = self._ids(converted["instruction"])
        return converted


class ActionChunk(gym.Wrapper, RecordConstructorArgs):
    """One step executes a chunk of actions; what follows a STOP is ignored, and only the last frame is rendered.

    The reward is the sum of `gamma ** k` times the reward of the k-th action; `info["n_executed"]` counts the actions
    executed. Wrappers inside see every single action. Gymnasium's that only count or check, and this package's, see old
    pictures but for the last; for any other, which may remember what it sees, every frame is rendered.

    Args:
        env: a `VLNEnv` or wrappers around one.
        chunk: actions of a step.
        gamma: discount within a chunk; the value of what follows is to be discounted by `gamma ** n_executed`.
    """

    def __init__(self, env: gym.Env, chunk: int = 4, gamma: float = 1.0) -> None:
        RecordConstructorArgs.__init__(self, chunk=chunk, gamma=gamma)
        super().__init__(env)
        if not is_whole(chunk, 1):
            raise ValueError(f"chunk must be a positive integer, got {chunk!r}")
        if not is_finite(gamma) or not 0.0 <= gamma <= 1.0:
            raise ValueError(f"gamma must lie in [0, 1], got {gamma!r}")
        _base(env)
        self.chunk = int(chunk)
        self.gamma = float(gamma)
        self.action_space = spaces.MultiDiscrete([len(Action)] * self.chunk)
        self._shows_all = not all(type(wrapper) in _WITHOUT_MEMORY for wrapper in _wrappers(env))

    def step(self, action: ArrayLike) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Executes a chunk.

        Raises:
            ValueError: it has not `chunk` actions.
            TypeError: they are not integers.
        """
        actions = np.asarray(action)
        if actions.shape != (self.chunk,):
            raise ValueError(f"a chunk must hold {self.chunk} actions, got shape {actions.shape}")
        if np.issubdtype(actions.dtype, np.integer) and not np.isin(actions, list(Action)).all():
            raise ValueError(f"the actions of a chunk must lie in 0..{len(Action) - 1}, got {actions.tolist()}")
        base, reward, n_executed = _base(self), 0.0, 0
        for single in actions:
            last = n_executed == self.chunk - 1 or single == Action.STOP or base.steps_left == 1
            shown = last or self._shows_all
            with nullcontext() if shown else base.without_rendering():
                observation, gained, terminated, truncated, info = self.env.step(single)
            reward += self.gamma**n_executed * float(gained)
            n_executed += 1
            if terminated or truncated:
                break
        if not shown:  # a wrapper inside ended the episode early
            observation = _observe_through(self.env)
        return observation, reward, terminated, truncated, {**info, "n_executed": n_executed}


class ExpertAction(gym.Wrapper, RecordConstructorArgs):
    """Puts the expert's next actions from the present state into `info["expert_actions"]`, int64 (n,).

    The expert follows the episode's reference path (see `expert.GeodesicFollower`), whatever was executed so far. After
    its STOP, and at the end of an episode, the rest is STOP.

    Args:
        env: a `VLNEnv` or wrappers around one.
        n: how many actions.
    """

    def __init__(self, env: gym.Env, n: int = 4) -> None:
        RecordConstructorArgs.__init__(self, n=n)
        super().__init__(env)
        if not is_whole(n, 1):
            raise ValueError(f"n must be a positive integer, got {n!r}")
        _base(env)
        self.n = int(n)
        self._expert: GeodesicFollower | None = None
        self._seen = 0

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Starts an episode.

        Raises:
            NavigationError: the episode has no goal, or it cannot be reached.
        """
        observation, info = self.env.reset(**kwargs)
        base = _base(self)
        self._expert, self._seen = expert_for(base.simulator, base.episode, lenient=True), 0
        return observation, {**info, "expert_actions": self._next_actions()}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Executes an action (or a chunk)."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        over = terminated or truncated
        actions = np.zeros(self.n, np.int64) if over else self._next_actions()
        return observation, float(reward), terminated, truncated, {**info, "expert_actions": actions}

    def _next_actions(self) -> NDArray[np.int64]:
        trajectory = _base(self).trajectory
        assert self._expert is not None
        for state in trajectory[self._seen :]:  # every state since the last call, so that no way-point is missed
            self._expert.advance(state)
        self._seen = len(trajectory)
        actions = self._expert.next_actions(trajectory[-1], self.n)
        return np.array(actions + [int(Action.STOP)] * (self.n - len(actions)), dtype=np.int64)


def _base(env: gym.Env) -> VLNEnv:
    """The environment inside all wrappers.

    Raises:
        TypeError: it is no `VLNEnv`.
    """
    from streamvln_gym.env import VLNEnv

    base = env.unwrapped
    if not isinstance(base, VLNEnv):
        raise TypeError(f"this wrapper goes around a VLNEnv, e.g. gym.make('StreamVLN-Flats-v0'), not {base!r}")
    return base


def _wrappers(env: gym.Env) -> Iterator[gym.Wrapper]:
    """The wrappers around the environment, from outside in."""
    while isinstance(env, gym.Wrapper):
        yield env
        env = env.env


# What may stand inside of `ActionChunk` and see old pictures.
_WITHOUT_MEMORY = (
    OrderEnforcing,
    PassiveEnvChecker,
    RecordEpisodeStatistics,
    TimeLimit,
    ExpertAction,
    SB3Observation,
    TokenizeInstruction,
)


def _sensor_spaces(env: gym.Env) -> Mapping[str, spaces.Space]:
    if not isinstance(env.observation_space, spaces.Dict):
        raise TypeError(
            f"this wrapper goes around a VLNEnv, e.g. gym.make('StreamVLN-Flats-v0'), but these observations are "
            f"{env.observation_space}"
        )
    return env.observation_space.spaces


def _require_text(env: gym.Env) -> None:
    """Raises ValueError where the observation has no instruction, or not as text any more."""
    if "instruction" not in _sensor_spaces(env):
        raise ValueError("the observation has no 'instruction': add it to the environment's `sensors`")
    if not isinstance(_sensor_spaces(env)["instruction"], spaces.Text):
        raise ValueError("the instruction is no text any more: put one wrapper around the environment that makes ids")


def _changed(env: gym.Env, changed: Mapping[str, spaces.Space]) -> spaces.Dict:
    return spaces.Dict({**_sensor_spaces(env), **changed})


def _observe_through(env: gym.Env) -> Any:
    """A fresh observation, as the wrappers between `env` and the environment itself change it."""
    if not isinstance(env, gym.Wrapper):
        return _base(env).observe()
    observation = _observe_through(env.env)
    return env.observation(observation) if isinstance(env, gym.ObservationWrapper) else observation
