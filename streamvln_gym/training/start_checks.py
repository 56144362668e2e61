"""What training needs, looked at before a network is loaded or an episode played; `train`, its dry run and DAgger."""

from __future__ import annotations

from pathlib import Path

import torch

from streamvln_gym.agents.checkpoint import find_folder
from streamvln_gym.errors import TrainingError
from streamvln_gym.models import conversion
from streamvln_gym.models.budget import read_budget_config
from streamvln_gym.models.modeling_streamvln import StreamVLNForConditionalGeneration
from streamvln_gym.models.processing_streamvln import StreamVLNProcessor, load_tokenizer
from streamvln_gym.training.adapters import require
from streamvln_gym.training.config import TrainRecipe

PACKAGES = {"full": (), "lora": ("peft",), "qlora": ("peft", "bitsandbytes")}
"""What a method needs beside what every training does."""


def check_recipe(recipe: TrainRecipe) -> None:
    """Refuses settings that no network can be trained with here.

    Raises:
        TrainingError: the attention cannot be had here, or there is no such integration to report to.
    """
    _check_attention(recipe.machine.attention)
    check_reporting(recipe.report.report_to)


def check_packages(recipe: TrainRecipe) -> None:
    """Says which package the method needs.

    Raises:
        TrainingError: it is missing.
    """
    for package in PACKAGES[recipe.method]:
        require(package, f"method={recipe.method!r}")


def check_reporting(report_to: tuple[str, ...]) -> None:
    """Looks at the names of Trainer's integrations.

    Raises:
        TrainingError: there is none of that name, or its package is missing.
    """
    from transformers.integrations.integration_utils import (
        INTEGRATION_TO_CALLBACK,
        get_available_reporting_integrations,
    )

    installed = (*get_available_reporting_integrations(), "flyte", "all", "none")  # transformers never lists flyte
    for name in report_to:
        if name not in (*INTEGRATION_TO_CALLBACK, "all", "none"):
            known = ", ".join(sorted(INTEGRATION_TO_CALLBACK))
            raise TrainingError(f"report_to {name} is no integration of transformers' Trainer: it has {known}")
        if name in ("tensorboard", "wandb"):
            require(name, f"report_to {name}")
        elif name not in installed:
            raise TrainingError(f"report_to {name} needs a package that is not installed here: install it")


def read_processor(checkpoint: str | Path | None) -> StreamVLNProcessor:
    """Configuration and tokenizer of the network that training starts from, without its weights.

    Args:
        checkpoint: its folder or name; None: the small network with random weights.

    Raises:
        CheckpointError: there is no such checkpoint, or it is incomplete.
    """
    if checkpoint is None:
        return StreamVLNProcessor.tiny()
    folder: Path = find_folder(checkpoint)
    if conversion.is_published(conversion.read_json(folder / "config.json")):
        return conversion.published_processor(conversion.published_config(folder, None), folder)
    return StreamVLNProcessor(read_budget_config(folder), load_tokenizer(folder))


def _check_attention(name: str | None) -> None:
    """Asks transformers, with a network that has no weights."""
    if name is None:
        return
    with torch.device("meta"):
        network = StreamVLNForConditionalGeneration(StreamVLNProcessor.tiny().config)
    try:
        network.set_attn_implementation(name)
    except (ValueError, ImportError) as error:
        raise TrainingError(
            f"attention {name} cannot be had here: {error}. Use sdpa or eager, or install what it needs"
        ) from error
