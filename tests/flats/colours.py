"""Which palette name a drawn colour has."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamvln_gym.flats.palette import PALETTE


def _lab(rgb: ArrayLike) -> NDArray[np.float64]:
    """CIE L*a*b* of sRGB colours (..., 3) in 0...255."""
    value = np.asarray(rgb, dtype=np.float64) / 255.0
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ matrix.T / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16.0 / 116.0)
    return np.stack([116.0 * f[..., 1] - 16.0, 500.0 * (f[..., 0] - f[..., 1]), 200.0 * (f[..., 1] - f[..., 2])], -1)


def nearest_colour(rgb: ArrayLike) -> str:
    """The palette name nearest to an sRGB colour (3,) in 0...255; lightness counts half, as shading changes it."""
    weights = np.array([0.5, 1.0, 1.0])
    difference = (_lab(list(PALETTE.values())) - _lab(rgb)) * weights
    return list(PALETTE)[int(np.argmin((difference**2).sum(1)))]
