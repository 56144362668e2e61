"""The slow stream: which past frames a window may still need, and which of them it shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Picture = NDArray[np.uint8]


def history_steps(t0: int, num_history: int) -> list[int]:
    """Steps whose frames open the window that starts at step `t0`.

    The first min(num_history, t0) of `range(0, t0, max(t0 // num_history, 1))`: spread over the whole past, never the
    current frame.
    """
    if num_history < 1 or t0 < 1:
        return []
    return list(range(0, t0, max(t0 // num_history, 1)))[: min(num_history, t0)]


@lru_cache(maxsize=16)
def _last_uses(num_history: int, window_steps: int, chunk_size: int, max_steps: int) -> tuple[NDArray[np.int64], int]:
    """Per step the last window start up to `max_steps` that shows its frame (-1: none), and the peak of frames alive.

    A window's first call comes up to `chunk_size - 1` steps after its boundary, where a chunk straddles it.
    """
    last_use = np.full(max_steps + chunk_size + 1, -1, dtype=np.int64)
    for boundary in range(window_steps, max_steps + 1, window_steps):
        for t0 in range(boundary, boundary + min(chunk_size, window_steps)):
            last_use[history_steps(t0, num_history)] = t0
    steps = np.arange(len(last_use))
    alive = [int(np.sum((steps <= now) & (last_use > now))) for now in range(max_steps + 1)]
    return last_use, max(alive)


@dataclass
class MemoryFrame:
    """One past frame.

    Attributes:
        step: environment step at which it was the current frame.
        until: step of the next frame that was shown; this one stands for all steps in [step, until).
        tokens: (kept, hidden) what the memory strategy keeps of the frame; None as long as it was never encoded.
        picture: (height, width, 3) uint8 of a frame that was never encoded.
        points: (tokens_per_frame, 3) where its patches lie, metres in the episode frame; None without geometry.
    """

    step: int
    until: int
    tokens: Tensor | None = None
    picture: Picture | None = None
    points: NDArray[np.float32] | None = None


class SlowMemory:
    """Past frames as tokens, in bounded space.

    Up to `max_steps`, exactly those frames are kept that a window up to there can show. An episode that runs on keeps
    encoded frames at even spacing; whenever they exceed `capacity`, every second one is dropped and the spacing
    doubles. A window shows, for each step of the sampling rule, that step's own frame or the nearest earlier one kept.

    Args:
        num_history: frames that a window shows.
        window_steps: steps between window starts.
        chunk_size: actions of a full chunk.
        max_steps: length up to which the sampling rule is met exactly.
        shrink: reduces the picture of a frame that is kept without having been encoded.
    """

    def __init__(
        self,
        num_history: int = 8,
        window_steps: int = 32,
        chunk_size: int = 4,
        max_steps: int = 500,
        shrink: Callable[[Picture], Picture] = np.copy,
    ) -> None:
        self.num_history = num_history
        self.window_steps = window_steps
        self.max_steps = max_steps
        self._last_use, peak = _last_uses(num_history, window_steps, chunk_size, max_steps)
        self.capacity = max(peak, num_history, 1)
        self._shrink = shrink
        self.reset()

    def reset(self) -> None:
        """Forgets the episode."""
        self._kept: list[MemoryFrame] = []
        self._latest: MemoryFrame | None = None
        self._first_step: int | None = None
        self._next_window = 0
        self._spacing = 0

    def __len__(self) -> int:
        return len(self._kept) + (self._latest is not None)

    @property
    def steps(self) -> list[int]:
        """Steps of the frames held, in order."""
        return [frame.step for frame in self._frames()]

    @property
    def nbytes(self) -> int:
        """Bytes of all tokens and pictures held."""
        parts = [part for frame in self._frames() for part in (frame.tokens, frame.picture, frame.points)]
        return sum(part.nbytes for part in parts if part is not None)

    def add(
        self,
        step: int,
        tokens: Tensor | None = None,
        picture: Picture | None = None,
        points: NDArray[np.float32] | None = None,
    ) -> None:
        """Takes the current frame in, as tokens where it was encoded, else as a picture.

        Args:
            step: environment step, larger than every earlier one.
            tokens: (kept, hidden).
            picture: (height, width, 3) uint8; must not be changed by the caller afterwards.
            points: (tokens_per_frame, 3) metres, for strategies that need geometry.

        Raises:
            ValueError: the steps do not increase, or neither tokens nor picture is given.
        """
        if (tokens is None) == (picture is None):
            raise ValueError("pass either tokens or picture")
        if self._latest is not None and step <= self._latest.step:
            raise ValueError(f"frames must come in time order: step {step} after step {self._latest.step}")
        if self._latest is not None:
            self._latest.until = step
            self._file(self._latest, step)
        else:
            self._first_step = step
        self._latest = MemoryFrame(step, step + 1, tokens, picture, points)

    def sample(self, t0: int) -> list[MemoryFrame]:
        """The frames that open a window at step `t0`, in time order; fewer than `num_history` only for small `t0`."""
        past = [frame for frame in self._frames() if frame.step < t0]
        if not past:
            return []
        steps = np.array([frame.step for frame in past])
        nearest = np.searchsorted(steps, history_steps(t0, self.num_history), side="right") - 1
        return [past[max(int(index), 0)] for index in nearest]

    def may_show(self, step: int) -> bool:
        """Whether a window may show the frame of `step` although no call encodes it.

        Where not, its picture is never looked at (see `add`). Beyond `max_steps` only encoded frames are kept; the
        latest frame counts there too, but only a memory of more frames than half the episode shows it.
        """
        if step >= self.max_steps:
            return step < 2 * self.num_history
        return bool(self._last_use[step] > step)

    def window_opened(self, t0: int) -> None:
        """Drops what only the window that has just opened at step `t0` needed."""
        self._next_window = (t0 // self.window_steps + 1) * self.window_steps
        if self._spacing:
            return
        if self._next_window > self.max_steps:
            self._start_spacing()  # no window is left that the schedule knows, but the episode may run on
        else:
            self._kept = [frame for frame in self._kept if self._needed(frame, t0)]

    def _frames(self) -> list[MemoryFrame]:
        return self._kept if self._latest is None else [*self._kept, self._latest]

    def _file(self, frame: MemoryFrame, now: int) -> None:
        """Keeps a frame that is no longer the latest, if a window may show it."""
        if now > self.max_steps and not self._spacing:
            self._start_spacing()
        if self._spacing:
            spaced = not self._kept or frame.step - self._kept[-1].step >= self._spacing
            wanted = spaced and frame.tokens is not None
        else:
            wanted = self._needed(frame, now)
        if not wanted:
            return
        if frame.picture is not None:
            frame.picture = self._shrink(frame.picture)
        self._kept.append(frame)
        if len(self._kept) > self.capacity and not self._spacing:
            self._kept = [kept for kept in self._kept if self._needed(kept, now)]
        elif len(self._kept) > self.capacity:
            self._kept = self._kept[::2]
            self._spacing *= 2

    def _needed(self, frame: MemoryFrame, now: int) -> bool:
        # The first frame shown stands for the steps before it too.
        begin = 0 if frame.step == self._first_step else frame.step
        uses = self._last_use[begin : frame.until]
        return bool((uses >= max(now, self._next_window)).any())

    def _start_spacing(self) -> None:
        """Goes over from the exact schedule to even spacing, where an episode passes `max_steps`."""
        self._spacing = max(-(-self.max_steps // self.capacity), 1)
        spaced: list[MemoryFrame] = []
        for frame in self._kept:
            if not spaced or frame.step - spaced[-1].step >= self._spacing:
                spaced.append(frame)
        self._kept = spaced
