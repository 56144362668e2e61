"""What is wrong with a message is told to its sender alone; nothing else happens."""

import msgpack
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed

from streamvln_gym.serving.protocol import ProtocolError, read_map, read_message
from tests.serving.malformed import LIMIT, bomb, malformed, many_scans
from tests.serving.streams import (
    CAMERA,
    HEIGHT,
    MEANING,
    WIDTH,
    Client,
    Played,
    encode,
    frame,
    play_alone,
    play_served,
    running,
    wait_until,
)

RGB = frame(0, 0, 0)


@pytest.fixture(scope="module")
def url(new_agent):
    with running(new_agent(), max_message_bytes=LIMIT, max_streams=8) as (_, url):
        yield url


@pytest.fixture
def client(url):
    client = Client(url)
    client.reset()
    yield client
    assert client.observe(0, 0, RGB)["type"] == "actions", "the stream is unharmed"
    client.socket.close()


def refusal(client: Client, frame: dict | None = None, **entries) -> str:
    shown = frame or {"encoding": "raw", "data": RGB.tobytes()}
    answer = client.ask("observe", seq=0, n_executed=0, frame=shown, **entries)
    assert answer["type"] == "error" and not answer["fatal"]
    return f"{answer['code']}: {answer['message']}"


def test_frames(client):
    for data, kind, told in (
        (bomb(100_000, 100_000), "png", "huge"),
        (bomb(9000, 9000), "png", "9000×9000 pixels, but hello said 80×60"),
        (bomb(65_500, 65_500, "JPEG"), "jpeg", "huge"),
        (bomb(8000, 8000, "JPEG"), "jpeg", "8000×8000"),
        (bomb(WIDTH, HEIGHT), "png", "truncated or damaged"),
        (many_scans(), "jpeg", "scans: send baseline JPEG"),
        (encode(RGB, "png"), "jpeg", "no JPEG's"),
        (encode(RGB, "jpeg")[:-200], "jpeg", "truncated"),
        (encode(RGB[:, :, 0], "png"), "png", "mode is L, but RGB is needed"),
        (RGB.tobytes()[3:], "raw", "14397 bytes cannot be a picture of shape (60, 80, 3) in uint8: 14400 are needed"),
        (RGB.tobytes(), "bmp", "frame.encoding: Input should be 'jpeg', 'png' or 'raw'"),
        ([1, 2], "raw", "frame.data: Input should be a valid bytes"),
    ):
        assert told in refusal(client, {"encoding": kind, "data": data})


def test_depth(client):
    def floats(value: float) -> dict:
        return {"encoding": "raw32", "data": np.full((HEIGHT, WIDTH), value, "<f4").tobytes()}

    for depth, told in (
        (floats(np.nan), "depth holds NaN or infinity: write 0"),
        (floats(np.inf), "depth holds NaN or infinity"),
        (floats(-0.5), "depth is negative (-0.500 m)"),
        ({"encoding": "raw16", "data": bytes(8)}, "(60, 80, 1) in uint16: 9600 are needed"),
        ({"encoding": "raw16", "data": bytes(9600), "scale": 0.0}, "depth.scale: Input should be greater than 0"),
        ({"encoding": "png16", "data": encode(RGB, "png")}, "mode is RGB"),
        ({"encoding": "png16", "data": bomb(40_000, 40_000)}, "huge"),
        ([], "depth: Input should be"),
    ):
        assert told in refusal(client, depth=depth)
    assert "pose: List should have at least 16 items" in refusal(client, pose=[0.0] * 4)
    assert "finite" in refusal(client, pose=[float("nan")] * 16)


def test_messages(client):
    for data, code, told in (
        (b"", "bad_message", "no usable msgpack"),
        (b"\x91" * 50_000 + b"\xc0", "bad_message", "no usable msgpack"),
        (b"\x91" * 100 + b"\xc0", "bad_message", "more than 32 maps and lists"),
        (b"\xdd\x40\x00\x00\x00", "bad_message", "no usable msgpack"),
        (msgpack.packb([1] * 33), "bad_message", "max_array_len"),
        (msgpack.packb({"type": msgpack.ExtType(5, b"a")}), "bad_message", "extension type 5"),
        (msgpack.packb({1: 2}), "bad_message", "int is not allowed for map key"),
        (msgpack.packb(7), "bad_message", "a msgpack map with 'type', got int"),
        (msgpack.packb({}), "unknown_type", "type must be reset or resume or observe or ping or close, got None"),
        (msgpack.packb({"type": "eval" * 9999}), "unknown_type", "evaleval"),
        (msgpack.packb({"type": "hello"}), "unknown_type", "say hello once"),
        (msgpack.packb({"type": "ping", "id": -1}), "bad_message", "ping: id: Input should be greater than or equal"),
        (msgpack.packb({"type": "ping", "id": 1.0}), "bad_message", "valid integer"),
        (msgpack.packb({"type": "ping", "more": 1}), "bad_message", "more: Extra inputs are not permitted"),
        (msgpack.packb({"type": "reset"}), "bad_message", "instruction: Field required"),
        (msgpack.packb({"type": "reset", "instruction": "x" * 100_000}), "bad_instruction", "at most 4000 characters"),
        (msgpack.packb({"type": "reset", "instruction": " "}), "bad_instruction", "empty"),
        (msgpack.packb({"type": "reset", "instruction": "Go <image>."}), "bad_instruction", "'<image>'"),
        (bytes(LIMIT + 1), "too_large", f"at most {LIMIT} bytes, got {LIMIT + 1}"),
    ):
        answer = client.send(data)
        assert answer["code"] == code and told in answer["message"], answer
        assert len(answer["message"]) < 500 and not answer["fatal"]
        client.ask("ping")  # not so many in a row
    client.socket.send("text")
    assert "text message" in client.hear()["message"]


def test_an_instruction_of_a_megabyte_is_answered_where_messages_may_be_larger(new_agent):
    with running(new_agent()) as (_, url):
        client = Client(url)
        answer = client.reset("x" * 1_000_000)
        assert answer["code"] == "bad_instruction" and "got 1000000" in answer["message"]


def test_far_too_much_ends_the_connection(url):
    client = Client(url)
    with pytest.raises(ConnectionClosed) as caught:
        client.send(bytes(3 * LIMIT))
    assert caught.value.rcvd.code == 1009


def test_bad_messages_without_end_are_not_answered_without_end(url):
    client = Client(url)
    for _ in range(32):
        assert client.send(b"x")["code"] == "bad_message"
    assert client.hear()["code"] == "too_many_errors"
    with pytest.raises(ConnectionClosed):
        client.ask("ping")


@pytest.mark.parametrize(
    ("entries", "code", "told"),
    [
        ({"version": 2}, "bad_version", "speaks version 1, the client 2"),
        ({"version": "1"}, "bad_version", "'1'"),
        ({"camera": {**CAMERA, "fx": 0.0}}, "bad_message", "camera.fx"),
        ({"camera": {**CAMERA, "width": 60_000, "height": 60_000}}, "too_large", "send smaller ones"),
        ({"actions": {**MEANING, "turn_degrees": 30.0}}, "bad_actions", "execute what they mean"),
        ({"client": "x" * 5000}, "too_large", "a hello has at most 4096 bytes"),
        ({"type": "ping"}, "unknown_type", "type must be hello, got 'ping'"),
    ],
)
def test_hello(url, entries, code, told):
    client = Client(url, greet=False)
    message = {"type": "hello", "version": 1, "camera": CAMERA, "actions": MEANING, **entries}
    answer = client.send(msgpack.packb(message))
    assert (answer["code"], answer["fatal"]) == (code, True) and told in answer["message"]
    with pytest.raises(ConnectionClosed):
        client.hear()


@pytest.mark.parametrize("seed", range(3))
def test_nothing_but_protocol_errors(seed):
    """Without a network: whatever comes is read, or a ProtocolError."""
    for number in range(400):
        try:
            read_message(malformed(seed, number))
        except ProtocolError as error:
            assert str(error) and len(str(error)) < 600


def test_unpacking_takes_no_more_space_than_the_message():
    import tracemalloc

    data = b"\xdc\x00\x20" + (b"\xdc\x00\x20" + b"\x90" * 32) * 32 + b"\x90" * 2**20
    tracemalloc.start()
    with pytest.raises(ProtocolError):
        read_map(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < len(data) + 100_000


def flood(url: str, seed: int, numbers: range) -> dict[str, int]:
    """Sends malformed messages over connections of their own; how often each answer came."""
    counts: dict[str, int] = {}
    client = None
    for number in numbers:
        client = client or Client(url, greet=number % 5 != 0)
        try:
            answer = client.send(malformed(seed, number))
            kind = answer.get("code", answer["type"])
            ended = answer.get("fatal", False)
        except ConnectionClosed as error:
            kind, ended = f"closed {error.rcvd.code if error.rcvd else ''}", True
        counts[kind] = counts.get(kind, 0) + 1
        if ended or number % 20 == 19:
            client.socket.close()
            client = None
    if client:
        client.socket.close()
    return counts


def test_malformed_messages_beside_a_healthy_stream(new_agent):
    with running(new_agent(), max_message_bytes=LIMIT, max_streams=3, resume_seconds=0.2) as (server, url):
        healthy, played = Client(url), Played(0)
        for part in range(10):
            counts = flood(url, 1, range(part * 30, part * 30 + 30))
            play_served(healthy, played)
            assert "internal" not in counts and "model_failed" not in counts, counts
        assert played.chunks == play_alone(new_agent(), 0, 10)
        wait_until(lambda: len(server.sessions) == 1 and len(server._connections) == 1, "all others are gone")
