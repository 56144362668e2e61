"""Films an episode."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

_FRAMES_PER_SECOND = 8


class VideoWriter:
    """Writes an environment's `render()` pictures into an MP4; a context manager.

    The file appears when the context ends without an error, never half-written.

    Args:
        path: of the MP4; None films nothing.
        label: written into every frame ("" for none).
    """

    def __init__(self, path: Path | None, label: str = "") -> None:
        self._path = path
        self._label = label
        self._writer: Any = None

    def __enter__(self) -> VideoWriter:
        if self._path is not None:
            import imageio

            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._partial = self._path.with_name(f".part-{self._path.name}")
            self._writer = imageio.get_writer(
                self._partial,
                fps=_FRAMES_PER_SECOND,
                codec="libx264",
                quality=7,
                macro_block_size=2,
                ffmpeg_params=["-preset", "veryfast"],
            )
        return self

    def shoot(self, env: gym.Env) -> None:
        """Adds one picture of `env`, which needs render_mode="rgb_array"."""
        if self._writer is None:
            return
        frame: Any = env.render()
        self._writer.append_data(_labelled(frame, self._label) if self._label else frame)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._writer is None or self._path is None:
            return
        self._writer.close()
        if kind is None:
            self._partial.replace(self._path)
        else:
            self._partial.unlink(missing_ok=True)


def _labelled(frame: NDArray[np.uint8], label: str) -> NDArray[np.uint8]:
    """The frame (H, W, 3) with a label in its upper left corner."""
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.fromarray(frame)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(18)
    left, top, right, bottom = draw.textbbox((14, 12), label, font=font)
    draw.rectangle((left - 6, top - 4, right + 6, bottom + 4), fill=(190, 30, 30))
    draw.text((14, 12), label, font=font, fill=(255, 255, 255))
    return np.asarray(picture)
