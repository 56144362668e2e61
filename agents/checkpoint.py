"""Loads a StreamVLN checkpoint, ours or a published one, from a folder or the hub; or says what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from streamvln_gym.errors import CheckpointError
from streamvln_gym.models import conversion
from streamvln_gym.models.configuration_streamvln import StreamVLNConfig
from streamvln_gym.models.modeling_streamvln import StreamVLNForConditionalGeneration
from streamvln_gym.models.processing_streamvln import StreamVLNProcessor, load_tokenizer
from streamvln_gym.models.shipped import SHIPPED_NAME, shipped_checkpoint

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
HUB_FILES = ["*.json", "*.safetensors", "*.txt"]


@dataclass(frozen=True)
class LoadOptions:
    """Less common choices about loading.

    Attributes:
        tokenizer: folder with the tokenizer, where the checkpoint's own lacks it.
        vision_config: SigLIP's sizes for a published checkpoint, whose config.json has none; default SO400M/14-384.
        revision: commit, tag or branch of a hub id.
        attn_implementation: "sdpa" (default), "eager", or "flash_attention_2" where that is installed.
        device_map: spreads the network over devices (accelerate), in place of `device`.
        quantization_config: e.g. a `BitsAndBytesConfig`.
    """

    tokenizer: str | Path | None = None
    vision_config: Mapping[str, Any] | Any | None = None
    revision: str | None = None
    attn_implementation: str | None = None
    device_map: Any = None
    quantization_config: Any = None


def read_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """The dtype of that name; None for "auto", which is as stored.

    Raises:
        ValueError: weights cannot have it.
    """
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype is None or dtype == "auto":
        return None
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(
            f"there is no dtype {dtype!r} of weights: dtype must be 'auto' or the name of a floating-point type such "
            "as 'bfloat16'"
        )
    return found


def load_checkpoint(
    name_or_path: str | Path,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    options: LoadOptions | None = None,
) -> tuple[StreamVLNForConditionalGeneration, StreamVLNProcessor]:
    """Reads network, configuration and tokenizer; the format is found out from config.json.

    Args:
        name_or_path: as in `find_folder`.
        dtype: of the weights; None as in `conversion.load_weights`, but float32 for "streamvln-tiny", which is stored
            in bfloat16 to save space only.
        device: where the network goes.
        options: see `LoadOptions`.

    Raises:
        CheckpointError: something is missing, corrupt, or does not fit together.
    """
    options = options or LoadOptions()
    folder = find_folder(name_or_path, options.revision)
    if name_or_path == SHIPPED_NAME:
        dtype = dtype or torch.float32
    values = conversion.read_json(folder / "config.json")
    tokenizer_folder = Path(options.tokenizer) if options.tokenizer else folder
    published = conversion.is_published(values)
    if published:
        config = conversion.published_config(folder, options.vision_config)
        processor = conversion.published_processor(config, tokenizer_folder)
    else:
        if options.vision_config is not None:
            raise CheckpointError(f"{folder} has its vision sizes in config.json: leave vision_config= out")
        config = _read_config(folder, values)
        processor = StreamVLNProcessor(config, load_tokenizer(tokenizer_folder))
    if options.device_map is None and options.quantization_config is None:
        model = conversion.load_weights(folder, config, dtype, device, published)
        if options.attn_implementation:
            try:
                model.set_attn_implementation(options.attn_implementation)
            except (ValueError, ImportError) as error:
                raise CheckpointError(
                    f"attn_implementation={options.attn_implementation!r} cannot be had here: {error}. "
                    "Use 'sdpa' or 'eager', or install what it needs"
                ) from error
    else:
        model = _load_with_transformers(folder, config, dtype, device, options, published)
    return model, processor


def find_folder(name_or_path: str | Path, revision: str | None = None) -> Path:
    """The local folder of a checkpoint.

    Args:
        name_or_path: a folder; "streamvln-tiny", which ships in the package; or the hub's "owner/name", which is
            downloaded into the hub's own cache.
        revision: of a hub id.

    Raises:
        CheckpointError: there is no such folder, or it cannot be downloaded.
    """
    if name_or_path == SHIPPED_NAME:
        return shipped_checkpoint()
    folder = Path(name_or_path)
    if folder.is_dir():
        return folder
    if isinstance(name_or_path, Path) or not HUB_ID.fullmatch(name_or_path):
        raise CheckpointError(
            f"there is no folder {folder}: pass a checkpoint folder (StreamVLNAgent.save_pretrained's or a published "
            f"one), a hub id as 'owner/name', or {SHIPPED_NAME!r}"
        )
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(name_or_path, revision=revision, allow_patterns=HUB_FILES))
    except Exception as error:  # the hub's client has many kinds: network, permission, unknown name
        raise CheckpointError(
            f"there is no folder {folder}, and {name_or_path!r} cannot be downloaded from the hub: {error}"
        ) from error


def _load_with_transformers(
    folder: Path,
    config: StreamVLNConfig,
    dtype: torch.dtype | None,
    device: torch.device | str,
    options: LoadOptions,
    published: bool,
) -> StreamVLNForConditionalGeneration:
    """Spread over devices or quantised: transformers' own loader, after the same checks of the files."""
    conversion.match_tensors(conversion.find_tensors(folder), config, published)
    chosen: dict[str, Any] = {"device_map": options.device_map or {"": device}}
    if options.quantization_config is not None:
        chosen["quantization_config"] = options.quantization_config
    if options.attn_implementation:
        chosen["attn_implementation"] = options.attn_implementation
    if published:
        chosen["key_mapping"] = dict(conversion.RENAMED)
    try:
        model: Any = StreamVLNForConditionalGeneration.from_pretrained(
            str(folder), config=config, dtype=dtype or "auto", local_files_only=True, **chosen
        )
    except Exception as error:  # torch, accelerate and bitsandbytes raise their own kinds
        raise CheckpointError(f"the weights in {folder} cannot be loaded with {chosen}: {error}") from error
    return model


def _read_config(folder: Path, values: dict[str, Any]) -> StreamVLNConfig:
    path = folder / "config.json"
    if values.get("model_type") != StreamVLNConfig.model_type:
        raise CheckpointError(
            f"{path} describes a model of type {values.get('model_type')!r}, neither {StreamVLNConfig.model_type!r} "
            f"nor a published StreamVLN checkpoint ('llava_qwen')"
        )
    try:
        return StreamVLNConfig.from_dict(values)
    except Exception as error:  # transformers has error classes of its own here
        raise CheckpointError(f"{path} is no usable configuration: {error}") from error
