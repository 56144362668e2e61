"""JSON files that hold settings of other libraries: FSDP's, DeepSpeed's, and further ones of transformers' Trainer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from streamvln_gym.errors import TrainingError

_FILES = tuple(f"machine.{name}" for name in ("fsdp", "deepspeed", "trainer_arguments"))


def read_settings(path: Path) -> dict[str, Any]:
    """A JSON file's object.

    Raises:
        TrainingError: the file is missing or no JSON object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingError(f"the settings in {path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise TrainingError(f"{path} holds no JSON object of settings")
    return values


def with_contents(flat: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration of `config.flatten` with such files' contents in place of their paths: what a run is made of.

    Raises:
        TrainingError: a file is missing or no JSON object.
    """
    named = {name: path for name, path in flat.items() if path is not None and name.endswith(_FILES)}
    return {**flat, **{name: read_settings(Path(path)) for name, path in named.items()}}
