"""The server: one agent's network behind a WebSocket, a stream of its own for every robot."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine
from typing import TYPE_CHECKING, Any

from streamvln_gym import __version__
from streamvln_gym.devices import choose_device, is_small, one_torch_thread
from streamvln_gym.models.shipped import SHIPPED_NAME
from streamvln_gym.serving.access import check_binding, listen, read_token
from streamvln_gym.serving.config import ServeConfig

try:
    import uvicorn
    from fastapi import FastAPI, Response, WebSocket

    from streamvln_gym.serving.connection import Connection
except ImportError as missing:
    raise ImportError(
        f"the server needs the extra [serve], and {missing.name} is missing: pip install 'streamvln-gym[serve]'"
    ) from missing

from streamvln_gym.serving.model_worker import ModelWorker
from streamvln_gym.serving.protocol import VERSION, describe_actions
from streamvln_gym.serving.sessions import SessionTable

if TYPE_CHECKING:
    from streamvln_gym.agents import StreamVLNAgent

PATH = "/stream"
SWEEP_SECONDS = 0.5
FREE_ANSWER_TOKENS = 64  # a robot waits for them, and all others after it
_ROOM_FOR_REFUSALS = 16  # connections beyond two for each stream
_STRANGERS = 16  # connections of one address that have not said hello yet
_MOST_STRANGERS = 256  # of all addresses

_logger = logging.getLogger(__name__)


class PolicyServer:
    """An agent's network, the streams that use it, and the web application in front of it.

    Args:
        agent: its network is used; its own episodes are left alone.
        config: limits.
        token: that clients must show, in place of the configured one. Without either, everybody is let in who reaches
            the port.

    Raises:
        ValueError: the token or the address will not do; the message says what to do.

    Attributes:
        app: the ASGI application; the worker runs while it does.
        sessions: open streams, those that wait to be resumed included.
    """

    def __init__(self, agent: StreamVLNAgent, config: ServeConfig | None = None, token: str | None = None) -> None:
        self.config = config or ServeConfig()
        self.token = read_token(self.config.token_file) if token is None else token
        check_binding(self.config.host, self.token, self.config.insecure)
        self.max_steps = agent.config.max_steps
        self._agent = agent
        self._connections: set[Connection] = set()
        self._background: set[asyncio.Task[None]] = set()
        self.worker = ModelWorker(agent.open_pool(self.config.max_streams))
        self.sessions = SessionTable(self.worker, self.config.resume_seconds)
        # no pages: they would show the interface to whoever comes by
        self.app = FastAPI(lifespan=self._lifespan, docs_url=None, redoc_url=None, openapi_url=None)
        self.app.add_api_websocket_route(PATH, self._stream)
        self.app.add_api_route("/health", _health)

    def describe(self) -> dict[str, Any]:
        """What a client is told at its hello."""
        config, agent = self.config, self._agent
        return {
            "server": f"streamvln-gym {__version__}",
            "agent": config.agent or SHIPPED_NAME,
            "trained": agent.trained,
            "chunk_size": agent.chunk_size,
            "needs_geometry": agent.needs_geometry,
            "actions": describe_actions(),
            "limits": {
                "message_bytes": config.max_message_bytes,
                "frame_pixels": config.max_frame_pixels,
                "instruction": config.max_instruction,
                "messages_per_second": config.messages_per_second,
            },
            "resume_seconds": config.resume_seconds,
            "idle_seconds": config.idle_seconds,
        }

    def has_room(self) -> bool:
        """Whether another client may say hello; a robot whose connection is lost comes back before that is noticed."""
        greeted = sum(connection.greeted for connection in self._connections)
        return greeted < 2 * self.config.max_streams + _ROOM_FOR_REFUSALS

    def in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Starts something that nobody waits for."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def uvicorn(self) -> uvicorn.Server:
        """A server for `app` with the limits that lie before it; `run(sockets=[listen(host, port)])` serves."""
        settings = uvicorn.Config(
            self.app,
            ws="websockets-sansio",
            # What is a little too large is answered with an error; from there on the connection ends (1009).
            ws_max_size=2 * self.config.max_message_bytes,
            ws_per_message_deflate=False,  # pictures are compressed already, and bombs are not wanted
            http="h11",
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=5,
            server_header=False,
        )
        return uvicorn.Server(settings)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self.worker.run()), asyncio.create_task(self._sweep())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.worker.close()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            await self.sessions.sweep()

    async def _stream(self, socket: WebSocket) -> None:
        if "origin" in socket.headers:  # a web page in somebody's browser; robots have none
            await socket.send_denial_response(Response("browsers are not served", 403))
            return
        connection = Connection(socket, self)
        # Whoever has not shown the token must not take the places of those who have, nor those of other addresses.
        strangers = [other.address for other in self._connections if not other.greeted]
        if strangers.count(connection.address) >= _STRANGERS or len(strangers) >= _MOST_STRANGERS:
            await socket.send_denial_response(Response("too many connections that have not said hello", 503))
            return
        self._connections.add(connection)
        try:
            await socket.accept()
            await connection.run()
        finally:
            self._connections.discard(connection)


def _health() -> dict[str, Any]:
    return {"status": "ok", "protocol": VERSION}


def serve(config: ServeConfig | None = None) -> None:
    """Loads the agent and serves it until it is told to end (Ctrl-C, SIGTERM).

    Raises:
        ValueError: the token or the address will not do; the message says what to do.
        CheckpointError: the agent cannot be loaded.
    """
    from streamvln_gym.agents import StreamVLNAgent

    config = config or ServeConfig()
    token = read_token(config.token_file)
    check_binding(config.host, token, config.insecure)
    with contextlib.closing(listen(config.host, config.port)) as door:
        agent = StreamVLNAgent.from_pretrained(
            config.agent,
            device=choose_device(config.device),
            constrained=config.constrained,
            max_new_tokens=None if config.constrained else FREE_ANSWER_TOKENS,
        )
        server = PolicyServer(agent, config, token)
        host = f"[{config.host}]" if ":" in config.host else config.host
        told = "a token is needed" if token else "no token is needed"
        note = "" if agent.trained else " (its weights are random)"
        print(
            f"{config.agent or SHIPPED_NAME}{note} on {agent.device}, up to {config.max_streams} streams, at "
            f"ws://{host}:{door.getsockname()[1]}{PATH}; {told}",
            flush=True,
        )
        # after it has ended in good order on Ctrl-C, uvicorn raises that again
        with one_torch_thread(is_small(agent)), contextlib.suppress(KeyboardInterrupt):
            server.uvicorn().run(sockets=[door])
