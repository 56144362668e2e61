"""Tables of a run and of two runs, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from streamvln_gym.episodes import scene_name
from streamvln_gym.evaluation.comparison import Comparison
from streamvln_gym.metrics import METRICS, SHORT_NAMES, path_reference_note

_SUBSETS = {"by_memory": "memory needed", "by_language": "language", "by_length": "path", "by_scene": "scene"}
_MOST_SCENES = 12


def print_run(summary: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints a run's summary: metrics with intervals, kinds of failure, and the success rate by subset."""
    console = console or Console()
    identity = summary["identity"]
    note = f" ({summary['note']})" if "note" in summary else ""
    title = (
        f"{identity['agent']}{note} on {identity['dataset']}/{identity['split']}, simulator {identity['simulator']}: "
        f"{summary['episodes']} episodes of {summary['scenes']} scenes"
    )
    metrics = summary["metrics"]
    counted = any(found["episodes"] != summary["episodes"] for found in metrics.values())
    table = _table(escape(title), "", "mean", "95 % interval", *(["episodes"] if counted else []))
    for name, found in metrics.items():
        cells = [_number(name, found["mean"]), _interval(name, found["low"], found["high"])]
        table.add_row(SHORT_NAMES[name], *cells, *([str(found["episodes"])] if counted else []))
    console.print(table)
    if note := path_reference_note(summary["path_reference"]):
        console.print(note, soft_wrap=True)
    if summary["unreachable"]:
        console.print(f"{summary['unreachable']} goals could not be reached; NE is the mean over the others.")
    failures = [f"{kind} {count}" for kind, count in summary["failures"].items() if count]
    if failures:
        console.print(f"failures: {', '.join(failures)}")
    for key, heading in _SUBSETS.items():
        parts = summary.get(key, {})  # there is no by_language of a single language
        if len(parts) > 1 and (key != "by_scene" or len(parts) <= _MOST_SCENES):
            _print_subsets(console, heading, parts)


def print_comparison(comparison: Comparison, console: Console | None = None) -> None:
    """Prints what two runs' comparison found."""
    console = console or Console()
    if comparison.settings:
        console.print("The runs differ in:")
        for name, (one, other) in comparison.settings.items():
            console.print(f"  {name}: A {one!r}, B {other!r}", markup=False)
    left_out = {
        f"that only {comparison.first} has": comparison.only_first,
        f"that only {comparison.second} has": comparison.only_second,
        "whose instruction, start, goal or path is not the same in both": comparison.unlike,
    }
    for what, count in left_out.items():
        if count:
            console.print(f"left out: {count} episodes {what}", markup=False)
    table = _table(
        escape(f"{comparison.episodes} episodes; A = {comparison.first}, B = {comparison.second}"),
        "",
        "A",
        "B",
        "B - A",
        "95 % interval",
    )
    rows = []
    for name in METRICS:
        if name in comparison.metrics:
            count = comparison.metrics[name].episodes
            fewer = f" ({count})" if count != comparison.episodes else ""
            rows.append((f"{SHORT_NAMES[name]}{fewer}", name, comparison.metrics[name]))
    for subset, paired in comparison.success_by_memory.items():
        rows.append((f"{SHORT_NAMES['success']}, {subset} ({paired.episodes})", "success", paired))
    for label, name, found in rows:
        sure = found.low is not None and found.high is not None and (found.low > 0 or found.high < 0)
        table.add_row(
            label,
            _number(name, found.first),
            _number(name, found.second),
            f"{found.difference:+.3f}",
            _interval(name, found.low, found.high, "+"),
            style="bold" if sure else None,
        )
    console.print(table)
    for note in _reference_notes(comparison):
        console.print(note, markup=False, soft_wrap=True)
    if comparison.p_value is not None:
        console.print(
            f"A alone succeeded in {comparison.first_alone} episodes, B alone in {comparison.second_alone}: McNemar's "
            f"exact p = {comparison.p_value:.2g} (it takes episodes for independent, which those of one scene are not)"
        )


def _reference_notes(comparison: Comparison) -> list[str]:
    """What the reader of two runs' nDTW, SDTW and CLS has to know, nothing where all have one reference."""
    one, other = comparison.path_reference
    if one == other and len(one) < 2 and not comparison.unlike_reference:
        return []
    listed = [", ".join(f"{name} {count}" for name, count in counts.items()) or "-" for counts in (one, other)]
    notes = [f"nDTW, SDTW and CLS are against (episodes): A {listed[0]}; B {listed[1]}."]
    if comparison.unlike_reference:
        notes.append(
            f"In {comparison.unlike_reference} episodes A and B are measured against different paths: their "
            "differences in nDTW, SDTW and CLS mean nothing there."
        )
    else:
        notes.append("Values against ground truth and against a reference path differ: the means mix the two.")
    return notes


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, box=box.SIMPLE, padding=(0, 1, 0, 0), title_justify="left")
    for k, column in enumerate(columns):
        table.add_column(column, justify="right" if k else "left", no_wrap=True)
    return table


def _print_subsets(console: Console, heading: str, parts: Mapping[str, Mapping[str, Any]]) -> None:
    table = _table("", heading, "episodes", "SR", "95 % interval", "SPL", "NE (m)")
    if not any("success" in means for means in parts.values()):
        return
    for name, means in parts.items():
        shown = escape(scene_name(name) if heading == "scene" else name)
        if "success" not in means:
            table.add_row(shown, f"0 of {means['episodes']}", *["-"] * 4)
            continue
        error = means["navigation_error"]
        all_rated = means["rated"] == means["episodes"]
        table.add_row(
            shown,
            f"{means['episodes']}" if all_rated else f"{means['rated']} of {means['episodes']}",
            f"{means['success']:.3f}",
            _interval("success", means["success_low"], means["success_high"]),
            f"{means['spl']:.3f}",
            error if error == "inf" else f"{error:.2f}",
        )
    console.print(table)


def _number(name: str, value: float) -> str:
    return f"{value:.1f}" if name in ("steps", "collisions") else f"{value:.3f}"


def _interval(name: str, low: float | None, high: float | None, sign: str = "") -> str:
    if low is None or high is None:
        return "-"
    digits = 1 if name in ("steps", "collisions") else 3
    return f"[{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]".replace("[", "\\[")
