"""The network that a policy learns: from a checkpoint, with adapters or without, frozen where it does not learn."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from streamvln_gym.agents.streamvln import StreamVLNAgent
from streamvln_gym.errors import CheckpointError
from streamvln_gym.models.modeling_streamvln import StreamVLNForConditionalGeneration
from streamvln_gym.models.processing_streamvln import StreamVLNProcessor
from streamvln_gym.training.adapters import TARGETS, add_adapters, attach_adapter
from streamvln_gym.training.config import PARTS, LoraSettings, Part

BASE_NAME = "streamvln_base.json"
# Values of each weight that go into the fingerprint.
_SAMPLE = 16


@dataclass(frozen=True)
class ReadyNetwork:
    """A network to learn.

    Attributes:
        trunk: the network; with adapters, a `peft.PeftModel` around it.
        processor: of its checkpoint.
        adapted: whether it has adapters.
        fingerprint: of the checkpoint's weights.
    """

    trunk: Any
    processor: StreamVLNProcessor
    adapted: bool
    fingerprint: str


def prepare_network(
    checkpoint: str | Path | None,
    parts: Collection[Part],
    lora: LoraSettings | Mapping[str, Any] | None,
    adapter: str | Path | None,
    dtype: str,
) -> ReadyNetwork:
    """Reads a checkpoint and freezes what is not to learn; see `StreamVLNActorCriticPolicy`.

    Raises:
        CheckpointError: the checkpoint cannot be read, or the adapter does not belong to it.
        ValueError: an argument has no meaning.
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown or isinstance(parts, str):
        raise ValueError(f"parts must be some of {', '.join(PARTS)}, got {parts!r}")
    settings = _lora_settings(lora)
    if adapter is not None and settings is None:
        raise ValueError("an adapter was given without lora: pass lora={} to go on learning it")
    agent = StreamVLNAgent.from_pretrained(checkpoint, dtype=dtype)
    network, printed = agent.model, fingerprint(agent.model)
    if network.config.text_config.attention_dropout or network.config.vision_config.attention_dropout:
        raise CheckpointError(
            "the checkpoint's attention_dropout is not 0, which makes probabilities differ from the rollout's by "
            "chance: set it to 0 in config.json"
        )
    if settings is None:
        _freeze(network, parts)
        return ReadyNetwork(network, agent.processor, False, printed)
    if adapter is None:
        if not parts:
            raise ValueError("lora needs parts that get adapters, such as parts=('language',)")
        trunk = add_adapters(network, settings, parts)
    else:
        trunk = read_adapter(network, adapter, printed)
        _check_same(lora, trunk.peft_config["default"], adapter)
        _check_parts(trunk, parts, adapter)
        _switch_dropout_off(trunk)
    return ReadyNetwork(trunk, agent.processor, True, printed)


def read_adapter(network: StreamVLNForConditionalGeneration, folder: str | Path, printed: str) -> Any:
    """The network with an adapter, to go on learning it.

    Args:
        network: the adapter's base; it is changed.
        folder: the adapter's.
        printed: the network's fingerprint.

    Raises:
        CheckpointError: there is no adapter, or it belongs to another network.
    """
    note = Path(folder) / BASE_NAME
    if note.is_file() and json.loads(note.read_text(encoding="utf-8")).get("fingerprint") != printed:
        raise CheckpointError(
            f"the adapter in {folder} was trained on other weights than this checkpoint's: pass the checkpoint that it "
            "was trained on"
        )
    return attach_adapter(network, folder, learns=True)


def write_adapter(trunk: Any, folder: str | Path, printed: str) -> None:
    """Writes adapters, and the fingerprint of the weights that they belong to."""
    trunk.save_pretrained(str(folder))
    (Path(folder) / BASE_NAME).write_text(json.dumps({"fingerprint": printed}) + "\n", encoding="utf-8")


def fingerprint(network: StreamVLNForConditionalGeneration) -> str:
    """A hash of some values of every weight."""
    digest = hashlib.sha256()
    for name, weight in sorted(network.named_parameters()):
        digest.update(name.encode())
        digest.update(weight.detach().flatten()[:_SAMPLE].float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _freeze(network: StreamVLNForConditionalGeneration, parts: Collection[Part]) -> None:
    learned = {"vision": network.vision_tower, "projector": network.projector}
    network.requires_grad_("language" in parts)
    for part, module in learned.items():
        module.requires_grad_(part in parts)


def _lora_settings(lora: LoraSettings | Mapping[str, Any] | None) -> LoraSettings | None:
    if lora is None or isinstance(lora, LoraSettings):
        settings = lora
    elif isinstance(lora, Mapping):
        settings = LoraSettings(**{"dropout": 0.0, **lora})
    else:
        raise TypeError(f"lora must be LoraSettings or a dict of its fields, got {lora!r}")
    if settings is not None and settings.dropout:
        raise ValueError(
            f"lora.dropout is {settings.dropout}, which makes probabilities differ from the rollout's by chance: "
            "set it to 0"
        )
    return settings


def _switch_dropout_off(trunk: Any) -> None:
    """Supervised training's adapters have dropout; with it, probabilities would differ from the rollout's by chance."""
    trunk.peft_config["default"].lora_dropout = 0.0
    for module in trunk.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def _check_parts(trunk: Any, parts: Collection[Part], adapter: str | Path) -> None:
    """Raises ValueError where an adapter that is gone on from learns other parts than are asked for."""
    names = [name for name, weight in trunk.named_parameters() if weight.requires_grad and "lora_" in name]
    found = tuple(part for part in PARTS if any(re.search(TARGETS[part], name) for name in names))
    if set(found) != set(parts):
        raise ValueError(
            f"the adapter in {adapter} is of parts={found!r}, but parts={tuple(parts)!r} was asked for: pass its own"
        )


def _check_same(lora: LoraSettings | Mapping[str, Any] | None, found: Any, adapter: str | Path) -> None:
    """Raises ValueError where settings were given that an adapter that is gone on from does not have."""
    given = vars(lora) if isinstance(lora, LoraSettings) else dict(lora or {})
    for name, value in (("rank", found.r), ("alpha", found.lora_alpha)):
        if given.get(name, value) != value:
            raise ValueError(
                f"the adapter in {adapter} has the {name} {value}, but lora says {given[name]}: pass lora={{}} to go "
                "on learning it as it is"
            )
