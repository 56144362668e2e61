"""Loads a StreamVLN checkpoint folder, or says what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from streamvln_gym.errors import CheckpointError
from streamvln_gym.models.configuration_streamvln import StreamVLNConfig
from streamvln_gym.models.modeling_streamvln import StreamVLNForConditionalGeneration
from streamvln_gym.models.processing_streamvln import StreamVLNProcessor, load_tokenizer


def load_checkpoint(
    folder: Path, dtype: torch.dtype = torch.float32
) -> tuple[StreamVLNForConditionalGeneration, StreamVLNProcessor]:
    """Reads network, configuration and tokenizer.

    Args:
        folder: what `StreamVLNAgent.save_pretrained` wrote.
        dtype: of the weights.

    Raises:
        CheckpointError: the folder is missing, corrupt, or its parts do not fit together.
    """
    config = _read_config(folder)
    processor = StreamVLNProcessor(config, load_tokenizer(folder))
    try:
        loaded: Any = StreamVLNForConditionalGeneration.from_pretrained(
            str(folder), config=config, dtype=dtype, local_files_only=True, output_loading_info=True
        )
    except Exception as error:  # safetensors and torch raise their own kinds for truncated or misshapen files
        raise CheckpointError(f"the weights in {folder} cannot be read: {error}; copy or save them again") from error
    model, info = loaded
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[problem]:
            names = sorted(map(str, info[problem]))
            raise CheckpointError(
                f"the weights in {folder} do not fit its config.json: {len(names)} {problem.replace('_', ' ')}, "
                f"such as {names[0]}; weights and configuration must come from one checkpoint"
            )
    return model, processor


def _read_config(folder: Path) -> StreamVLNConfig:
    path = folder / "config.json"
    if not folder.is_dir():
        raise CheckpointError(f"there is no folder {folder}: pass one that StreamVLNAgent.save_pretrained wrote")
    if not path.is_file():
        raise CheckpointError(f"{folder} has no config.json: pass a folder that StreamVLNAgent.save_pretrained wrote")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is no valid JSON: {error}") from error
    if not isinstance(values, dict) or values.get("model_type") != StreamVLNConfig.model_type:
        kind = values.get("model_type") if isinstance(values, dict) else None
        raise CheckpointError(f"{path} describes a model of type {kind!r}, not {StreamVLNConfig.model_type!r}")
    try:
        return StreamVLNConfig.from_dict(values)
    except Exception as error:  # transformers has error classes of its own here
        raise CheckpointError(f"{path} is no usable configuration: {error}") from error
