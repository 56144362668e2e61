"""The worker processes of online training: each simulates some streams, whose arrays lie in shared memory."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamvln_gym.errors import StreamVLNGymError
from streamvln_gym.training.online.stream_arrays import StreamArrays
from streamvln_gym.training.online.worker import DrawableScene, StreamsSpec, Worker


class WorkerError(StreamVLNGymError):
    """A worker process failed or was killed."""


class WorkerPool:
    """The worker processes. Every `post` is answered once; `wait` returns when all have answered.

    Args:
        specs: one per worker.

    Attributes:
        streams: of all workers.
        free: bool (streams,), which are free.
    """

    def __init__(self, specs: Sequence[StreamsSpec]) -> None:
        first = specs[0]
        self.workers = len(specs)
        self.streams = sum(spec.streams for spec in specs)
        self.free = np.concatenate([np.arange(spec.streams) < spec.free for spec in specs])
        self.arrays = StreamArrays(self.streams, first.image_size, first.patches_per_side**2, first.chunk_size)
        context = multiprocessing.get_context("spawn")
        self._connections: list[Connection] = []
        self._processes = []
        for spec in specs:
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(spec, theirs, self.arrays.memory.name, self.streams), daemon=True
            )
            process.start()
            theirs.close()
            self._connections.append(ours)
            self._processes.append(process)
        self._specs = list(specs)

    def train(self, longest: int) -> None:
        """Lets every stream start a training episode, of a demonstration of at most `longest` actions."""
        self._post([("train", longest)] * len(self._specs))

    def turn(self, longest: int = 0) -> None:
        """Lets every stream execute `arrays.actions`; `longest` is for the training episodes that start."""
        self._post([("turn", longest)] * len(self._specs))

    def evaluate(self, episode_ids: Sequence[str], max_steps: int) -> NDArray[np.int64]:
        """Lets the streams start these episodes (at most one each); which stream got which, -1 for none."""
        given = np.full(self.streams, -1, dtype=np.int64)
        lists: list[list[str | None]] = [[] for _ in self._specs]
        for number, episode_id in enumerate(episode_ids):
            worker = number % len(self._specs)
            given[self._specs[worker].first + len(lists[worker])] = number
            lists[worker].append(episode_id)
        self._post([("evaluate", ids, max_steps) for ids in lists])
        return given

    def wait(self) -> list[DrawableScene]:
        """Waits for every worker's answer.

        Returns:
            The scenes that streams have come into, from workers that do not draw.

        Raises:
            WorkerError: a worker failed, or was killed.
        """
        scenes: list[DrawableScene] = []
        for number, connection in enumerate(self._connections):
            try:
                answer = connection.recv()
            except (EOFError, OSError) as error:  # OSError: killed in the middle of a long answer
                raise self._died(number) from error
            if isinstance(answer, str):
                raise WorkerError(f"worker process {number} failed:\n{answer}")
            scenes += answer
        return scenes

    def close(self) -> None:
        """Ends the processes and frees the shared memory."""
        for connection in self._connections:
            try:
                connection.send(("quit",))
            except (BrokenPipeError, ConnectionError):
                continue  # that worker is dead already
            connection.close()  # a worker that waits for its answer to be taken ends, too
        for process in self._processes:
            process.join(5.0)
            if process.is_alive():
                process.kill()
        self.arrays.close()

    def _died(self, number: int) -> WorkerError:
        self._processes[number].join(1.0)
        code = self._processes[number].exitcode
        return WorkerError(
            f"worker process {number} died (exit code {code}; out of memory?): run the same command again to go on "
            "from the last saved state, or use fewer workers or streams"
        )

    def _post(self, messages: Sequence[tuple[Any, ...]]) -> None:
        for number, (connection, message) in enumerate(zip(self._connections, messages, strict=True)):
            try:
                connection.send(message)
            except (BrokenPipeError, ConnectionError) as error:
                raise self._died(number) from error


def _serve(spec: StreamsSpec, connection: Connection, memory: str, streams: int) -> None:
    """A worker's life."""
    os.nice(5)  # the network's process must not wait for a core
    os.environ["NUMBA_NUM_THREADS"] = "1"
    os.environ["TQDM_DISABLE"] = "1"  # a worker that builds a flat is silent
    shared = SharedMemory(memory)
    arrays = StreamArrays(streams, spec.image_size, spec.patches_per_side**2, spec.chunk_size, shared)
    try:
        worker = Worker(spec, arrays)
        while True:
            if not connection.poll():
                worker.prepare()
            message = connection.recv()
            if message[0] == "quit":
                return
            getattr(worker, message[0])(*message[1:])
            connection.send(worker.hand_over())
    except (EOFError, ConnectionError, KeyboardInterrupt):
        return  # the trainer is gone
    except Exception:  # reported to the trainer, which raises it
        with suppress(ConnectionError):  # the trainer is gone
            connection.send(traceback.format_exc())
