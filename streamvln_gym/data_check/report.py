"""What `streamvln-gym data check` found, as data and as text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]
_ORDER = {"error": 0, "warning": 1, "note": 2}
_EXAMPLES = 5


@dataclass(frozen=True)
class DataProblem:
    """One finding.

    Attributes:
        severity: "error": it cannot be played, or numbers would be wrong; "warning": look at it; "note": good to know.
        kind: a fixed name for programs, e.g. "truncated" or "missing scans".
        where: file or folder.
        what: what is wrong.
        remedy: what to do.
    """

    severity: Severity
    kind: str
    where: str
    what: str
    remedy: str


@dataclass
class FileSummary:
    """What an episode file holds.

    Attributes:
        path: the file.
        dataset: "r2r", ..., "" if it is none of those known by name.
        split: by its name.
        role: "guide", "follower" or "".
        episodes: how many (instructions of a list count each).
        scenes: their ids.
        languages: episodes by language; empty if the file names none.
        with_goals: episodes with a goal.
        ground_truth: entries of the file beside it, None without one.
        version: the release that it seems to be, "" if nothing says so.
        version_reason: why.
        readable: whether `VLNCEDataset.load` takes it.
    """

    path: str
    dataset: str
    split: str
    role: str = ""
    episodes: int = 0
    scenes: list[str] = field(default_factory=list)
    languages: dict[str, int] = field(default_factory=dict)
    with_goals: int = 0
    ground_truth: int | None = None
    version: str = ""
    version_reason: str = ""
    readable: bool = True


@dataclass
class DataReport:
    """The whole: files and findings.

    Attributes:
        root: what was checked.
        files: the episode files found.
        problems: the findings, errors first.
    """

    root: str
    files: list[FileSummary]
    problems: list[DataProblem]

    def __post_init__(self) -> None:
        self.problems = sorted(self.problems, key=lambda problem: _ORDER[problem.severity])

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not any(problem.severity == "error" for problem in self.problems)

    def to_json(self) -> dict[str, Any]:
        """The report for `json.dumps`."""
        return {"root": self.root, "ok": self.ok, **{key: asdict(self)[key] for key in ("files", "problems")}}

    def lines(self) -> list[str]:
        """The report for people."""
        text = [_file_line(file) for file in self.files] or ["no episode files"]
        for problem in self.problems:
            text += ["", f"{problem.severity}: {problem.where}", f"  {problem.what}", f"  -> {problem.remedy}"]
        counts = {name: sum(problem.severity == name for problem in self.problems) for name in _ORDER}
        return [*text, "", ", ".join(f"{count} {name}{'s' * (count != 1)}" for name, count in counts.items())]


class Tally:
    """Counts a kind of problem over many episodes and remembers a few of them."""

    def __init__(self) -> None:
        self._found: dict[tuple[Severity, str, str, str], list[str]] = {}

    def add(self, severity: Severity, kind: str, what: str, remedy: str, example: str) -> None:
        """An episode (or other thing), named by `example`, has the problem."""
        self._found.setdefault((severity, kind, what, remedy), []).append(example)

    def problems(self, where: str, of: int) -> list[DataProblem]:
        """One finding a kind; `of` is the number of episodes."""
        return [
            DataProblem(severity, kind, where, f"{what}: {some(names)} ({len(names)} of {of:,})", remedy)
            for (severity, kind, what, remedy), names in self._found.items()
        ]

    def count(self, kind: str) -> int:
        """How often a kind was added."""
        return sum(len(names) for key, names in self._found.items() if key[1] == kind)


def some(names: Iterable[str]) -> str:
    """The first few of many names."""
    names = list(names)
    return ", ".join(names[:_EXAMPLES]) + (", ..." if len(names) > _EXAMPLES else "")


def _file_line(file: FileSummary) -> str:
    name = " ".join(part for part in (file.dataset or "(unknown dataset)", file.split, file.role) if part)
    if not file.readable and not file.episodes:
        return f"{name}: {file.path}: cannot be read"
    languages = f", {' '.join(f'{language} {count:,}' for language, count in file.languages.items())}"
    truth = "no ground truth" if file.ground_truth is None else f"ground truth of {file.ground_truth:,}"
    version = f", {file.version} ({file.version_reason})" if file.version else ""
    return (
        f"{name}: {file.path}: {file.episodes:,} episodes in {len(file.scenes)} scenes"
        f"{languages if file.languages else ''}, {file.with_goals:,} with goals, {truth}{version}"
    )
