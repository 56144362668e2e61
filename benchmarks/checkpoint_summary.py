"""What `benchmarks/checkpoint.py` says about its records: means, intervals, paired comparisons, tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from streamvln_gym.metrics import summarize
from streamvln_gym.statistics import bootstrap_mean, mcnemar, paired_difference, wilson_interval

Record = Mapping[str, Any]

SUBSETS = ("all", "needs_memory", "plain")


def subset(records: Sequence[Record], name: str) -> list[Record]:
    """The records of "all" episodes, of those that need memory, or of the "plain" others."""
    if name not in SUBSETS:
        raise ValueError(f"a subset is one of {', '.join(SUBSETS)}, got {name!r}")
    return [record for record in records if name == "all" or bool(record["needs_memory"]) == (name == "needs_memory")]


def success_rate(records: Sequence[Record], seed: int = 0) -> dict[str, Any] | None:
    """`rate`, Wilson's interval `low`..`high`, `over_scenes` (bootstrap over scenes, None for one scene), `episodes`;
    None without episodes."""
    if not records:
        return None
    successes = [float(record["success"]) for record in records]
    rate = wilson_interval(round(sum(successes)), len(successes))
    return {
        "rate": rate.value,
        "low": rate.low,
        "high": rate.high,
        "over_scenes": _interval_over_scenes(successes, records, seed),
        "episodes": len(records),
    }


def summarize_condition(records: Sequence[Record], seed: int = 0) -> dict[str, Any]:
    """Means and intervals of one condition.

    Args:
        records: one per episode, at least one.
        seed: of the bootstrap.

    Returns:
        The means of `metrics.summarize`, `stopped` (share), `seconds` (of all workers together), `success_rates` by
        subset and by kind of memory (see `success_rate`), and `spl_over_scenes`.
    """
    rates = {name: success_rate(subset(records, name), seed) for name in SUBSETS}
    kinds = sorted({record["needs_memory"] for record in records} - {""})
    by_kind = {kind: success_rate([r for r in records if r["needs_memory"] == kind], seed) for kind in kinds}
    return {
        **summarize(records),
        "stopped": sum(record["stopped"] for record in records) / len(records),
        "seconds": sum(record["seconds"] for record in records),
        "scenes": len({record["scene_id"] for record in records}),
        "success_rates": rates,
        "success_rates_by_kind": by_kind,
        "spl_over_scenes": _interval_over_scenes([record["spl"] for record in records], records, seed),
    }


def compare(
    first: Mapping[str, Record], second: Mapping[str, Record], name: str = "all", seed: int = 0
) -> dict[str, Any] | None:
    """First minus second over the episodes that both have played.

    Args:
        first: records by episode id.
        second: likewise.
        name: of the subset.
        seed: of the bootstrap over scenes.

    Returns:
        `success` and `spl` (each `difference`, `low`, `high`, 95 %; the ends None for one scene), McNemar's `p_value`,
        `episodes`, `scenes`; None without common episodes.
    """
    common = subset([first[episode_id] for episode_id in first if episode_id in second], name)
    if not common:
        return None
    others = [second[record["episode_id"]] for record in common]
    scenes = [record["scene_id"] for record in common]
    result: dict[str, Any] = {"subset": name, "episodes": len(common), "scenes": len(set(scenes))}
    for metric in ("success", "spl"):
        one, other = [r[metric] for r in common], [r[metric] for r in others]
        low = high = None
        if len(set(scenes)) > 1:
            value, low, high = paired_difference(one, other, scenes, seed=seed)
        else:
            value = sum(a - b for a, b in zip(one, other, strict=True)) / len(one)
        result[metric] = {"difference": value, "low": low, "high": high}
    result["p_value"] = mcnemar([r["success"] for r in common], [r["success"] for r in others])
    return result


def compare_all(records: Mapping[str, Mapping[str, Record]], seed: int = 0) -> list[dict[str, Any]]:
    """ "own" against every other condition, over every subset."""
    if "own" not in records:
        return []
    compared = []
    for condition in records:
        for name in SUBSETS if condition != "own" else ():
            found = compare(records["own"], records[condition], name, seed)
            if found:
                compared.append({"first": "own", "second": condition, **found})
    return compared


def conditions_table(conditions: Mapping[str, Mapping[str, Any]]) -> str:
    """A line per condition; rates in per cent with Wilson's 95 % interval."""
    header = (
        f"{'condition':10} {'n':>5} {'SR %':>18} {'SPL':>6} {'NE m':>6} {'OS':>6} {'nDTW':>6} {'steps':>6} {'stop':>5} "
        f"{'SR % memory':>18} {'SR % plain':>18} {'seconds':>8}"
    )
    lines = [header]
    for name, summary in conditions.items():
        rates = summary["success_rates"]
        lines.append(
            f"{name:10} {summary['episodes']:5d} {rate_text(rates['all']):>18} {summary['spl']:6.3f} "
            f"{float(summary['navigation_error']):6.2f} {summary['oracle_success']:6.3f} "
            f"{summary.get('ndtw', float('nan')):6.3f} {summary['steps']:6.1f} {summary['stopped']:5.2f} "
            f"{rate_text(rates['needs_memory']):>18} {rate_text(rates['plain']):>18} {summary['seconds']:8.1f}"
        )
    return "\n".join(lines)


def kinds_table(conditions: Mapping[str, Mapping[str, Any]]) -> str:
    """Success rates by kind of memory, a line per condition."""
    kinds = sorted({kind for summary in conditions.values() for kind in summary["success_rates_by_kind"]})
    lines = [f"{'SR %':10} " + " ".join(f"{kind:>20}" for kind in kinds)]
    for name, summary in conditions.items():
        rates = [rate_text(summary["success_rates_by_kind"].get(kind)) for kind in kinds]
        lines.append(f"{name:10} " + " ".join(f"{rate:>20}" for rate in rates))
    return "\n".join(lines)


def comparisons_table(comparisons: Sequence[Mapping[str, Any]]) -> str:
    """A line per paired comparison."""
    lines = [f"{'first - second':22} {'episodes':14} {'n':>5} {'SR points':>22} {'SPL':>26} {'McNemar p':>10}"]
    for entry in comparisons:
        success, spl = entry["success"], entry["spl"]
        lines.append(
            f"{entry['first'] + ' - ' + entry['second']:22} {entry['subset']:14} {entry['episodes']:5d} "
            f"{difference_text(success, 100.0, 1):>22} {difference_text(spl, 1.0, 3):>26} {entry['p_value']:10.2g}"
        )
    return "\n".join(lines)


def rate_text(rate: Mapping[str, Any] | None) -> str:
    """A success rate in per cent with its interval: "41.3 [38.0, 44.6]"."""
    if rate is None:
        return "-"
    return f"{100 * rate['rate']:.1f} [{100 * rate['low']:.1f}, {100 * rate['high']:.1f}]"


def difference_text(entry: Mapping[str, Any], scale: float, digits: int) -> str:
    """A difference with its interval: "+3.1 [-0.2, +6.4]"."""
    value = f"{scale * entry['difference']:+.{digits}f}"
    if entry["low"] is None:
        return value
    return f"{value} [{scale * entry['low']:+.{digits}f}, {scale * entry['high']:+.{digits}f}]"


def _interval_over_scenes(values: Sequence[float], records: Sequence[Record], seed: int) -> list[float] | None:
    scenes = [record["scene_id"] for record in records]
    if len(set(scenes)) < 2:
        return None
    _, low, high = bootstrap_mean(values, scenes, seed=seed)
    return [low, high]
