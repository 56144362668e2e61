"""Writes the model card of the checkpoint that ships: its data, recipe, results with intervals, limits, use, licence.

    python tools/write_model_card.py [--summary runs/checkpoint/summary.json] [--folder FOLDER]
        [--describe NAME="trained without slow memory" ...]

The card is the README.md of the checkpoint's folder. Recipe and log are `training.json` and `log.jsonl` there, as
`tools/ship_checkpoint.py` puts them. `summary.json` comes from `benchmarks/checkpoint.py` and is kept in the folder as
`evaluation.json`, which is read where none is given.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from streamvln_gym.models.shipped import SHIPPED_FOLDER, SHIPPED_NAME
from streamvln_gym.training.online.config import OnlineConfig

RECIPE, LOG, EVALUATION, CARD = "training.json", "log.jsonl", "evaluation.json", "README.md"
FRONT_MATTER = """---
license: apache-2.0
library_name: streamvln-gym
pipeline_tag: robotics
language: en
tags: [vision-and-language-navigation, vln-ce, streamvln]
---
"""
USE = """```python
from streamvln_gym.agents import StreamVLNAgent

agent = StreamVLNAgent.from_pretrained()  # or from_pretrained("streamvln-tiny"), or this folder's path
agent.reset()
action = agent.act({"rgb": picture, "instruction": text})  # 0 STOP, 1 FORWARD 0.25 m, 2 LEFT 15°, 3 RIGHT 15°
```

`picture` is uint8 (height, width, 3) from a level camera 1.25 m high with a horizontal field of view of 79°, as the
environments' own. `streamvln-gym rollout` plays it; `train`, `dagger` and `record` take it as `--checkpoint
streamvln-tiny`."""
LICENCE = """Apache-2.0, as the package. Weights, data and tokenizer come from this package alone: nothing was taken
from published StreamVLN code, weights or data, nor from scans."""
LOG_ROWS = 8
LOG_COLUMNS = {
    "run": "run",
    "updates": "updates",
    "frames": "frames",
    "episodes": "episodes",
    "seconds": "seconds",
    "action_loss": "action loss",
    "accuracy": "accuracy",
    "success": "SR, held out",
    "spl": "SPL, held out",
    "success_plain": "SR, plain",
}
CALLS = {
    "episode start": "first call of an episode",
    "window start": "start of a later window (with its memory)",
    "before a window": "the step before a later window, which prepares it",
    "hand-out": "other steps, which hand out a decided action",
}
LIMITS = (
    "It was trained on generated flats only: textures, furniture and sentences are those of one generator. Nothing "
    "here says what it does in scans of real homes or on a robot; the figures are **not R2R-CE or RxR-CE figures**.",
    "It reads English as the flats' writer writes it, with a small vocabulary; other phrasings are untested. An "
    "instruction that does not fit the flat is followed all the same: it has no way to say that it is lost.",
    "It is far smaller than the published StreamVLN (7B). It shows that the whole loop works on a laptop; it is not a "
    "baseline for what the method can do.",
    "Wilson's intervals take episodes for independent, but those of one scene, and the instructions of one path, are "
    "not: the intervals over scenes are the safer ones, except at rates of 0 or 100 %, where a bootstrap has no width. "
    "Neither says how much another training seed would change.",
    "Movements are exact and the camera is level and free of noise, as in VLN-CE.",
)


def write_card(
    summary: Mapping[str, Any],
    log: Sequence[Mapping[str, Any]] = (),
    training: Mapping[str, Any] | None = None,
    described: Mapping[str, str] | None = None,
) -> str:
    """The card's text, Markdown.

    Args:
        summary: of `benchmarks/checkpoint.py`.
        log: records of the training; those of several runs have their `run`.
        training: `runs`: the options of each, its `processes` and `hardware`.
        described: what other checkpoints are, by the name that they were compared under.
    """
    described = described or {}
    parts = [
        f"{FRONT_MATTER}\n# Model card: streamvln-tiny",
        _introduction(summary),
        "## Use",
        USE,
        "## Network",
        _network(summary),
        "## Training data and recipe",
        _recipe(summary, log, training or {}),
        "## Results",
        _results(summary, described),
        "## Speed",
        _speed(summary),
        "## Limits",
        "\n".join(f"* {limit}" for limit in [*_measured_limits(summary), *LIMITS]),
        "## Licence",
        LICENCE,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; the first column is text, the others are figures."""
    lines = ["| " + " | ".join(header) + " |", "| --- |" + " ---: |" * (len(header) - 1)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join(lines)


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested options as "outer.inner"."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def pick_rows(log: Sequence[Mapping[str, Any]], count: int = LOG_ROWS) -> list[Mapping[str, Any]]:
    """At most so many evaluations, evenly over the log, the first and the last among them."""
    evaluated = [record for record in log if "success" in record]
    if len(evaluated) <= count:
        return evaluated
    return [evaluated[round(k * (len(evaluated) - 1) / (count - 1))] for k in range(count)]


def last_of_runs(log: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The last record of each run."""
    return list({record.get("run", 1): record for record in log}.values())


def command(run: Mapping[str, Any]) -> str:
    """The command line that a run's options stand for; options with their default are left out."""
    defaults = flatten(json.loads(json.dumps(asdict(OnlineConfig()), default=str)))
    start = "streamvln-gym online-dagger"
    processes = run.get("processes", 1)
    if processes > 1:
        start = f"torchrun --nproc-per-node {processes} --no-python {start}"
    words = [start]
    for key, value in flatten(run).items():
        if key in defaults and value != defaults[key]:
            shown = '"..."' if key == "checkpoint" else value
            words.append(f"--{key.replace('_', '-')} {shown}")
    return " \\\n    ".join(words)


def training_seconds(log: Sequence[Mapping[str, Any]]) -> float:
    """Seconds of all the calls that a log comes from; each counts from its own start."""
    clock = [(record.get("run", 1), float(record["seconds"])) for record in log if "seconds" in record]
    ends = [*clock[1:], (None, 0.0)]
    return sum(now for (run, now), (after, then) in zip(clock, ends, strict=True) if after != run or then < now)


def _introduction(summary: Mapping[str, Any]) -> str:
    data = f"{summary['dataset']}/{summary['split']} ({summary['simulator']} simulator)"
    weights, version = summary["digests"]["checkpoint"], summary["versions"]["streamvln-gym"]
    own = summary["conditions"].get("own", {})
    rate = (own.get("success_rates") or {}).get("all")
    text = (
        "`StreamVLNAgent.from_pretrained()` loads this network. It is made to follow instructions in the package's "
        f"generated flats with StreamVLN's streaming loop, on one CPU core. Weights `{weights}`, evaluated with "
        f"streamvln-gym {version} on {data}."
    )
    if whole := summary.get("whole_split"):
        success, spl = whole["success"], whole["spl"]
        text += (
            f" Success rate there: **{100 * success['mean']:.1f} % [{100 * success['low']:.1f}, "
            f"{100 * success['high']:.1f}]**, SPL {spl['mean']:.3f} (all {success['episodes']} episodes, "
            "`streamvln-gym evaluate`, interval over scenes). The tables [below](#results) are of fewer episodes."
        )
    elif rate:
        scenes = own["scenes"]
        text += f" Success rate there: **{_rate(rate)} %** ({rate['episodes']} episodes in {scenes} scenes)."
    return text if summary["trained"] else f"**These weights are untrained: the figures are no policy's.**\n\n{text}"


def _network(summary: Mapping[str, Any]) -> str:
    network = summary["network"]
    rows = [
        ("parameters", f"{summary['parameters']:,}"),
        ("picture", f"{network['image_size']} x {network['image_size']} pixels, {network['tokens_per_frame']} tokens"),
        ("fast window", f"{network['window_steps']} steps"),
        ("actions per model call", network["chunk_size"]),
        ("slow memory", f"{network['num_history']} frames, strategy `{network['memory_strategy']}`"),
    ]
    return table(("what", "value"), rows)


def _recipe(summary: Mapping[str, Any], log: Sequence[Mapping[str, Any]], training: Mapping[str, Any]) -> str:
    runs = training.get("runs", ())
    parts = [
        f"Scenes, paths and instructions are generated ({summary['dataset']}): furnished flats, expert actions of the "
        "geodesic follower. It was trained on flats of `train`, which share no seed with those of `val_unseen`. It "
        "learned from nothing by [online DAgger](https://arxiv.org/abs/1011.0686): the network drives, the expert says "
        "at every state what it would have done, and losses on what the simulator knows (classes, depth, bearing, "
        "rooms) help; their heads are not in the checkpoint."
    ]
    reinforced = [str(k) for k, run in enumerate(runs, 1) if (run.get("reinforce") or {}).get("free_streams")]
    if reinforced:
        parts[0] += (
            f" In run {', '.join(reinforced)} most streams were driven by the network alone and made more likely what "
            "had succeeded (proximal policy optimisation), beside the expert's labels in the others."
        )
    if (shipped := training.get("shipped", "")).startswith("the mean"):
        together = ", which began with the same checkpoint" if shipped.startswith("the mean of runs") else ""
        parts[0] += f" The weights are {shipped}{together}."
    parts += [_training_volume(log, training), _training_table(log, runs)]
    for number, run in enumerate(runs, start=1):
        which = f"Run {number} of {len(runs)}" if len(runs) > 1 else "The command"
        parts.append(f"{which}:\n\n```\n{command(run)}\n```")
    if runs:
        columns = [flatten(run) for run in runs]
        rows = [
            (f"`{key}`", *(f"`{column.get(key)}`" for column in columns))
            for key in dict.fromkeys(key for column in columns for key in column)
        ]
        header = ("option", *(f"run {number}" for number in range(1, len(runs) + 1)))
        parts.append(f"<details><summary>All options</summary>\n\n{table(header, rows)}\n\n</details>")
    return "\n\n".join(part for part in parts if part)


def _training_volume(log: Sequence[Mapping[str, Any]], training: Mapping[str, Any]) -> str:
    ends, runs = last_of_runs(log), training.get("runs", ())
    text = ""
    if ends:
        names = [name for name in ("updates", "frames", "episodes") if name in ends[-1]]
        text = ", ".join(f"{sum(end.get(name, 0) for end in ends):,.0f} {name}" for name in names)
    if any("seconds" in record for record in log):
        text += f" in {training_seconds(log) / 60:.0f} minutes"
    hardware = dict.fromkeys(run["hardware"] for run in runs if run.get("hardware"))
    if hardware:
        text += f" on {', then '.join(hardware)}"
    shared = any(run.get("processes", 1) > 1 for run in runs)
    counted = " Of processes that trained together, the first's frames and episodes are counted." if shared else ""
    return f"Training: {text.strip()}.{counted}" if text else ""


def _training_table(log: Sequence[Mapping[str, Any]], runs: Sequence[Mapping[str, Any]]) -> str:
    rows = pick_rows(log)
    if not rows:
        return ""
    columns = {key: title for key, title in LOG_COLUMNS.items() if any(key in row for row in rows)}
    listed = table(list(columns.values()), [[_number(row.get(key)) for key in columns] for row in rows])
    if runs and runs[-1].get("held_out") == 0:
        return f"{listed}\n\nEvaluated on training scenes: nothing was held out."
    return f"{listed}\n\nHeld out are scenes of the training split that were left out of the training."


def _results(summary: Mapping[str, Any], described: Mapping[str, str]) -> str:
    conditions = summary["conditions"]
    meanings = [f"* **{name}**: {_meaning(name, entry, summary, described)}" for name, entry in conditions.items()]
    rows = [
        (
            name,
            entry["episodes"],
            _rate(entry["success_rates"]["all"]),
            _share(entry["success_rates"]["all"]),
            f"{entry['spl']:.3f}",
            _number(entry["navigation_error"]),
            f"{100 * entry['oracle_success']:.1f}",
            f"{entry.get('ndtw', float('nan')):.3f}",
            f"{entry['steps']:.0f}",
            f"{100 * entry['stopped']:.0f}",
        )
        for name, entry in conditions.items()
    ]
    header = ("condition", "episodes", "SR %", "over scenes", "SPL", "NE m", "OS %", "nDTW", "steps", "stopped %")
    parts = [
        f"At most {summary['max_steps']} steps; SR with Wilson's 95 % interval, beside it the bootstrap's over scenes.",
        "\n".join(meanings),
        table(header, rows),
        _kinds(conditions),
        _comparisons(summary["comparisons"]),
    ]
    return "\n\n".join(part for part in parts if part)


def _kinds(conditions: Mapping[str, Any]) -> str:
    kinds = sorted({kind for entry in conditions.values() for kind in entry["success_rates_by_kind"]})
    rows = [
        (
            name,
            _rate(entry["success_rates"]["plain"]),
            _rate(entry["success_rates"]["needs_memory"]),
            *(_rate(entry["success_rates_by_kind"].get(kind)) for kind in kinds),
        )
        for name, entry in conditions.items()
    ]
    if not rows:
        return ""
    text = "Success rate (%) on plain episodes, on those that need memory, and by kind of the latter:"
    return f"{text}\n\n{table(('condition', 'plain', 'memory', *(kind.replace('_', ' ') for kind in kinds)), rows)}"


def _comparisons(comparisons: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (
            f"{entry['first']} - {entry['second']}, {entry['subset'].replace('_', ' ')}",
            entry["episodes"],
            _difference(entry["success"], 100.0, 1),
            _difference(entry["spl"], 1.0, 3),
            f"{entry['p_value']:.2g}",
        )
        for entry in comparisons
    ]
    if not rows:
        return ""
    header = ("difference", "episodes", "SR, points", "SPL", "McNemar p")
    return (
        "Paired differences over the same episodes, 95 % intervals of 10,000 bootstrap samples of whole scenes:\n\n"
        f"{table(header, rows)}"
    )


def _speed(summary: Mapping[str, Any]) -> str:
    rows = [
        (CALLS.get(kind, kind), f"{times['median']:.3g}", f"{times['p95']:.3g}")
        for kind, times in summary["latency_ms"].items()
    ]
    text = (
        "Processor time of a call of `act`; one that asks the network goes from a 640x480 picture to "
        f"{summary['network']['chunk_size']} actions. One core ({summary['processor']}), float32:"
    )
    return f"{text}\n\n{table(('call', 'median ms', '95th percentile ms'), rows)}"


def _measured_limits(summary: Mapping[str, Any]) -> list[str]:
    """What the figures do not show, although one would like them to."""
    wanted = {
        ("other", "all"): "following instructions",
        ("neutral", "all"): "needing the instruction",
        ("no_memory", "needs_memory"): "a use of slow memory at test time",
        ("random", "all"): "being better than chance",
    }
    limits = []
    for entry in summary["comparisons"]:
        claim = wanted.get((entry["second"], entry["subset"]))
        low = entry["success"]["low"]
        if claim and (low is None or low <= 0.0):
            difference = _difference(entry["success"], 100.0, 1)
            limits.append(
                f"**Not shown: {claim}.** {entry['first']} - {entry['second']} on {entry['subset'].replace('_', ' ')} "
                f"episodes is {difference} points of SR, so the interval is not above 0."
            )
    return limits


def _meaning(name: str, entry: Mapping[str, Any], summary: Mapping[str, Any], described: Mapping[str, str]) -> str:
    """A condition in words; a checkpoint's folder is nobody's business."""
    default = "another checkpoint" if name in summary["against"] else str(entry["meaning"])
    return described.get(name, default)


def _rate(rate: Mapping[str, Any] | None) -> str:
    if rate is None:
        return "-"
    return f"{100 * rate['rate']:.1f} [{100 * rate['low']:.1f}, {100 * rate['high']:.1f}]"


def _share(rate: Mapping[str, Any] | None) -> str:
    if rate is None or rate["over_scenes"] is None:
        return "-"
    low, high = rate["over_scenes"]
    return f"[{100 * low:.1f}, {100 * high:.1f}]"


def _difference(entry: Mapping[str, Any], scale: float, digits: int) -> str:
    value = f"{scale * entry['difference']:+.{digits}f}"
    if entry["low"] is None:
        return f"{value} (one scene: no interval)"
    return f"{value} [{scale * entry['low']:+.{digits}f}, {scale * entry['high']:+.{digits}f}]"


def _number(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):  # "inf"
        return value
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1000 else f"{value:.3g}"


def _read_object(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object, not {type(value).__name__}")
    return value


def write_folder(folder: Path, summary: Path | None, described: Mapping[str, str], whole: Path | None = None) -> Path:
    """Reads the folder's files (and the summary), writes the card into it; the card's path.

    Args:
        folder: of the checkpoint.
        summary: of `benchmarks/checkpoint.py`; None: what the folder has.
        described: see `write_card`.
        whole: summary.json of an evaluation of the whole split, where the other is of fewer episodes.

    Raises:
        OSError: a file is missing.
        ValueError: a file does not hold what it should.
    """
    evaluation = _read_object(summary or folder / EVALUATION)
    if whole is not None:
        means = _read_object(whole)["metrics"]
        evaluation["whole_split"] = {name: means[name] for name in ("success", "spl")}
    training = _read_object(folder / RECIPE)
    lines = (folder / LOG).read_text(encoding="utf-8").splitlines()
    card = write_card(evaluation, [json.loads(line) for line in lines if line.strip()], training, described)
    if summary is not None or whole is not None:
        text = json.dumps(without_folders(evaluation, described), indent=1, allow_nan=False)
        (folder / EVALUATION).write_text(text + "\n", encoding="utf-8")
    (folder / CARD).write_text(card, encoding="utf-8")
    return folder / CARD


def without_folders(summary: Mapping[str, Any], described: Mapping[str, str]) -> dict[str, Any]:
    """The summary with words in place of the folders in which compared checkpoints lay."""
    conditions = {
        name: {**entry, "meaning": _meaning(name, entry, summary, described)}
        for name, entry in summary["conditions"].items()
    }
    against = {name: conditions[name]["meaning"] for name in summary["against"]}
    return {**summary, "checkpoint": SHIPPED_NAME, "against": against, "conditions": conditions}


def main() -> None:
    """Reads, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--summary", type=Path, help="of benchmarks/checkpoint.py; default: evaluation.json")
    parser.add_argument("--whole", type=Path, help="summary.json of `streamvln-gym evaluate` on the whole split")
    parser.add_argument("--folder", type=Path, default=SHIPPED_FOLDER, help="of the checkpoint")
    parser.add_argument("--describe", nargs="+", default=[], metavar="NAME=TEXT", help="what other checkpoints are")
    options = parser.parse_args()
    if wrong := [item for item in options.describe if "=" not in item]:
        parser.error(f"--describe takes NAME=TEXT, got {wrong[0]!r}")
    described = dict(item.split("=", 1) for item in options.describe)
    try:
        print(f"wrote {write_folder(options.folder, options.summary, described, options.whole)}")
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
