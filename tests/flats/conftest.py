"""A folder with three generated flats, built once."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamvln_gym.flats.building import build_scenes
from streamvln_gym.flats.dataset import FlatsDataset

SEEDS = (20_000, 20_001, 20_002)


@pytest.fixture(scope="session")
def flats_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("flats")
    build_scenes(root, "val_unseen", SEEDS, workers=1)
    return root


@pytest.fixture
def flats(flats_root: Path) -> FlatsDataset:
    return FlatsDataset("val_unseen", flats_root, scenes=len(SEEDS))
