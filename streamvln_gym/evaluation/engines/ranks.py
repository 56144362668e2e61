"""Ranks: processes that torchrun or accelerate started, on one machine or many, over one shared folder.

They share their work through torch.distributed's store, which the launcher keeps: counters that all ranks add to. Rank
0 also keeps the run's folder, waits for the others and merges.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import astuple
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from streamvln_gym.errors import EvaluationError
from streamvln_gym.evaluation.config import EvaluationConfig
from streamvln_gym.evaluation.run_folder import SUMMARY, RunFolder, read_run
from streamvln_gym.evaluation.shards import ShardWriter
from streamvln_gym.evaluation.work import UNPLAYABLE, Group, unplayable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamvln_gym.evaluation.evaluator import Evaluation, EvaluationResult

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_PATIENCE = timedelta(days=30)  # ranks wait for each other as long as it takes: the launcher ends them all
_POLL = 0.2  # seconds
_FAREWELL = 30.0  # seconds that rank 0 gives the others to hear of an error
_JOB, _ERROR, _MERGED = "job", "error", "merged"


def launched() -> bool:
    """Whether torchrun or accelerate started this process."""
    return all(name in os.environ for name in _VARIABLES)


def is_main() -> bool:
    """Whether this process is the one to talk to the user."""
    return not launched() or int(os.environ["RANK"]) == 0


def evaluate_together(config: EvaluationConfig) -> EvaluationResult:
    """`evaluate` in every rank; each returns the whole result.

    Raises:
        EvaluationError: torchrun did not start this process; or another rank has failed, with its message.
        Exception: this rank's own error.
    """
    if not launched():
        raise EvaluationError(
            "engine 'ranks' needs a launcher, which sets RANK and WORLD_SIZE: start it with `torchrun "
            "--nproc-per-node N --no-python streamvln-gym evaluate ...`, or use engine 'local'"
        )
    from torch.distributed import rendezvous

    store, rank, ranks = next(iter(rendezvous("env://", timeout=_PATIENCE)))
    with _announced(store, rank, ranks):
        return _lead(config, store, ranks) if rank == 0 else _follow(config, store, rank)


class SharedWork:
    """Groups that ranks take from a common store; like `Dispatcher`, a rank stays in its scene.

    Args:
        groups: the same in every rank.
        store: with `add(key, amount) -> int`, which all ranks see at once.
    """

    def __init__(self, groups: list[Group], store: Any) -> None:
        scenes: dict[str, list[Group]] = {}
        for group in groups:
            scenes.setdefault(group.scene_id, []).append(group)
        self._scenes = sorted(scenes.values(), key=len, reverse=True)
        self._store = store
        self._scene: int | None = None

    def take(self) -> Group | None:
        """The next group for this rank, None if all are taken."""
        while True:
            if self._scene is None:
                self._scene = self._next_scene()
            if self._scene is None:
                return None
            number = self._store.add(f"groups/{self._scene}", 1) - 1
            if number < len(self._scenes[self._scene]):
                return self._scenes[self._scene][number]
            self._scene = None

    def _next_scene(self) -> int | None:
        """A scene that no rank is in; after the last one, that which has most left."""
        scene = self._store.add("scenes", 1) - 1
        if scene < len(self._scenes):
            return scene
        left = [len(groups) - self._store.add(f"groups/{k}", 0) for k, groups in enumerate(self._scenes)]
        most = max(range(len(left)), key=left.__getitem__, default=None)
        return most if most is not None and left[most] > 0 else None


@contextmanager
def _announced(store: Any, rank: int, ranks: int) -> Iterator[None]:
    """Tells all ranks of this one's error."""
    from torch.distributed import DistNetworkError

    try:
        yield
    except DistNetworkError as error:
        raise EvaluationError(
            f"rank {rank} cannot reach the others any more ({error}): another rank has failed or was killed, and its "
            "output says why. Finished episodes are kept: run the same command again"
        ) from error
    except BaseException as error:
        with suppress(DistNetworkError):
            if isinstance(error, _OtherRankError):
                store.set(f"gone/{rank}", "")
            else:
                store.set(_ERROR, f"rank {rank}: {error or type(error).__name__}")
            if rank == 0:
                _let_go(store, ranks)
        raise


def _let_go(store: Any, ranks: int) -> None:
    """Waits until the other ranks have heard of the error: this process may be the one that keeps the store."""
    deadline = time.monotonic() + _FAREWELL
    while time.monotonic() < deadline and not store.check([f"gone/{rank}" for rank in range(1, ranks)]):
        time.sleep(_POLL)


class _OtherRankError(EvaluationError):
    """Another rank has failed."""


def _lead(config: EvaluationConfig, store: Any, ranks: int) -> EvaluationResult:
    """Rank 0: says what is to be played, plays with the others, merges."""
    from streamvln_gym.evaluation.evaluator import begun

    with begun(config) as run:
        groups = [(*astuple(group)[:3], sorted(group.known), sorted(group.filmed)) for group in run.groups]
        store.set(_JOB, json.dumps({"fingerprint": run.fingerprint, "session": run.session, "groups": groups}))
        begun_with = run.bar.n

        def show() -> None:
            _show(run, store, begun_with)

        _play(config, store, 0, run.groups, run.fingerprint, run.session, show)
        _wait(store, [f"finished/{rank}" for rank in range(ranks)], show)
        failed = [json.loads(store.get(f"unplayable/{k}")) for k in range(store.add("unplayable", 0))]
        if failed:
            numbers = {number for number, _ in failed}
            raise unplayable(run.missing_of([g for g in run.groups if g.number in numbers]), failed[0][1])
        result = run.finish()
    store.set(_MERGED, "")
    _wait(store, [f"gone/{rank}" for rank in range(1, ranks)])  # this process may be the one that keeps the store
    return result


def _follow(config: EvaluationConfig, store: Any, rank: int) -> EvaluationResult:
    """Any other rank."""
    from streamvln_gym.evaluation.evaluator import EvaluationResult

    _wait(store, [_JOB])
    job = json.loads(store.get(_JOB))
    groups = [
        Group(number, scene, tuple(members), frozenset(known), frozenset(filmed))
        for number, scene, members, known, filmed in job["groups"]
    ]
    if not RunFolder(config.out).shards.is_dir():
        raise EvaluationError(
            f"{config.out} of rank 0 is not to be seen here: give --out a folder that all machines share"
        )
    _play(config, store, rank, groups, job["fingerprint"], job["session"])
    _wait(store, [_MERGED])
    run = read_run(config.out)
    summary = json.loads((config.out / SUMMARY).read_text(encoding="utf-8"))
    store.set(f"gone/{rank}", "")
    return EvaluationResult(config.out, run.identity, run.records, summary)


def _play(
    config: EvaluationConfig,
    store: Any,
    rank: int,
    groups: list[Group],
    fingerprint: str,
    session: str,
    show: Callable[[], None] = lambda: None,
) -> None:
    """Plays groups as long as there are any."""
    from streamvln_gym.evaluation.engines.local import device_of
    from streamvln_gym.evaluation.player import Player

    work = SharedWork(groups, store)
    if (group := work.take()) is not None:
        writer = ShardWriter(RunFolder(config.out).shards, f"{session}-r{rank}")
        device = device_of(config, int(os.environ.get("LOCAL_RANK", "0")))
        player = Player(config, fingerprint, writer.name, device)
        while group is not None:
            try:
                for played in player.play(group):
                    if not played.known:
                        writer.append(played.record, played.timing)
                        if played.success is not None:
                            store.add("rated", 1)
                            store.add("successes", int(played.success))
                        store.add("played", 1)
                    show()
            except UNPLAYABLE as error:
                place = store.add("unplayable", 1) - 1
                store.set(f"unplayable/{place}", json.dumps([group.number, str(error)]))
            _raise_errors(store)
            group = work.take()
        player.close()
        writer.close()
    store.set(f"finished/{rank}", "")


def _show(run: Evaluation, store: Any, begun_with: int) -> None:
    """Brings rank 0's progress bar up to date."""
    rated = store.add("rated", 0)
    if rated:
        run.bar.set_postfix_str(f"SR {100 * store.add('successes', 0) / rated:.1f} %", refresh=False)
    run.bar.update(begun_with + store.add("played", 0) - run.bar.n)


def _wait(store: Any, keys: list[str], meanwhile: Callable[[], None] = lambda: None) -> None:
    """Waits until all keys are set.

    Raises:
        EvaluationError: a rank has failed.
    """
    while not store.check(keys):
        _raise_errors(store)
        meanwhile()
        time.sleep(_POLL)
    meanwhile()


def _raise_errors(store: Any) -> None:
    if store.check([_ERROR]):
        raise _OtherRankError(f"another rank has failed: {store.get(_ERROR).decode()}")
