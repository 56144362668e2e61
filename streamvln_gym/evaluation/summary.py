"""What a run's records say together: means with intervals, by scene, length, memory, language; kinds of failure."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from streamvln_gym.evaluation.failures import FAILURE_KINDS
from streamvln_gym.geometry import path_length
from streamvln_gym.metrics import METRICS, UNKNOWN, count_path_references, summarize
from streamvln_gym.statistics import bootstrap_mean, wilson_interval

Record = Mapping[str, Any]

LENGTHS = (0.0, 5.0, 10.0, 15.0, 20.0, 30.0, math.inf)
"""Metres of the described path between which episodes are counted together."""


def summarize_run(records: Sequence[Record], seed: int = 0) -> dict[str, Any]:
    """The content of summary.json.

    Args:
        records: one per episode, at least one.
        seed: of the bootstrap.

    Returns:
        `episodes`, `scenes`, `unreachable` (goals; their navigation error is no part of its mean); `metrics`: see
        `estimates`; `path_reference`: episodes by what nDTW, SDTW and CLS compare with; `failures`: episodes by kind;
        `by_scene`, `by_length` (of episodes with a described path), `by_memory`: see `subset`, the kind of an episode
        that needs no memory being "none". `by_language`, likewise, where there are several; `UNKNOWN` is the language
        of records that do not say, as of runs begun by an older release. `note` where the agent has one.
    """
    means = summarize(records)
    found: dict[str, Any] = {
        "episodes": len(records),
        "scenes": len({record["scene_id"] for record in records}),
        "unreachable": int(means["unreachable"]),
        "metrics": estimates(records, seed),
        "path_reference": count_path_references(records),
        "failures": {kind: sum(record.get("failure") == kind for record in records) for kind in FAILURE_KINDS},
        "by_scene": _split(records, lambda record: record["scene_id"]),
        "by_length": _split(records, length_class),
        "by_memory": _split(records, lambda record: record["needs_memory"] or "none"),
    }
    if len({record["language"] for record in records if record.get("language")}) > 1:
        found["by_language"] = _split(records, lambda record: record.get("language") or UNKNOWN)
    if "note" in records[0]:
        found["note"] = records[0]["note"]
    return found


def estimates(records: Sequence[Record], seed: int = 0) -> dict[str, dict[str, Any]]:
    """The metrics' means with 95 % bootstrap intervals, see `statistics.bootstrap_mean`.

    Whole scenes are drawn; of a single scene its episodes are, which `drawn` says.

    Returns:
        By metric `mean`, `low`, `high`, `episodes` (those with a finite value) and `drawn`; the ends are None where
        there are not two of what is drawn.
    """
    found = {}
    for name in METRICS:
        chosen = [record for record in records if name in record and math.isfinite(record[name])]
        if not chosen:
            continue
        drawn, groups = draw_by(chosen)
        values = [float(record[name]) for record in chosen]
        low = high = None
        if len(set(groups)) > 1:
            _, low, high = bootstrap_mean(values, groups, seed=seed)
        mean = float(np.mean(values))
        found[name] = {"mean": mean, "low": low, "high": high, "episodes": len(values), "drawn": drawn}
    return found


def draw_by(records: Sequence[Record]) -> tuple[str, list[Hashable]]:
    """What a bootstrap over these records draws ("scenes" or "episodes"), and each record's."""
    scenes: list[Hashable] = [record["scene_id"] for record in records]
    return ("scenes", scenes) if len(set(scenes)) > 1 else ("episodes", list(range(len(records))))


def subset(records: Sequence[Record]) -> dict[str, Any]:
    """Means of some episodes (see `metrics.summarize`), with Wilson's 95 % interval of the success rate.

    `rated` counts those with a goal, of which success and SPL are means.
    """
    means: dict[str, Any] = {name: "inf" if math.isinf(value) else value for name, value in summarize(records).items()}
    rated = [record["success"] for record in records if "success" in record]
    if rated:
        rate = wilson_interval(round(sum(rated)), len(rated))
        means |= {"rated": len(rated), "success_low": rate.low, "success_high": rate.high}
    return means


def length_class(record: Record) -> str | None:
    """The class of a described path's length, such as "5-10 m"; None without a path (goals alone)."""
    if not record["reference_path"]:
        return None
    length = path_length(record["reference_path"])
    for low, high in pairwise(LENGTHS):
        if length < high:
            return f"{low:g}-{high:g} m" if math.isfinite(high) else f"{low:g} m and more"
    raise ValueError(f"the path of episode {record['episode_id']!r} has a length of {length} m")


def _split(records: Sequence[Record], kind: Callable[[Record], str | None]) -> dict[str, dict[str, Any]]:
    """The records by kind, summarised; kinds in natural order. Records of no kind (None) are left out."""
    parts: dict[str, list[Record]] = {}
    for record in records:
        name = kind(record)
        if name is not None:
            parts.setdefault(name, []).append(record)
    return {name: subset(parts[name]) for name in sorted(parts, key=_natural)}


def _natural(name: str) -> tuple[float, str]:
    """Sorts "5-10 m" before "10-15 m"."""
    number = name.split("-")[0].split(" ")[0]
    return (float(number), name) if number.isdigit() else (math.inf, name)
