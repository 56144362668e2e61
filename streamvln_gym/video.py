"""Films an episode: the environment's picture and, below it, what a watched agent has in mind."""

from __future__ import annotations

import re
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from streamvln_gym.agents.view import AgentView

_FRAMES_PER_SECOND = 8
_UNSAFE = re.compile(r'[%/\\:*?"<>|\x00-\x1f]')  # the first keeps two ids from getting one name


def film_name(film: str) -> str:
    """The name of a film's file; what no file's name may have in it is written as in an address ("%2F")."""
    return _UNSAFE.sub(lambda match: f"%{ord(match[0]):02X}", film) + ".mp4"


class VideoWriter:
    """Writes an environment's `render()` pictures into an MP4; a context manager.

    The file appears when the context ends without an error, never half-written.

    Args:
        path: of the MP4; None films nothing.
        label: written into every frame ("" for none).
        panel: whether the agent's view is drawn below each picture.
    """

    def __init__(self, path: Path | None, label: str = "", panel: bool = True) -> None:
        self._path = path
        self._label = label
        self._panel = panel
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

    def shoot(self, env: gym.Env, view: AgentView | None = None) -> None:
        """Adds one picture of `env`, which needs render_mode="rgb_array".

        Args:
            env: what the agent sees.
            view: of the agent, drawn below; all pictures of a video have one, or none has.
        """
        if self._writer is None:
            return
        frame = picture_of(env, view if self._panel else None)
        self._writer.append_data(_labelled(frame, self._label) if self._label else frame)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._writer is None or self._path is None:
            return
        self._writer.close()
        if kind is None:
            self._partial.replace(self._path)
        else:
            self._partial.unlink(missing_ok=True)


def picture_of(env: gym.Env, view: AgentView | None = None) -> NDArray[np.uint8]:
    """`env.render()`, and the agent's panel below it, uint8 (height, width, 3).

    Args:
        env: with render_mode="rgb_array".
        view: of the agent; None leaves the panel out.
    """
    frame: Any = env.render()
    if view is None:
        return frame
    from streamvln_gym.panel import draw_panel

    return np.concatenate([frame, draw_panel(view)])


def _labelled(frame: NDArray[np.uint8], label: str) -> NDArray[np.uint8]:
    """The frame (H, W, 3) with a label in its upper left corner."""
    from PIL import Image, ImageDraw

    from streamvln_gym.fonts import writable

    picture = Image.fromarray(frame)
    draw = ImageDraw.Draw(picture)
    label, font = writable(label, 18)
    left, top, right, bottom = draw.textbbox((14, 12), label, font=font)
    draw.rectangle((left - 6, top - 4, right + 6, bottom + 4), fill=(190, 30, 30))
    draw.text((14, 12), label, font=font, fill=(255, 255, 255))
    return np.asarray(picture)
