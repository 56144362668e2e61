"""Fingerprints of what a result depends on: episodes, checkpoints, files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from streamvln_gym.episodes import Episode

_PIECE = 1 << 24
_CHECKPOINT_FILES = ("*.json", "*.safetensors", "*.bin", "*.txt", "*.model")


def episodes_digest(episodes: Iterable[Episode]) -> str:
    """sha256 of what is played and measured against: episodes with their instructions, paths and ground truth.

    The content counts, not the file's bytes: compressed anew, or with other episodes beside these, it stays the same.
    """
    digest = hashlib.sha256()
    for episode in episodes:
        digest.update(json.dumps(asdict(episode), sort_keys=True, ensure_ascii=False, default=repr).encode())
    return digest.hexdigest()


def checkpoint_digest(name: str) -> str:
    """sha256 of a checkpoint's configuration, weights and tokenizer.

    Raises:
        CheckpointError: there is no such checkpoint.
    """
    from streamvln_gym.agents.checkpoint import find_folder

    folder = find_folder(name)
    files = sorted({path for pattern in _CHECKPOINT_FILES for path in folder.glob(pattern)})
    return files_digest(files)


def files_digest(files: Iterable[Path]) -> str:
    """sha256 of files' names and contents."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name}:{path.stat().st_size}:".encode())
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
    return digest.hexdigest()
