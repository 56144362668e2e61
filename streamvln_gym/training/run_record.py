"""training.json: what a run was made of; written at its start, compared when it is resumed, completed at its end."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from streamvln_gym.errors import TrainingError
from streamvln_gym.training.config import FREE_FIELDS, TrainConfig, flatten
from streamvln_gym.training.dataset import StreamVLNWindows
from streamvln_gym.training.settings_files import with_contents
from streamvln_gym.training.trajectories import ANNOTATIONS
from streamvln_gym.whole_writes import write_whole

RECORD = "training.json"
_PACKAGES = ("streamvln-gym", "transformers", "accelerate", "peft", "numpy", "pillow")


def describe_folder(folder: Path) -> dict[str, Any]:
    """A trajectory folder, with a digest of its annotations."""
    return {
        "folder": str(folder),
        "annotations_sha256": hashlib.sha256((folder / ANNOTATIONS).read_bytes()).hexdigest(),
    }


def describe_windows(windows: StreamVLNWindows) -> dict[str, int]:
    """How much there is to train on."""
    return {"trajectories": len(windows.trajectories), "skipped": windows.skipped, "windows": len(windows)}


def new_record(
    config: TrainConfig, data: Sequence[Mapping[str, Any]], held_out: Sequence[Mapping[str, Any]], processes: int
) -> dict[str, Any]:
    """The record of a run that starts."""
    return {
        "status": "running",
        "config": with_contents(flatten(config)),
        "data": list(data),
        "held_out": list(held_out),
        "processes": processes,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,  # names the build too, unlike the package's metadata
            **{name: _version(name) for name in _PACKAGES},
        },
    }


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of the run in `folder`; None if there is none.

    Raises:
        TrainingError: it cannot be read.
    """
    path = folder / RECORD
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        record["config"], record["data"], record["status"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{path} is no record of a run ({error!r}): choose another folder for this run") from error
    return dict(record)


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Writes training.json, whole or not at all."""
    write_whole(folder / RECORD, json.dumps(record, indent=1, ensure_ascii=False))


def check_same_run(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuses to go on where another recipe, or other data, would give other weights.

    Raises:
        TrainingError: the runs differ; the message lists in what.
    """
    theirs, ours = old["config"], new["config"]
    names = [n for n in {**theirs, **ours} if n not in FREE_FIELDS and theirs.get(n) != ours.get(n)]
    differences = [f"{name} was {theirs.get(name)!r} and is now {ours.get(name)!r}" for name in names]
    if old["processes"] != new["processes"]:
        differences.append(f"{old['processes']} processes were training and now {new['processes']} are")
    for before, after in zip(old["data"], new["data"], strict=False):
        if before["annotations_sha256"] != after["annotations_sha256"]:
            differences.append(f"{after['folder']} holds other annotations than when the run began")
    if differences:
        raise TrainingError(
            f"the run in {folder} cannot be resumed with another recipe: {'; '.join(differences)}. Use the recipe of "
            f"{folder / RECORD}, or start a new run in another folder"
        )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
