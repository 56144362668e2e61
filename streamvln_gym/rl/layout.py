"""The sizes of a slow/fast observation: which arrays it has, how they are packed, how many bytes they take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
from gymnasium import spaces
from numpy.typing import DTypeLike

from streamvln_gym.wrappers import PAD

NO_FRAME = -1
"""Step of a frame's place that is empty."""
FRAME_KEYS = ("history", "window")
FEATURE_KEYS = ("history_features", "window_features")
# Rewards, returns, episode starts, values, log-probs and advantages, float32 each.
_SCALARS_BYTES = 6 * 4


@dataclass(frozen=True)
class ContextLayout:
    """What a decision of StreamVLN rests on, as flat arrays that stable-baselines3 takes without a warning.

    | key | space | meaning |
    | --- | --- | --- |
    | `dialogue` | int64 (dialogue_ids,) | the window's whole dialogue up to the answer that is due, filled up with -1 |
    | `history_steps` | int64 (num_history,) | environment step of each memory frame; -1 where there is none |
    | `window_steps` | int64 (turns,) | environment step of each of the window's frames; the last one is now |
    | `history` | uint8 (num_history * frame size,) | the memory's frames, each (side, side, 3) |
    | `window` | uint8 (turns * frame size,) | the window's frames |

    The dialogue holds the instruction's ids, the conjunctions, the actions executed in this window and a special id for
    each frame (-200) and for the memory (-300). With pooled features, `history_features` and `window_features`,
    float32, take the places of `history` and `window`. Without memory there is no `history` and no `history_steps`.

    Attributes:
        dialogue_ids: ids that there is space for.
        num_history: frames of slow memory; 0: none.
        turns: frames of a full window.
        frame_shape: (side, side, 3) of a picture, or (tokens, hidden) of pooled features.
        chunk_size: actions of one decision.
        features: frames are pooled features instead of pictures.
    """

    dialogue_ids: int
    num_history: int
    turns: int
    frame_shape: tuple[int, ...]
    chunk_size: int
    features: bool = False

    @property
    def history_key(self) -> str:
        return FEATURE_KEYS[0] if self.features else FRAME_KEYS[0]

    @property
    def window_key(self) -> str:
        return FEATURE_KEYS[1] if self.features else FRAME_KEYS[1]

    @property
    def frame_dtype(self) -> DTypeLike:
        return np.float32 if self.features else np.uint8

    @property
    def observation_space(self) -> spaces.Dict:
        """See the class."""
        smallest, largest = np.iinfo(np.int32).min, np.iinfo(np.int32).max
        built: dict[str, spaces.Space] = {
            "dialogue": spaces.Box(smallest, largest, (self.dialogue_ids,), np.int64),
            "window_steps": spaces.Box(NO_FRAME, largest, (self.turns,), np.int64),
            self.window_key: self._frames(self.turns),
        }
        if self.num_history:
            built["history_steps"] = spaces.Box(NO_FRAME, largest, (self.num_history,), np.int64)
            built[self.history_key] = self._frames(self.num_history)
        return spaces.Dict(built)

    @property
    def action_space(self) -> spaces.MultiDiscrete:
        """One decision: a chunk of actions; what follows a STOP counts for nothing."""
        return spaces.MultiDiscrete([4] * self.chunk_size)

    @property
    def observation_bytes(self) -> int:
        """Bytes of one observation."""
        return space_bytes(self.observation_space)

    def rollout_bytes(self, n_steps: int, n_envs: int) -> int:
        """Bytes of stable-baselines3's rollout buffer, see `rollout_buffer_bytes`."""
        return rollout_buffer_bytes(self.observation_space, self.action_space, n_steps, n_envs)

    def empty(self) -> dict[str, np.ndarray]:
        """An observation without anything in it."""
        filler = {"dialogue": PAD, "history_steps": NO_FRAME, "window_steps": NO_FRAME}
        return {
            key: np.full(space.shape, filler.get(key, 0), space.dtype)  # type: ignore[arg-type]
            for key, space in self.observation_space.spaces.items()
        }

    def _frames(self, count: int) -> spaces.Box:
        size = (count * prod(self.frame_shape),)
        return spaces.Box(-np.inf, np.inf, size, np.float32) if self.features else spaces.Box(0, 255, size, np.uint8)


def read_layout(
    space: spaces.Space, chunk_size: int, picture: tuple[int, ...], pooled: tuple[int, ...]
) -> ContextLayout:
    """The layout of an observation space that `SlowFastObservation` or `PooledFeatures` made.

    Args:
        space: the environment's observation space.
        chunk_size: actions of a decision.
        picture: (side, side, 3), the network's pictures.
        pooled: (tokens, hidden), the network's pooled features.

    Raises:
        ValueError: it is another space, its frames are of another network, or it mixes pictures and features.
    """
    remedy = "wrap the environment in SlowFastObservation(env, agent.processor) with this checkpoint's processor"
    if not isinstance(space, spaces.Dict) or not {"dialogue", "window_steps"} <= set(space.spaces):
        raise ValueError(f"StreamVLNActorCriticPolicy cannot read the observation space {space}: {remedy}")
    keys = set(space.spaces)
    features = bool(keys & set(FEATURE_KEYS))
    if features and keys & set(FRAME_KEYS):
        raise ValueError(
            f"the observation mixes pictures and pooled features ({', '.join(sorted(keys))}): use either "
            "SlowFastObservation alone, or PooledFeatures around all of it"
        )
    sizes = {key: int(prod(entry.shape or ())) for key, entry in space.spaces.items()}
    layout = ContextLayout(
        sizes["dialogue"],
        sizes.get("history_steps", 0),
        sizes["window_steps"],
        pooled if features else picture,
        chunk_size,
        features,
    )
    expected = layout.observation_space
    if expected != space:
        wrong = [key for key in keys | set(expected.spaces) if space.spaces.get(key) != expected.spaces.get(key)]
        raise ValueError(
            f"the observation's {', '.join(sorted(wrong))} does not fit this checkpoint, whose frames are "
            f"{layout.frame_shape}: {remedy}"
        )
    return layout


def space_bytes(space: spaces.Space) -> int:
    """Bytes of one element of a space of arrays."""
    parts = space.spaces.values() if isinstance(space, spaces.Dict) else [space]
    return sum(int(prod(part.shape or ())) * np.dtype(part.dtype).itemsize for part in parts)


def rollout_buffer_bytes(observation_space: spaces.Space, action_space: spaces.Space, n_steps: int, n_envs: int) -> int:
    """Bytes of the arrays of stable-baselines3's rollout buffer.

    While PPO trains, flattening takes as much again as the largest entry, for a moment.

    Args:
        observation_space: of the (wrapped) environment.
        action_space: likewise.
        n_steps: decisions per environment and rollout.
        n_envs: environments.
    """
    return n_steps * n_envs * (space_bytes(observation_space) + space_bytes(action_space) + _SCALARS_BYTES)


def count_frames(steps: Mapping[str, np.ndarray], key: str) -> int:
    """How many frames an observation's `history_steps` or `window_steps` names."""
    return int((steps[key] != NO_FRAME).sum()) if key in steps else 0
