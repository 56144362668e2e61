"""Two runs, episode by episode: which is better, and could it be chance?"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from streamvln_gym.errors import EvaluationError
from streamvln_gym.evaluation.identity import differences
from streamvln_gym.evaluation.run_folder import Run, read_run
from streamvln_gym.evaluation.summary import draw_by
from streamvln_gym.metrics import METRICS, count_path_references
from streamvln_gym.statistics import mcnemar, paired_difference

Record = Mapping[str, Any]
_SAME = ("instruction", "start", "goal", "reference_path", "via")
"""What two records of one episode must agree in, to be compared; and the direction at the start."""
SUBSETS = ("memory needed", "no memory needed")


@dataclass(frozen=True)
class PairedMetric:
    """A metric in two runs, over the episodes in which both have a finite value.

    Attributes:
        first, second: means.
        difference: of the means, second - first.
        low, high: its 95 % interval, see `statistics.paired_difference`; None where there are not two of what is drawn.
        episodes: how many.
        drawn: what the bootstrap draws, "scenes" or "episodes".
    """

    first: float
    second: float
    difference: float
    low: float | None
    high: float | None
    episodes: int
    drawn: str


@dataclass(frozen=True)
class Comparison:
    """What `compare` finds.

    Attributes:
        first, second: the runs' folders.
        episodes: common ones.
        only_first, only_second: episodes that one run alone has; left out.
        unlike: episodes under one key that are not the same in the two runs; left out.
        settings: what differs between the runs' identities, both values by name.
        metrics: by name.
        success_by_memory: success in the episodes that need memory and in the others (`SUBSETS`), where there are both.
        first_alone, second_alone: episodes that succeeded in one run alone; None without goals.
        p_value: of McNemar's exact test, that both succeed equally often; None without goals.
        path_reference: of the first and the second run, the compared episodes by what nDTW, SDTW and CLS are against,
            see `metrics.count_path_references`.
        unlike_reference: compared episodes in which that is not the same.
    """

    first: str
    second: str
    episodes: int
    only_first: int
    only_second: int
    unlike: int
    settings: dict[str, tuple[Any, Any]]
    metrics: dict[str, PairedMetric]
    success_by_memory: dict[str, PairedMetric]
    first_alone: int | None
    second_alone: int | None
    p_value: float | None
    path_reference: tuple[dict[str, int], dict[str, int]]
    unlike_reference: int

    def to_json(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def compare(first: str | os.PathLike[str], second: str | os.PathLike[str], seed: int = 0) -> Comparison:
    """Compares two finished runs over the episodes that both have played.

    Args:
        first: a run's folder.
        second: another one's.
        seed: of the bootstrap.

    Raises:
        EvaluationError: a run is not there, not finished or damaged; or they have no episode in common.
    """
    one, other = read_run(first), read_run(second)
    ours = {_key(record): record for record in one.records}
    theirs = {_key(record): record for record in other.records}
    common = [key for key in ours if key in theirs]
    like = [key for key in common if _same(ours[key], theirs[key])]
    if not like:
        raise EvaluationError(
            f"{one.folder} ({_data(one)}) and {other.folder} ({_data(other)}) have no episode in common: compare runs "
            "of the same data"
        )
    mine, others = [ours[key] for key in like], [theirs[key] for key in like]
    only_first = only_second = p_value = None
    rated = [pair for pair in zip(mine, others, strict=True) if all("success" in record for record in pair)]
    if rated:
        successes = [np.array([pair[k]["success"] for pair in rated]) for k in (0, 1)]
        only_first, only_second = (int((a > b).sum()) for a, b in (successes, successes[::-1]))
        p_value = mcnemar(*successes)
    return Comparison(
        str(one.folder),
        str(other.folder),
        len(like),
        len(ours) - len(common),
        len(theirs) - len(common),
        len(common) - len(like),
        differences(one.identity, other.identity),
        {name: found for name in METRICS if (found := _paired(mine, others, name, seed))},
        _by_memory(mine, others, seed),
        only_first,
        only_second,
        p_value,
        (count_path_references(mine), count_path_references(others)),
        sum(count_path_references([a]) != count_path_references([b]) for a, b in zip(mine, others, strict=True)),
    )


def _key(record: Record) -> tuple[Any, ...]:
    return tuple(record["key"])


def _same(one: Record, other: Record) -> bool:
    directions = [record["headings"][0] for record in (one, other) if record.get("headings")]  # old runs have none
    return all(one.get(name) == other.get(name) for name in _SAME) and len(set(directions)) < 2


def _data(run: Run) -> str:
    return f"{run.identity['dataset']}/{run.identity['split']}"


def _by_memory(first: Sequence[Record], second: Sequence[Record], seed: int) -> dict[str, PairedMetric]:
    """Success in the episodes that need memory, and in the others; empty unless there are both."""
    needed = [bool(record.get("needs_memory")) for record in first]
    if len(set(needed)) < 2:
        return {}
    found = {}
    for name, wanted in zip(SUBSETS, (True, False), strict=True):
        one, other = (
            [record for record, need in zip(run, needed, strict=True) if need == wanted] for run in (first, second)
        )
        paired = _paired(one, other, "success", seed)
        if paired is not None:
            found[name] = paired
    return found


def _paired(first: Sequence[Record], second: Sequence[Record], name: str, seed: int) -> PairedMetric | None:
    """A metric of the same episodes in two runs; None if they do not have it."""
    kept = [
        (a, b)
        for a, b in zip(first, second, strict=True)
        if math.isfinite(a.get(name, math.nan)) and math.isfinite(b.get(name, math.nan))
    ]
    if not kept:
        return None
    one, other = ([float(pair[k][name]) for pair in kept] for k in (0, 1))
    drawn, groups = draw_by([a for a, _ in kept])
    low = high = None
    if len(set(groups)) > 1:
        _, low, high = paired_difference(other, one, groups, seed=seed)
    means = float(np.mean(one)), float(np.mean(other))
    return PairedMetric(*means, float(np.mean(np.subtract(other, one))), low, high, len(kept), drawn)
