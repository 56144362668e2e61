"""What a chunk of actions costs at least: its arithmetic and the bytes it reads, at rates measured in the same run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from streamvln_gym.models import StreamVLNConfig, StreamVLNForConditionalGeneration


def seconds(function: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    """Median seconds of a call, after one that warms up."""
    function()
    taken = []
    for _ in range(repeats):
        if device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            function()
            end.record()
            end.synchronize()
            taken.append(begin.elapsed_time(end) / 1e3)
        else:
            start = time.perf_counter()
            function()
            taken.append(time.perf_counter() - start)
    return sorted(taken)[repeats // 2]


@dataclass(frozen=True)
class Rates:
    """What the device does.

    Attributes:
        copy: bytes per second of a large copy, those read and those written.
        matmul: floating-point operations per second of a large square product in the model's type.
        weight_bytes: of the language model and its head, which a decoded token reads (not the input embedding).
    """

    copy: float
    matmul: float
    weight_bytes: int

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


@torch.inference_mode()
def measure_rates(model: StreamVLNForConditionalGeneration, tiny: bool) -> Rates:
    """Copies a large buffer and multiplies large matrices."""
    device, dtype = model.device, model.dtype
    size = 2**22 if tiny else 2**32
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    copy = 2 * size / seconds(source.clone, device, 9)  # the allocator hands the same space out again
    del source
    side = 256 if tiny else 8192
    a, b = (torch.randn(side, side, dtype=dtype, device=device) for _ in range(2))
    for _ in range(1 if tiny else 40):  # clocks and temperature as under load
        a @ b
    matmul = 2 * side**3 / seconds(lambda: a @ b, device, 9)
    parts = [*model.language_model.layers.parameters(), model.lm_head.weight]
    return Rates(copy, matmul, sum(part.nbytes for part in parts))


@torch.inference_mode()
def matmul_seconds(model: StreamVLNForConditionalGeneration, tokens: int, frames: int) -> dict[str, float]:
    """Seconds of nothing but the matrix products of a chunk, each at its own size, weights read from memory."""
    device, dtype = model.device, model.dtype

    def together(rows: int, linears: list[nn.Linear]) -> float:
        inputs = {width: torch.randn(rows, width, dtype=dtype, device=device) for width in widths(linears)}
        return seconds(lambda: [linear(inputs[linear.in_features]) for linear in linears], device, 3)

    def widths(linears: list[nn.Linear]) -> set[int]:
        return {linear.in_features for linear in linears}

    language: Any = model.language_model
    of_language = [part for part in language.layers.modules() if isinstance(part, nn.Linear)]
    of_tower = [part for part in model.vision_tower.modules() if isinstance(part, nn.Linear)]
    of_tower += [part for part in model.projector.modules() if isinstance(part, nn.Linear)]
    patches = model.config.patches_per_side**2
    return {"language": together(tokens, of_language), "vision": together(frames * patches, of_tower)}


@dataclass(frozen=True)
class ChunkFlops:
    """Floating-point operations of model calls at a network's sizes."""

    config: StreamVLNConfig

    def frame(self) -> float:
        """A frame through tower, projector and patch embedding."""
        vision, hidden = self.config.vision_config, self.config.text_config.hidden_size
        width, patches = vision.hidden_size, self.config.patches_per_side**2
        layer = 4 * width**2 + 2 * width * vision.intermediate_size + 2 * patches * width
        projector = width * hidden + hidden**2
        return 2.0 * patches * (vision.num_hidden_layers * layer + projector + 3 * vision.patch_size**2 * width)

    def prefill(self, length: int, past: int) -> float:
        """So many embeddings behind `past` others through the language model."""
        text = self.config.text_config
        size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        heads, kv_heads = text.num_attention_heads, text.num_key_value_heads
        weights = text.hidden_size * (2 * heads + 2 * kv_heads) * size + 3 * text.hidden_size * text.intermediate_size
        attention = 2 * heads * size * (past + (length + 1) / 2)
        return 2.0 * length * text.num_hidden_layers * (weights + attention)
