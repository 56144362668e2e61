"""The parts of a packed pass that are not matrix products, in plain torch: the reference of `triton_ops`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from streamvln_gym.models.packed_plan import PackedPlan


@dataclass(frozen=True)
class Places:
    """What of a plan depends on how much the streams hold; computed on the device, once for all layers.

    Attributes:
        plan: the plan.
        past: (rows + 1,) int64 positions that each row's slot holds before the pass.
        base: (rows + 1,) int64 where each row's slot begins.
        target: (tokens,) int64 where the keys and values of each embedding go.
        cos: (tokens, head_dim / 2) of the rotary embedding.
        sin: as `cos`.
    """

    plan: PackedPlan
    past: Tensor
    base: Tensor
    target: Tensor
    cos: Tensor
    sin: Tensor


class PackedOps(Protocol):
    """What `PackedLanguageModel` needs besides matrix products."""

    def rms_norm(self, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        """(tokens, width) -> (tokens, width)."""
        ...

    def rotate_and_store(self, qkv: Tensor, keys: Tensor, values: Tensor, places: Places) -> None:
        """Rotates queries in place; keys, rotated, and values go to the cache.

        Args:
            qkv: (tokens, (heads + 2 kv_heads) * head_dim).
            keys: (positions, kv_heads, head_dim) of the cache.
            values: as `keys`.
            places: where.
        """
        ...

    def attend(self, qkv: Tensor, keys: Tensor, values: Tensor, places: Places) -> Tensor:
        """Attention of the queries in `qkv` to what they see of the cache; (tokens, heads * head_dim)."""
        ...

    def gated(self, gate_up: Tensor) -> Tensor:
        """silu(gate) * up: (tokens, 2 width) -> (tokens, width)."""
        ...


class TorchOps:
    """The parts as transformers computes them. `attend` asks the device for the streams' lengths."""

    def rms_norm(self, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        wide = x.float()
        normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
        return weight * normed.to(x.dtype)

    def rotate_and_store(self, qkv: Tensor, keys: Tensor, values: Tensor, places: Places) -> None:
        kv_heads, size = keys.shape[1:]
        heads = qkv.shape[1] // size - 2 * kv_heads
        parts = qkv.view(len(qkv), -1, size)
        cos, sin = places.cos[:, None], places.sin[:, None]
        turned = parts[:, : heads + kv_heads]
        first, second = turned.chunk(2, -1)
        turned.copy_(torch.cat([first * cos - second * sin, second * cos + first * sin], -1))
        keys.index_copy_(0, places.target, parts[:, heads : heads + kv_heads])
        values.index_copy_(0, places.target, parts[:, heads + kv_heads :])

    def attend(self, qkv: Tensor, keys: Tensor, values: Tensor, places: Places) -> Tensor:
        plan, (kv_heads, size) = places.plan, keys.shape[1:]
        heads = qkv.shape[1] // size - 2 * kv_heads
        queries = qkv.view(len(qkv), -1, size)[:, :heads]
        output = torch.zeros_like(queries)
        numbers = torch.stack([plan.start, plan.total, plan.known, places.past[:-1], places.base[:-1]], 1).tolist()
        for start, total, known, past, base in numbers:
            part = slice(start, start + total)
            key, value = keys[base : base + past + total], values[base : base + past + total]
            where = torch.arange(past + total, device=qkv.device)
            node = where - (past + known)
            visible = where < (plan.sees[part, None] + past)
            visible |= (node >= 0) & ((plan.bits[part, None] >> node.clamp(min=0)) & 1).bool()
            key, value = (x.repeat_interleave(heads // kv_heads, 1).transpose(0, 1)[None] for x in (key, value))
            query = queries[part].transpose(0, 1)[None]
            seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=visible)
            output[part] = seen[0].transpose(0, 1)
        return output.flatten(1)

    def gated(self, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, -1)
        return functional.silu(gate) * up
