"""Which parameters are trained, at which rate, and with which weight decay."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn

from streamvln_gym.errors import TrainingError
from streamvln_gym.training.config import PARTS, OptimiserConfig, Part

AUXILIARY = "auxiliary"
"""Attribute of the network that holds auxiliary heads while it is trained."""


def part_of(name: str) -> Part:
    """The part of the network that a parameter belongs to, also below a wrapper's prefix; "language" has the head."""
    if "vision_tower." in name:
        return "vision"
    return "projector" if "projector." in name else "language"


def freeze_parts(model: nn.Module, trained: Collection[Part]) -> None:
    """Lets gradients reach the parts named, and no others."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part_of(name) in trained or f"{AUXILIARY}." in name)


def has_decay(name: str, parameter: nn.Parameter) -> bool:
    """Matrices decay; biases and norms, which are vectors, do not."""
    return parameter.ndim >= 2 and not name.endswith("bias")


def optimizer_groups(model: nn.Module, config: OptimiserConfig) -> list[dict[str, Any]]:
    """Parameter groups for torch's optimisers: part by part, those with weight decay first.

    Each has `params`, `lr`, `weight_decay` and `name`, such as "vision" or "language, no decay". Auxiliary heads go
    with the language model.

    Raises:
        TrainingError: nothing is trained.
    """
    groups: dict[tuple[Part, bool], list[nn.Parameter]]
    groups = {(part, decay): [] for part in PARTS for decay in (True, False)}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[part_of(name), has_decay(name, parameter)].append(parameter)
    found = [
        {
            "params": parameters,
            "lr": config.rate(part),
            "weight_decay": config.weight_decay if decay else 0.0,
            "name": part if decay else f"{part}, no decay",
        }
        for (part, decay), parameters in groups.items()
        if parameters
    ]
    if not found:
        raise TrainingError("no parameter is trained: choose other parts, or another method")
    return found
