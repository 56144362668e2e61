"""Checks what a caller shows to an agent, so that a wrong observation is a sentence and not a strange action."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


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
            f"obs['rgb'] must be uint8 in 0..255, got {rgb.dtype}{hint}: convert it before calling the agent"
        )
    if rgb.ndim != 3 or rgb.shape[2] != 3 or 0 in rgb.shape:
        raise ValueError(
            f"obs['rgb'] must have shape (height, width, 3), got {rgb.shape}: one picture, no batch, no alpha"
        )
    return rgb


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
        raise TypeError(f"obs['depth'] must be floating-point metres, got {depth.dtype}")
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
