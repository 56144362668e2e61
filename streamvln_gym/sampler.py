"""Which episode comes next."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


class EpisodeSampler:
    """Goes through the episodes of a dataset: in file order, or shuffled anew on every pass once it is seeded.

    Args:
        episode_ids: the episodes, in file order.
        scene_of: gives an episode's scene id.
    """

    def __init__(self, episode_ids: Sequence[str], scene_of: Callable[[str], str]) -> None:
        self._episode_ids = episode_ids
        self._scene_of = scene_of
        self._generator: np.random.Generator | None = None
        self._order: Sequence[int] = range(len(episode_ids))
        self._position = 0

    def shuffle(self, generator: np.random.Generator) -> None:
        """Starts over in an order that `generator` decides; later passes draw from it again."""
        self._generator = generator
        self._order = generator.permutation(len(self._episode_ids)).tolist()
        self._position = 0

    def next(self) -> str:
        """The next episode's id; after the last one comes a new pass."""
        if self._position == len(self._order):
            self._start_pass()
        episode_id = self._episode_ids[self._order[self._position]]
        self._position += 1
        return episode_id

    def next_in_scene(self, is_wanted: Callable[[str], bool]) -> str | None:
        """The next episode whose scene id `is_wanted`, in the present order (the ones between are skipped), or None."""
        for offset in range(len(self._order)):
            position = (self._position + offset) % len(self._order)
            episode_id = self._episode_ids[self._order[position]]
            if is_wanted(self._scene_of(episode_id)):
                self._position = position + 1
                return episode_id
        return None

    def _start_pass(self) -> None:
        if self._generator is not None:
            self._order = self._generator.permutation(len(self._episode_ids)).tolist()
        self._position = 0
