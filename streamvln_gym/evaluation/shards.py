"""JSON lines that survive kills: appended whole and flushed, read back without a half line at the end.

A shard has one writer, a process that made the file; another process never adds to it.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from streamvln_gym.errors import EvaluationError

EPISODES, TIMINGS = "episodes", "timings"
_MOST_SHARDS = 100_000


class Line(NamedTuple):
    """A line of a shard.

    Attributes:
        value: what it says.
        raw: its bytes, with the line end.
    """

    value: dict[str, Any]
    raw: bytes


def encode(value: Mapping[str, Any]) -> bytes:
    """A line; an infinite distance becomes the string "inf" (JSON has none), as in `records`."""
    clean = {k: "inf" if isinstance(v, float) and math.isinf(v) else v for k, v in value.items()}
    return (json.dumps(clean, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n").encode()


def decode(raw: bytes) -> dict[str, Any]:
    """What `encode` wrote.

    Raises:
        ValueError: it is no JSON object.
    """
    value = json.loads(raw)
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, got {type(value).__name__}")
    return {k: math.inf if v == "inf" else v for k, v in value.items()}


class ShardWriter:
    """One worker's results: an episode's timing first, then its record, which makes it finished.

    Args:
        folder: of all shards.
        worker: whose; a number is added, so that no worker writes into a file that another one began.

    Attributes:
        name: of the worker with that number, as in the files' names.
    """

    def __init__(self, folder: Path, worker: str) -> None:
        self._folder = folder
        for number in range(_MOST_SHARDS):
            self.name = f"{worker}-{number}"
            try:
                self._episodes = _create(folder / f"{EPISODES}-{self.name}.jsonl")
                break
            except FileExistsError:
                continue
        self._timings = _create(folder / f"{TIMINGS}-{self.name}.jsonl")

    def append(self, record: bytes, timing: bytes) -> None:
        """Adds an episode; when this returns, it is on the disk.

        Raises:
            EvaluationError: the disk is full, or the file cannot be written.
        """
        try:
            for handle, raw in ((self._timings, timing), (self._episodes, record)):
                _append(handle, raw)
        except OSError as error:
            raise cannot_write(self._folder, error) from error

    def close(self) -> None:
        """Closes the files."""
        os.close(self._timings)
        os.close(self._episodes)


def read_shard(path: Path, cut: bool = True) -> list[Line]:
    """The whole lines of a shard.

    Args:
        path: the file.
        cut: whether a last line without its end (its writer was killed) is cut off the file. False while its writer
            may be writing that very line.

    Raises:
        EvaluationError: a line is no record; the message names file, line and remedy.
    """
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if cut and whole < len(content):
        os.truncate(path, whole)
    lines = []
    for number, raw in enumerate(content[:whole].splitlines(keepends=True), start=1):
        try:
            value = decode(raw)
            value["key"]
        except (ValueError, KeyError) as error:
            raise EvaluationError(
                f"line {number} of {path} is not a result ({error!r}): something else wrote into this file, or the "
                f"disk is failing. Remove that line (`sed -i {number}d {path}`) and run the same command again: its "
                "episode is then played again"
            ) from error
        lines.append(Line(value, raw))
    return lines


def cannot_write(folder: Path, error: OSError) -> EvaluationError:
    """The error for a folder that takes no more."""
    reason, remedy = str(error), "make it writable"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        reason, remedy = "the disk is full", "make room"
    return EvaluationError(
        f"cannot write into {folder}: {reason}. The finished episodes are kept: {remedy} and run the same command "
        "again to go on"
    )


def _create(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o644)


def _append(handle: int, raw: bytes) -> None:
    """Adds a line whole, or not at all."""
    size = os.fstat(handle).st_size
    try:
        if os.write(handle, raw) != len(raw):  # a disk that fills up takes a part
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(handle)
    except OSError:
        os.ftruncate(handle, size)
        raise
