"""The report's figures: means with intervals, and the same for parts of the episodes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamvln_gym.episodes import scene_name
from streamvln_gym.geometry import path_length
from streamvln_gym.statistics import Estimate, bootstrap_mean, wilson_interval

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Measure:
    """How a metric is called and written.

    Attributes:
        short: the field's abbreviation, for tables.
        long: its name.
        form: how a value is formatted.
        unit: behind the value, "" if it has none.
        percent: whether it is a rate that people read as per cent.
    """

    short: str
    long: str
    form: str
    unit: str = ""
    percent: bool = False

    def number(self, value: float | None) -> str:
        """A value as people write it, without what it is counted in."""
        if value is None:
            return "–"
        return self.form.format(100.0 * value if self.percent else value) if math.isfinite(value) else "∞"

    def text(self, value: float | None) -> str:
        """A value as people write it."""
        return self.number(value) + ("\u202f%" if self.percent and value is not None else "")


MEASURES = {
    "success": Measure("SR", "Success rate", "{:.1f}", percent=True),
    "spl": Measure("SPL", "Success weighted by path length", "{:.3f}"),
    "oracle_success": Measure("OS", "Oracle success", "{:.1f}", percent=True),
    "navigation_error": Measure("NE", "Navigation error", "{:.2f}", "m"),
    "ndtw": Measure("nDTW", "Normalised dynamic time warping", "{:.3f}"),
    "sdtw": Measure("SDTW", "Success weighted by nDTW", "{:.3f}"),
    "cls": Measure("CLS", "Coverage weighted by length score", "{:.3f}"),
    "path_length": Measure("Path", "Path length", "{:.2f}", "m"),
    "steps": Measure("Steps", "Actions per episode", "{:.1f}"),
    "collisions": Measure("Coll.", "Blocked steps per episode", "{:.1f}"),
}
"""Every metric of `metrics.METRICS`, the ones that people ask for first at the front."""


@dataclass(frozen=True)
class Row:
    """A metric over all episodes.

    Attributes:
        measure: what it is.
        mean: over the episodes that have a finite value.
        interval: 95 %, by drawing whole scenes; None where there are less than two scenes.
        episodes: how many have a finite value.
        unreachable: how many are infinite (a goal that cannot be reached).
    """

    measure: Measure
    mean: float
    interval: Estimate | None
    episodes: int
    unreachable: int


def summary_rows(records: Sequence[Record]) -> dict[str, Row]:
    """One row for every metric that occurs, in the order of `MEASURES`."""
    rows = {}
    for name, measure in MEASURES.items():
        having = [record for record in records if record.get(name) is not None]
        finite = [record for record in having if math.isfinite(record[name])]
        if not having:
            continue
        values = [float(record[name]) for record in finite]
        scenes = [record["scene_id"] for record in finite]
        interval = bootstrap_mean(values, scenes) if len(set(scenes)) > 1 else None
        mean = float(np.mean(values)) if values else math.inf
        rows[name] = Row(measure, mean, interval, len(finite), len(having) - len(finite))
    return rows


@dataclass(frozen=True)
class Part:
    """Some of the episodes.

    Attributes:
        name: what they have in common.
        episodes: how many.
        success: their success rate with Wilson's 95 % interval, None without goals.
        means: of the other metrics, by name.
    """

    name: str
    episodes: int
    success: Estimate | None
    means: Mapping[str, float]


def parts(records: Iterable[Record], name: Callable[[Record], str]) -> list[Part]:
    """The episodes in groups, in the order in which their names occur."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(name(record), []).append(record)
    return [_part(label, members) for label, members in groups.items()]


def _part(name: str, members: Sequence[Record]) -> Part:
    judged = [record["success"] for record in members if record.get("success") is not None]
    means = {}
    for metric in ("spl", "navigation_error", "ndtw", "steps"):
        values = [record[metric] for record in members if metric in record and math.isfinite(record[metric])]
        if values:
            means[metric] = float(np.mean(values))
    success = wilson_interval(int(sum(judged)), len(judged)) if judged else None
    return Part(name, len(members), success, means)


def described_length(record: Record) -> float | None:
    """Metres of the path that the instruction describes; None where there is none."""
    path = record.get("reference_path")
    return path_length(path) if path else None


def length_bins(lengths: Sequence[float], most: int = 8) -> list[tuple[float, float]]:
    """Equal bins [low, high) with round edges that hold all lengths, `most` at most."""
    low, high = min(lengths), max(lengths)
    for width in (1.0, 2.0, 2.5, 5.0, 10.0, 20.0, 25.0, 50.0, 100.0, 200.0, 500.0, 1000.0):
        first, last = math.floor(low / width), math.floor(high / width)
        if last - first < most:
            break
    return [(k * width, (k + 1) * width) for k in range(first, last + 1)]


def by_length(records: Sequence[Record]) -> list[tuple[tuple[float, float], Part]]:
    """The episodes by described length: bins (metres) with what happened in them; empty ones left out."""
    measured = [(length, record) for record in records if (length := described_length(record)) is not None]
    if not measured:
        return []
    found = []
    for low, high in length_bins([length for length, _ in measured]):
        members = [record for length, record in measured if low <= length < high]
        if members:
            found.append(((low, high), _part(f"{low:g}–{high:g} m", members)))
    return found


def by_memory(records: Sequence[Record]) -> list[Part]:
    """The episodes that need no memory, and those that need it, by kind; nothing if none needs it."""
    found = parts(sorted(records, key=lambda record: record.get("needs_memory") or ""), _memory)
    return found if len(found) > 1 else []


def by_scene(records: Sequence[Record]) -> list[Part]:
    """The episodes of each scene."""
    return parts(records, lambda record: scene_name(record["scene_id"]))


def _memory(record: Record) -> str:
    return record.get("needs_memory") or "no memory needed"
