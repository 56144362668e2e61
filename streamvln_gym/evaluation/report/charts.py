"""The report's plots, each with the numbers that it shows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from streamvln_gym.evaluation.report.canvas import Canvas
from streamvln_gym.evaluation.report.run_files import Record
from streamvln_gym.metrics import SUCCESS_DISTANCE

_FARTHEST = 20.0  # metres: longer navigation errors share a bin
_PANEL = 138  # height of one of two plots below each other
_STEPS = 4  # environment steps of a bin: one action chunk


@dataclass(frozen=True)
class Chart:
    """A plot.

    Attributes:
        title: what it shows.
        pictures: one, or several below each other with one horizontal axis.
        note: how to read it.
        legend: (class of the colour, name) of what is drawn, if there is more than one thing.
        head: the numbers' columns.
        body: the numbers, as text.
    """

    title: str
    pictures: Sequence[Markup]
    note: str
    legend: Sequence[tuple[str, str]]
    head: Sequence[str]
    body: Sequence[Sequence[str]]


def success_by_length(by_length: Mapping[str, Mapping[str, Any]]) -> Chart | None:
    """Success rate over the length of the described path; None without goals.

    Args:
        by_length: of the run's summary, see `summary.summarize_run`.
    """
    rated = {name: part for name, part in by_length.items() if "success" in part}
    if not rated:
        return None
    names = [name.replace(" m and more", "+").removesuffix(" m") for name in rated]
    canvas = Canvas((0.0, len(rated)), (0.0, 100.0), "described path (m)", "success rate (%)", names=names)
    body = []
    for place, (name, part) in enumerate(rated.items()):
        low, value, high = (100.0 * part[key] for key in ("success_low", "success", "success_high"))
        episodes = str(part["episodes"])
        hint = f"{name}: {value:.0f} % [{low:.0f}, {high:.0f}] of {episodes} episodes"
        canvas.interval(place + 0.5, low, value, high, hint)
        body.append((name, episodes, f"{value:.1f} %", f"[{low:.1f}, {high:.1f}]"))
    return Chart(
        "Success by path length",
        [canvas.svg("Success rate over the length of the described path, with 95 % intervals")],
        "Bars are Wilson's 95 % intervals.",
        (),
        ("described path", "episodes", "SR", "95 %"),
        body,
    )


def error_histogram(records: Sequence[Record]) -> Chart | None:
    """How far from the goal episodes ended; None without goals that can be reached."""
    judged = [record for record in records if record.get("navigation_error") is not None]
    finite = [record for record in judged if math.isfinite(record["navigation_error"])]
    if not finite:
        return None
    errors = np.array([min(record["navigation_error"], _FARTHEST) for record in finite], dtype=np.float64)
    succeeded = np.array([bool(record["success"]) for record in finite])
    last = min(max(math.floor(errors.max()), 4), _FARTHEST)
    edges = np.arange(0.0, last + 2.0)
    good, bad = np.histogram(errors[succeeded], edges)[0], np.histogram(errors[~succeeded], edges)[0]
    highest = max(1.0, float((good + bad).max()))
    canvas = Canvas((0.0, float(edges[-1])), (0.0, highest * 1.06), "navigation error at the end (m)", "episodes")
    body = []
    for low, success, failure in zip(edges, good, bad, strict=False):
        name = f"{low:g} m and more" if low >= _FARTHEST else f"{low:g}–{low + 1:g} m"
        body.append((name, str(success), str(failure)))
        if success:
            canvas.bar((low, low + 1.0), (0.0, success), "good", f"{name}: {success} succeeded")
        if failure:
            canvas.bar((low, low + 1.0), (success, success + failure), "bad", f"{name}: {failure} failed")
    canvas.mark(SUCCESS_DISTANCE, f"{SUCCESS_DISTANCE:g} m")
    unreachable = len(judged) - len(finite)
    return Chart(
        "Where episodes ended",
        [canvas.svg("Histogram of the navigation error, failures and successes apart")],
        "Along the floor to the goal. A failure below 3 m never said STOP, or missed a place on the way."
        + (f" {unreachable} goals cannot be reached and are left out." if unreachable else ""),
        (("good", "succeeded"), ("bad", "failed")),
        ("distance", "succeeded", "failed"),
        body,
    )


def call_profile(timings: Iterable[Mapping[str, Any]]) -> Chart | None:
    """What model calls cost over an episode's steps, time and context; None without model calls."""
    calls = np.array([call[:4] for timing in timings for call in timing["calls"]], dtype=np.float64).reshape(-1, 4)
    if len(calls) < 2:
        return None
    bins = (calls[:, 0] // _STEPS).astype(np.int64)
    groups = [calls[bins == step] for step in np.unique(bins)]
    at = [float(step * _STEPS) for step in np.unique(bins)]
    low, middle, high = (
        [float(np.quantile(group[:, 1], quantile)) for group in groups] for quantile in (0.1, 0.5, 0.9)
    )
    cache, new = ([float(np.median(group[:, column])) for group in groups] for column in (2, 3))
    steps = (0.0, max(at[-1], 1.0))
    time = Canvas(steps, (0.0, max(*high, 1.0) * 1.05), "", "milliseconds per call", _PANEL)
    time.band(at, low, high, "band")
    time.line(zip(at, middle, strict=True), "line")
    context = Canvas(steps, (0.0, max(1.0, *cache, *new) * 1.05), "step of the episode", "tokens", _PANEL)
    context.line(zip(at, cache, strict=True), "line second")
    context.line(zip(at, new, strict=True), "line third")
    median, slow = np.quantile(calls[:, 1], (0.5, 0.95))
    return Chart(
        "Time and context of model calls",
        [
            time.svg("Milliseconds of a model call over the steps of an episode"),
            context.svg("Length of the KV cache and tokens read by a call, over the steps of an episode"),
        ],
        f"{len(calls):,} calls: median {median:.0f} ms, 95 % below {slow:.0f} ms; KV up to {calls[:, 2].max():,.0f}.",
        (("line", "median time"), ("band", "10–90 %"), ("line second", "KV length"), ("line third", "tokens read")),
        ("step", "calls", "10 %", "median", "90 %", "KV", "read"),
        [
            (f"{step:g}", str(len(group)), *(f"{value:.1f} ms" for value in times), f"{length:,.0f}", f"{tokens:,.0f}")
            for step, group, *times, length, tokens in zip(at, groups, low, middle, high, cache, new, strict=True)
        ],
    )
