"""A trajectory folder on disk, as small as one can be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

INSTRUCTIONS = ("Leave the bedroom and wait by the piano.", "Go to the piano.")
INTRINSICS = [[40.0, 0.0, 31.5], [0.0, 40.0, 23.5], [0.0, 0.0, 1.0]]


def picture(step: int) -> np.ndarray:
    """(48, 64, 3) uint8 blocks that differ from step to step."""
    blocks = np.random.default_rng([7, step]).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return blocks.repeat(8, 0).repeat(8, 1)


def depth(step: int) -> np.ndarray:
    """(48, 64) uint16 millimetres; every ninth block has no reading."""
    blocks = np.random.default_rng([8, step]).integers(500, 3000, (6, 8)).astype(np.uint16)
    blocks.flat[::9] = 0
    return blocks.repeat(8, 0).repeat(8, 1)


def pose(step: int) -> list[list[float]]:
    """A camera that walks forward."""
    matrix = np.diag([1.0, -1.0, -1.0, 1.0])
    matrix[:3, 3] = (0.0, 1.25, -0.02 * step)
    return matrix.tolist()


class FolderWriter:
    """Writes trajectory folders below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def pictures(self, name: str, count: int, suffix: str = ".jpg", geometry: bool = False) -> Path:
        """Pictures of trajectory `name`, with depth and poses if asked for; returns its folder."""
        video = self.root / "images" / name
        (video / "rgb").mkdir(parents=True)
        for step in range(count):
            Image.fromarray(picture(step)).save(video / "rgb" / f"{step:03d}{suffix}")
        if geometry:
            (video / "depth").mkdir()
            for step in range(count):
                Image.fromarray(depth(step)).save(video / "depth" / f"{step:03d}.png")
            cameras = {"intrinsics": INTRINSICS, "poses": [pose(step) for step in range(count)]}
            (video / "camera.json").write_text(json.dumps(cameras))
        return video

    def annotate(self, *entries: object) -> Path:
        (self.root / "annotations.json").write_text(json.dumps(entries), encoding="utf-8")
        return self.root

    def driven(self, name: str, labels: Sequence[int], executed: Sequence[int]) -> dict[str, object]:
        """An annotation whose driver was not the expert; both lists as they are in the file."""
        return {**self.entry(name, labels), "executed": [-1, *executed]}

    def entry(self, name: str, actions: Sequence[int]) -> dict[str, object]:
        """An annotation; `actions` are those taken, without start marker and STOP."""
        return {"id": name, "video": f"images/{name}", "instructions": list(INSTRUCTIONS), "actions": [-1, *actions]}


@pytest.fixture
def writer(tmp_path: Path) -> FolderWriter:
    return FolderWriter(tmp_path)


@pytest.fixture
def folder(writer: FolderWriter) -> Path:
    """One trajectory of 9 moves and the final STOP."""
    writer.pictures("a", 10)
    return writer.annotate(writer.entry("a", [1, 2, 3, 1, 1, 1, 2, 2, 1]))
