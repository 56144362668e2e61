"""Scenes, each dealt with as a whole by one of several processes: how trajectories are recorded."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Protocol

from tqdm import tqdm

from streamvln_gym.devices import choose_device, cores
from streamvln_gym.episodes import EpisodeDataset
from streamvln_gym.errors import DatasetError

_POLL_SECONDS = 0.2


class SceneWorker(Protocol):
    """Works on scenes, one after the other."""

    def process(self, scene_id: str, count: Callable[[int], object]) -> None:
        """Does what is missing of a scene.

        Args:
            scene_id: the scene.
            count: is told numbers of episodes as they are done.
        """

    def close(self) -> None:
        """Frees what it holds."""


def scenes_by_size(dataset: EpisodeDataset, episode_ids: Sequence[str] | None = None) -> list[str]:
    """The scenes, those with most episodes first, so that no worker is left alone with a large one.

    Args:
        dataset: knows the episodes' scenes.
        episode_ids: default: all of the dataset's.
    """
    counts: dict[str, int] = {}
    for episode_id in dataset.episode_ids if episode_ids is None else episode_ids:
        scene = dataset.scene_of(episode_id)
        counts[scene] = counts.get(scene, 0) + 1
    return sorted(counts, key=lambda scene: -counts[scene])


def process_scenes(make: Callable[[], SceneWorker], scenes: Sequence[str], workers: int, bar: tqdm, doing: str) -> None:
    """Deals with all scenes, in this process or in several.

    Args:
        make: gives a worker; with several processes it is pickled and called in each of them.
        scenes: scene ids.
        workers: processes.
        bar: counts episodes.
        doing: what a worker was doing, for the message where one is killed: "recorded into FOLDER".

    Raises:
        DatasetError: a worker process was killed.
        Exception: the first error of a worker; no further scene is begun then.
    """
    if not scenes:
        return
    if min(workers, len(scenes)) > 1:
        _process_in_parallel(make, scenes, min(workers, len(scenes)), bar, doing)
        return
    worker = make()
    try:
        for scene in scenes:
            worker.process(scene, bar.update)
    finally:
        worker.close()


def default_workers(driver: str, checkpoint: str | None, device: str) -> int:
    """Processes that record: one for each core, but on a GPU no more than that has space for.

    Args:
        driver: who acts.
        checkpoint: of a StreamVLN driver; None is the shipped one.
        device: of a StreamVLN driver, as `choose_device` takes it.
    """
    name = choose_device(device) if driver == "streamvln" else "cpu"
    if not name.startswith("cuda"):
        return cores()
    from streamvln_gym.evaluation.engines.local import is_small_checkpoint, small_processes

    gpu = int(name.partition(":")[2] or 0)
    return small_processes([gpu]) if is_small_checkpoint(checkpoint) else 1


# ------------------------------------------------------------------------------------------------------------ helpers


def _process_in_parallel(
    make: Callable[[], SceneWorker], scenes: Sequence[str], workers: int, bar: tqdm, doing: str
) -> None:
    context = multiprocessing.get_context("spawn")
    counter, stop = context.Value("q", 0), context.RawValue("b", 0)
    begun = bar.n
    with ProcessPoolExecutor(workers, context, _start, (make, counter, stop)) as pool:
        pending = {pool.submit(_process_here, scene) for scene in scenes}
        try:
            while pending:
                done, pending = wait(pending, _POLL_SECONDS, FIRST_EXCEPTION)
                if fresh := begun + counter.get_obj().value - bar.n:  # unlocked: a killed worker may hold the lock
                    bar.update(fresh)
                for task in done:
                    task.result()
        except BrokenProcessPool as error:
            raise DatasetError(
                f"a worker process that {doing} was killed (out of memory?). The finished episodes are kept: run the "
                "same command again to go on, or use fewer workers."
            ) from error
        finally:
            stop.value = 1  # at the first error no scene goes on
            for task in pending:
                task.cancel()


class _StoppedError(Exception):
    """Another worker has failed."""


@dataclass
class _Process:
    """What a worker process keeps from scene to scene.

    Attributes:
        make: gives the worker.
        counter: of all processes' episodes.
        stop: set as soon as one process has failed.
        worker: made with the first scene, so that its errors are this task's.
    """

    make: Callable[[], SceneWorker]
    counter: Any
    stop: Any
    worker: SceneWorker | None = None

    def process(self, scene: str) -> None:
        self.worker = self.worker or self.make()
        self.worker.process(scene, self._count)

    def _count(self, episodes: int) -> None:
        with self.counter.get_lock():
            self.counter.value += episodes
        if self.stop.value:
            raise _StoppedError


_process: _Process | None = None


def _start(make: Callable[[], SceneWorker], counter: Any, stop: Any) -> None:
    global _process
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    _process = _Process(make, counter, stop)


def _end_with(sentinel: int) -> None:
    """Ends this process when its parent is gone: nobody may write into a folder that another run has taken over."""
    multiprocessing.connection.wait([sentinel])
    os._exit(1)


def _process_here(scene: str) -> None:
    assert _process is not None
    _process.process(scene)
