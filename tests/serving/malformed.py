"""Messages that are wrong in every way that we could think of, drawn with a seed."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np
from PIL import Image

from tests.serving.streams import CAMERA, HEIGHT, MEANING, WIDTH, encode, frame

RGB = frame(0, 0, 0)
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    2**63,
    1.5,
    float("nan"),
    float("-inf"),
    "",
    "x" * 3000,
    b"\x00" * 100,
    [],
    [[]] * 20,
    {},
    {"a": {"b": {}}},
    {"type": "reset"},
)


def valid(rng: np.random.Generator) -> dict[str, Any]:
    """A message that would be right at some time."""
    depth = {"encoding": "raw16", "data": bytes(2 * WIDTH * HEIGHT), "scale": 0.001}
    return [
        {"type": "hello", "version": 1, "camera": CAMERA, "actions": MEANING, "token": "x", "client": "y"},
        {"type": "resume", "session": "abc"},
        {"type": "observe", "seq": 0, "n_executed": 0, "frame": {"encoding": "jpeg", "data": encode(RGB, "jpeg")}},
        {
            "type": "observe",
            "seq": int(rng.integers(0, 3)),
            "n_executed": int(rng.integers(0, 6)),
            "frame": {"encoding": "png", "data": encode(RGB, "png")},
            "depth": depth,
            "pose": [0.0] * 16,
        },
        {"type": "ping", "id": 3},
    ][int(rng.integers(5))]


def noise(rng: np.random.Generator) -> bytes:
    return rng.bytes(int(rng.integers(0, 300)))


def cut(rng: np.random.Generator) -> bytes:
    data = msgpack.packb(valid(rng))
    return data[: int(rng.integers(0, len(data)))]


def flipped(rng: np.random.Generator) -> bytes:
    data = bytearray(msgpack.packb(valid(rng)))
    for _ in range(int(rng.integers(1, 9))):
        data[int(rng.integers(0, min(len(data), 400)))] = int(rng.integers(0, 256))
    return bytes(data)


def wrong_entry(rng: np.random.Generator) -> bytes:
    """One entry, at any depth, is something else, gone, or there is one more."""
    message = valid(rng)
    parts = [message, *(part for part in message.values() if isinstance(part, dict))]
    part = parts[int(rng.integers(len(parts)))] = dict(parts[0]) if len(parts) == 1 else parts[-1]
    part = dict(part)
    key = list(part)[int(rng.integers(len(part)))]
    kind = int(rng.integers(3))
    if kind == 0:
        part[key] = VALUES[int(rng.integers(len(VALUES)))]
    elif kind == 1:
        del part[key]
    else:
        part["more"] = VALUES[int(rng.integers(len(VALUES)))]
    whole = part if len(parts) == 1 else {k: part if v is parts[-1] else v for k, v in message.items()}
    return msgpack.packb(whole)


def unknown_type(rng: np.random.Generator) -> bytes:
    return msgpack.packb({"type": ["eval", "__class__", "HELLO", "", "x" * 5000, 5][int(rng.integers(6))]})


def nested(rng: np.random.Generator) -> bytes:
    """Deep, wide, or a few bytes that claim to be a gigabyte."""
    return [
        b"\x91" * int(rng.integers(20, 100_000)) + b"\xc0",
        b"\x81\xa1a" * int(rng.integers(20, 30_000)) + b"\xc0",
        b"\x81\xa4type\xdd" + struct.pack(">I", 2**30),
        b"\xdf" + struct.pack(">I", 2**31),
        b"\x81\xa4type\xdc" + struct.pack(">H", 20_000) + b"\x90" * 20_000,
        b"\x82\xa4type\xa4ping\xa2id\xc7\x05\x01aaaaa",  # an extension type
    ][int(rng.integers(6))]


def no_map(rng: np.random.Generator) -> bytes:
    return msgpack.packb(VALUES[int(rng.integers(len(VALUES) - 3))])


def bad_instruction(rng: np.random.Generator) -> bytes:
    texts = ["", "  \n", "x" * 1_000_000, "Go <image> on.", "<|im_start|>system", 7, None]
    return msgpack.packb({"type": "reset", "instruction": texts[int(rng.integers(len(texts)))]})


def bomb(width: int, height: int, kind: str = "PNG") -> bytes:
    """A picture of a few bytes that claims to be huge."""
    if kind == "PNG":
        header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        pixels = zlib.compress(bytes(1000), 9)
        chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
        body = b"".join(
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
            for name, data in chunks
        )
        return b"\x89PNG\r\n\x1a\n" + body
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    data = bytearray(file.getvalue())
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def many_scans(scans: int = 100) -> bytes:
    """A JPEG that would be decoded again and again."""
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    first = data.index(b"\xff\xda")
    return data[:-2] + data[first:-2] * scans + data[-2:]


def bad_picture(rng: np.random.Generator) -> bytes:
    """An observation whose frame or depth cannot be used."""
    jpeg, png = encode(RGB, "jpeg"), encode(RGB, "png")
    grey, small = encode(RGB[:, :, 0], "png"), encode(RGB[:30], "png")
    nan = np.full((HEIGHT, WIDTH), np.nan, "<f4").tobytes()
    frames = [
        ("png", bomb(100_000, 100_000)),
        ("png", bomb(2**31 - 1, 2**31 - 1)),
        ("png", bomb(WIDTH, HEIGHT)),
        ("jpeg", bomb(65_500, 65_500, "JPEG")),
        ("jpeg", many_scans(40)),
        ("jpeg", png),
        ("png", jpeg),
        ("jpeg", jpeg[: int(rng.integers(0, len(jpeg) - 2))]),
        ("png", png[: int(rng.integers(0, len(png) - 20))]),
        ("png", grey),
        ("png", small),
        ("raw", RGB.tobytes()[:-1]),
        ("raw", b""),
        ("gif", RGB.tobytes()),
    ]
    depths = [
        {"encoding": "raw32", "data": nan},
        {"encoding": "raw32", "data": np.full((HEIGHT, WIDTH), -1, "<f4").tobytes()},
        {"encoding": "raw32", "data": np.full((HEIGHT, WIDTH), np.inf, "<f4").tobytes()},
        {"encoding": "raw16", "data": bytes(7)},
        {"encoding": "raw16", "data": bytes(2 * WIDTH * HEIGHT), "scale": float("nan")},
        {"encoding": "png16", "data": bomb(50_000, 50_000)},
        {"encoding": "png16", "data": png},
        {"encoding": "png16", "data": b""},
    ]
    message: dict[str, Any] = {"type": "observe", "seq": 0, "n_executed": 0}
    if rng.random() < 0.6:
        encoding, data = frames[int(rng.integers(len(frames)))]
        return msgpack.packb({**message, "frame": {"encoding": encoding, "data": data}})
    depth = depths[int(rng.integers(len(depths)))]
    return msgpack.packb({**message, "frame": {"encoding": "raw", "data": RGB.tobytes()}, "depth": depth})


def oversized(rng: np.random.Generator) -> bytes:
    """More than the server takes, up to far more."""
    return bytes(int(LIMIT * rng.uniform(1.01, 2.5)))


LIMIT = 2**18
KINDS: tuple[Callable[[np.random.Generator], bytes], ...] = (
    noise,
    cut,
    flipped,
    wrong_entry,
    wrong_entry,
    unknown_type,
    nested,
    no_map,
    bad_instruction,
    bad_picture,
    bad_picture,
    oversized,
)


def malformed(seed: int, number: int) -> bytes:
    """Message `number` of a seed."""
    rng = np.random.default_rng([seed, number])
    return KINDS[int(rng.integers(len(KINDS)))](rng)
