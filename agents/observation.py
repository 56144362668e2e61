"""Checks what a caller shows to an agent, so that a wrong observation is a sentence and not a strange action."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from streamvln_gym.agents.patch_geometry import PatchGeometry


@dataclass(frozen=True)
class Sight:
    """What an agent reads in an observation.

    Attributes:
        rgb: (height, width, 3) uint8; the caller may overwrite it later.
        instruction: not blank.
        points: (tokens_per_frame, 3) where the picture's patches lie, metres in the episode frame; None without
            geometry.
    """

    rgb: NDArray[np.uint8]
    instruction: str
    points: NDArray[np.float32] | None = None


def read_sight(obs: Mapping[str, Any], geometry: PatchGeometry | None = None) -> Sight:
    """Checks and reads an observation.

    Args:
        obs: see `Agent.act`.
        geometry: finds the patches' places, where they are wanted.

    Raises:
        TypeError: an entry has the wrong type.
        ValueError: an entry is missing or malformed.
    """
    rgb, instruction = read_rgb(obs), read_instruction(obs)
    check_depth(obs)
    return Sight(rgb, instruction, None if geometry is None else geometry.points(obs))


def split_observations(
    observations: Sequence[Mapping[str, Any]] | Mapping[str, Any], streams: int
) -> list[Mapping[str, Any]]:
    """The observations of a batch one by one.

    Args:
        observations: one mapping per stream; or one mapping whose entries hold all streams, as a vector environment
            makes: arrays (streams, ...) and sequences of that length. `intrinsics` may be one (3, 3) for all.
        streams: how many there are.

    Raises:
        TypeError: it is neither.
        ValueError: there are more or fewer.
    """
    if isinstance(observations, Mapping):
        parts: dict[str, Any] = {}
        for key, value in observations.items():
            if key == "intrinsics" and np.ndim(value) == 2:
                value = [value] * streams
            if isinstance(value, str) or not hasattr(value, "__len__"):
                raise TypeError(f"observations[{key!r}] must hold one entry per stream, got {type(value).__name__}")
            if len(value) != streams:
                raise ValueError(f"observations[{key!r}] has {len(value)} entries, but there are {streams} streams")
            parts[key] = value
        return [{key: value[index] for key, value in parts.items()} for index in range(streams)]
    if isinstance(observations, (str, np.ndarray)) or not isinstance(observations, Sequence):
        raise TypeError(
            "observations must be a sequence of dicts, or a vector environment's dict of arrays, got "
            f"{type(observations).__name__}"
        )
    if len(observations) != streams:
        raise ValueError(f"there are {len(observations)} observations, but {streams} streams")
    return list(observations)


def read_rgb(obs: Mapping[str, Any]) -> NDArray[np.uint8]:
    """The camera's picture, (height, width, 3) uint8.

    Raises:
        TypeError: the observation is no mapping, or `rgb` is no uint8 array.
        ValueError: `rgb` is missing or has another shape.
    """
    rgb = np.asarray(_read(obs, "rgb"))
    if rgb.dtype != np.uint8:
        hint = "; it also holds NaN or infinity" if rgb.dtype.kind == "f" and not np.isfinite(rgb).all() else ""
        raise TypeError(
            f"obs['rgb'] must be uint8 in 0..255, got {rgb.dtype}{hint}: convert it before calling the agent "
            "(what lies in 0..1 by (255 * rgb).round().astype('uint8'))"
        )
    if rgb.ndim != 3 or rgb.shape[2] != 3 or 0 in rgb.shape:
        raise ValueError(f"obs['rgb'] must have shape (height, width, 3), got {rgb.shape}: {_shape_remedy(rgb.shape)}")
    return rgb


def _shape_remedy(shape: tuple[int, ...]) -> str:
    if len(shape) == 2 or (len(shape) == 3 and shape[2] == 1):
        return "it is grey; repeat the channel with np.repeat(grey.reshape(height, width, 1), 3, axis=2)"
    if len(shape) == 3 and shape[0] == 3:
        return "channels come last; use rgb.transpose(1, 2, 0)"
    if len(shape) == 3 and shape[2] == 4:
        return "leave out alpha with rgb[:, :, :3]"
    return "one picture, no batch"


def read_instruction(obs: Mapping[str, Any]) -> str:
    """The instruction as a non-blank str.

    Raises:
        TypeError: `instruction` is no str.
        ValueError: `instruction` is missing or blank.
    """
    instruction = _read(obs, "instruction")
    if not isinstance(instruction, str):
        raise TypeError(f"obs['instruction'] must be a str, got {type(instruction).__name__}")
    if not instruction.strip():
        raise ValueError("obs['instruction'] is empty: pass the sentence that the agent is to follow")
    return instruction


def check_depth(obs: Mapping[str, Any]) -> None:
    """Checks `depth` where the observation has it.

    Raises:
        TypeError: `depth` is no floating-point array.
        ValueError: `depth` has another shape than (height, width[, 1]), or holds NaN.
    """
    if "depth" not in obs:
        return
    depth = np.asarray(obs["depth"])
    if depth.dtype.kind != "f":
        raise TypeError(
            f"obs['depth'] must be floating-point metres, got {depth.dtype}: pass what the environment shows "
            "(the wrapper SB3Observation scales depth to 0..255)"
        )
    if depth.ndim not in (2, 3) or (depth.ndim == 3 and depth.shape[2] != 1) or 0 in depth.shape:
        raise ValueError(f"obs['depth'] must have shape (height, width, 1), got {depth.shape}")
    if np.isnan(depth).any():
        raise ValueError("obs['depth'] holds NaN: write 0 where the sensor has no reading")


def _read(obs: Mapping[str, Any], key: str) -> Any:
    if not isinstance(obs, Mapping):
        raise TypeError(f"obs must be a dict with 'rgb' and 'instruction', got {type(obs).__name__}")
    if key not in obs:
        raise ValueError(f"obs has no {key!r} (it has {', '.join(map(repr, obs)) or 'nothing'}): switch that sensor on")
    return obs[key]
