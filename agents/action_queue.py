"""Actions that were decided but not yet executed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable


class ActionQueue:
    """A model call decides a chunk of actions, the environment takes one a step.

    The queue knows nothing of windows: pending actions survive a window's reset.
    """

    def __init__(self) -> None:
        self._pending: deque[int] = deque()

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def pending(self) -> list[int]:
        """All decided actions, the next one first."""
        return list(self._pending)

    def push(self, actions: Iterable[int]) -> None:
        self._pending.extend(actions)

    def pop(self) -> int:
        """The next action.

        Raises:
            IndexError: nothing is pending.
        """
        return self._pending.popleft()

    def clear(self) -> None:
        self._pending.clear()
