"""Auxiliary heads: what helps a small network to see and to find its way, and is thrown away after training."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from streamvln_gym.models.configuration_streamvln import StreamVLNConfig
from streamvln_gym.training.privileged import CLASSES, DEPTH_LEVELS_PER_METRE, POSE_TARGETS, ROOM_NAMES

# Targets of order one: bearing (2), remaining way (10 m), start (10 m, 10 m).
_POSE_WEIGHTS = (1.0, 1.0, 2.0, 1.0, 1.0)
_ROOM_WEIGHT = 0.3


class AuxiliaryHeads(nn.Module):
    """Linear read-outs for `Privileged` targets; kept beside the network, never inside its checkpoint.

    Args:
        config: of the network.
    """

    def __init__(self, config: StreamVLNConfig) -> None:
        super().__init__()
        self.pose_weights: Tensor
        self.register_buffer("pose_weights", torch.tensor(_POSE_WEIGHTS), persistent=False)
        self.patch = nn.Linear(config.vision_config.hidden_size, CLASSES + 1)
        self.decision = nn.Linear(config.text_config.hidden_size, POSE_TARGETS + 2 * len(ROOM_NAMES))

    def vision_loss(self, features: Tensor, patch_class: Tensor, patch_depth: Tensor, weight: Tensor) -> Tensor:
        """Cross-entropy of the patches' classes plus squared error of log depth, averaged.

        Args:
            features: (frames, patches, vision hidden) of the tower.
            patch_class: (frames, patches) integer ids.
            patch_depth: (frames, patches) integer levels of 1/25 m.
            weight: (frames,) 1 for frames that count, 0 for padding.
        """
        out = self.patch(features).float()
        classes = functional.cross_entropy(
            out[..., :CLASSES].flatten(0, 1), patch_class.flatten().long(), reduction="none"
        ).view(patch_class.shape)
        depth = (out[..., CLASSES] - torch.log1p(patch_depth.float() / DEPTH_LEVELS_PER_METRE)) ** 2
        return ((classes + depth).mean(1) * weight).sum() / weight.sum().clamp(min=1.0)

    def pose_loss(self, hidden: Tensor, pose: Tensor, rooms: Tensor, weight: Tensor) -> Tensor:
        """Squared error of the pose targets plus cross-entropy of the rooms, averaged.

        Args:
            hidden: (decisions, text hidden): the states from which the first action of an answer is predicted.
            pose: (decisions, 5), see `Privileged`.
            rooms: (decisions, 2) integer ids.
            weight: (decisions,) 1 for those that count, 0 for padding.
        """
        out = self.decision(hidden).float()
        errors = ((out[..., :POSE_TARGETS] - pose) ** 2 * self.pose_weights).sum(-1)
        guesses = out[..., POSE_TARGETS:].unflatten(-1, (2, len(ROOM_NAMES))).flatten(0, 1)
        wrong = functional.cross_entropy(guesses, rooms.flatten().long(), reduction="none").view(rooms.shape)
        return ((errors + _ROOM_WEIGHT * wrong.sum(-1)) * weight).sum() / weight.sum().clamp(min=1.0)
