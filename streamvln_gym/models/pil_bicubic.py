"""Pillow's bicubic resizing of 8-bit pictures, value for value, as two matrix products on any device.

Pillow resamples in whole numbers: first along rows, then along columns, each with weights of 22 bits whose products it
adds up, rounds and cuts to 0..255 (`Resample.c`, HPND licence). Sums of such products are exact in float64 in whatever
order they are taken, so a GPU gives the same levels.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_BITS = 22
# Pictures that are resized at once: bounds the space for float64.
_AT_ONCE = 8


def weights(before: int, after: int) -> NDArray[np.int64]:
    """(after, before) what each old pixel counts for each new one, in units of 2^-22."""
    scale = before / after
    widening = max(scale, 1.0)
    support = 2.0 * widening
    found = np.zeros((after, before), np.int64)
    for pixel in range(after):
        centre = (pixel + 0.5) * scale
        first = max(int(centre - support + 0.5), 0)
        last = min(int(centre + support + 0.5), before)
        raw = [_cubic((place - centre + 0.5) / widening) for place in range(first, last)]
        total = sum(raw)
        for place, value in zip(range(first, last), raw, strict=True):
            share = value / total * (1 << _BITS)
            found[pixel, place] = math.trunc(share + (0.5 if share >= 0 else -0.5))
    return found


def resize(pictures: Tensor, size: int) -> Tensor:
    """Resizes pictures to size x size pixels; the aspect ratio is not kept.

    Args:
        pictures: (pictures, height, width, 3) uint8.
        size: pixels.

    Returns:
        (pictures, 3, size, size) uint8.
    """
    return torch.cat([_resize(part, size) for part in pictures.split(_AT_ONCE)])


def matrices(height: int, width: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """What `resize` reads for pictures of this size; a CUDA graph of it needs them to stay where they are."""
    return _matrix(width, size, device), _matrix(height, size, device)


def _resize(pictures: Tensor, size: int) -> Tensor:
    _, height, width, _ = pictures.shape
    rows, columns = matrices(height, width, size, pictures.device)
    planes = pictures.permute(0, 3, 1, 2)
    if width != size:
        planes = _round(planes.double() @ rows.T)
    if height != size:
        planes = _round(columns @ planes.double())
    return planes.to(torch.uint8)


def _round(sums: Tensor) -> Tensor:
    return ((sums + (1 << (_BITS - 1))) * 2.0**-_BITS).floor_().clamp_(0, 255)


@lru_cache(maxsize=64)
def _matrix(before: int, after: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.from_numpy(weights(before, after)).double().to(device)


def _cubic(distance: float) -> float:
    """Keys' kernel with a = -0.5."""
    a, x = -0.5, abs(distance)
    if x < 1.0:
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    return (((x - 5.0) * x + 8.0) * x - 4.0) * a if x < 2.0 else 0.0
