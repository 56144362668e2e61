"""Workers as processes of this machine; one alone plays in this very process."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamvln_gym.devices import SMALL_NETWORK, choose_device, cores
from streamvln_gym.errors import EvaluationError
from streamvln_gym.evaluation.config import EvaluationConfig
from streamvln_gym.evaluation.engines.conductor import Done, Event, Failed, Finished, Lost, Ready, Unplayable, conduct
from streamvln_gym.evaluation.shards import ShardWriter
from streamvln_gym.evaluation.work import UNPLAYABLE, Dispatcher, Group, unplayable
from streamvln_gym.models.shipped import SHIPPED_NAME

if TYPE_CHECKING:
    from streamvln_gym.evaluation.evaluator import Evaluation

_PATIENCE = 1.0  # seconds that a process gets to end by itself
_PROCESS_BYTES = 1_500_000_000  # of a GPU's memory, for a process with a small network


def play(run: Evaluation) -> None:
    """Plays an evaluation's groups on this machine.

    Raises:
        EvaluationError: see `conduct`.
    """
    workers = min(run.config.workers or _default_workers(run.config), len(run.groups))
    if workers > 1:
        conduct(run, LocalHands(run, workers))
    elif workers:
        _play_here(run)


class LocalHands:
    """Processes of this machine, see `Hands`.

    Args:
        run: the evaluation.
        workers: how many processes.
    """

    def __init__(self, run: Evaluation, workers: int) -> None:
        self._run = run
        self._workers = workers
        self._started = 0
        self._context = multiprocessing.get_context("spawn")
        self._processes: dict[str, _Process] = {}

    def size(self) -> int:
        return self._workers

    def start(self) -> str:
        run, slot = self._run, self._free_slot()
        name = f"{run.session}-w{self._started}"
        self._started += 1
        ours, theirs = self._context.Pipe()
        job = _Job(run.config, run.fingerprint, run.folder.shards, name, device_of(run.config, slot))
        process = self._context.Process(target=_work, args=(job, theirs), name=f"streamvln-gym evaluate {name}")
        process.start()
        theirs.close()  # so that the pipe ends with the process
        self._processes[name] = _Process(process, ours, slot)
        return name

    def give(self, worker: str, group: Group) -> None:
        with suppress(OSError):  # it is gone: the next `events` says so
            self._processes[worker].pipe.send(group)

    def events(self) -> Iterator[tuple[str, Event]]:
        by_pipe: dict[Any, str] = {process.pipe: name for name, process in self._processes.items()}
        pipes: list[Any] = multiprocessing.connection.wait(list(by_pipe))
        for pipe in pipes:
            name = by_pipe[pipe]
            try:
                yield name, pipe.recv()
            except (EOFError, OSError, pickle.UnpicklingError):
                yield name, Lost(self._bury(name))

    def stop(self) -> None:
        for process in self._processes.values():
            process.pipe.close()  # an idle one ends by itself
        deadline = time.monotonic() + _PATIENCE
        for process in self._processes.values():
            process.handle.join(max(0.0, deadline - time.monotonic()))
            if process.handle.is_alive():
                process.handle.kill()
                process.handle.join()
        self._processes.clear()

    def _bury(self, name: str) -> str:
        process = self._processes.pop(name)
        process.handle.join(_PATIENCE)
        if process.handle.is_alive():
            process.handle.kill()
            process.handle.join()
        process.pipe.close()
        code = process.handle.exitcode or 0
        return f"killed by signal {-code}, {signal.strsignal(-code)}" if code < 0 else f"exit code {code}"

    def _free_slot(self) -> int:
        taken = {process.slot for process in self._processes.values()}
        return next(slot for slot in range(self._workers + 1) if slot not in taken)


@dataclass
class _Process:
    handle: Any
    pipe: Connection
    slot: int


@dataclass(frozen=True)
class _Job:
    """What a worker process has to know."""

    config: EvaluationConfig
    fingerprint: str
    shards: Path
    name: str
    device: str | None


def device_of(config: EvaluationConfig, slot: int) -> str | None:
    """The device of the worker in that place: the GPUs take turns. None: as configured."""
    if config.agent != "streamvln" or config.device not in ("auto", "cuda"):
        return None
    device = choose_device(config.device)
    if device != "cuda":
        return device
    import torch

    return f"cuda:{slot % max(torch.cuda.device_count(), 1)}"


def _default_workers(config: EvaluationConfig) -> int:
    """One for each GPU; for each core where there is none, or the network is small: it would wait for the pictures."""
    device = device_of(config, 0)
    if device is not None and device.startswith("cuda"):
        import torch

        gpus = max(torch.cuda.device_count(), 1)
        return gpus if not is_small_checkpoint(config.checkpoint) else small_processes(range(gpus))
    return 1 if config.agent == "streamvln" and config.device.startswith("cuda:") else cores()


def small_processes(gpus: Sequence[int]) -> int:
    """Processes with a small network that these GPUs have space for: one for each core at most, one for each GPU."""
    import torch

    room = sum(torch.cuda.mem_get_info(gpu)[0] // _PROCESS_BYTES for gpu in gpus)
    return max(len(gpus), min(cores(), room))


def is_small_checkpoint(checkpoint: str | None) -> bool:
    """Whether its network is small, by the headers of its files; None is the shipped one."""
    from streamvln_gym.agents.checkpoint import find_folder
    from streamvln_gym.models.tensor_files import find_tensors

    tensors = find_tensors(find_folder(checkpoint or SHIPPED_NAME)).values()
    return sum(prod(tensor.shape) for tensor in tensors) <= SMALL_NETWORK


def _play_here(run: Evaluation) -> None:
    from streamvln_gym.evaluation.player import Player

    writer = ShardWriter(run.folder.shards, f"{run.session}-w0")
    player = Player(run.config, run.fingerprint, writer.name)
    try:
        dispatcher, failed, reason = Dispatcher(run.groups, 1), [], ""
        while (group := dispatcher.take(writer.name)) is not None:
            try:
                for played in player.play(group):
                    if not played.known:
                        writer.append(played.record, played.timing)
                        run.count(played.episode_id, played.success)
            except UNPLAYABLE as error:
                failed.append(group)
                reason = reason or str(error)
        if failed:
            raise unplayable(run.missing_of(failed), reason)
    finally:
        player.close()
        writer.close()


def _work(job: _Job, pipe: Connection) -> None:
    """A worker process: says that it is ready, plays what it is given, says what is finished."""
    from streamvln_gym.evaluation.player import Player

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's, which ends this one
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    try:
        writer = ShardWriter(job.shards, job.name)
        player = Player(job.config, job.fingerprint, writer.name, job.device)
        pipe.send(Ready())
        while True:
            group = pipe.recv()
            try:
                for played in player.play(group):
                    if not played.known:
                        writer.append(played.record, played.timing)
                        pipe.send(Finished(played.episode_id, played.success))
            except UNPLAYABLE as error:
                pipe.send(Unplayable(str(error)))
            else:
                pipe.send(Done())
    except (EOFError, BrokenPipeError):  # the main process wants no more
        return
    except BaseException as error:
        pipe.send(Failed(portable(error)))


def portable(error: BaseException) -> BaseException:
    """The error as another process can raise it, with the traceback as its cause's text."""
    text = "".join(traceback.format_exception(error))
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:  # any error class can be one that cannot be pickled
        return EvaluationError(f"a worker failed:\n{text}")
    copy.__notes__ = [f"in a worker:\n{text}"]
    return copy


def _end_with(sentinel: int) -> None:
    """Ends this process when its parent is gone."""
    multiprocessing.connection.wait([sentinel])
    os._exit(1)
