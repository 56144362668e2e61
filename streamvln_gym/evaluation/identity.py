"""What makes two evaluations the same: data, weights, code and settings, and a fingerprint of all of it."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from streamvln_gym import __version__
from streamvln_gym.digests import checkpoint_digest, episodes_digest, files_digest
from streamvln_gym.episodes import EpisodeDataset
from streamvln_gym.evaluation.config import EvaluationConfig
from streamvln_gym.models.shipped import SHIPPED_NAME
from streamvln_gym.selection import source_of


def identity_of(
    config: EvaluationConfig, dataset: EpisodeDataset, simulator: str, wanted: Sequence[str]
) -> dict[str, Any]:
    """Everything that a result depends on, and nothing else (not the number of workers).

    Args:
        config: of the evaluation.
        dataset: its data.
        simulator: its name.
        wanted: the ids of the episodes that are played.

    Raises:
        CheckpointError: there is no such checkpoint.
    """
    network = config.agent == "streamvln"
    checkpoint = str(config.checkpoint or SHIPPED_NAME) if network else None
    return {
        "agent": config.agent,
        "checkpoint": checkpoint,
        "checkpoint_sha256": checkpoint_digest(checkpoint) if checkpoint else None,
        "dataset": dataset.name,
        "split": dataset.split,
        "source": source_of(dataset),
        "dataset_sha256": episodes_digest(dataset.episode(episode_id) for episode_id in wanted),
        "simulator": simulator,
        "seed": config.seed,
        "max_steps": config.max_steps,
        "camera": asdict(config.camera) if network else None,
        "envs_per_worker": config.batch,
        "device": _device_kind(config.device) if network else None,
        "torch": _torch_version() if network else None,
        "code_version": code_version(),
    }


def fingerprint_of(identity: Mapping[str, Any]) -> str:
    """sha256 of the identity's canonical JSON, the first 16 hexadecimal digits.

    A checkpoint counts by its digest alone, wherever it lies.
    """
    counted = {name: value for name, value in identity.items() if name != "checkpoint"}
    canonical = json.dumps(counted, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What differs between two identities: both values by name; of nested settings by a name with a dot."""
    found: dict[str, tuple[Any, Any]] = {}
    for name in {**one, **other}:
        before, now = one.get(name), other.get(name)
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            found |= {f"{name}.{inner}": pair for inner, pair in differences(before, now).items()}
        elif before != now:
            found[name] = (before, now)
    return found


def changes(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The `differences` that give other results: the same weights are none, wherever they lie."""
    found = differences(one, other)
    if "checkpoint_sha256" not in found:
        found.pop("checkpoint", None)
    return found


@lru_cache(maxsize=1)
def code_version() -> str:
    """The package's version, with the last commit that changed its sources where it runs from a repository.

    Sources that differ from the commit, or that no commit says anything about, are named by a digest of their own.
    """
    package = Path(__file__).resolve().parents[1]
    folders = _source_folders(package)
    commit = _git(package, "log", "-1", "--format=%h", "--abbrev=12", "--", *folders)
    if commit and _git(package, "status", "--porcelain", "--", *folders) == "":
        return f"{__version__}+{commit}"
    return f"{__version__}+{f'{commit}.' if commit else ''}sources-{sources_digest()[:12]}"


def sources_digest() -> str:
    """sha256 of the package's Python files."""
    folders = _source_folders(Path(__file__).resolve().parents[1])
    return files_digest(sorted(path for folder in folders for path in Path(folder).rglob("*.py")))


def _source_folders(package: Path) -> list[str]:
    import streamvln_gym.agents as agents

    return [str(package), str(Path(str(agents.__file__)).resolve().parent)]


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says about `folder`, None where it says nothing (no git, no repository)."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _device_kind(name: str) -> str:
    if name != "auto":  # which the workers' machines have, those of a Ray cluster too
        return name.split(":")[0]
    from streamvln_gym.devices import choose_device

    return choose_device(name).split(":")[0]


def _torch_version() -> str:
    import torch

    return str(torch.__version__)
