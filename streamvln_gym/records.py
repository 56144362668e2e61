"""Results of episodes as JSON lines: added to one by one, read back to go on where a run stopped."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def append_record(path: Path, record: Mapping[str, Any]) -> None:
    """Adds one line to a JSON-lines file; an infinite distance is written as the string "inf" (JSON has none)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    clean = {k: "inf" if isinstance(v, float) and math.isinf(v) else v for k, v in record.items()}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(clean, ensure_ascii=False, allow_nan=False) + "\n")


def read_records(path: Path, identity: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The records of a JSON-lines file by episode id; no file, no records.

    A last line without its end (the run was killed while it wrote) is cut off the file; nothing else is written.

    Args:
        path: the file.
        identity: what every record must agree with (agent, checkpoint, seed, ...).

    Raises:
        ValueError: the file holds results of another run, or a line that is not a record.
    """
    if not path.exists():
        return {}
    raw = path.read_bytes()  # not text: the end may lie within a character
    *lines, unfinished = raw.split(b"\n")
    if unfinished:
        os.truncate(path, len(raw) - len(unfinished))
    records: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line.decode("utf-8"))
            episode_id = record["episode_id"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"line {number} of {path} is not a record ({error}): repair or remove the file") from error
        for key, value in identity.items():
            if record.get(key) != value:
                raise ValueError(
                    f"line {number} of {path} is of a run with {key}={record.get(key)!r}, but this run has {value!r}: "
                    "give this run a file of its own"
                )
        records[episode_id] = {k: math.inf if v == "inf" else v for k, v in record.items()}
    return records
