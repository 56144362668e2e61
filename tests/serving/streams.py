"""A server in a thread, a plain client, and streams that play the same with a server as with an agent alone."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgpack
import numpy as np
from PIL import Image
from websockets.sync.client import ClientConnection, connect

from streamvln_gym.agents import StreamVLNAgent
from streamvln_gym.serving import PolicyServer, ServeConfig
from streamvln_gym.serving.access import listen

HEIGHT, WIDTH = 60, 80
CAMERA = {"width": WIDTH, "height": HEIGHT, "fx": 48.5, "fy": 48.5, "cx": 39.5, "cy": 29.5}
MEANING = {"forward_metres": 0.25, "turn_degrees": 15.0}
INSTRUCTIONS = ("Go to the bed.", "Leave the bedroom, turn left and wait by the piano.", "Walk past the sofa and stop.")


@contextmanager
def running(
    agent: StreamVLNAgent, token: str | None = None, port: int = 0, **settings: Any
) -> Iterator[tuple[PolicyServer, str]]:
    """A server and its address; afterwards all of it has ended."""
    server = PolicyServer(agent, ServeConfig(**{"messages_per_second": 1e6, **settings}), token)
    door = listen("127.0.0.1", port)
    web = server.uvicorn()
    thread = threading.Thread(target=web.run, kwargs={"sockets": [door]})
    thread.start()
    try:
        wait_until(lambda: web.started, "the server has started")
        yield server, f"ws://127.0.0.1:{door.getsockname()[1]}/stream"
    finally:
        web.should_exit = True
        thread.join(60)
        door.close()
        assert not thread.is_alive()


def wait_until(happened: Any, what: str, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.01)


class Client:
    """Sends what it is told to, right or wrong."""

    def __init__(self, url: str, greet: bool = True, **entries: Any) -> None:
        self.socket: ClientConnection = connect(
            url, compression=None, proxy=None
        ).__enter__()  # a client has its own end
        if greet:
            self.welcome = self.ask("hello", **{"version": 1, "camera": CAMERA, "actions": MEANING, **entries})

    def send(self, data: bytes) -> dict[str, Any]:
        self.socket.send(data)
        return self.hear()

    def hear(self) -> dict[str, Any]:
        return msgpack.unpackb(self.socket.recv(120))

    def ask(self, kind: str, **entries: Any) -> dict[str, Any]:
        return self.send(msgpack.packb({"type": kind, **entries}))

    def reset(self, instruction: str = INSTRUCTIONS[0], **entries: Any) -> dict[str, Any]:
        return self.ask("reset", instruction=instruction, **entries)

    def observe(self, seq: int, n_executed: int, rgb: np.ndarray, encoding: str = "raw", **entries: Any) -> dict:
        return self.send(observation(seq, n_executed, rgb, encoding, **entries))

    def vanish(self) -> None:
        """As a process that is killed: no goodbye."""
        self.socket.socket.close()


def observation(seq: int, n_executed: int, rgb: np.ndarray, encoding: str = "raw", **entries: Any) -> bytes:
    frame = {"encoding": encoding, "data": encode(rgb, encoding)}
    return msgpack.packb({"type": "observe", "seq": seq, "n_executed": n_executed, "frame": frame, **entries})


def encode(rgb: np.ndarray, encoding: str) -> bytes:
    if encoding == "raw":
        return rgb.tobytes()
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, encoding.upper())
    return file.getvalue()


def frame(stream: int, episode: int, step: int) -> np.ndarray:
    """What a stream sees at a step."""
    blocks = np.random.default_rng([stream, episode, step]).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return blocks.repeat(10, 0).repeat(10, 1)


class Played:
    """What stream number `stream` goes through; the same whoever decides.

    Attributes:
        chunks: everything decided.
        episode: its number.
        step: of the episode.
        n_executed: of the last chunk.
    """

    def __init__(self, stream: int, longest: int = 45) -> None:
        self.stream, self.longest = stream, longest
        self.rng = np.random.default_rng(stream)
        self.chunks: list[list[int]] = []
        self.episode = self.step = self.n_executed = self.seq = 0

    @property
    def instruction(self) -> str:
        return INSTRUCTIONS[(self.stream + self.episode) % len(INSTRUCTIONS)]

    @property
    def rgb(self) -> np.ndarray:
        return frame(self.stream, self.episode, self.step)

    def decided(self, chunk: list[int]) -> None:
        """Executes some of a chunk; an episode ends with STOP, or at some length."""
        self.chunks.append(chunk)
        self.n_executed = int(self.rng.integers(1, len(chunk) + 1))
        self.step += self.n_executed
        self.seq += 1
        if 0 in chunk[: self.n_executed] or self.step >= self.longest:
            self.episode += 1
            self.step = self.n_executed = self.seq = 0


def play_alone(agent: StreamVLNAgent, stream: int, calls: int) -> list[list[int]]:
    """The chunks of an agent that has nobody beside it."""
    played = Played(stream)
    for _ in range(calls):
        if played.seq == 0:
            agent.reset()
        shown = {"rgb": played.rgb, "instruction": played.instruction}
        played.decided(agent.predict_chunk(shown, played.n_executed))
    return played.chunks


def play_served(client: Client, played: Played, encoding: str = "raw", stay: bool = False) -> None:
    """One observation more of a stream; after every second episode it leaves the server, unless it is to stay."""
    if played.seq == 0:
        if played.episode % 2 and not stay:
            client.ask("close")  # the stream joins anew, wherever there is room
        assert client.reset(played.instruction, episode=str(played.episode))["next_seq"] == 0
    answer = client.observe(played.seq, played.n_executed, played.rgb, encoding)
    assert (answer["type"], answer["seq"], answer["step"]) == ("actions", played.seq, played.step), answer
    played.decided(answer["actions"])
