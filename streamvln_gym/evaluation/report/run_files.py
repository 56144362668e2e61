"""Reads a run for the report, finished or not; nothing is written, since workers may be at it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamvln_gym.errors import EvaluationError
from streamvln_gym.evaluation.line_check import record_problem, timing_problem
from streamvln_gym.evaluation.run_folder import SHARDS, read_run, read_run_file
from streamvln_gym.evaluation.shards import EPISODES, TIMINGS, decode

Record = Mapping[str, Any]
Key = tuple[str, str, str]
"""Scene, episode and instruction of a record, as text."""
_NEEDED = ("key", "scene_id", "episode_id", "instruction", "needs_memory", "failure", "reference_path", "steps")


@dataclass(frozen=True)
class ReportedRun:
    """What a run has so far.

    Attributes:
        identity: agent, checkpoint, dataset, split, simulator, settings, code version, ...
        fingerprint: of the identity.
        planned: episodes that the run is to play.
        created: ISO time at which it began.
        records: one per finished episode, in the dataset's order (while the run goes on: by scene and episode).
        timings: what each episode's model calls took, by the record's key; those that are there.
        merged: whether the run has been closed.
    """

    identity: Mapping[str, Any]
    fingerprint: str
    planned: int
    created: str
    records: tuple[Record, ...]
    timings: Mapping[Key, Mapping[str, Any]]
    merged: bool

    @property
    def finished(self) -> bool:
        """Whether every planned episode has been played."""
        return len(self.records) >= self.planned


def read_reported_run(folder: Path) -> ReportedRun:
    """Reads a run's folder.

    Raises:
        EvaluationError: there is no run, nothing has been played yet, or a file is damaged, of another run or written
            by another version of the package.
    """
    about = read_run_file(folder)
    if not isinstance(about["identity"], dict):
        raise EvaluationError(f"run.json in {folder} does not say what was evaluated: evaluate into another folder")
    merged = (folder / f"{EPISODES}.jsonl").exists()
    records = read_run(folder).records if merged else _unfinished(folder, about["fingerprint"])
    if not records:
        raise EvaluationError(
            f"the run {folder} has no finished episode yet: wait for the first one, or run its command again"
        )
    for record in records:
        missing = [name for name in _NEEDED if name not in record]
        if missing:
            raise EvaluationError(
                f"the result of episode {record.get('episode_id')!r} in {folder} has no {', '.join(missing)}: it was "
                "written by another version of this package. Evaluate again into another folder"
            )
    return ReportedRun(
        about["identity"],
        str(about["fingerprint"]),
        about["episodes"],
        str(about.get("created", "")),
        tuple(records),
        _timings(folder),
        merged,
    )


def key_of(line: Mapping[str, Any]) -> Key:
    """A record's or a timing's key."""
    scene, episode, instruction = line["key"]
    return str(scene), str(episode), str(instruction)


def _unfinished(folder: Path, fingerprint: str) -> list[Record]:
    """The records of the shards, each episode once."""
    records: dict[Key, Record] = {}
    for path, number, record in _lines(folder, EPISODES):
        if record.get("fingerprint") != fingerprint:
            raise EvaluationError(
                f"line {number} of {path} is of another evaluation (fingerprint {record.get('fingerprint')!r}, but "
                f"this one has {fingerprint!r}): move that file out of the folder"
            )
        records.setdefault(key_of(record), record)
    return [records[key] for key in sorted(records, key=_by_number)]


def _timings(folder: Path) -> dict[Key, Mapping[str, Any]]:
    return {key_of(timing): timing for _, _, timing in _lines(folder, TIMINGS) if "calls" in timing}


def _lines(folder: Path, name: str) -> Iterator[tuple[Path, int, dict[str, Any]]]:
    """File, number and content of every line of the merged file, or of the shards while there is none.

    A last line without its end is still being written, and left out.
    """
    merged = folder / f"{name}.jsonl"
    for path in [merged] if merged.exists() else sorted((folder / SHARDS).glob(f"{name}-*.jsonl")):
        for number, raw in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
            try:
                line = decode(raw)
                key_of(line)
                problem = record_problem(line) if name == EPISODES else timing_problem(line)
            except (ValueError, KeyError, TypeError) as error:
                problem = repr(error)
            if problem:
                raise EvaluationError(
                    f"line {number} of {path} is not a result ({problem}): remove that line and run the evaluation's "
                    "command again, which plays what is missing"
                )
            yield path, number, line


def _by_number(key: Key) -> tuple[str, int, str, str]:
    """Sorts episode 9 before episode 10."""
    scene, episode, instruction = key
    return scene, int(episode) if episode.isdigit() else -1, episode, instruction
