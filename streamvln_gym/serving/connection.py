"""One client's connection: hello, then a message and its answer in turn. What it does wrong concerns nobody else."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from fastapi import WebSocket, WebSocketDisconnect
from starlette.websockets import WebSocketState

from streamvln_gym.agents.stream_pool import Question
from streamvln_gym.models.dialogue import check_instruction
from streamvln_gym.serving.access import token_fits
from streamvln_gym.serving.frames import read_observation
from streamvln_gym.serving.model_worker import Reply
from streamvln_gym.serving.protocol import (
    VERSION,
    Camera,
    Close,
    Hello,
    Observe,
    Ping,
    ProtocolError,
    Requests,
    Reset,
    Resume,
    check_meaning,
    pack,
    read_message,
)
from streamvln_gym.serving.sessions import Session

if TYPE_CHECKING:
    from streamvln_gym.serving.server import PolicyServer

MAX_FAILURES = 32  # bad messages in a row, after which a client is dropped
HELLO_BYTES = 4096
WRONG_TOKEN_SECONDS = 1.0  # before the refusal, so that guessing takes time
SEND_SECONDS = 20.0  # a client that does not read its answer for so long is dropped
TRAINED_HFOV, HFOV_SLACK = 79.0, 5.0  # degrees

_logger = logging.getLogger(__name__)


class Connection:
    """A client, from its hello to its end.

    Args:
        socket: to be accepted before `run`.
        server: whose streams it may use.

    Attributes:
        address: the client's, without its port.
        greeted: whether it has said hello, with the token where one is needed.
    """

    def __init__(self, socket: WebSocket, server: PolicyServer) -> None:
        self._socket = socket
        self._server = server
        self._session: Session | None = None
        self._failures = 0
        self._allowance = _Allowance(server.config.messages_per_second)
        client = socket.client
        self.address = client.host if client else ""
        self.greeted = False
        self._name = f"{client.host}:{client.port}" if client else "client"

    async def run(self) -> None:
        """Serves the client until either side ends it; a session that was not closed waits to be resumed."""
        try:
            self._camera = await self._greet()
            while True:
                await self._exchange()
        except ProtocolError as error:
            _logger.info("%s: dropped: %s", self._name, error.code)
            await self._end(1008, error)
        except WebSocketDisconnect:
            _logger.info("%s: gone", self._name)
        except Exception:  # a fault of ours: this client hears of it, the others go on
            _logger.exception("%s: internal error", self._name)
            await self._end(1011, ProtocolError("internal", "internal error of the server, see its log", True))
        finally:
            if self._session is not None:
                self._server.sessions.lose(self._session, self)

    async def displace(self) -> None:
        """Another connection took the session over."""
        await self._end(1008, ProtocolError("taken_over", "another connection resumed this session", True))

    async def _greet(self) -> Camera:
        """Lets the client in, or raises what speaks against it."""
        config = self._server.config
        data = _payload(await self._receive(config.hello_seconds, "no hello came in time"))
        try:
            if len(data) > HELLO_BYTES:
                raise ProtocolError("too_large", f"a hello has at most {HELLO_BYTES} bytes, got {len(data)}")
            hello: Hello = read_message(data, Requests.OPENING)
        except ProtocolError as error:
            raise ProtocolError(error.code, str(error), fatal=True) from error
        if not token_fits(self._server.token, hello.token):
            await asyncio.sleep(WRONG_TOKEN_SECONDS)
            raise ProtocolError("unauthorized", "the token is missing or wrong", fatal=True)
        if not self._server.has_room():
            raise ProtocolError("too_many_streams", "there are too many connections: close some", fatal=True)
        self.greeted = True
        check_meaning(hello.actions)
        camera = hello.camera
        if camera.width * camera.height > config.max_frame_pixels:
            raise ProtocolError(
                "too_large",
                f"frames may have {config.max_frame_pixels} pixels, the camera has {camera.width * camera.height}: "
                "send smaller ones",
                fatal=True,
            )
        warnings = []
        if abs(camera.hfov - TRAINED_HFOV) > HFOV_SLACK:
            seen = f"the camera sees {camera.hfov:.0f} degrees across, the agents of VLN-CE {TRAINED_HFOV:.0f}"
            warnings.append(_warning("field_of_view", f"{seen}: crop or choose another camera"))
        _logger.info("%s: %r, %d×%d pixels", self._name, hello.client, camera.width, camera.height)
        await self._send(pack("welcome", version=VERSION, warnings=warnings, **self._server.describe()))
        return camera

    async def _exchange(self) -> None:
        """A message and its answer."""
        event = await self._receive(self._server.config.idle_seconds, "nothing was heard for too long")
        await self._allowance.take()
        try:
            data = _payload(event)
            if len(data) > self._server.config.max_message_bytes:
                limit = self._server.config.max_message_bytes
                raise ProtocolError("too_large", f"a message has at most {limit} bytes, got {len(data)}")
            answer = await self._answer(read_message(data), data)
            self._failures = 0
        except ProtocolError as error:
            if error.fatal:
                raise
            self._failures += 1
            answer = error.pack()
        await self._send(answer)
        if self._failures >= MAX_FAILURES:
            raise ProtocolError("too_many_errors", f"{MAX_FAILURES} bad messages in a row", fatal=True)
        if self._session is not None and self._session.closed:
            self._session = None

    async def _answer(self, message: Any, data: bytes) -> bytes:
        if isinstance(message, Observe):
            return await self._observe(message, data)
        if isinstance(message, Reset):
            return await self._reset(message)
        if isinstance(message, Resume):
            return await self._resume(message)
        if isinstance(message, Ping):
            return pack("pong", id=message.id)
        assert isinstance(message, Close)
        if self._session is not None:
            self._check_owner(self._session)
            await self._server.sessions.close(self._session)
        return pack("closed")

    async def _reset(self, message: Reset) -> bytes:
        limit = self._server.config.max_instruction
        if len(message.instruction) > limit:
            raise ProtocolError(
                "bad_instruction", f"an instruction has at most {limit} characters, got {len(message.instruction)}"
            )
        try:
            check_instruction(message.instruction)
        except ValueError as error:
            raise ProtocolError("bad_instruction", str(error)) from error
        if self._session is None:
            self._session = await self._server.sessions.open(self)
        async with self._session.lock:
            self._check_owner(self._session)
            self._session.begin(message.instruction, message.episode)
        _logger.info("%s: stream %d begins episode %r", self._name, self._session.slot, message.episode)
        return pack("ready", session=self._session.id, episode=message.episode, next_seq=0)

    async def _resume(self, message: Resume) -> bytes:
        if self._session is not None:
            raise ProtocolError("bad_state", "this connection has a session already: resume comes before reset")
        session, previous = self._server.sessions.take(message.session, self)
        self._session = session
        if previous is not None:
            self._server.in_background(previous.displace())  # its client may be gone and never read that
        async with session.lock:  # after what the lost connection had asked
            self._check_owner(session)
            _logger.info("%s: stream %d goes on with episode %r", self._name, session.slot, session.episode)
            return pack("resumed", session=session.id, episode=session.episode, next_seq=session.next_seq)

    async def _observe(self, message: Observe, data: bytes) -> bytes:
        session = self._session
        if session is None:
            raise ProtocolError("bad_state", "there is no episode yet: send reset with its instruction first")
        digest, frame_digest = _digest(data), _digest(message.frame.data)
        async with session.lock:
            self._check_owner(session)
            if session.is_repeated(message, digest):
                return session.answer
            session.check(message)
            starts = session.next_seq == 0
            observation = await asyncio.to_thread(read_observation, message, self._camera, session.instruction)
            reply = await self._ask(Question(session.slot, observation, message.n_executed, starts))
            warnings = []
            if frame_digest == session.frame_digest:
                warnings.append(
                    _warning(
                        "identical_frame",
                        f"the frame is, byte for byte, the one before {message.n_executed} executed actions: is the "
                        "camera still sending?",
                    )
                )
            if reply.step > self._server.max_steps:
                told = f"step {reply.step} of this episode: was a reset forgotten before a new task?"
                warnings.append(_warning("long_episode", told))
            answer = _actions(message.seq, reply, warnings)
            session.answered(digest, frame_digest, reply.chunk, answer)
            return answer

    async def _ask(self, question: Question) -> Reply:
        try:
            return await self._server.worker.predict(question)
        except (TypeError, ValueError) as error:
            raise ProtocolError("bad_observation", str(error)) from error
        except Exception as error:  # torch has many kinds
            _logger.exception("%s: the model call failed", self._name)
            raise ProtocolError(
                "model_failed",
                f"the model call failed ({type(error).__name__}): send the same observation again, or reset",
            ) from error

    def _check_owner(self, session: Session) -> None:
        if session.owner is not self:
            raise ProtocolError("taken_over", "another connection resumed this session", fatal=True)
        if session.closed:
            raise ProtocolError("unknown_session", "the session was closed meanwhile: send reset")

    async def _receive(self, seconds: float, silent: str) -> Mapping[str, Any]:
        try:
            event = await asyncio.wait_for(self._socket.receive(), seconds)
        except asyncio.TimeoutError:
            raise ProtocolError("timeout", f"{silent} ({seconds:g} s)", fatal=True) from None
        if event["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(event.get("code", 1006))
        return event

    async def _send(self, data: bytes) -> None:
        await self._tell(self._socket.send_bytes(data))

    async def _tell(self, sending: Coroutine[Any, Any, None]) -> None:
        try:
            await asyncio.wait_for(sending, SEND_SECONDS)
        except asyncio.TimeoutError:
            raise WebSocketDisconnect(1006, "the client does not read") from None
        except RuntimeError:
            if self._socket.application_state is WebSocketState.CONNECTED:
                raise
            raise WebSocketDisconnect(1006, "closed meanwhile, by `displace`") from None

    async def _end(self, code: int, error: ProtocolError) -> None:
        """Says why and closes, if the client still listens."""
        try:
            await self._send(ProtocolError(error.code, str(error), True).pack())
            await self._tell(self._socket.close(code, error.code))
        except WebSocketDisconnect:
            _logger.debug("%s: was gone before it could hear %s", self._name, error.code)


class _Allowance:
    """A client's messages per second; one second's worth may come at once, and what is more waits."""

    def __init__(self, per_second: float) -> None:
        self._interval = 1.0 / per_second
        self._next = time.monotonic() - 1.0

    async def take(self) -> None:
        now = time.monotonic()
        self._next = max(self._next + self._interval, now - 1.0)
        if self._next > now:
            await asyncio.sleep(self._next - now)


def _payload(event: Mapping[str, Any]) -> bytes:
    data = event.get("bytes")
    if data is None:
        raise ProtocolError("bad_message", "a text message came: send msgpack in binary messages")
    return data


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=16).digest()


def _warning(code: str, message: str) -> dict[str, str]:
    return {"code": code, "message": message}


def _actions(seq: int, reply: Reply, warnings: list[dict[str, str]]) -> bytes:
    return pack(
        "actions",
        seq=seq,
        step=reply.step,
        actions=reply.chunk,
        warnings=warnings,
        batch=reply.batch,
        waited_ms=round(reply.waited_ms, 2),
        model_ms=round(reply.model_ms, 2),
    )
