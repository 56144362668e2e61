"""The wire protocol, version 1: one msgpack map per binary WebSocket message, with its kind under "type".

docs/robots.md describes it for those who write a client.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

import msgpack
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from streamvln_gym.errors import StreamVLNGymError
from streamvln_gym.simulators.base import FORWARD_METRES, TURN_DEGREES, Action

VERSION = 1
# No message has more entries or parts than that; what is larger is no message.
_MAX_ENTRIES, _MAX_CONTAINERS = 32, 32
_MAX_TEXT = 300  # characters of an error that may quote the client

Size = Annotated[int, Field(ge=1, le=65535)]
Focal = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Name = Annotated[str, Field(max_length=200)]


class ProtocolError(StreamVLNGymError):
    """What a client did wrong, or what the server could not do for it.

    Args:
        code: for programs.
        message: for people: what, where, and what to do.
        fatal: the connection ends.
    """

    def __init__(self, code: str, message: str, fatal: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.fatal = fatal

    def pack(self) -> bytes:
        """As the answer to the client."""
        return pack("error", code=self.code, message=str(self), fatal=self.fatal)


class Message(BaseModel):
    """A message of a client."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class Camera(Message):
    """A pinhole camera, undistorted; all frames of the connection have its size.

    Attributes:
        width: pixels.
        height: pixels.
        fx, fy: focal lengths, pixels.
        cx, cy: principal point for integer pixel indices.
    """

    width: Size
    height: Size
    fx: Focal
    fy: Focal
    cx: float
    cy: float

    @property
    def hfov(self) -> float:
        """Horizontal field of view, degrees."""
        return math.degrees(2.0 * math.atan(self.width / 2.0 / self.fx))

    @property
    def intrinsics(self) -> list[list[float]]:
        """The camera matrix (3, 3)."""
        return [[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]]


class ActionMeaning(Message):
    """What the robot will do on FORWARD, LEFT and RIGHT."""

    forward_metres: float
    turn_degrees: float


class Hello(Message):
    """The first message of a connection."""

    type: Literal["hello"]
    version: int
    camera: Camera
    actions: ActionMeaning
    token: str | None = None
    client: Name = ""


class Reset(Message):
    """Starts an episode."""

    type: Literal["reset"]
    instruction: str
    episode: Name = ""


class Resume(Message):
    """Goes on with the session of a connection that was lost."""

    type: Literal["resume"]
    session: Name


class Frame(Message):
    """A colour picture: JPEG or PNG, or raw RGB bytes, row by row."""

    encoding: Literal["jpeg", "png", "raw"]
    data: bytes


class Depth(Message):
    """A depth picture, registered to the colour picture and of its size.

    Attributes:
        encoding: "raw32": float32 metres; "raw16": uint16 units; "png16": the same as a PNG. Little-endian.
        scale: metres per unit of the 16-bit encodings.
    """

    encoding: Literal["raw16", "raw32", "png16"]
    data: bytes
    scale: Annotated[float, Field(gt=0, le=1)] = 0.001


class Observe(Message):
    """What the robot sees now.

    Attributes:
        seq: number of the observation in its episode, from 0.
        n_executed: actions of the last answer that were executed before this frame was taken.
        pose: camera (x right, y down, z forward) to the frame of the episode's start, (4, 4) row by row.
    """

    type: Literal["observe"]
    seq: Count
    n_executed: Count
    frame: Frame
    depth: Depth | None = None
    pose: Annotated[list[float], Field(min_length=16, max_length=16)] | None = None


class Ping(Message):
    """Asks whether the server lives."""

    type: Literal["ping"]
    id: Count = 0


class Close(Message):
    """Ends the session and frees its state."""

    type: Literal["close"]


class Requests:
    """Which messages there are."""

    OPENING: ClassVar[dict[str, type[Message]]] = {"hello": Hello}
    LATER: ClassVar[dict[str, type[Message]]] = {
        "reset": Reset,
        "resume": Resume,
        "observe": Observe,
        "ping": Ping,
        "close": Close,
    }


def pack(kind: str, **entries: Any) -> bytes:
    """A message of the server."""
    return msgpack.packb({"type": kind, **entries})


def read_map(data: bytes) -> dict[Any, Any]:
    """Unpacks a message, whose space is bounded by its size.

    Raises:
        ProtocolError: it is no msgpack map, or no message could have so many parts.
    """
    containers = 0

    def count(container: Any) -> Any:
        nonlocal containers
        containers += 1
        if containers > _MAX_CONTAINERS:
            raise ValueError(f"it holds more than {_MAX_CONTAINERS} maps and lists")
        return container

    def refuse(code: int, _: bytes) -> Any:
        raise ValueError(f"it holds the extension type {code}, and none is used here")

    try:
        unpacked = msgpack.unpackb(
            data,
            strict_map_key=True,
            max_array_len=_MAX_ENTRIES,
            max_map_len=_MAX_ENTRIES,
            list_hook=count,
            object_hook=count,
            ext_hook=refuse,
        )
    except (ValueError, RecursionError, msgpack.exceptions.UnpackException) as error:
        reason = str(error) or type(error).__name__
        raise ProtocolError("bad_message", f"the message is no usable msgpack: {reason[:_MAX_TEXT]}") from error
    if not isinstance(unpacked, dict):
        raise ProtocolError("bad_message", f"a message is a msgpack map with 'type', got {type(unpacked).__name__}")
    return unpacked


def read_message(data: bytes, kinds: dict[str, type[Message]] = Requests.LATER) -> Any:
    """Reads and checks a message of a client.

    Args:
        data: msgpack.
        kinds: messages that can come now, by their type.

    Raises:
        ProtocolError: it is none of them, or an entry is missing, of the wrong type, or unknown.
    """
    entries = read_map(data)
    kind = entries.get("type")
    if not isinstance(kind, str) or kind not in kinds:
        hint = " (say hello once, at the beginning)" if kind == "hello" else ""
        raise ProtocolError("unknown_type", f"type must be {' or '.join(kinds)}, got {_quote(kind)}{hint}")
    if kind == "hello" and entries.get("version") != VERSION:
        raise ProtocolError(
            "bad_version", f"this server speaks version {VERSION}, the client {_quote(entries.get('version'))}", True
        )
    try:
        return kinds[kind].model_validate(entries)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        told = "; ".join(f"{'.'.join(map(str, item['loc']))[:80]}: {item['msg']}" for item in found[:5])
        raise ProtocolError("bad_message", f"{kind}: {told[:_MAX_TEXT]}") from None


def check_meaning(meaning: ActionMeaning) -> None:
    """Refuses a robot that would do something else than what the agent's actions mean.

    Raises:
        ProtocolError: its step or its turn differ.
    """
    if (meaning.forward_metres, meaning.turn_degrees) != (FORWARD_METRES, TURN_DEGREES):
        raise ProtocolError(
            "bad_actions",
            f"the agent's actions mean {FORWARD_METRES} m and {TURN_DEGREES} degrees, the client would execute "
            f"{meaning.forward_metres} m and {meaning.turn_degrees} degrees: execute what they mean",
            fatal=True,
        )


def describe_actions() -> dict[str, Any]:
    """The actions' meaning, for the welcome."""
    return {
        "names": [action.name for action in Action],
        "forward_metres": FORWARD_METRES,
        "turn_degrees": TURN_DEGREES,
    }


def _quote(value: Any) -> str:
    text = repr(value) if isinstance(value, (str, int, float, type(None))) else type(value).__name__
    return text if len(text) <= 60 else f"{text[:60]}…"
