"""Weights of fewer bits, through the libraries that users have for them: torchao and bitsandbytes."""

from __future__ import annotations

import torch
from torch import nn

from streamvln_gym.models import StreamVLNForConditionalGeneration

KINDS = ("int8", "fp8", "nf4")


@torch.no_grad()
def quantise(model: StreamVLNForConditionalGeneration, kind: str) -> None:
    """Quantises the linear layers of the language model's blocks in place; head, projector and vision tower stay.

    Args:
        model: the network on its device.
        kind: "int8" (torchao, weights only), "fp8" (torchao, weights and activations, scales per row) or "nf4"
            (bitsandbytes, weights only).

    Raises:
        ImportError: the library is not installed.
        ValueError: another kind.
    """
    layers = model.language_model.layers
    if kind == "nf4":
        for layer in layers:
            _to_nf4(layer)
        return
    from torchao.quantization import (
        Float8DynamicActivationFloat8WeightConfig,
        Int8WeightOnlyConfig,
        PerRow,
        quantize_,
    )

    configs = {
        "int8": Int8WeightOnlyConfig,
        "fp8": lambda: Float8DynamicActivationFloat8WeightConfig(granularity=PerRow()),
    }
    if kind not in configs:
        raise ValueError(f"unknown quantisation {kind!r}: {', '.join(KINDS)}")
    for layer in layers:
        quantize_(layer, configs[kind]())


def _to_nf4(layer: nn.Module) -> None:
    from bitsandbytes.nn import Linear4bit, Params4bit

    for parent in list(layer.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is not nn.Linear:
                continue
            weight, device = child.weight, child.weight.device
            small = Linear4bit(
                child.in_features,
                child.out_features,
                bias=child.bias is not None,
                compute_dtype=weight.dtype,
                quant_type="nf4",
                device="meta",
            )
            small.weight = Params4bit(weight.data.cpu(), requires_grad=False, quant_type="nf4")
            if child.bias is not None:
                small.bias = nn.Parameter(child.bias.data, requires_grad=False)
            setattr(parent, name, small.to(device))


def language_gib(model: StreamVLNForConditionalGeneration) -> float:
    """GiB of the language model's blocks."""
    total = 0
    for parameter in model.language_model.layers.parameters():
        inner = getattr(parameter, "__tensor_flatten__", None)
        if inner is None:
            total += parameter.nbytes
        else:
            names, _ = inner()
            total += sum(part.nbytes for part in (getattr(parameter, name) for name in names) if part is not None)
    return total / 2**30
