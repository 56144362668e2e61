"""Auxiliary losses in supervised training: targets of recorded episodes, and the heads that are trained on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from streamvln_gym.errors import DatasetError
from streamvln_gym.models.configuration_streamvln import IGNORE_LABEL, StreamVLNConfig
from streamvln_gym.models.modeling_streamvln import StreamVLNForConditionalGeneration
from streamvln_gym.training.auxiliary import AuxiliaryHeads
from streamvln_gym.training.privileged import AuxiliaryConfig, Privileged
from streamvln_gym.training.trajectories import Trajectory
from streamvln_gym.training.trajectory_writer import PRIVILEGED_FILE

TARGETS = ("patch_class", "patch_depth", "pose", "rooms")


def read_targets(
    trajectory: Trajectory, history_steps: Sequence[int], frame_steps: Sequence[int], config: StreamVLNConfig
) -> dict[str, Tensor]:
    """The targets of one window.

    Args:
        trajectory: recorded with auxiliary targets.
        history_steps: of the memory's frames.
        frame_steps: of the current frames.
        config: of the network.

    Returns:
        `patch_class`, `patch_depth` (frames, patches) uint8, history frames first; `pose` (current frames, 5) float32
        and `rooms` (current frames, 2) uint8.

    Raises:
        DatasetError: there are no targets, or not those of this episode and network.
    """
    path = trajectory.folder / PRIVILEGED_FILE
    record = Privileged.load(path)
    expected = (len(trajectory), config.patches_per_side**2)
    if record.patch_class.shape != expected or len(record.pose) != len(trajectory):
        raise DatasetError(
            f"{path} has targets of {record.patch_class.shape} frames and patches, but episode and vision tower have "
            f"{expected}: record with patches={config.patches_per_side}"
        )
    shown, current = [*history_steps, *frame_steps], list(frame_steps)
    return {
        "patch_class": torch.from_numpy(record.patch_class[shown]),
        "patch_depth": torch.from_numpy(record.patch_depth[shown]),
        "pose": torch.from_numpy(record.pose[current]),
        "rooms": torch.from_numpy(record.rooms[current]),
    }


class AuxiliaryLoss:
    """Adds the auxiliary losses to a network's loss while it is trained.

    The heads become the network's submodule `auxiliary`, so that they are moved, sharded, checkpointed and optimised
    with it; hooks read what they need on its way through the network, so that this also works below wrappers such as
    DistributedDataParallel. Batches without targets (evaluation) have the plain loss.

    Args:
        model: the network; it is changed.
        turn_end_id: the token that ends an answer, see `StreamVLNProcessor`.
        weights: of the losses.
    """

    def __init__(self, model: StreamVLNForConditionalGeneration, turn_end_id: int, weights: AuxiliaryConfig) -> None:
        self.weights = weights
        self._turn_end_id = turn_end_id
        model.auxiliary = AuxiliaryHeads(model.config)  # type: ignore[assignment]  # nn.Module keeps submodules so
        model.register_forward_pre_hook(self._take_targets, with_kwargs=True)
        model.vision_tower.register_forward_hook(self._see)
        model.lm_head.register_forward_pre_hook(self._decide)
        model.register_forward_hook(self._add, with_kwargs=True)
        self._targets: dict[str, Tensor] = {}

    def _take_targets(self, model: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        self._targets = {name: kwargs[name] for name in TARGETS if name in kwargs}
        return args, {name: value for name, value in kwargs.items() if name not in TARGETS}

    def _see(self, tower: nn.Module, args: Any, output: Any) -> None:
        self._features = output.last_hidden_state

    def _decide(self, head: nn.Module, args: tuple[Tensor]) -> None:
        self._hidden = args[0]

    def _add(self, model: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        if not self._targets:
            return
        targets, labels = self._targets, kwargs["labels"]
        self._targets = {}
        # The head sees the states of learned tokens only, in order; an answer's first follows what is not learned.
        learned = labels[:, 1:] != IGNORE_LABEL
        # After an action that the driver did not take, what follows is not learned, but for the answer's end.
        begins = (labels[:, :-1] == IGNORE_LABEL) & (labels[:, 1:] != self._turn_end_id)
        first = (learned & begins)[learned]
        everywhere = torch.ones(len(targets["patch_class"]), device=self._features.device)
        heads: AuxiliaryHeads = model.auxiliary  # type: ignore[assignment]
        dtype = heads.patch.weight.dtype  # what comes by was computed under autocast, and hooks are not
        features, decided = self._features.to(dtype), self._hidden[first].to(dtype)
        vision = heads.vision_loss(features, targets["patch_class"], targets["patch_depth"], everywhere)
        pose = heads.pose_loss(decided, targets["pose"], targets["rooms"], everywhere.new_ones(len(decided)))
        # With accumulated gradients, the loss of a batch counts by its share of the step's targets.
        items = kwargs.get("num_items_in_batch")
        share = 1.0 if items is None else learned.sum() / items
        output["loss"] = output["loss"] + share * (self.weights.vision * vision + self.weights.pose * pose)
