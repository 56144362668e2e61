"""Reads what an evaluation left on disk, finished or not."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamvln_gym.errors import EvaluationError

Key = tuple[str, str, str]
"""Scene, episode and instruction of a record, as text."""


@dataclass(frozen=True)
class Run:
    """An evaluation's results.

    Attributes:
        folder: where they lie.
        identity: agent, checkpoint, dataset, split, simulator, settings, code version, ...
        fingerprint: of the identity; every record carries it.
        planned: episodes that the run is to play.
        created: ISO time at which it began.
        records: one per finished episode, in the dataset's order (while the run goes on: by scene and episode).
        timings: what each episode's model calls took, by the record's key; those that are there.
        merged: whether the records come from the final `episodes.jsonl`.
    """

    folder: Path
    identity: Mapping[str, Any]
    fingerprint: str
    planned: int
    created: str
    records: tuple[Mapping[str, Any], ...]
    timings: Mapping[Key, Mapping[str, Any]]
    merged: bool

    @property
    def finished(self) -> bool:
        """Whether every planned episode has been played."""
        return len(self.records) >= self.planned


def key_of(line: Mapping[str, Any]) -> Key:
    """A record's or a timing's key; episodes of a file may be numbers or text."""
    scene, episode, instruction = line["key"]
    return str(scene), str(episode), str(instruction)


def read_run(folder: Path) -> Run:
    """Reads a run's folder.

    Raises:
        EvaluationError: there is no run, nothing has been played yet, or a file is corrupt or of another run.
    """
    about = _read_about(folder)
    merged = folder / "episodes.jsonl"
    files = [merged] if merged.exists() else sorted((folder / "shards").glob("episodes-*.jsonl"))
    records: dict[Key, Mapping[str, Any]] = {}
    for path in files:
        for number, record in _lines(path, ("fingerprint", "key", "episode_id", "scene_id", "instruction", "steps")):
            if record["fingerprint"] != about["fingerprint"]:
                raise EvaluationError(
                    f"line {number} of {path} belongs to another run (its fingerprint is {record['fingerprint']!r}, "
                    f"run.json says {about['fingerprint']!r}): results of different settings must not be mixed. Move "
                    "the file away, or evaluate into a folder of its own with --out."
                )
            records.setdefault(key_of(record), record)
    if not records:
        raise EvaluationError(
            f"the run {folder} has no finished episode yet: wait for the first, or start it again with "
            f"`streamvln-gym evaluate --out {folder}`"
        )
    found = list(records.values()) if merged.exists() else sorted(records.values(), key=_by_number)
    return Run(
        folder,
        about["identity"],
        about["fingerprint"],
        about["episodes"],
        str(about.get("created", "")),
        tuple(found),
        _read_timings(folder),
        merged.exists(),
    )


def _read_about(folder: Path) -> dict[str, Any]:
    path = folder / "run.json"
    if not folder.is_dir() or not path.is_file():
        missing = f"{path} is missing" if folder.is_dir() else f"{folder} is not a folder"
        raise EvaluationError(
            f"there is no evaluation in {folder}: {missing}. Name the folder that `streamvln-gym evaluate --out "
            "FOLDER` wrote."
        )
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        fits = isinstance(about["identity"], dict) and isinstance(about["episodes"], int) and about["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EvaluationError(f"cannot read {path}: {error!r}. {_ANOTHER_VERSION}") from error
    if not fits:
        raise EvaluationError(
            f"{path} does not say what was evaluated (identity, fingerprint, episodes). {_ANOTHER_VERSION}"
        )
    return about


_ANOTHER_VERSION = (
    "The file is damaged or was written by another version of this package: put back a copy, or evaluate again into a "
    "new folder."
)


def _lines(path: Path, wanted: tuple[str, ...]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The numbered records of a file; a last line without its end is still being written and left out."""
    try:
        *lines, _ = path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        message = f"cannot read {path}: {error}. Remove the file and evaluate again; the other files are kept."
        raise EvaluationError(message) from error
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            missing = [name for name in wanted if name not in record]
            if "key" not in missing:
                key_of(record)
        except (ValueError, TypeError) as error:
            raise EvaluationError(
                f"line {number} of {path} is not a record ({error}): remove this line and run the same `streamvln-gym "
                "evaluate` again, which plays the missing episode"
            ) from error
        if missing:
            raise EvaluationError(
                f"line {number} of {path} has no {', '.join(map(repr, missing))}: it was written by another version of "
                "this package or is damaged. Evaluate again into a new folder."
            )
        yield number, {name: math.inf if value == "inf" else value for name, value in record.items()}


def _read_timings(folder: Path) -> dict[Key, Mapping[str, Any]]:
    merged = folder / "timings.jsonl"
    files = [merged] if merged.exists() else sorted((folder / "shards").glob("timings-*.jsonl"))
    return {key_of(timing): timing for path in files for _, timing in _lines(path, ("key", "calls"))}


def _by_number(record: Mapping[str, Any]) -> tuple[str, int, str, str]:
    """Sorts episode 9 before episode 10."""
    scene, episode, instruction = key_of(record)
    return scene, int(episode) if episode.isdigit() else -1, episode, instruction
