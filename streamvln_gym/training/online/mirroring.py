"""Mirrored episodes: what happens in a flat happens, left and right exchanged, in the flat's mirror image."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from streamvln_gym.simulators.base import Action

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


def mirror_pictures(pictures: Tensor, mirrored: Tensor) -> Tensor:
    """Those of the pictures (frames, height, width, ...) that are `mirrored` (frames,) bool, with columns reversed."""
    chosen = mirrored.view(-1, *[1] * (pictures.ndim - 1))
    return torch.where(chosen, pictures.flip(2), pictures)


def mirror_patches(patches: Tensor, mirrored: Tensor) -> Tensor:
    """As `mirror_pictures`, for values of square grids of patches (frames, patches), row-major."""
    side = round(patches.shape[1] ** 0.5)
    return mirror_pictures(patches.unflatten(1, (side, side)), mirrored).flatten(1)


def mirror_actions(actions: Tensor, mirrored: Tensor) -> Tensor:
    """LEFT and RIGHT exchanged where `mirrored`, whose shape is broadcast to that of `actions`."""
    turns = (actions == Action.LEFT) | (actions == Action.RIGHT)
    return torch.where(turns & mirrored, Action.LEFT + Action.RIGHT - actions, actions)


def mirror_pose(pose: Tensor, mirrored: Tensor) -> Tensor:
    """`Privileged.pose` (frames, 5) as it is in the mirror where `mirrored` (frames,)."""
    sine, cosine_to_ahead, right = pose.split([1, 3, 1], dim=1)
    return torch.where(mirrored[:, None], torch.cat([-sine, cosine_to_ahead, -right], 1), pose)
