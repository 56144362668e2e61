"""Keeps workers busy, and survives the loss of any of them: what local processes and Ray's actors have in common."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from streamvln_gym.errors import EvaluationError
from streamvln_gym.evaluation.work import Dispatcher, Group, listed, unplayable

if TYPE_CHECKING:
    from streamvln_gym.evaluation.evaluator import Evaluation


@dataclass(frozen=True)
class Ready:
    """A worker has loaded everything."""


@dataclass(frozen=True)
class Finished:
    """An episode's result is on the disk."""

    episode_id: str
    success: float | None


@dataclass(frozen=True)
class Done:
    """A worker has played its group."""


@dataclass(frozen=True)
class Unplayable:
    """A worker could not play its group, or not all of it, for the episode's or the scene's sake; it goes on."""

    reason: str


@dataclass(frozen=True)
class Lost:
    """A worker is gone: killed, out of memory, or its machine is."""

    reason: str


@dataclass(frozen=True)
class Failed:
    """A worker met an error that trying again would not mend."""

    error: BaseException


Event = Ready | Finished | Done | Unplayable | Lost | Failed


class Hands(Protocol):
    """Workers, wherever they are. Names are never used twice."""

    def size(self) -> int:
        """How many workers there should be now."""

    def start(self) -> str:
        """Starts one and returns its name; it will be `Ready`."""

    def give(self, worker: str, group: Group) -> None:
        """Lets an idle worker play a group."""

    def events(self) -> Iterable[tuple[str, Event]]:
        """What happened, by worker; waits for something for a while."""

    def stop(self) -> None:
        """Ends all of them at once."""


def conduct(run: Evaluation, hands: Hands) -> None:
    """Plays all groups of an evaluation.

    A lost worker is replaced. What it was playing is played again by another one, but for the episodes whose results
    are on the disk, and not more often than the configuration's `attempts`.

    Raises:
        EvaluationError: there are episodes that lose every worker, or cannot be played; all others are finished then.
            Or workers are lost before they can play anything.
        Exception: a worker's error.
    """
    try:
        conductor = _Conductor(run, hands)
        while conductor.step():
            pass
        if conductor.dispatcher.condemned:
            raise conductor.complaint()
        if conductor.unplayable:
            groups = [group for group, _ in conductor.unplayable]
            raise unplayable(run.missing_of(groups), conductor.unplayable[0][1])
    finally:
        hands.stop()


class _Conductor:
    """The state of `conduct`."""

    def __init__(self, run: Evaluation, hands: Hands) -> None:
        self.dispatcher = Dispatcher(run.groups, run.config.attempts)
        self.unplayable: list[tuple[Group, str]] = []
        self._run = run
        self._hands = hands
        self._starting: set[str] = set()
        self._idle: set[str] = set()
        self._playing: dict[str, Group] = {}
        self._stillborn = 0
        self._reason = ""

    def step(self) -> bool:
        """Gives out work and deals with what happened; False when nothing is left to do."""
        for worker in sorted(self._idle):
            group = self.dispatcher.take(worker)
            if group is None:
                break
            self._idle.discard(worker)
            self._playing[worker] = group
            self._hands.give(worker, group)
        if not self.dispatcher.left and not self._playing:
            return False
        there = len(self._starting) + len(self._idle) + len(self._playing)
        for _ in range(min(self._hands.size(), self.dispatcher.left + len(self._playing)) - there):
            self._starting.add(self._hands.start())
        for worker, event in self._hands.events():
            self._handle(worker, event)
        return True

    def complaint(self) -> EvaluationError:
        """The error about the episodes that lose every worker."""
        lost = [e for group in self.dispatcher.condemned for e in group.episode_ids if e not in group.known]
        return EvaluationError(
            f"the workers that play {listed(lost)} are lost, {self._run.config.attempts} times each "
            f"({self._reason}). All other episodes are finished and kept. Where memory is short, run the same command "
            f"again with fewer workers; otherwise look at what `--episode-ids {lost[0]} --workers 1` with another "
            "--out says"
        )

    def _handle(self, worker: str, event: Event) -> None:
        if isinstance(event, Ready):
            self._starting.discard(worker)
            self._idle.add(worker)
            self._stillborn = 0
        elif isinstance(event, Finished):
            self._run.count(event.episode_id, event.success)
        elif isinstance(event, Done):
            self._idle.add(worker)
            del self._playing[worker]
        elif isinstance(event, Unplayable):
            self._idle.add(worker)
            self.unplayable.append((self._playing.pop(worker), event.reason))
        elif isinstance(event, Failed):
            raise event.error
        else:
            self._bury(worker, event.reason)

    def _bury(self, worker: str, reason: str) -> None:
        """Takes back what a lost worker was playing."""
        self._reason = reason
        self._idle.discard(worker)
        self._starting.discard(worker)
        group = self._playing.pop(worker, None)
        if group is None:
            self.dispatcher.leave(worker)
            self._stillborn += 1
            if self._stillborn >= max(self._run.config.attempts, 2 * self._hands.size()):
                raise EvaluationError(
                    f"{self._stillborn} workers were lost before they could play anything ({reason}): is there memory "
                    "for so many? Run the same command again with fewer workers"
                )
            return
        finished = self._run.results_of(group)
        for episode_id in finished.keys() - group.known:
            self._run.count(episode_id, finished[episode_id])
        rest = replace(group, known=group.known | finished.keys())
        if rest.known.issuperset(rest.episode_ids) and not rest.filmed:
            self.dispatcher.leave(worker)
        elif self.dispatcher.give_back(rest, worker):
            self._run.say(f"worker {worker} was lost ({reason}); its episodes go to another one")
