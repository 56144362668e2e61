"""The fast stream: which environment steps share one dialogue, and so one KV cache."""

from __future__ import annotations


class FastWindow:
    """The running window; the dialogue starts anew after every `window_steps` environment steps.

    A step belongs to window number `step // window_steps`, so a chunk that straddles a boundary simply makes the next
    window's first call come a little later. The dialogue itself is a `models.streaming.StreamingSession`.

    Args:
        window_steps: environment steps from one reset to the next.

    Attributes:
        start: environment step of the window's first call, None while no window is open.
    """

    def __init__(self, window_steps: int) -> None:
        if window_steps < 1:
            raise ValueError(f"window_steps must be at least 1, got {window_steps}")
        self.window_steps = window_steps
        self.clear()

    def clear(self) -> None:
        """Closes the window."""
        self.start: int | None = None

    def covers(self, step: int) -> bool:
        """Whether a window is open and `step` belongs to it."""
        return self.start is not None and step // self.window_steps == self.start // self.window_steps

    def open(self, step: int) -> None:
        """Starts a new window at `step`."""
        self.start = step
