"""The table of docs/benchmark.md, from finished evaluations of its variants.

    python benchmarks/ablation_table.py NAME=FOLDER [NAME=FOLDER ...]

FOLDER is one that `streamvln-gym evaluate` wrote. The first variant is what the others are compared with, episode by
episode. Prints Markdown: metrics with 95 % intervals (bootstrap over scenes), success where memory is needed and where
not, the longest context in tokens, and the medians of milliseconds per model call within a window and at its start.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from streamvln_gym.errors import EvaluationError
from streamvln_gym.evaluation import compare
from streamvln_gym.evaluation.comparison import SUBSETS, PairedMetric
from streamvln_gym.evaluation.run_folder import read_run
from streamvln_gym.evaluation.summary import estimates

COLUMNS = ("spl", "navigation_error", "oracle_success", "ndtw", "sdtw")
HEADER = (
    "| variant | SR % | SPL | NE (m) | OS | nDTW | SDTW | SR %, memory needed | SR %, not needed | tokens "
    "| ms in a window / at its start |"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="+", metavar="NAME=FOLDER")
    options = parser.parse_args()
    folders: dict[str, Path] = {}
    for given in options.variants:
        name, equals, folder = given.partition("=")
        if not equals or not name or not folder:
            parser.error(f"expected NAME=FOLDER, got {given!r}")
        folders[name] = Path(folder)
    try:
        lines = list(table(folders))
    except EvaluationError as error:
        raise SystemExit(f"error: {error}") from error
    print("\n".join(lines))


def table(folders: dict[str, Path]) -> Iterator[str]:
    """The lines of both tables."""
    yield HEADER
    yield "|---" * (HEADER.count("|") - 1) + "|"
    for name, folder in folders.items():
        yield row(name, folder)
    first, *others = folders
    if not others:
        return
    yield ""
    yield f"| SR against {first}, points | all | memory needed | not needed | McNemar's p |"
    yield "|---|---|---|---|---|"
    for name in others:
        found = compare(folders[first], folders[name])
        subsets = (found.success_by_memory.get(subset) for subset in SUBSETS)
        gains = " | ".join(gain(part) for part in (found.metrics["success"], *subsets))
        yield f"| {name} | {gains} | {found.p_value:.2g} |"


def row(name: str, folder: Path) -> str:
    """A variant's line of the first table."""
    records = read_run(folder).records
    metrics = estimates(records)
    cells = [
        percent(metrics["success"]),
        *(cell(*(metrics[column][end] for end in ("mean", "low", "high"))) for column in COLUMNS),
    ]
    for needed in (True, False):
        chosen = [record for record in records if bool(record.get("needs_memory")) == needed]
        cells.append(f"{percent(estimates(chosen)['success'])} ({len(chosen)})" if chosen else "-")
    return f"| {name} | " + " | ".join([*cells, *calls(folder)]) + " |"


def calls(folder: Path) -> tuple[str, str]:
    """The longest context, and the medians of the calls' milliseconds."""
    lines = (folder / "timings.jsonl").read_text(encoding="utf-8").splitlines()
    made = [call for line in lines for call in json.loads(line)["calls"]]
    if not made:
        return "-", "-"
    within, at_start = ([ms for _, ms, _, _, start in made if start == wanted] for wanted in (False, True))
    speed = " / ".join(f"{median(times):.0f}" if times else "-" for times in (within, at_start))
    return f"{max(length for _, _, length, _, _ in made):,}", speed


def cell(mean: float, low: float | None, high: float | None, form: str = ".2f", factor: float = 1.0) -> str:
    """A figure with its interval, where it has one."""
    text = format(factor * mean, form)
    return text if low is None or high is None else f"{text} [{factor * low:{form}}, {factor * high:{form}}]"


def percent(found: dict[str, Any]) -> str:
    return cell(found["mean"], found["low"], found["high"], ".1f", 100.0)


def gain(found: PairedMetric | None) -> str:
    return "-" if found is None else cell(found.difference, found.low, found.high, "+.1f", 100.0)


if __name__ == "__main__":
    main()
