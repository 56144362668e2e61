"""64 streams, 10,000 malformed messages beside them, clients and the server killed: a process as users run it."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgpack
import numpy as np
import psutil
import pytest
from websockets.exceptions import ConnectionClosed

from streamvln_gym.serving.access import TOKEN_VARIABLE
from tests.serving.malformed import LIMIT, malformed
from tests.serving.streams import CAMERA, MEANING, Client, Played, frame, play_alone, play_served

ROUNDS, STREAMS, CALLS, MALFORMED, FLOODS = 2, 64, 20, 10_000, 4
ROOM, RESUME_SECONDS = 80, 5.0
TOKEN = "the token of this test"
MEGABYTE = 2**20


class Server:
    """`streamvln-gym serve` in a process of its own."""

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"ws://127.0.0.1:{self.port}/stream"
        self.start()

    def start(self) -> None:
        arguments = ["serve", "--agent", self.checkpoint, "--port", self.port, "--max-streams", ROOM]
        arguments += ["--max-message-bytes", LIMIT, "--resume-seconds", RESUME_SECONDS, "--messages-per-second", 1e6]
        command = [sys.executable, "-m", "streamvln_gym.cli", *map(str, arguments)]
        self.log = (self.checkpoint / "server.log").open("a")
        environment = {**os.environ, TOKEN_VARIABLE: TOKEN}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, env=environment, text=True)
        assert self.process.stdout is not None
        assert "a token is needed" in self.process.stdout.readline()
        client = None
        while client is None:
            try:
                client = Client(self.url, token=TOKEN)
            except OSError:
                time.sleep(0.1)
        client.socket.close()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.log.close()

    @property
    def megabytes(self) -> float:
        return psutil.Process(self.process.pid).memory_info().rss / MEGABYTE

    @property
    def said(self) -> str:
        return (self.checkpoint / "server.log").read_text()


class Beside:
    """Threads that do wrong until they are done.

    Attributes:
        counts: how often each answer to a malformed message came.
        let_in: connections that came in without the right token.
    """

    def __init__(self, server: Server, numbers: np.ndarray) -> None:
        self.server = server
        self.counts: dict[str, int] = {}
        self.let_in = 0
        self.killed = 0
        self.lock = threading.Lock()
        self.over = threading.Event()
        parts = np.array_split(numbers, FLOODS)
        self.floods = [threading.Thread(target=self.flood, args=(part.tolist(),)) for part in parts]
        self.others = [threading.Thread(target=work) for work in (self.knock, self.die)]

    def start(self) -> None:
        for thread in (*self.floods, *self.others):
            thread.start()

    def join(self) -> None:
        for thread in self.floods:
            thread.join()
        self.over.set()
        for thread in self.others:
            thread.join()

    def flood(self, numbers: list[int]) -> None:
        client = None
        for number in numbers:
            if client is None:
                client = Client(self.server.url, greet=number % 3 != 0, token=TOKEN)
            try:
                answer = client.send(malformed(7, number))
                kind, ended = answer.get("code", answer["type"]), answer.get("fatal", False)
            except ConnectionClosed as error:
                kind, ended = f"closed {error.rcvd.code if error.rcvd else 'without a word'}", True
            with self.lock:
                self.counts[kind] = self.counts.get(kind, 0) + 1
            if ended or number % 20 == 19:
                client.socket.close()
                client = None
        if client:
            client.socket.close()

    def knock(self) -> None:
        """Tries to come in without the token, or with a wrong one."""
        while not self.over.is_set():
            client = Client(self.server.url, greet=False)
            hello = {"type": "hello", "version": 1, "camera": CAMERA, "actions": MEANING}
            answer = client.send(msgpack.packb({**hello, "token": TOKEN[:-1]} if self.killed % 2 else hello))
            if answer.get("code") != "unauthorized":
                self.let_in += 1
            client.socket.close()

    def die(self) -> None:
        """Begins episodes and is killed in them."""
        while not self.over.is_set():
            client = Client(self.server.url, token=TOKEN)
            if client.reset()["type"] == "ready":
                client.observe(0, 0, frame(99, 0, 0))
            client.vanish()
            self.killed += 1
            self.over.wait(0.5)


def drive(url: str, one: Played, failures: list[str]) -> None:
    """A healthy client; its connection is lost now and then, and it resumes."""
    try:
        client = Client(url, token=TOKEN)
        session = client.reset(one.instruction)["session"]
        for number in range(CALLS):
            if number % 8 == 7:
                client.vanish()
                client = Client(url, token=TOKEN)
                assert client.ask("resume", session=session)["type"] == "resumed"
            play_served(client, one, stay=True)
        client.socket.close()
    except Exception as error:  # a thread's, to be told by the test
        failures.append(f"stream {one.stream}: {error!r}")


def play_round(server: Server, number: int) -> list[Played]:
    """All streams beside all that goes wrong; what the streams went through."""
    played = [Played(stream) for stream in range(STREAMS)]  # the same, so the KV cache is as large as it gets
    failures: list[str] = []
    beside = Beside(server, np.array_split(np.arange(MALFORMED), ROUNDS)[number])
    threads = [threading.Thread(target=drive, args=(server.url, one, failures)) for one in played]
    beside.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    beside.join()
    print(f"\n{beside.counts}, {beside.killed} clients killed")
    assert failures == []
    assert sum(beside.counts.values()) == MALFORMED // ROUNDS and beside.killed > 5 and beside.let_in == 0
    assert not {"internal", "model_failed", "closed 1011", "closed without a word"} & set(beside.counts)
    return played


def fill(server: Server) -> None:
    """Takes every place that there is, and gives it back."""
    clients = [Client(server.url, token=TOKEN) for _ in range(ROOM)]
    assert {client.reset()["type"] for client in clients} == {"ready"}, "no place is lost"
    for client in clients:
        client.ask("close")
        client.socket.close()


@pytest.mark.long
def test_soak(new_agent, tmp_path):
    new_agent().save_pretrained(tmp_path)
    server = Server(tmp_path)
    try:
        megabytes = []
        for number in range(ROUNDS):
            for one in play_round(server, number):
                assert one.chunks == play_alone(new_agent(), one.stream, CALLS), f"stream {one.stream}"
            time.sleep(RESUME_SECONDS + 2)
            fill(server)
            megabytes.append(server.megabytes)
        print(f"server: {megabytes} MB after each round")
        assert "Traceback" not in server.said and TOKEN not in server.said
        # the first round lets the KV cache grow and allocators warm up; 8 KB a message would be seen
        assert megabytes[1] < megabytes[0] + 40

        client = Client(server.url, token=TOKEN)
        client.reset()
        server.kill()
        with pytest.raises(ConnectionClosed):
            client.ask("ping")
        server.start()
        for one in (Played(stream) for stream in range(8)):
            client = Client(server.url, token=TOKEN)
            assert client.ask("resume", session="of the server before")["code"] == "unknown_session"
            for _ in range(6):
                play_served(client, one)
            assert one.chunks == play_alone(new_agent(), one.stream, 6)
    finally:
        server.kill()
