"""Mip-mapped textures in one flat array, as the shading kernel reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_LEVELS = 14
MAX_SIZE = 1 << (MAX_LEVELS - 1)
_ROWS = 64  # halved at once: the sums stay in the processor's cache


class Wrap(IntEnum):
    """What a texture shows outside of its picture."""

    REPEAT = 0
    CLAMP = 1
    MIRROR = 2


@dataclass(frozen=True)
class Sampling:
    """How a texture is sampled (always linearly; glTF's NEAREST filters are taken as linear ones).

    Attributes:
        wrap_u, wrap_v: outside of the picture, across and down.
        mip_mapped: False where its full size is used however far away it is.
    """

    wrap_u: Wrap = Wrap.REPEAT
    wrap_v: Wrap = Wrap.REPEAT
    mip_mapped: bool = True


@dataclass(frozen=True)
class MipMaps:
    """The mip pyramids of N textures. Sizes are powers of two, so that repeating is a bit mask.

    Attributes:
        texels: uint32 (M,), all levels of all textures, row by row; red in bits 0-7, blue in bits 8-15, green in bits
            20-27, which the shading kernel can spread out with one shift.
        level_start: int64 (N, MAX_LEVELS), where each level begins in `texels`; the last level is repeated.
        size_bits: int64 (N, 2), log2 of the width and the height of level 0.
        wraps: int64 (N, 2), `Wrap` across and down.
        highest_level: int64 (N,), the smallest picture that is used.
    """

    texels: NDArray[np.uint32]
    level_start: NDArray[np.int64]
    size_bits: NDArray[np.int64]
    wraps: NDArray[np.int64]
    highest_level: NDArray[np.int64]

    @classmethod
    def build(cls, textures: Sequence[NDArray[np.uint8]], samplings: Sequence[Sampling] = ()) -> MipMaps:
        """Halves each image, uint8 (h, w, 3), down to one pixel with a box filter."""
        samplings = samplings or [Sampling()] * len(textures)
        level_start = np.zeros((len(textures), MAX_LEVELS), np.int64)
        sizes = np.array([_rounded_size(texture) for texture in textures], np.int64).reshape(-1, 2)
        bits = np.log2(sizes[:, ::-1]).round().astype(np.int64)  # width, height
        end = 0
        for index, (height, width) in enumerate(sizes):
            for level in range(MAX_LEVELS):
                level_start[index, level] = end
                if level < bits[index].max():
                    end += max(int(height) >> level, 1) * max(int(width) >> level, 1)
            end += 1
        texels = np.empty(end, np.uint32)
        for index, texture in enumerate(textures):
            pixels = _to_power_of_two(texture)
            for start in level_start[index, : bits[index].max() + 1]:
                texels[start : start + pixels.shape[0] * pixels.shape[1]] = _pack(pixels)
                pixels = _halve(pixels)
        return cls(
            texels=texels,
            level_start=level_start,
            size_bits=bits,
            wraps=np.array([[s.wrap_u, s.wrap_v] for s in samplings], np.int64).reshape(-1, 2),
            highest_level=bits.max(axis=1, initial=0) * np.array([s.mip_mapped for s in samplings], np.int64),
        )


def _rounded_size(pixels: NDArray[np.uint8]) -> tuple[int, int]:
    height, width = (min(1 << (int(n) - 1).bit_length(), MAX_SIZE) for n in pixels.shape[:2])
    return height, width


def _to_power_of_two(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image with both sides rounded up to powers of two (at most MAX_SIZE)."""
    height, width = _rounded_size(pixels)
    if (height, width) == pixels.shape[:2]:
        return np.ascontiguousarray(pixels)
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


def _halve(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The next mip level: the means of 2x2 pixels (2x1 where one side is 1 already), rounded."""
    height, width = (max(size // 2, 1) for size in pixels.shape[:2])
    halved = np.empty((height, width, 3), np.uint8)
    high = 2 if pixels.shape[0] > 1 else 1
    for row in range(0, height, _ROWS):
        sums, count = pixels[row * high : (row + _ROWS) * high].astype(np.uint16), 1
        if pixels.shape[0] > 1:
            sums, count = sums[0::2] + sums[1::2], 2 * count
        if pixels.shape[1] > 1:
            sums, count = sums[:, 0::2] + sums[:, 1::2], 2 * count
        halved[row : row + _ROWS] = sums + count // 2 >> count.bit_length() - 1
    return halved


def _pack(pixels: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """uint8 (h, w, 3) to uint32 (h * w,): the bits of each texel are set byte by byte."""
    packed = np.empty((*pixels.shape[:2], 4), np.uint8)
    packed[:, :, 0] = pixels[:, :, 0]
    packed[:, :, 1] = pixels[:, :, 2]
    packed[:, :, 2] = pixels[:, :, 1] << 4
    packed[:, :, 3] = pixels[:, :, 1] >> 4
    return packed.view("<u4").ravel()
