"""Sessions: one agent state each, and the number of the observation that is due; a lost connection does not end one."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from streamvln_gym.serving.protocol import Observe, ProtocolError
from streamvln_gym.simulators.base import Action

if TYPE_CHECKING:
    from streamvln_gym.serving.connection import Connection
    from streamvln_gym.serving.model_worker import ModelWorker

_logger = logging.getLogger(__name__)


@dataclass
class Session:
    """One stream of a robot. Whoever reads or changes it holds `lock`, but for `owner` and `lost_at`.

    Attributes:
        id: nobody guesses it; who knows it may resume.
        slot: the stream's place in the pool.
        owner: the connection that it belongs to, None while it has none.
        lost_at: when the last connection was lost (`time.monotonic`).
        instruction: of the episode.
        episode: the client's name for it.
        next_seq: number of the next observation; 0 means that the episode has yet to begin.
        chunk: actions of the last answer.
        answer: the last answer as it was sent.
        digest: of the message that it answered.
        frame_digest: of that message's frame.
        closed: its state is freed.
    """

    id: str
    slot: int
    owner: Connection | None
    lost_at: float = 0.0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    instruction: str = ""
    episode: str = ""
    next_seq: int = 0
    chunk: list[int] = field(default_factory=list)
    answer: bytes = b""
    digest: bytes = b""
    frame_digest: bytes = b""
    closed: bool = False

    def begin(self, instruction: str, episode: str) -> None:
        """A new episode."""
        self.instruction, self.episode = instruction, episode
        self.next_seq = 0
        self.chunk, self.answer, self.digest, self.frame_digest = [], b"", b"", b""

    def answered(self, digest: bytes, frame_digest: bytes, chunk: list[int], answer: bytes) -> None:
        """The observation that was due has its answer."""
        self.next_seq += 1
        self.digest, self.frame_digest, self.chunk, self.answer = digest, frame_digest, chunk, answer

    def is_repeated(self, message: Observe, digest: bytes) -> bool:
        """Whether a message is the last one once more, whose answer may have been lost.

        Raises:
            ProtocolError: it has the last one's number, but other contents.
        """
        if message.seq != self.next_seq - 1:
            return False
        if digest != self.digest:
            raise ProtocolError(
                "bad_sequence",
                f"observation {message.seq} was answered already, with other contents: send exactly the same bytes to "
                f"have that answer again, or the new observation as number {self.next_seq}",
            )
        return True

    def check(self, message: Observe) -> None:
        """Whether a message is the observation that is due.

        Raises:
            ProtocolError: it is stale or skipped one, the number of executed actions is impossible, or the episode
                has ended.
        """
        if message.seq != self.next_seq:
            what = "is stale" if message.seq < self.next_seq else "leaves some out"
            raise ProtocolError(
                "bad_sequence", f"observation {message.seq} {what}: number {self.next_seq} of this episode is due"
            )
        count, decided = message.n_executed, len(self.chunk)
        if self.next_seq == 0:
            if count:
                raise ProtocolError("bad_executed", f"an episode begins with n_executed 0, got {count}")
            return
        if not 1 <= count <= decided:
            raise ProtocolError(
                "bad_executed",
                f"n_executed must lie between 1 and {decided}, the actions of the last answer, got {count}: an action "
                "that was tried and blocked counts",
            )
        if Action.STOP in self.chunk[:count]:
            raise ProtocolError("episode_over", "STOP was executed, so the episode is over: send reset for the next")


class SessionTable:
    """All sessions of a server.

    Args:
        worker: has a place for each.
        resume_seconds: how long a session without a connection is kept.
    """

    def __init__(self, worker: ModelWorker, resume_seconds: float) -> None:
        self._worker = worker
        self._resume_seconds = resume_seconds
        self._sessions: dict[str, Session] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    async def open(self, owner: Connection) -> Session:
        """A new session.

        Raises:
            ProtocolError: there are as many as there can be.
        """
        try:
            slot = await self._worker.join()
        except ValueError as error:
            raise ProtocolError("too_many_streams", f"{error}: try again later") from error
        session = Session(secrets.token_urlsafe(16), slot, owner)
        self._sessions[session.id] = session
        return session

    def take(self, session_id: str, owner: Connection) -> tuple[Session, Connection | None]:
        """Gives a session to a connection; also the one that had it until now.

        Raises:
            ProtocolError: there is none of that id.
        """
        session = self._sessions.get(session_id)
        if session is None or session.closed:
            raise ProtocolError(
                "unknown_session",
                f"there is no such session: it ended more than {self._resume_seconds:g} s ago, or the server was "
                "started anew. The episode is lost; send reset to begin one",
            )
        previous, session.owner = session.owner, owner
        return session, previous

    def lose(self, session: Session, owner: Connection) -> None:
        """The owner's connection is gone; if the session is still its, it now waits for `take`."""
        if session.owner is owner:
            session.owner, session.lost_at = None, time.monotonic()

    async def close(self, session: Session) -> None:
        """Frees a session's state, after what is being done for it."""
        async with session.lock:
            if session.closed:
                return
            session.closed = True
            del self._sessions[session.id]
            await self._worker.leave(session.slot)

    async def sweep(self) -> None:
        """Frees what nobody resumed in time."""
        latest = time.monotonic() - self._resume_seconds
        for session in list(self._sessions.values()):
            if session.owner is None and session.lost_at < latest and not session.lock.locked():
                _logger.info("stream %d: nobody resumed episode %r in time", session.slot, session.episode)
                await self.close(session)
