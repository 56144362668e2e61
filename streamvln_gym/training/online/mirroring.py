"""Episodes that are learned from in the mirror: tensors of whole batches, left and right exchanged."""

from __future__ import annotations

import torch
from torch import Tensor

from streamvln_gym.simulators.base import Action


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
