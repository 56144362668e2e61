"""Processes that build flats ahead of the workers that will play in them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from pathlib import Path

from streamvln_gym.errors import StreamVLNGymError


class FlatBuilders:
    """Builds flats in a given order; a worker that comes to one that is missing builds it itself.

    Args:
        root: of the flats' dataset.
        split: of the dataset.
        seeds: scene seeds, in the order in which they will be needed.
        count: processes.
    """

    def __init__(self, root: Path, split: str, seeds: Sequence[int], count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._processes = [
            context.Process(target=_build, args=(root, split, seeds[k::count]), daemon=True) for k in range(count)
        ]
        for process in self._processes:
            process.start()

    def close(self) -> None:
        """Ends the processes; a flat appears whole or not at all."""
        for process in self._processes:
            process.terminate()
            process.join()


def _build(root: Path, split: str, seeds: Sequence[int]) -> None:
    from streamvln_gym.flats.building import build_scene

    parent = multiprocessing.parent_process()
    for seed in seeds:
        if parent is not None and not parent.is_alive():
            return  # the training was killed, and nobody will need the others
        try:
            build_scene(root, split, seed)
        except StreamVLNGymError:
            return  # the worker that needs this flat meets the same error, and reports it
