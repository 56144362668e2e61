"""The fast stream: the dialogue turns of the current window as one growing KV cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers.cache_utils import Cache


class FastWindow:
    """KV cache of the running window, dropped after every `window_steps` environment steps.

    A step belongs to window number `step // window_steps`, so a chunk that straddles a boundary simply makes the next
    window's first call come a little later.

    Args:
        window_steps: environment steps from one reset to the next.

    Attributes:
        start: environment step of the window's first call, None while no window is open.
        carried: ids that the last answer ended with and that the cache does not hold yet; they open the next prefill.
    """

    def __init__(self, window_steps: int) -> None:
        if window_steps < 1:
            raise ValueError(f"window_steps must be at least 1, got {window_steps}")
        self.window_steps = window_steps
        self.clear()

    def clear(self) -> None:
        """Drops the window."""
        self._cache: Cache | None = None
        self.start: int | None = None
        self.carried: list[int] = []

    def covers(self, step: int) -> bool:
        """Whether a window is open and `step` belongs to it."""
        return self.start is not None and step // self.window_steps == self.start // self.window_steps

    def open(self, step: int, cache: Cache) -> None:
        """Starts a new window at `step` with an empty cache."""
        self.clear()
        self.start = step
        self._cache = cache

    def carry(self, ids: list[int]) -> None:
        """Keeps ids for the next call's prefill."""
        self.carried = list(ids)

    @property
    def cache(self) -> Cache:
        if self._cache is None:
            raise RuntimeError("no window is open: call open() first")
        return self._cache

    @property
    def cached_length(self) -> int:
        """Positions that the KV cache holds (0 while no window is open)."""
        return 0 if self._cache is None else int(self._cache.get_seq_length())
