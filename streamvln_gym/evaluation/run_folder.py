"""A run's folder: who may write into it, what is finished, and the merge of all shards.

RUN/
  run.json                 identity, fingerprint, number of episodes; written first
  shards/                  append-only, see `shards`
  episodes.jsonl           all results in the dataset's order; written at the end, atomically
  timings.jsonl            likewise; what may differ from run to run
  summary.json             see `summary`
  videos/<episode_id>.mp4  see `video_file`
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from streamvln_gym.errors import EvaluationError
from streamvln_gym.evaluation.identity import changes, fingerprint_of
from streamvln_gym.evaluation.line_check import record_problem
from streamvln_gym.evaluation.shards import EPISODES, TIMINGS, Line, cannot_write, decode, read_shard
from streamvln_gym.video import film_name
from streamvln_gym.whole_writes import write_whole

RUN = "run.json"
SUMMARY = "summary.json"
SHARDS = "shards"
VIDEOS = "videos"
_LOCK = ".lock"


@dataclass(frozen=True)
class Run:
    """A finished run, as it is read back.

    Attributes:
        folder: where it lies.
        identity: what it is of, see `identity.identity_of`.
        fingerprint: of the identity.
        records: one per episode, in the dataset's order.
    """

    folder: Path
    identity: dict[str, Any]
    fingerprint: str
    records: list[dict[str, Any]]


class RunFolder:
    """The folder of a run that is being played.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shards = path / SHARDS

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps every other evaluation out of the folder, which is made if need be.

        Raises:
            EvaluationError: another evaluation is writing into it, or it cannot be written.
        """
        lock = FileLock(self.path / _LOCK)
        try:
            self.shards.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout as error:
            raise EvaluationError(
                f"another evaluation is writing into {self.path}: wait for its end, or give this one another folder "
                "with --out"
            ) from error
        except OSError as error:
            raise EvaluationError(
                f"cannot write into {self.path}: {error.strerror}. Give another folder with --out, or make room"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def begin(self, identity: Mapping[str, Any], episodes: int) -> str:
        """Writes run.json, or finds it to be the same run's; the fingerprint.

        Raises:
            EvaluationError: the folder holds another run.
        """
        identity = json.loads(json.dumps(identity))  # as it is read back: lists, not tuples
        fingerprint = fingerprint_of(identity)
        old = read_run_file(self.path) if (self.path / RUN).exists() else None
        if old is not None:
            changed = [
                f"{name} was {before!r} and is now {now!r}"
                for name, (before, now) in changes(old["identity"], identity).items()
            ]
            if old["episodes"] != episodes:
                changed.append(f"it had {old['episodes']} episodes and now there are {episodes}")
            if changed:
                raise EvaluationError(
                    f"{self.path} holds another evaluation: {'; '.join(changed)}. Use its settings to go on with it, "
                    "delete it to begin anew, or give this one another folder with --out"
                )
            return fingerprint
        if any(self.shards.iterdir()):
            raise EvaluationError(
                f"{self.path} has results but no {RUN}, which says what they are of: give another folder with --out"
            )
        created = datetime.now(timezone.utc).isoformat(timespec="seconds")
        run = {"identity": identity, "fingerprint": fingerprint, "episodes": episodes, "created": created}
        self._write(RUN, (json.dumps(run, indent=1, ensure_ascii=False) + "\n").encode())
        return fingerprint

    def finished(self, fingerprint: str, cut: bool = True) -> dict[str, Line]:
        """The finished episodes of all shards, by id.

        Args:
            fingerprint: of the run.
            cut: see `read_shard`; False while workers are playing.

        Raises:
            EvaluationError: a line is damaged or of another run, or two lines of one episode differ.
        """
        found: dict[str, Line] = {}
        origin: dict[str, Path] = {}
        for path in sorted(self.shards.glob(f"{EPISODES}-*.jsonl")):
            for number, line in enumerate(read_shard(path, cut), start=1):
                if line.value.get("fingerprint") != fingerprint:
                    raise EvaluationError(
                        f"line {number} of {path} is of another evaluation (fingerprint "
                        f"{line.value.get('fingerprint')!r}, but this one has {fingerprint!r}): results of two "
                        "evaluations are not mixed. Move that file out of the folder"
                    )
                episode_id = str(line.value["episode_id"])
                if episode_id in found and found[episode_id].raw != line.raw:
                    raise EvaluationError(
                        f"{origin[episode_id]} and {path} have different results of episode {episode_id!r}, though "
                        "they are of one evaluation: was one played on another kind of machine? Remove the file that "
                        "you trust less, and run the same command again"
                    )
                found[episode_id], origin[episode_id] = line, path
        return found

    def merge(self, wanted: Sequence[str], fingerprint: str) -> list[dict[str, Any]]:
        """Writes `episodes.jsonl` and `timings.jsonl`; the records.

        Args:
            wanted: ids of all episodes, in the order of the file.
            fingerprint: of the run.

        Raises:
            EvaluationError: an episode is missing, or as in `finished`.
        """
        found = self.finished(fingerprint)
        missing = [episode_id for episode_id in wanted if episode_id not in found]
        if missing:
            raise EvaluationError(f"{len(missing)} episodes have not been played, the first is {missing[0]!r}")
        timings: dict[str, Line] = {}
        for path in sorted(self.shards.glob(f"{TIMINGS}-*.jsonl")):
            timings |= {str(line.value["key"][1]): line for line in read_shard(path)}
        self._write(f"{EPISODES}.jsonl", b"".join(found[episode_id].raw for episode_id in wanted))
        self._write(f"{TIMINGS}.jsonl", b"".join(timings[e].raw for e in wanted if e in timings))
        return [found[episode_id].value for episode_id in wanted]

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Writes summary.json."""
        self._write(SUMMARY, (json.dumps(summary, indent=1, ensure_ascii=False) + "\n").encode())

    def _write(self, name: str, content: bytes) -> None:
        try:
            write_whole(self.path / name, content)
        except OSError as error:
            raise cannot_write(self.path, error) from error


def video_file(folder: Path, episode_id: str) -> Path:
    """Where a run has an episode's film."""
    return folder / VIDEOS / film_name(episode_id)


def read_run_file(folder: Path) -> dict[str, Any]:
    """What run.json says.

    Raises:
        EvaluationError: there is none, or it is damaged.
    """
    path = folder / RUN
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        run["identity"], run["fingerprint"], run["episodes"]
    except FileNotFoundError as error:
        raise EvaluationError(
            f"{folder} holds no evaluation ({RUN} is missing): name the folder that `streamvln-gym evaluate --out` got"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EvaluationError(
            f"{path} cannot be read ({error!r}): evaluate into another folder, or restore it from a copy"
        ) from error
    return dict(run)


def read_run(folder: str | os.PathLike[str]) -> Run:
    """A finished run.

    Raises:
        EvaluationError: there is none, it is not finished, or a file is damaged.
    """
    folder = Path(folder)
    run = read_run_file(folder)
    path = folder / f"{EPISODES}.jsonl"
    if not path.exists():
        raise EvaluationError(
            f"the evaluation in {folder} is not finished ({path.name} is missing): run its command again to go on"
        )
    records = []
    for number, raw in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            record = decode(raw)
            problem = record_problem(record)
            if record["fingerprint"] != run["fingerprint"]:
                problem = "it is of another evaluation"
        except (ValueError, KeyError) as error:
            problem = repr(error)
        if problem:
            raise EvaluationError(
                f"line {number} of {path} is not a result of this run ({problem}): remove {path.name} and run the "
                "evaluation's command again, which writes it anew from the shards"
            )
        records.append(record)
    if len(records) != run["episodes"]:
        raise EvaluationError(
            f"{path} has {len(records)} results, but the run has {run['episodes']} episodes: remove {path.name} and "
            "run the evaluation's command again, which writes it anew from the shards"
        )
    return Run(folder, run["identity"], run["fingerprint"], records)
