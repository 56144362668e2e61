"""Streams that are played in the mirror: the flat, its words and its turns with left and right exchanged.

The workers exchange them, so that everybody else takes the mirror image for the world. (Episodes that are taught are
mirrored when they are learned from, see `mirroring`; those of free streams must be learned from as they were played.)
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from streamvln_gym.simulators.base import Action

_EXCHANGED = {Action.LEFT: Action.RIGHT, Action.RIGHT: Action.LEFT}
_SIGNED = (0, 4)  # of `Privileged.pose`: the sine of the bearing, and the metres to the right
_SIDE = re.compile(r"\b(left|right)(?=most\b|\b)", re.IGNORECASE)
# "Stop right by the door" says how near; "the door on your right by the sofa" and "turn right by the sofa" which side.
_NEARNESS = re.compile(r"\s+(?:by|beside|next|near|before|after|behind|away|in front|at the|outside)\b", re.IGNORECASE)
_SIDEWAYS = re.compile(r"\b(?:the|your|a|turn|rotate|go|head|bear|veer|face|swing|pivot)\s+$", re.IGNORECASE)


def mirror_text(instruction: str) -> str:
    """An English instruction with left and right exchanged.

    "right by", "right next to" and the like are left alone where they say how near something is.
    """

    def exchange(match: re.Match[str]) -> str:
        word = match.group()
        before, after = instruction[: match.start()], instruction[match.end() :]
        if word.lower() == "right" and _NEARNESS.match(after) and not _SIDEWAYS.search(before):
            return word
        other = "left" if word.lower() == "right" else "right"
        return other.upper() if word.isupper() else other.capitalize() if word[0].isupper() else other

    return _SIDE.sub(exchange, instruction)


def mirror_chunk(actions: Sequence[int]) -> list[int]:
    """Actions with LEFT and RIGHT exchanged."""
    return [int(_EXCHANGED.get(Action(action), action)) for action in actions]


def mirror_frame(rgb: NDArray[np.uint8], patch_class: NDArray[np.uint8], patch_depth: NDArray[np.uint8]) -> None:
    """Mirrors, in place, what a stream is shown.

    Args:
        rgb: (size, size, 3).
        patch_class: (patches,) of a square grid, row-major.
        patch_depth: likewise.
    """
    rgb[:] = rgb[:, ::-1].copy()
    side = round(len(patch_class) ** 0.5)
    for patches in (patch_class, patch_depth):
        patches[:] = patches.reshape(side, side)[:, ::-1].ravel()


def mirror_place(pose: NDArray[np.float32]) -> None:
    """Mirrors, in place, where a stream stands: `pose` (5,), see `Privileged`."""
    pose[list(_SIGNED)] *= -1.0
