"""Puts a trained checkpoint into the package, with the recipe and the log of the runs of online DAgger that made it.

    python tools/ship_checkpoint.py --checkpoint runs/tiny/checkpoint --config runs/tiny/config.json
        --log runs/tiny/log.jsonl [--processes 2] [--hardware "two GPUs of kind X"] [--continues [--average]]
    python benchmarks/checkpoint.py --workers 2
    python tools/write_model_card.py --summary runs/checkpoint/summary.json

Several runs, each begun with the checkpoint of the one before, are given in their order: `--config A B --log A B`. With
`--continues` the first of them began with the checkpoint that is shipped now, whose runs stay on record before it.
With as many checkpoints as runs, `--checkpoint A B`, all runs began with the same one, and the mean of their weights is
shipped. With `--average` it is the mean of the run's weights and of those that are shipped now, which it began with.
Weights and configuration replace those in `streamvln_gym/models/assets/streamvln_tiny`; `training.json` (options) and
`log.jsonl` are written beside them. What does not fit the package is refused: other sizes of the network, another
tokenizer, random weights, more than 16 MB.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from streamvln_gym.agents import StreamVLNAgent
from streamvln_gym.errors import StreamVLNGymError
from streamvln_gym.models.shipped import SHIPPED_FOLDER, WEIGHTS_NAME

COPIED = ("config.json", "generation_config.json", WEIGHTS_NAME)
LIMIT = 16_000_000  # bytes of the weights
MACHINE = ("out", "minutes", "device")  # options that say nothing about the recipe


def check(folder: Path) -> None:
    """Refuses what the package cannot ship.

    Raises:
        StreamVLNGymError: the checkpoint cannot be loaded.
        ValueError: it does not fit.
    """
    agent, own = StreamVLNAgent.from_pretrained(folder), StreamVLNAgent.untrained()
    if not agent.trained:
        raise ValueError(f"{folder} says that its weights are random ('trained' in config.json)")
    vocabulary, expected = (a.processor.tokenizer.get_vocab() for a in (agent, own))
    if vocabulary != expected:
        raise ValueError(f"the tokenizer in {folder} is not the package's: train with that")
    shapes, wanted = ({n: tuple(t.shape) for n, t in a.model.state_dict().items()} for a in (agent, own))
    if shapes != wanted:
        different = sorted(name for name in {*shapes, *wanted} if shapes.get(name) != wanted.get(name))
        raise ValueError(f"{folder} has other sizes than StreamVLNConfig.tiny: {', '.join(different[:3])}")
    size = (folder / WEIGHTS_NAME).stat().st_size
    if size > LIMIT:
        raise ValueError(f"{folder / WEIGHTS_NAME} has {size:,} bytes, more than {LIMIT:,}: save it in bfloat16")


def recipe(
    configs: Sequence[dict[str, Any]], processes: int, hardware: str, before: int, start: str, together: bool
) -> list[dict[str, Any]]:
    """`runs` of training.json: the options of each, without folders, its processes and hardware.

    Args:
        configs: the options of each run.
        processes: that trained together.
        hardware: what they ran on.
        before: runs on record before the first of these.
        start: what the first of these began with.
        together: all of these did.
    """
    runs = []
    for number, config in enumerate(configs, start=before):
        by_time = config.get("decay_minutes") is not None
        kept = {key: value for key, value in config.items() if key not in MACHINE or (key == "minutes" and by_time)}
        if kept.get("checkpoint") is not None:
            kept["checkpoint"] = start if together or number == before else f"of run {number}"
        runs.append({"processes": processes, "hardware": hardware, **kept})
    return runs


def mean_weights(checkpoints: Sequence[Path]) -> dict[str, torch.Tensor]:
    """The mean of the checkpoints' weights, each in the dtype that the first has it in."""
    parts = [load_file(folder / WEIGHTS_NAME) for folder in checkpoints]
    return {
        name: torch.stack([part[name].double() for part in parts]).mean(0).to(value.dtype)
        for name, value in parts[0].items()
    }


def joined_log(logs: Sequence[Path], before: int = 0) -> str:
    """The logs' lines, each with the number of its `run`, from `before` + 1."""
    lines = []
    for number, path in enumerate(logs, start=before + 1):
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        lines += [json.dumps({"run": number, **record}) + "\n" for record in records]
    return "".join(lines)


def ship(
    checkpoints: Sequence[Path],
    configs: Sequence[Path],
    logs: Sequence[Path],
    processes: int,
    hardware: str,
    target: Path,
    continues: bool = False,
    average: bool = False,
) -> None:
    """Checks, copies, writes; several checkpoints are one of each run, all begun with the same.

    Args:
        checkpoints: folders.
        configs: the options of each run.
        logs: of each run.
        processes: that trained together.
        hardware: what they ran on.
        target: the shipped checkpoint's folder.
        continues: the first run began with what is shipped now.
        average: ship the mean of the run's weights and of those that are shipped now.
    """
    for checkpoint in checkpoints:
        check(checkpoint)
    runs, log, start, several = [], "", "an earlier one", len(checkpoints) > 1
    if continues:
        record = json.loads((target / "training.json").read_text(encoding="utf-8"))
        runs, start = record["runs"], "of " + record.get("shipped", f"run {len(record['runs'])}")
        log = (target / "log.jsonl").read_text(encoding="utf-8")
    log += joined_log(logs, len(runs))
    options = [json.loads(path.read_text(encoding="utf-8")) for path in configs]
    made = recipe(options, processes, hardware, len(runs), start, several)
    numbers = [str(number) for number in range(len(runs) + 1, len(runs) + len(made) + 1)]
    shipped = f"the mean of runs {' and '.join(numbers)}" if several else f"run {numbers[-1]}"
    if average:
        shipped = f"the mean of {shipped} and of what it began with"
    mean = mean_weights([*checkpoints, target] if average else checkpoints) if several or average else None
    for name in COPIED:
        if (checkpoints[0] / name).exists():
            shutil.copyfile(checkpoints[0] / name, target / name)
    if mean is not None:
        save_file(mean, target / WEIGHTS_NAME, metadata={"format": "pt"})
    record = {"shipped": shipped, "runs": [*runs, *made]}
    (target / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (target / "log.jsonl").write_text(log, encoding="utf-8")


def main() -> None:
    """Ships."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--checkpoint", type=Path, nargs="+", required=True, help="folder: weights, config.json, tokenizer"
    )
    parser.add_argument("--config", type=Path, nargs="+", required=True, help="options of each run, JSON")
    parser.add_argument("--log", type=Path, nargs="+", required=True, help="log.jsonl of each run")
    parser.add_argument("--processes", type=int, default=1, help="that trained together")
    parser.add_argument("--hardware", default="", help="what they ran on")
    parser.add_argument("--continues", action="store_true", help="the first run began with what is shipped now")
    parser.add_argument(
        "--average", action="store_true", help="ship the mean of the run's weights and of those shipped now"
    )
    options = parser.parse_args()
    if options.average and not (options.continues and len(options.config) == 1):
        parser.error("--average is for one run that began with what is shipped now: give --continues and one --config")
    if len(options.config) != len(options.log):
        parser.error(f"{len(options.config)} configurations, but {len(options.log)} logs: give one of each a run")
    if len(options.checkpoint) not in (1, len(options.config)):
        parser.error(f"{len(options.checkpoint)} checkpoints of {len(options.config)} runs: give one, or one of each")
    try:
        ship(
            options.checkpoint,
            options.config,
            options.log,
            options.processes,
            options.hardware,
            SHIPPED_FOLDER,
            options.continues,
            options.average,
        )
    except (StreamVLNGymError, ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
    print(f"{' and '.join(map(str, options.checkpoint))} is now in {SHIPPED_FOLDER}")


if __name__ == "__main__":
    main()
