"""Connections that are lost, resumed, taken over; servers that are full; who may come in."""

import gc
import json
import time
import urllib.request

import msgpack
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from streamvln_gym.serving import PolicyServer, ServeConfig
from streamvln_gym.serving import connection as connection_module
from streamvln_gym.serving.sessions import Session
from tests.serving.streams import (
    CAMERA,
    MEANING,
    Client,
    Played,
    frame,
    observation,
    play_alone,
    play_served,
    running,
    wait_until,
)

TOKEN = "a token of some length"


def test_a_client_killed_in_an_episode_resumes_it(new_agent):
    with running(new_agent()) as (server, url):
        client, played, resumed = Client(url), Played(0), 0
        session = client.reset(played.instruction)["session"]
        for number in range(20):
            if number % 2:
                client.vanish()
                client = Client(url)
                answer = client.ask("resume", session=session)
                assert answer["type"] == "resumed"
                if played.seq:  # else the episode is over, and the next one begins
                    assert answer["next_seq"] == played.seq
                    resumed += 1
            play_served(client, played, stay=True)
        assert resumed >= 3
        assert played.chunks == play_alone(new_agent(), 0, 20)
        assert len(server.sessions) == 1


def test_an_answer_that_was_lost_is_had_again(new_agent):
    agent = new_agent()
    with running(agent) as (server, url):
        client = Client(url)
        session = client.reset()["session"]
        asked = observation(0, 0, frame(0, 0, 0))
        client.socket.send(asked)
        client.vanish()
        wait_until(lambda: agent.stats.calls == 1, "the network has answered")
        client = Client(url)
        assert client.ask("resume", session=session)["next_seq"] == 1
        answer = client.send(asked)
        assert answer["type"] == "actions" and answer["seq"] == 0
        assert agent.stats.calls == 1
        assert client.observe(1, 1, frame(0, 0, 1))["step"] == 1


def test_an_abandoned_stream_is_freed_in_time(new_agent):
    with running(new_agent(), resume_seconds=0.3, max_streams=2) as (server, url):
        clients = [Client(url) for _ in range(3)]
        sessions = [client.reset()["session"] for client in clients[:2]]
        refused = clients[2].reset()
        assert refused["code"] == "too_many_streams" and "all 2 streams are in use" in refused["message"]
        assert not refused["fatal"]
        clients[0].vanish()
        wait_until(lambda: len(server.sessions) == 1, "the abandoned stream is freed")
        assert clients[2].reset()["type"] == "ready"
        late = Client(url)
        refused = late.ask("resume", session=sessions[0])
        assert refused["code"] == "unknown_session" and "send reset" in refused["message"]
        assert clients[1].observe(0, 0, frame(0, 0, 0))["type"] == "actions"
        clients[1].ask("close")
        assert late.reset()["type"] == "ready", "the place of a closed stream is free at once"
        assert len(server.worker._pool) == len(server.sessions) == 2


def test_close_frees_what_the_episode_held(new_agent):
    with running(new_agent()) as (server, url):
        client = Client(url)
        assert client.ask("close") == {"type": "closed"}, "without an episode, too"
        client.reset()
        client.observe(0, 0, frame(0, 0, 0))
        slot = next(iter(server.sessions._sessions.values())).slot
        stream = server.worker._pool.stream(slot)
        assert stream.memory.nbytes > 0
        client.ask("close")
        assert stream.memory.nbytes == 0 and stream.instruction is None
        assert server.worker._pool._session.kv_lengths[slot] == 0
        assert client.observe(1, 1, frame(0, 0, 0))["code"] == "bad_state"


def test_a_connection_that_hangs_is_taken_over(new_agent):
    with running(new_agent()) as (server, url):
        hanging, client = Client(url), Client(url)
        session = hanging.reset()["session"]
        hanging.observe(0, 0, frame(0, 0, 0))
        assert client.ask("resume", session=session)["next_seq"] == 1
        assert hanging.hear()["code"] == "taken_over"
        with pytest.raises(ConnectionClosed):
            hanging.hear()
        assert client.observe(1, 1, frame(0, 0, 1))["step"] == 1
        assert client.ask("resume", session=session)["code"] == "bad_state"
        assert client.observe(0, 0, frame(0, 0, 0))["code"] == "bad_sequence"


def test_observations_need_an_episode(new_agent):
    with running(new_agent()) as (_, url):
        client = Client(url)
        refused = client.observe(0, 0, frame(0, 0, 0))
        assert refused["code"] == "bad_state" and "reset" in refused["message"]


def test_silence_before_hello_ends_a_connection(new_agent):
    with running(new_agent(), hello_seconds=0.2) as (server, url):
        answer = Client(url, greet=False).hear()
        assert answer["code"] == "timeout" and "no hello" in answer["message"]
        wait_until(lambda: not server._connections, "the connection is gone")


def test_silence_in_an_episode_frees_its_stream(new_agent):
    with running(new_agent(), idle_seconds=0.5, resume_seconds=0.2) as (server, url):
        client = Client(url)
        client.reset()
        assert client.hear()["code"] == "timeout"
        wait_until(lambda: len(server.sessions) == 0, "its stream is freed")


def test_a_flood_is_slowed_down(new_agent):
    with running(new_agent(), messages_per_second=20.0) as (_, url):
        client = Client(url)
        begun = time.monotonic()
        for _ in range(30):
            client.ask("ping")
        assert time.monotonic() - begun > 0.4, "20 at once, 10 more in half a second"


@pytest.mark.parametrize("entries", [{}, {"token": ""}, {"token": TOKEN[:-1]}, {"token": TOKEN + "x"}, {"token": "é"}])
def test_without_the_token_nobody_comes_in(new_agent, monkeypatch, entries, caplog):
    monkeypatch.setattr(connection_module, "WRONG_TOKEN_SECONDS", 0.05)
    caplog.set_level("DEBUG")
    with running(new_agent(), token=TOKEN) as (server, url):
        client = Client(url, greet=False)
        for kind in ("ping", "reset", "resume", "observe"):
            one = Client(url, greet=False)
            assert one.ask(kind, instruction="Go.", session="x")["fatal"], "nothing comes before hello"
        refused = client.ask("hello", version=1, camera=CAMERA, actions=MEANING, **entries)
        assert (refused["code"], refused["fatal"]) == ("unauthorized", True)
        with pytest.raises(ConnectionClosed):
            client.reset()
        assert len(server.sessions) == 0
        assert Client(url, token=TOKEN).welcome["type"] == "welcome"
        assert TOKEN not in caplog.text


def test_a_server_of_ones_own_goes_by_its_configuration(new_agent, tmp_path, monkeypatch):
    """Token, address and environment variable, not only those of `serve`."""
    file = tmp_path / "token"
    file.write_text(TOKEN)
    file.chmod(0o600)
    with running(new_agent(), token_file=file) as (_, url):
        assert Client(url).welcome["code"] == "unauthorized"
        assert Client(url, token=TOKEN).welcome["type"] == "welcome"
    with pytest.raises(ValueError, match="token"):
        PolicyServer(new_agent(), ServeConfig(host="0.0.0.0"))
    monkeypatch.setenv("STREAMVLN_GYM_TOKEN", TOKEN)
    assert PolicyServer(new_agent(), ServeConfig(host="0.0.0.0")).token == TOKEN


def test_browsers_and_too_many_are_refused(new_agent, monkeypatch):
    with running(new_agent(), max_streams=1) as (server, url):
        with pytest.raises(InvalidStatus, match="403"):
            connect(url, origin="http://evil.example", proxy=None).__enter__()
        clients = [Client(url, greet=False) for _ in range(16)]
        with pytest.raises(InvalidStatus, match="503"):
            Client(url)
        # What one address does keeps nobody else out.
        begin = connection_module.Connection.__init__

        def from_elsewhere(self, *arguments):
            begin(self, *arguments)
            self.address = "192.0.2.7"

        with monkeypatch.context() as patch:
            patch.setattr(connection_module.Connection, "__init__", from_elsewhere)
            known = [Client(url) for _ in range(18)]
            assert {client.welcome["type"] for client in known} == {"welcome"}
            assert Client(url).welcome["message"] == "there are too many connections: close some"
        clients += known
        for client in clients:
            client.vanish()
        wait_until(lambda: not server._connections, "all are gone")
        assert Client(url).reset()["type"] == "ready"


def test_http_shows_nothing_but_that_it_lives(new_agent):
    with running(new_agent(), token=TOKEN) as (_, url):
        http = url.replace("ws://", "http://").replace("/stream", "")
        with urllib.request.urlopen(f"{http}/health", timeout=10) as answer:
            assert json.load(answer) == {"status": "ok", "protocol": 1}
        for path in ("/docs", "/openapi.json", "/stream", "/"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(http + path, timeout=10)


def test_a_fault_of_the_server_ends_one_connection_only(new_agent, monkeypatch, caplog):
    with running(new_agent()) as (server, url):
        client, other = Client(url), Client(url)
        client.reset(), other.reset()
        working = connection_module.read_observation

        def fault(*parts):
            monkeypatch.setattr(connection_module, "read_observation", working)
            raise KeyError("a fault")

        monkeypatch.setattr(connection_module, "read_observation", fault)
        answer = client.observe(0, 0, frame(0, 0, 0))
        assert (answer["code"], answer["fatal"]) == ("internal", True)
        assert "a fault" not in msgpack.packb(answer).decode(errors="replace"), "that is for the log"
        assert "KeyError" in caplog.text
        assert other.observe(0, 0, frame(0, 0, 0))["type"] == "actions"


def test_nothing_is_left_of_those_who_went(new_agent):
    def left() -> int:
        gc.collect()
        return sum(type(thing) in (connection_module.Connection, Session) for thing in gc.get_objects())

    before = left()
    with running(new_agent(), resume_seconds=0.1, max_streams=4) as (server, url):
        for number in range(24):
            client = Client(url)
            session = client.reset()["session"]
            client.observe(0, 0, frame(0, 0, 0))
            if number % 4 == 0:
                client.ask("close")
                client.socket.close()
            elif number % 4 == 1:
                client.send(b"no message")
                client.vanish()
            elif number % 4 == 2:
                client.socket.send(observation(1, 1, frame(0, 0, 1)))  # the answer reaches nobody
                client.vanish()
            else:
                other = Client(url)
                other.ask("resume", session=session)
                other.vanish()
            wait_until(lambda: len(server.sessions) < 4, "there is room")
        wait_until(lambda: not server._connections and not len(server.sessions), "all are gone")
        # The last slot is freed by the worker's thread, after its session is gone.
        wait_until(lambda: len(server.worker._pool) == 0, "no slot is kept")
        wait_until(lambda: left() == before, "no connection and no session is kept")
