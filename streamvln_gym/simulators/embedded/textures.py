"""Mip-mapped textures in one flat array, as the shading kernel reads them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_LEVELS = 14
MAX_SIZE = 1 << (MAX_LEVELS - 1)


@dataclass(frozen=True)
class MipMaps:
    """The mip pyramids of N textures. Sizes are powers of two, so that repeating is a bit mask.

    Attributes:
        texels: uint32 (M,), red + 256 * green + 65536 * blue, all levels of all textures, row by row.
        offsets: int64 (N, MAX_LEVELS), where each level begins in `texels`; the last level is repeated.
        width_bits: int64 (N,), log2 of the width of level 0.
        height_bits: int64 (N,), log2 of the height of level 0.
    """

    texels: NDArray[np.uint32]
    offsets: NDArray[np.int64]
    width_bits: NDArray[np.int64]
    height_bits: NDArray[np.int64]

    @classmethod
    def build(cls, textures: tuple[NDArray[np.uint8], ...]) -> MipMaps:
        """Halves each image, uint8 (h, w, 3), down to one pixel with a box filter."""
        chunks: list[NDArray[np.uint32]] = []
        offsets = np.zeros((len(textures), MAX_LEVELS), np.int64)
        bits = np.zeros((len(textures), 2), np.int64)
        size = 0
        for index, texture in enumerate(textures):
            level_pixels = _to_power_of_two(texture)
            bits[index] = [int(n).bit_length() - 1 for n in level_pixels.shape[:2]]
            for level in range(MAX_LEVELS):
                offsets[index, level] = size
                if level <= bits[index].max():
                    chunks.append(_pack(level_pixels))
                    level_pixels = _halve(level_pixels)
                if level < bits[index].max():
                    size += chunks[-1].size
            size += chunks[-1].size
        return cls(np.concatenate(chunks), offsets, bits[:, 1].copy(), bits[:, 0].copy())


def _to_power_of_two(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image with both sides rounded up to powers of two (at most MAX_SIZE)."""
    height, width = (min(1 << (int(n) - 1).bit_length(), MAX_SIZE) for n in pixels.shape[:2])
    if (height, width) == pixels.shape[:2]:
        return np.ascontiguousarray(pixels)
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


def _halve(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The next mip level: the means of 2x2 pixels (2x1 where one side is 1 already), rounded."""
    height, width = pixels.shape[:2]
    rows, columns = min(height, 2), min(width, 2)
    blocks = pixels.reshape(height // rows, rows, width // columns, columns, 3)
    count = rows * columns
    return ((blocks.sum(axis=(1, 3), dtype=np.uint32) + count // 2) // count).astype(np.uint8)


def _pack(pixels: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """uint8 (h, w, 3) to uint32 (h * w,)."""
    wide = pixels.astype(np.uint32)
    return (wide[:, :, 0] | wide[:, :, 1] << 8 | wide[:, :, 2] << 16).ravel()
