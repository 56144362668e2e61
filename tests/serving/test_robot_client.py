"""The example's client: actions arrive, and whatever fails, the robot is stopped first."""

import asyncio
import importlib.util
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType

import msgpack
import numpy as np
import pytest
from websockets.exceptions import WebSocketException
from websockets.sync.server import serve

from tests.conftest import SMALL_CAMERA
from tests.serving.streams import CAMERA, frame, running, wait_until

PATH = Path(__file__).parents[2] / "examples" / "robot_client.py"


@pytest.fixture
def example(monkeypatch) -> ModuleType:
    specification = importlib.util.spec_from_file_location("robot_client", PATH)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    monkeypatch.setattr(module.time, "sleep", lambda seconds: threading.Event().wait(min(seconds, 0.1)))
    return module


def seen_as_jpeg(rgb: np.ndarray) -> np.ndarray:
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "JPEG", quality=95)
    return np.asarray(Image.open(file))


def test_it_is_short_and_light():
    assert len(PATH.read_text().splitlines()) <= 110
    heavy = ("torch", "PIL", "gymnasium", "streamvln_gym", "fastapi")
    code = f"import sys, robot_client; print([m for m in {heavy} if m in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], cwd=PATH.parent, capture_output=True, text=True)
    assert printed.stdout.strip() == "[]", printed.stderr


def test_it_plays_an_episode(example, new_agent, tiny_flats, capsys):
    options = {"dataset": str(tiny_flats.episodes_path), "data_dir": tiny_flats.root, "camera": SMALL_CAMERA}
    with running(new_agent()) as (server, url):
        example.main(url, execute=3, max_steps=20, **options)
        wait_until(lambda: len(server.sessions) == 0, "it has said goodbye")
    assert "m from the goal" in capsys.readouterr().out


def test_actions_depth_and_fewer_executed(example, new_agent):
    agent = new_agent()
    with running(new_agent()) as (_, url):
        client = example.RobotClient(url, CAMERA, lambda: None)
        client.reset("Go to the bed.")
        depth = np.full((60, 80), 2.0, np.float32)
        depth[0], depth[1], depth[2] = np.nan, np.inf, -1.0  # as drivers mark what they cannot see; it is not read
        step = executed = 0
        for _ in range(6):
            rgb = frame(3, 0, step)
            actions = client.observe(rgb, executed, depth, np.eye(4))
            shown = {"rgb": seen_as_jpeg(rgb), "instruction": "Go to the bed."}
            assert actions == agent.predict_chunk(shown, executed)
            executed = max(1, len(actions) - 1)
            if 0 in actions[:executed]:
                break
            step += executed


def test_depth_and_pose_reach_an_agent_that_reads_them(example, new_agent):
    settings = {"memory_strategy": "voxel", "num_history": 2, "window_steps": 4}
    agent = new_agent(**settings)
    camera = dict(zip(("fx", "fy", "cx", "cy"), (CAMERA[name] for name in ("fx", "fy", "cx", "cy")), strict=True))
    intrinsics = np.array([[camera["fx"], 0, camera["cx"]], [0, camera["fy"], camera["cy"]], [0, 0, 1]])
    with running(new_agent(**settings)) as (_, url):
        client = example.RobotClient(url, CAMERA, lambda: None)
        assert client.welcome["needs_geometry"]
        client.reset("Go to the bed.")
        executed = 0
        for step in range(4):
            rgb, depth, pose = frame(3, 0, step), np.full((60, 80), 2.0 + 0.001 * step, np.float32), np.eye(4)
            actions = client.observe(rgb, executed, depth, pose)
            shown = {"rgb": seen_as_jpeg(rgb), "instruction": "Go to the bed.", "depth": depth, "camera_pose": pose}
            assert actions == agent.predict_chunk({**shown, "intrinsics": intrinsics}, executed)
            if 0 in actions:
                break
            executed = len(actions)


def test_whatever_fails_in_a_request_stops_the_robot_and_ends_the_connection(example, new_agent, monkeypatch):
    """So that an answer that comes late is not taken for that of the next request."""
    agent, stops, release = new_agent(), [], threading.Event()
    with running(agent) as (server, url):
        client = example.RobotClient(url, CAMERA, lambda: stops.append(1))
        begin = server.sessions.open

        async def slowly(owner):
            await asyncio.to_thread(release.wait, 10)
            return await begin(owner)

        monkeypatch.setattr(server.sessions, "open", slowly)
        client.timeout = 0.2
        with pytest.raises(TimeoutError):
            client.reset("Go to the bed.")
        assert stops == [1]
        release.set()
        with pytest.raises(WebSocketException):
            client.reset("Go to the bed.")
        assert stops == [1, 1]
        client.timeout = 3.0
        client.connect()
        client.reset("Go to the bed.")
        assert client.observe(frame(0, 0, 0), 0)
    assert stops == [1, 1]


def test_an_answer_to_something_else_is_refused(example):
    sent = [{"type": "welcome", "needs_geometry": False}, {"type": "actions", "seq": 7, "actions": [1]}]

    def answer(socket):
        for message in sent:
            socket.recv()
            socket.send(msgpack.packb(message))

    with serve(answer, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stops = []
        client = example.RobotClient(
            f"ws://127.0.0.1:{server.socket.getsockname()[1]}", CAMERA, lambda: stops.append(1)
        )
        with pytest.raises(ConnectionError, match="to something else"):
            client.reset("Go to the bed.")
        assert stops == [1]
        server.shutdown()


def test_a_late_answer_stops_the_robot_and_is_had_again(example, new_agent, monkeypatch, capsys):
    agent, stops, release = new_agent(), [], threading.Event()
    with running(agent) as (server, url):
        caller = server.worker._pool._caller
        working = caller.predict
        monkeypatch.setattr(caller, "predict", lambda *parts: release.wait(30) and working(*parts))

        def stop() -> None:
            stops.append(len(stops))
            if len(stops) == 2:
                release.set()

        client = example.RobotClient(url, CAMERA, stop, timeout=0.5)
        client.timeout = 0.3
        client.reset("Go to the bed.")
        actions = client.observe(frame(0, 0, 0), 0)
        assert actions == new_agent().predict_chunk(
            {"rgb": seen_as_jpeg(frame(0, 0, 0)), "instruction": "Go to the bed."}
        )
        assert len(stops) >= 2 and agent.stats.calls == 1
        assert "no answer, the robot stands still" in capsys.readouterr().out


def test_a_server_that_is_killed_and_started_anew(example, new_agent):
    stops = []
    with running(new_agent()) as (_, url):
        client = example.RobotClient(url, CAMERA, lambda: stops.append(1))
        client.reset("Go to the bed.")
        client.observe(frame(0, 0, 0), 0)
    assert not stops
    port = int(url.rpartition(":")[2].partition("/")[0])
    started = threading.Event()

    def start_anew() -> None:
        wait_until(lambda: stops, "the client has noticed")
        with running(new_agent(), port=port):
            started.set()
            done.wait(60)

    done, thread = threading.Event(), threading.Thread(target=start_anew)
    thread.start()
    try:
        with pytest.raises(RuntimeError, match="unknown_session"):
            client.observe(frame(0, 0, 1), 1)
        assert len(stops) >= 2
        client.reset("Go to the bed.")
        shown = {"rgb": seen_as_jpeg(frame(0, 0, 1)), "instruction": "Go to the bed."}
        assert client.observe(frame(0, 0, 1), 0) == new_agent().predict_chunk(shown)
    finally:
        done.set()
        thread.join(60)
    assert started.is_set()


def test_a_refusal_stops_the_robot(example, new_agent):
    stops = []
    with running(new_agent()) as (_, url):
        client = example.RobotClient(url, CAMERA, lambda: stops.append(1))
        with pytest.raises(RuntimeError, match="bad_instruction"):
            client.reset("  ")
        client.reset("Go.")
        with pytest.raises(RuntimeError, match="bad_frame"):
            client.observe(frame(0, 0, 0)[:30], 0)
        assert len(stops) == 2
    with pytest.raises(OSError):
        example.RobotClient("ws://127.0.0.1:9/stream", CAMERA, lambda: None)


def test_a_server_that_reads_no_more_stops_the_robot(example):
    """Not only waiting for the answer has an end, sending has one, too."""
    release = threading.Event()

    def stall(connection) -> None:
        for answer in ({"type": "welcome"}, {"type": "ready", "session": "x"}):
            connection.recv()
            connection.send(msgpack.packb(answer))
        with connection.protocol_mutex:  # from here on its thread takes nothing in
            release.wait(60)

    class StoppedError(Exception):
        pass

    def stop() -> None:
        raise StoppedError

    with serve(stall, "127.0.0.1", 0, max_size=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        client = example.RobotClient(f"ws://127.0.0.1:{server.socket.getsockname()[1]}", CAMERA, stop)
        client.reset("Go.")
        begun = time.monotonic()
        with pytest.raises(StoppedError):
            client.observe(np.zeros((60, 80, 3), np.uint8), 0, np.ones((3000, 3000), np.float32))
        assert time.monotonic() - begun < 15
        release.set()
        server.shutdown()
        thread.join()
