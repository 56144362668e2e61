"""Streams that join and leave at any time, for a server: one network, a fixed number of places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from streamvln_gym.agents.model_calls import Dialogues, ModelCaller
from streamvln_gym.agents.observation import read_sight
from streamvln_gym.agents.patch_geometry import PatchGeometry
from streamvln_gym.agents.stream import Moment, Stream


@dataclass(frozen=True)
class Question:
    """What one stream asks the network.

    Attributes:
        slot: which stream, as `StreamPool.join` gave it.
        observation: as of `Agent.act`.
        n_executed: actions executed since the last chunk; not read where an episode starts.
        starts: an episode begins with this observation.
    """

    slot: int
    observation: Mapping[str, Any]
    n_executed: int = 0
    starts: bool = False


class StreamPool:
    """Places for streams that share one network; `StreamVLNAgent.open_pool` makes one.

        pool = agent.open_pool(16)
        slot = pool.join()
        (chunk,) = pool.predict([Question(slot, obs, starts=True)])
        pool.leave(slot)

    Other than in a `StreamBatch`, a bad observation is that stream's own trouble: the others are answered. Not
    thread-safe: all calls come from one thread.

    Args:
        streams: one per place.
        session: as many dialogues.
        caller: makes the model calls.
        geometry: where the memory strategy wants to know the patches' places, else None.
    """

    def __init__(
        self,
        streams: Sequence[Stream],
        session: Dialogues,
        caller: ModelCaller,
        geometry: PatchGeometry | None = None,
    ) -> None:
        self._streams = tuple(streams)
        self._session = session
        self._caller = caller
        self._geometry = geometry
        self._free = list(range(len(self._streams)))[::-1]

    def __len__(self) -> int:
        """Streams that have joined."""
        return self.capacity - len(self._free)

    @property
    def capacity(self) -> int:
        """Streams that can be there at once."""
        return len(self._streams)

    def stream(self, slot: int) -> Stream:
        """The state of a stream that has joined.

        Raises:
            ValueError: none has that slot.
        """
        if not 0 <= slot < self.capacity or slot in self._free:
            raise ValueError(f"no stream has joined as number {slot}")
        return self._streams[slot]

    def join(self) -> int:
        """Takes a place; its first question must start an episode.

        Raises:
            ValueError: all places are taken.
        """
        if not self._free:
            raise ValueError(f"all {self.capacity} streams are in use")
        return self._free.pop()

    def leave(self, slot: int) -> None:
        """Gives a place back and forgets its episode.

        Raises:
            ValueError: no stream has that slot.
        """
        self.stream(slot).reset()
        self._session.restart([slot])
        self._free.append(slot)

    def predict(self, questions: Sequence[Question]) -> list[list[int] | Exception]:
        """One model call for all questions.

        Args:
            questions: at most one per stream.

        Returns:
            Per question the chunk, as of `StreamVLNAgent.predict_chunk`. Or what was wrong: TypeError or ValueError
            for an observation that cannot be read (that stream is unchanged); or, for all others, what the model call
            raised (they open a new window at their next call, and the clock stands where it stood).

        Raises:
            ValueError: two questions are of one stream, or a stream has not joined.
        """
        if len({question.slot for question in questions}) != len(questions):
            raise ValueError(f"a stream asks once at a time, got slots {[question.slot for question in questions]}")
        streams = [self.stream(question.slot) for question in questions]
        answers: dict[int, list[int] | Exception] = {}
        moments: list[Moment] = []
        for question, stream in zip(questions, streams, strict=True):
            try:
                sight = read_sight(question.observation, self._geometry)
                step = stream.expect(sight, question.n_executed, question.starts)
            except (TypeError, ValueError) as error:
                answers[question.slot] = error
                continue
            if question.starts:
                stream.reset()
                self._session.restart([question.slot])
            moments.append(Moment(stream, sight, step, question.slot))
        try:
            chunks: Sequence[list[int] | Exception] = self._caller.predict(moments, self._session)
        except Exception as error:  # out of memory, a broken device: torch has many kinds, and every stream must hear
            chunks = [error] * len(moments)
        answers |= {moment.slot: chunk for moment, chunk in zip(moments, chunks, strict=True)}
        return [answers[question.slot] for question in questions]
