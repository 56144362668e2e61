"""Low-rank adapters (LoRA) on StreamVLN, also on a network of 4-bit weights (QLoRA)."""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from streamvln_gym.errors import CheckpointError, TrainingError
from streamvln_gym.models.configuration_streamvln import StreamVLNConfig
from streamvln_gym.models.modeling_streamvln import StreamVLNForConditionalGeneration
from streamvln_gym.training.config import ContextConfig, LoraSettings, Part

CONTEXT_FILE = "context.json"

TARGETS: dict[Part, str] = {
    "vision": r"vision_tower\.encoder\.layers\.\d+\.(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])",
    "projector": r"projector\.linear_[12]",
    "language": r"language_model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj",
}

_CONTEXT = ("prompt_style", *(item.name for item in fields(ContextConfig)))


def require(package: str, purpose: str) -> None:
    """Says what to install.

    Raises:
        TrainingError: the package is missing.
    """
    if importlib.util.find_spec(package) is None:
        extra = "" if package == "bitsandbytes" else ", or pip install 'streamvln-gym[train]'"
        raise TrainingError(f"{purpose} needs {package}: pip install {package}{extra}")


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Keeps to itself what users can do nothing about, or are told as an error."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Found missing adapter keys", UserWarning)  # see `attach_adapter`
        # peft asks transformers 5 for what version 6 will not have.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield


def add_adapters(
    model: StreamVLNForConditionalGeneration, settings: LoraSettings, parts: Collection[Part], quantised: bool = False
) -> Any:
    """Puts adapters into the parts' linear layers; everything else is frozen.

    Args:
        model: the network.
        settings: rank, scale, dropout.
        parts: of the network that get adapters.
        quantised: the weights are of 4 bits.

    Returns:
        The network as a `peft.PeftModel`.
    """
    require("peft", "method='lora'")
    import peft

    if quantised:
        # Norms and head in float32, and inputs that carry gradients; checkpointing is Trainer's business.
        model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    # peft writes the name of the base network into the adapter, and ours has one only where it was downloaded.
    chosen = "|".join(f"({TARGETS[part]})" for part in parts)
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=chosen,
        modules_to_save=["lm_head"] if settings.train_head else None,
    )
    with quiet_peft():
        return peft.get_peft_model(model, config)


def quantisation(bf16: bool) -> Any:
    """Settings of 4-bit weights (NF4, scales quantised as well).

    Raises:
        TrainingError: bitsandbytes is missing.
    """
    require("bitsandbytes", "method='qlora'")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if bf16 else torch.float32,
    )


def attach_adapter(model: StreamVLNForConditionalGeneration, folder: str | Path, learns: bool = False) -> Any:
    """Reads an adapter onto its network.

    Args:
        model: that network; it is changed.
        folder: the adapter's.
        learns: whether it is to go on learning.

    Returns:
        The network as a `peft.PeftModel`.

    Raises:
        CheckpointError: the folder holds no adapter, or one of another network.
    """
    require("peft", "an adapter")
    import peft

    if not (Path(folder) / "adapter_config.json").is_file():
        raise CheckpointError(f"{folder} holds no adapter (adapter_config.json is missing): pass a run's adapter/")
    problem = f"the adapter in {folder} does not fit this network"
    try:
        with quiet_peft():
            adapted = peft.PeftModel.from_pretrained(model, str(folder), is_trainable=learns)
        stored = {name for name in peft.load_peft_weights(str(folder), device="cpu") if "lora_" in name}
    except (RuntimeError, ValueError) as error:  # sizes, or names of layers, that do not fit
        raise CheckpointError(f"{problem}: {error}") from error
    # peft passes over what has no place, and leaves as it began what is not there: a network of more or fewer layers.
    places = peft.get_peft_model_state_dict(adapted, save_embedding_layers=False)  # "auto" may ask the hub
    places = {name for name in places if "lora_" in name}
    for names, what in ((stored - places, "has no place for"), (places - stored, "would also have")):
        if names:
            raise CheckpointError(
                f"{problem}, which {what} {len(names)} matrices ({min(names)} is one): pass the checkpoint that it was "
                "trained on"
            )
    return adapted


def write_context(network: StreamVLNConfig, folder: Path) -> None:
    """Writes beside an adapter what the network was shown while the adapter was trained (peft writes none of it)."""
    context = {name: getattr(network, name) for name in _CONTEXT}
    (folder / CONTEXT_FILE).write_text(json.dumps(context, indent=2), encoding="utf-8")


def merge_adapter(model: StreamVLNForConditionalGeneration, folder: str | Path) -> StreamVLNForConditionalGeneration:
    """Adds an adapter that training wrote to the weights of the network it was trained on.

    Memory, fast window and dialogue of the network become those that the adapter was trained with, as `context.json` in
    its folder says; without that file (an adapter that something else wrote) they stay.

    Args:
        model: that network, of unquantised weights; it is changed. So is its configuration, which a processor that
            `load_checkpoint` gave with it shares.
        folder: the adapter's.

    Raises:
        CheckpointError: the folder holds no adapter, one of another network, or a `context.json` that cannot be read.
    """
    context = _read_context(Path(folder) / CONTEXT_FILE)
    adapted = attach_adapter(model, folder)
    merged: StreamVLNForConditionalGeneration = adapted.merge_and_unload()
    merged.config.trained = True
    for name, value in context.items():
        setattr(merged.config, name, value)
    return merged.eval()


def _read_context(file: Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        context = {name: content[name] for name in _CONTEXT}
        StreamVLNConfig(**context)  # refuses what no network can have
        return context
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{file} is damaged ({error!r}): write it anew with {', '.join(_CONTEXT)} as the adapter was trained, or "
            "remove it to keep the network's own"
        ) from error
