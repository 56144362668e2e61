"""Served streams get the actions that an agent alone would give, whatever goes on beside them."""

import threading

import numpy as np

from streamvln_gym.agents.stream_pool import Question
from tests.serving.streams import Client, Played, frame, observation, play_alone, play_served, running, wait_until


def test_streams_beside_each_other_equal_agents_alone(new_agent):
    streams, calls = 4, 24
    with running(new_agent(), max_streams=streams) as (server, url):
        played = [Played(stream) for stream in range(streams)]
        clients = [Client(url) for _ in played]
        encodings = ["png" if one.stream % 2 else "raw" for one in played]
        for client, one, encoding in zip(clients, played, encodings, strict=True):
            while one.seq == 0:  # now inside an episode: the next question needs no place in the pool
                play_served(client, one, encoding)
        batches: list[int] = []
        asked = threading.Event()
        together = server.worker._pool.predict

        def predict(questions: list[Question]) -> list[list[int] | Exception]:
            asked.set()
            if not batches:  # the others ask while the first is answered
                wait_until(lambda: len(server.worker._waiting) == streams - 1, "all others ask")
            batches.append(len(questions))
            return together(questions)

        def drive(client: Client, one: Played, encoding: str) -> None:
            while len(one.chunks) < calls:
                play_served(client, one, encoding)

        server.worker._pool.predict = predict
        threads = [threading.Thread(target=drive, args=one) for one in zip(clients, played, encodings, strict=True)]
        for thread in threads:
            thread.start()
            assert asked.wait(60)
        for thread in threads:
            thread.join(60)
        assert batches[:2] == [1, streams - 1], "what was asked meanwhile went through the network together"
        for one in played:
            assert one.chunks == play_alone(new_agent(), one.stream, calls), f"stream {one.stream}"
            assert one.episode > 1
    assert len({action for one in played for chunk in one.chunks for action in chunk}) == 4


def test_an_answer_says_what_it_is(new_agent):
    with running(new_agent()) as (_, url):
        client = Client(url)
        assert client.welcome["actions"] == {
            "names": ["STOP", "FORWARD", "LEFT", "RIGHT"],
            "forward_metres": 0.25,
            "turn_degrees": 15.0,
        }
        assert (client.welcome["chunk_size"], client.welcome["version"], client.welcome["trained"]) == (4, 1, False)
        ready = client.reset(episode="kitchen")
        assert (ready["type"], ready["episode"], ready["next_seq"]) == ("ready", "kitchen", 0)
        answer = client.observe(0, 0, frame(0, 0, 0))
        assert (answer["step"], answer["batch"], answer["warnings"]) == (0, 1, [])
        assert answer["model_ms"] > 0 and answer["waited_ms"] >= 0
        assert client.ask("ping", id=7) == {"type": "pong", "id": 7}
        assert client.ask("close") == {"type": "closed"}


def test_a_repeated_observation_gets_the_same_answer(new_agent):
    with running(new_agent()) as (server, url):
        client = Client(url)
        client.reset()
        first = observation(0, 0, frame(0, 0, 0))
        client.socket.send(first)
        answer = client.socket.recv(10)
        client.socket.send(first)
        assert client.socket.recv(10) == answer, "byte for byte"
        assert server._agent.stats.calls == 1, "and the network was not asked again"
        other = client.observe(0, 0, frame(0, 0, 1))
        assert other["code"] == "bad_sequence" and "number 1" in other["message"]
        one = client.observe(1, 1, frame(0, 0, 1))
        assert one["type"] == "actions"
        for seq, what in ((0, "stale"), (3, "leaves some out")):
            refused = client.observe(seq, 1, frame(0, 0, 2))
            assert refused["code"] == "bad_sequence" and what in refused["message"]
            assert "number 2" in refused["message"]
        assert client.observe(2, 1, frame(0, 0, 2))["step"] == 2


def test_executed_actions_must_be_possible(new_agent):
    with running(new_agent()) as (_, url):
        client = Client(url)
        client.reset()
        assert client.observe(0, 2, frame(0, 0, 0))["code"] == "bad_executed"
        decided = len(client.observe(0, 0, frame(0, 0, 0))["actions"])
        for count in (0, decided + 1, 2**40):
            refused = client.observe(1, count, frame(0, 0, 1))
            assert refused["code"] == "bad_executed" and f"between 1 and {decided}" in refused["message"]
        assert client.observe(1, decided, frame(0, 0, 1))["type"] in ("actions", "error")


def test_an_episode_ends_with_stop(new_agent):
    def always_stop(ids, scores):
        scores[:, agent.processor.action_ids[0]] += 1e6
        return scores

    agent = new_agent(logits_processor=[always_stop])
    with running(agent) as (_, url):
        client = Client(url)
        client.reset()
        assert client.observe(0, 0, frame(0, 0, 0))["actions"] == [0]
        refused = client.observe(1, 1, frame(0, 0, 1))
        assert refused["code"] == "episode_over" and "reset" in refused["message"]
        client.reset()
        assert client.observe(0, 0, frame(0, 0, 0))["actions"] == [0]


def test_copies_of_one_frame_and_forgotten_resets_are_told(new_agent):
    def never_stop(ids, scores):
        scores[:, agent.processor.action_ids[0]] -= 1e6
        return scores

    agent = new_agent(logits_processor=[never_stop], max_steps=8)
    with running(agent) as (_, url):
        client = Client(url)
        client.reset()
        assert client.observe(0, 0, frame(0, 0, 0))["warnings"] == []
        (warning,) = client.observe(1, 4, frame(0, 0, 0))["warnings"]
        assert warning["code"] == "identical_frame" and "before 4 executed actions" in warning["message"]
        assert client.observe(2, 4, frame(0, 0, 8))["warnings"] == []
        (warning,) = client.observe(3, 4, frame(0, 0, 12))["warnings"]
        assert warning["code"] == "long_episode" and "reset" in warning["message"]
        client.reset()
        assert client.observe(0, 0, frame(0, 0, 12))["warnings"] == [], "the frame before was another episode's"


def test_a_strange_camera_is_told(new_agent):
    narrow = {"width": 80, "height": 60, "fx": 80.0, "fy": 80.0, "cx": 39.5, "cy": 29.5}
    with running(new_agent()) as (_, url):
        (warning,) = Client(url, camera=narrow).welcome["warnings"]
        assert warning["code"] == "field_of_view" and "53 degrees" in warning["message"]
        assert Client(url).welcome["warnings"] == []


def test_depth_reaches_the_agent(new_agent):
    """The strategy "voxel" reads depth, pose and intrinsics."""
    agent, alone = new_agent(memory_strategy="voxel"), new_agent(memory_strategy="voxel")
    rng = np.random.default_rng(0)
    with running(agent) as (_, url):
        client = Client(url)
        client.reset("Go on.")
        step = n_executed = 0
        for seq in range(14):
            rgb, depth = frame(0, 0, step), rng.integers(400, 4000, (60, 80)).astype("<u2")
            pose = np.eye(4, dtype=np.float32)
            pose[2, 3] = -0.25 * step
            sent = {"encoding": "raw16", "data": depth.tobytes(), "scale": 0.001}
            answer = client.observe(seq, n_executed, rgb, depth=sent, pose=pose.ravel().tolist())
            shown = {
                "rgb": rgb,
                "depth": (depth[:, :, None] * np.float32(0.001)).astype(np.float32),
                "camera_pose": pose,
                "intrinsics": np.array([[48.5, 0, 39.5], [0, 48.5, 29.5], [0, 0, 1]]),
                "instruction": "Go on.",
            }
            assert answer["actions"] == alone.predict_chunk(shown, n_executed), seq
            n_executed = answer["actions"].index(0) if 0 in answer["actions"] else len(answer["actions"])
            n_executed = max(n_executed, 1)
            if answer["actions"][0] == 0:
                break
            step += n_executed
        missing = Client(url)
        missing.reset()
        refused = missing.observe(0, 0, frame(0, 0, 0))
        assert refused["code"] == "bad_observation" and "obs['depth']" in refused["message"]


def test_a_failed_model_call_is_told_and_can_be_repeated(new_agent, monkeypatch):
    agent = new_agent()
    with running(agent) as (server, url):
        client, other = Client(url), Client(url)
        client.reset()
        client.observe(0, 0, frame(0, 0, 0))
        caller = server.worker._pool._caller
        working = caller.predict

        def fail(moments, dialogues):
            monkeypatch.setattr(caller, "predict", working)
            raise RuntimeError("out of memory")

        monkeypatch.setattr(caller, "predict", fail)
        again = observation(1, 1, frame(0, 0, 1))
        refused = client.send(again)
        assert refused["code"] == "model_failed" and not refused["fatal"]
        assert client.send(again)["step"] == 1
        other.reset()
        assert other.observe(0, 0, frame(0, 0, 0))["type"] == "actions"


def test_the_event_loop_answers_while_the_network_works(new_agent, monkeypatch):
    release = threading.Event()
    with running(new_agent()) as (server, url):
        caller = server.worker._pool._caller
        working = caller.predict
        monkeypatch.setattr(caller, "predict", lambda *parts: release.wait(20) and working(*parts))
        client, other = Client(url), Client(url)
        client.reset()
        client.socket.send(observation(0, 0, frame(0, 0, 0)))
        wait_until(lambda: not server.worker._waiting, "the call has begun")
        assert other.ask("ping", id=3)["id"] == 3
        release.set()
        assert client.hear()["type"] == "actions"
