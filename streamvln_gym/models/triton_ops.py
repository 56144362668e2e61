"""`PackedOps` as Triton kernels: no shape depends on how much the streams hold, so passes can be recorded.

Attention goes over blocks of keys with a running maximum and sum (Dao et al., FlashAttention-2, arXiv 2307.08691). The
query heads that share a key head are rows of one block, so keys and values are read once for all of them.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from streamvln_gym.models.packed_ops import Places

_GATE_BLOCK = 1024
_LOG2_E = 1.4426950408889634


class TritonOps:
    """See `PackedOps`."""

    def rms_norm(self, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        tokens, width = x.shape
        output = torch.empty_like(x)
        block = triton.next_power_of_2(width)
        _rms_norm[(tokens,)](x, weight, output, width, epsilon, BLOCK=block, num_warps=8 if block >= 2048 else 4)
        return output

    def rotate_and_store(self, qkv: Tensor, keys: Tensor, values: Tensor, places: Places) -> None:
        kv_heads, size = keys.shape[1:]
        heads = qkv.shape[1] // size - 2 * kv_heads
        _rotate_and_store[(len(qkv),)](
            qkv,
            keys,
            values,
            places.cos,
            places.sin,
            places.target,
            keys.stride(0),
            HEADS=heads,
            KV_HEADS=kv_heads,
            HALF=size // 2,
            HEAD_BLOCK=triton.next_power_of_2(heads + 2 * kv_heads),
            HALF_BLOCK=triton.next_power_of_2(size // 2),
        )

    def attend(self, qkv: Tensor, keys: Tensor, values: Tensor, places: Places) -> Tensor:
        plan, (kv_heads, size) = places.plan, keys.shape[1:]
        heads = qkv.shape[1] // size - 2 * kv_heads
        output = torch.empty((len(qkv), heads * size), dtype=qkv.dtype, device=qkv.device)
        wide = qkv.dtype == torch.float32
        _attend[(len(plan.tile_row), kv_heads)](
            qkv,
            keys,
            values,
            output,
            places.past,
            places.base,
            plan.start,
            plan.known,
            plan.total,
            plan.sees,
            plan.bits,
            plan.tile_row,
            plan.tile_block,
            size**-0.5 * _LOG2_E,
            qkv.stride(0),
            keys.stride(0),
            output.stride(0),
            GROUP=heads // kv_heads,
            SIZE=size,
            SIZE_BLOCK=triton.next_power_of_2(size),
            QUERIES=plan.tile,
            KEYS=16 if wide else 64,
            # Three products of 10 bits each, nearly as exact as float32's; for bfloat16 this means nothing.
            PRECISION="tf32x3",
            num_warps=8 if plan.tile == 128 else 4,
            num_stages=1 if wide else 3,
        )
        return output

    def gated(self, gate_up: Tensor) -> Tensor:
        tokens, width = gate_up.shape[0], gate_up.shape[1] // 2
        output = torch.empty((tokens, width), dtype=gate_up.dtype, device=gate_up.device)
        _gated[(tokens, triton.cdiv(width, _GATE_BLOCK))](gate_up, output, width, BLOCK=_GATE_BLOCK)
        return output


@triton.jit
def _rms_norm(x, weight, output, width, epsilon, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    value = tl.load(x + token * width + column, mask=inside, other=0.0)
    wide = value.to(tl.float32)
    normed = wide * tl.rsqrt(tl.sum(wide * wide, 0) / width + epsilon)
    scale = tl.load(weight + column, mask=inside, other=0.0)
    tl.store(output + token * width + column, scale * normed.to(value.dtype), mask=inside)


@triton.jit
def _gated(gate_up, output, width, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    gate = tl.load(gate_up + token * 2 * width + column, mask=inside, other=0.0)
    up = tl.load(gate_up + token * 2 * width + width + column, mask=inside, other=0.0)
    wide = gate.to(tl.float32)
    silu = (wide / (1.0 + tl.exp(-wide))).to(gate.dtype)
    tl.store(output + token * width + column, silu * up, mask=inside)


@triton.jit
def _rotate_and_store(
    qkv,
    keys,
    values,
    cos,
    sin,
    target,
    key_stride,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    HEAD_BLOCK: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, HEAD_BLOCK)[:, None]
    column = tl.arange(0, HALF_BLOCK)[None, :]
    inside = (head < HEADS + 2 * KV_HEADS) & (column < HALF)
    row = qkv + token * (HEADS + 2 * KV_HEADS) * 2 * HALF + head * 2 * HALF + column
    first = tl.load(row, mask=inside, other=0.0)
    second = tl.load(row + HALF, mask=inside, other=0.0)
    turned = head < HEADS + KV_HEADS
    c = tl.load(cos + token * HALF + column, mask=column < HALF, other=0.0).to(tl.float32)
    s = tl.load(sin + token * HALF + column, mask=column < HALF, other=0.0).to(tl.float32)
    a, b = first.to(tl.float32), second.to(tl.float32)
    low = tl.where(turned, (a * c - b * s).to(first.dtype), first)
    high = tl.where(turned, (b * c + a * s).to(first.dtype), second)
    is_query = inside & (head < HEADS)
    tl.store(row, low, mask=is_query)
    tl.store(row + HALF, high, mask=is_query)
    place = tl.load(target + token) * key_stride
    is_key = inside & (head >= HEADS) & turned
    key = keys + place + (head - HEADS) * 2 * HALF + column
    tl.store(key, low, mask=is_key)
    tl.store(key + HALF, high, mask=is_key)
    is_value = inside & (head >= HEADS + KV_HEADS)
    value = values + place + (head - HEADS - KV_HEADS) * 2 * HALF + column
    tl.store(value, low, mask=is_value)
    tl.store(value + HALF, high, mask=is_value)


@triton.jit
def _attend(
    qkv,
    keys,
    values,
    output,
    past,
    base,
    start,
    known,
    total,
    sees,
    bits,
    tile_row,
    tile_block,
    scale,
    query_stride,
    key_stride,
    output_stride,
    GROUP: tl.constexpr,
    SIZE: tl.constexpr,
    SIZE_BLOCK: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    tile = tl.program_id(0)
    kv_head = tl.program_id(1)
    row = tl.load(tile_row + tile)
    if row >= 0:
        held = tl.load(past + row)
        count = tl.load(total + row)
        tree = held + tl.load(known + row)
        query = tl.load(tile_block + tile) * QUERIES + tl.arange(0, QUERIES)
        real = query < count * GROUP
        token = tl.load(start + row) + query // GROUP
        head = kv_head * GROUP + query % GROUP
        column = tl.arange(0, SIZE_BLOCK)
        narrow = column < SIZE
        q_at = token[:, None] * query_stride + head[:, None] * SIZE + column[None, :]
        q = tl.load(qkv + q_at, mask=real[:, None] & narrow[None, :], other=0.0)
        limit = held + tl.load(sees + token, mask=real, other=0)
        seen = tl.load(bits + token, mask=real, other=0)
        # Keys before `shared` are seen by every query here; none sees any from `end` on.
        shared = (tl.min(tl.where(real, limit, 1 << 40), 0) // KEYS * KEYS).to(tl.int32)
        end = tl.max(tl.where(real, limit, 0), 0)
        end = tl.maximum(end, tl.where(tl.max(seen, 0) > 0, held + count, 0)).to(tl.int32)
        slot = tl.load(base + row) * key_stride + kv_head * SIZE
        keys += slot
        values += slot
        top = tl.full([QUERIES], -1.0e30, tl.float32)
        weights = tl.zeros([QUERIES], tl.float32)
        gathered = tl.zeros([QUERIES, SIZE_BLOCK], tl.float32)
        offset = tl.arange(0, KEYS)
        for begin in range(0, shared, KEYS):
            at = (begin + offset) * key_stride
            k = tl.load(keys + at[None, :] + column[:, None], mask=narrow[:, None], other=0.0)
            score = tl.dot(q, k, input_precision=PRECISION) * scale
            highest = tl.maximum(top, tl.max(score, 1))
            share = tl.exp2(score - highest[:, None])
            fade = tl.exp2(top - highest)
            weights = weights * fade + tl.sum(share, 1)
            v = tl.load(values + at[:, None] + column[None, :], mask=narrow[None, :], other=0.0)
            gathered = gathered * fade[:, None] + tl.dot(share.to(v.dtype), v, input_precision=PRECISION)
            top = highest
        for begin in range(shared, end, KEYS):
            place = begin + offset
            at = place * key_stride
            there = place < end
            k = tl.load(keys + at[None, :] + column[:, None], mask=there[None, :] & narrow[:, None], other=0.0)
            score = tl.dot(q, k, input_precision=PRECISION) * scale
            node = place - tree
            bit = (seen[:, None] >> tl.minimum(tl.maximum(node, 0), 62)[None, :]) & 1
            visible = (place[None, :] < limit[:, None]) | ((node >= 0)[None, :] & (node < 63)[None, :] & (bit == 1))
            score = tl.where(visible, score, -1.0e30)
            highest = tl.maximum(top, tl.max(score, 1))
            share = tl.where(visible, tl.exp2(score - highest[:, None]), 0.0)
            fade = tl.exp2(top - highest)
            weights = weights * fade + tl.sum(share, 1)
            v = tl.load(values + at[:, None] + column[None, :], mask=there[:, None] & narrow[None, :], other=0.0)
            gathered = gathered * fade[:, None] + tl.dot(share.to(v.dtype), v, input_precision=PRECISION)
            top = highest
        # Queries that are none see nothing.
        result = gathered / tl.where(weights > 0.0, weights, 1.0)[:, None]
        out_at = token[:, None] * output_stride + head[:, None] * SIZE + column[None, :]
        tl.store(output + out_at, result.to(output.dtype.element_ty), mask=real[:, None] & narrow[None, :])
