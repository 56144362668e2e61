"""Which episode comes next."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


class EpisodeSampler:
    """Goes through the episodes of a dataset: in file order, or shuffled anew on every pass once it is seeded.

    Samplers of the same seed that have a share each play all episodes between them.

    Args:
        episode_ids: the episodes, in file order.
        scene_of: gives an episode's scene id.
    """

    def __init__(self, episode_ids: Sequence[str], scene_of: Callable[[str], str]) -> None:
        self._episode_ids = episode_ids
        self._scene_of = scene_of
        self._generator: np.random.Generator | None = None
        self._share = slice(None)
        self._position = 0
        self._start_pass()

    def shuffle(self, generator: np.random.Generator) -> None:
        """Starts over in an order that `generator` decides; later passes draw from it again."""
        self._generator = generator
        self._start_pass()

    def share(self, part: int, parts: int) -> None:
        """Starts over; from now on only every `parts`-th episode of the order comes, beginning with number `part`."""
        self._share = slice(part, None, parts)
        self._begin()

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
        count = len(self._episode_ids)
        self._whole: Sequence[int] = (
            range(count) if self._generator is None else self._generator.permutation(count).tolist()
        )
        self._begin()

    def _begin(self) -> None:
        self._order: Sequence[int] = self._whole[self._share]
        self._position = 0
