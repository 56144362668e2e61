"""Image augmentation: another exposure, another white balance, a slightly shifted view, the same all window long."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

# Luma of ITU-R BT.601, and the axes in which a hue is an angle (YIQ, as NTSC defined it).
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_TO_YIQ = np.array(
    [[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]], dtype=np.float32
)
_FROM_YIQ = np.linalg.inv(_TO_YIQ).astype(np.float32)
_STREAM = 0xA06  # keeps these draws apart from others made from the same seed


@dataclass(frozen=True)
class AugmentationConfig:
    """How far pictures may be changed; all zero (the default) leaves them alone.

    Attributes:
        brightness: factor drawn from 1 - x to 1 + x.
        contrast: likewise, about the picture's mean grey.
        saturation: likewise, about each pixel's grey.
        hue: turn of the colours, drawn from -x to x of a full circle.
        crop: share of each side that is cut away at most; what is left is stretched to the network's picture.
        erase: probability that a rectangle of up to a quarter of each side is painted grey.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    crop: float = 0.0
    erase: float = 0.0

    def __post_init__(self) -> None:
        for name, most in {"hue": 0.5, "crop": 0.5}.items():
            if not 0.0 <= getattr(self, name) <= most:
                raise ValueError(f"augmentation.{name} must be from 0 to {most}, got {getattr(self, name)}")
        for name in ("brightness", "contrast", "saturation", "erase"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"augmentation.{name} must be from 0 to 1, got {getattr(self, name)}")

    @property
    def wanted(self) -> bool:
        return any(getattr(self, item.name) > 0.0 for item in fields(self))

    @property
    def moves_pixels(self) -> bool:
        """Whether a pixel may end up elsewhere than where depth and patch targets have it."""
        return self.crop > 0.0 or self.erase > 0.0


@dataclass(frozen=True)
class Jitter:
    """One draw.

    Attributes:
        brightness, contrast, saturation: factors.
        turn: of the hue, radians.
        box: (left, top, right, bottom) of what is kept, shares of width and height.
        erased: likewise the grey rectangle, or None.
    """

    brightness: float
    contrast: float
    saturation: float
    turn: float
    box: tuple[float, float, float, float]
    erased: tuple[float, float, float, float] | None

    def crop(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(height, width, 3) uint8 to the part of it that is kept."""
        rows, columns = _pixels(self.box, picture.shape)
        return np.ascontiguousarray(picture[rows, columns])

    def recolour(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(height, width, 3) uint8 to the same with other colours, and the rectangle if there is one."""
        cosine, sine = np.cos(self.turn), np.sin(self.turn)
        about_grey = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]], dtype=np.float32)
        about_grey[1:] *= self.saturation
        matrix = (_FROM_YIQ @ about_grey @ _TO_YIQ * (self.brightness * self.contrast)).astype(np.float32)
        values = picture.astype(np.float32) @ matrix.T
        grey = float((picture.reshape(-1, 3).mean(0) * _LUMA).sum()) * self.brightness
        changed = np.clip(np.rint(values + grey * (1.0 - self.contrast)), 0, 255).astype(np.uint8)
        if self.erased is not None:
            changed[_pixels(self.erased, picture.shape)] = 128
        return changed


@dataclass(frozen=True)
class Augmentation:
    """Draws jitters that depend on seed, epoch and the window's number alone: not on workers, ranks or order.

    Attributes:
        config: how far to go.
        seed: of the draws.
    """

    config: AugmentationConfig
    seed: int = 0

    def jitter(self, epoch: int, index: int) -> Jitter:
        """The jitter of all frames of window number `index` in `epoch`."""
        config = self.config
        rng = np.random.default_rng([_STREAM, self.seed, epoch, index])
        brightness, contrast, saturation = (
            1.0 + rng.uniform(-1, 1) * x for x in (config.brightness, config.contrast, config.saturation)
        )
        turn = 2 * np.pi * config.hue * rng.uniform(-1, 1)
        width, height = 1.0 - config.crop * rng.uniform(size=2)
        left, top = rng.uniform(size=2) * (1.0 - width, 1.0 - height)
        erased = None
        size, corner = rng.uniform(0.05, 0.25, size=2), rng.uniform(size=2)
        if rng.uniform() < config.erase:
            x, y = corner * (1.0 - size)
            erased = (x, y, x + size[0], y + size[1])
        return Jitter(brightness, contrast, saturation, turn, (left, top, left + width, top + height), erased)


def _pixels(box: tuple[float, float, float, float], shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Rows and columns of a box of shares; at least one pixel each."""
    height, width = shape[:2]
    left, top, right, bottom = box
    rows, columns = (round(top * height), round(bottom * height)), (round(left * width), round(right * width))
    return slice(rows[0], max(rows[1], rows[0] + 1)), slice(columns[0], max(columns[1], columns[0] + 1))
