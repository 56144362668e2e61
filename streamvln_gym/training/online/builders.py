"""Processes that build flats ahead of the workers that will play in them."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from streamvln_gym.errors import SceneError
from streamvln_gym.training.online.workers import WorkerError


class FlatBuilders:
    """Builds flats in a given order; workers play in the flats that they have until the next one is there.

    Args:
        root: of the flats' dataset.
        split: of the dataset.
        seeds: scene seeds, in the order in which they will be needed.
        count: processes.
    """

    def __init__(self, root: Path, split: str, seeds: Sequence[int], count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._taken = context.Value("q", 0)  # kept: without it here, its lock is gone before a slow process has it
        self._processes = [
            context.Process(target=_build, args=(root, split, seeds, self._taken), daemon=True) for _ in range(count)
        ]
        for process in self._processes:
            process.start()

    def check(self) -> None:
        """Raises WorkerError if a process could not go on."""
        for process in self._processes:
            if process.exitcode not in (None, 0):
                raise WorkerError(
                    f"a process that builds flats died (exit code {process.exitcode}; its error is above, or it was "
                    "killed): run the same command again to go on from the last saved state"
                )

    def close(self) -> None:
        """Ends the processes; a flat appears whole or not at all."""
        for process in self._processes:
            process.terminate()
            process.join()


def _build(root: Path, split: str, seeds: Sequence[int], taken: Any) -> None:
    """Builds one flat after the other, of those that no other process has `taken` (their number, shared by all)."""
    from streamvln_gym.flats.building import build_scene

    os.nice(5)
    parent = multiprocessing.parent_process()
    while True:
        with taken.get_lock():
            number, taken.value = taken.value, taken.value + 1
        if number >= len(seeds):
            return
        seed = seeds[number]
        if parent is not None and not parent.is_alive():
            return  # the training was killed, and nobody will need the others
        with suppress(SceneError):  # no flat of this seed passes the checks: the workers pass it over
            build_scene(root, split, seed)
