"""Which release a file is taken for, and when name and content are said to disagree."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamvln_gym.data_check.releases import VersionFacts, folder_version, guess_version
from tests.miniatures import record


@pytest.mark.parametrize(
    ("folder", "version"),
    [
        ("R2R_VLNCE_v1-3_preprocessed", "v1-3"),
        ("R2R_VLNCE_v1-2", "v1-2"),
        ("R2R_VLNCE_v1_preprocessed", "v1"),
        ("vln/mp3d/r2r/v1", "v1"),
        ("r2r", ""),
    ],
)
def test_folders_name_releases(folder: str, version: str) -> None:
    assert folder_version(Path("data/datasets") / folder / "train/train.json.gz") == version


@pytest.mark.parametrize(
    ("folder", "split", "facts", "version", "severities"),
    [
        ("r2r", "envdrop", VersionFacts(episodes=146_413), "before v1-3", []),
        ("r2r", "envdrop", VersionFacts(episodes=146_304), "v1-3", []),
        ("r2r", "val_seen", VersionFacts(episodes=778), "", []),
        ("R2R_VLNCE_v1-2_preprocessed", "envdrop", VersionFacts(episodes=146_413), "v1-2", []),
        ("R2R_VLNCE_v1-3_preprocessed", "envdrop", VersionFacts(episodes=146_413), "v1-3", ["error"]),
        ("R2R_VLNCE_v1-3", "train", VersionFacts(episodes=100, first_heading="old"), "v1-3", ["error"]),
        ("R2R_VLNCE_v1-2", "train", VersionFacts(episodes=100, first_heading="new"), "v1-2", ["error"]),
        ("R2R_VLNCE_v1-2", "train", VersionFacts(episodes=100, first_heading="old"), "v1-2", []),
        ("R2R_VLNCE_v1-1", "train", VersionFacts(episodes=100, open_paths=50), "v1-1", ["warning"]),
        ("R2R_VLNCE_v1-1", "train", VersionFacts(episodes=100, open_paths=1), "v1-1", []),
    ],
)
def test_name_and_content(folder: str, split: str, facts: VersionFacts, version: str, severities: list[str]) -> None:
    found, reason, problems = guess_version(Path(f"datasets/{folder}/{split}/{split}.json.gz"), split, facts)
    assert (found, [problem.severity for problem in problems]) == (version, severities)
    assert bool(reason) == bool(found)


def test_facts_are_counted() -> None:
    facts = VersionFacts()
    facts.add(record(1, "aaa"))
    facts.add(record(2, "aaa", reference_path=[[4.1, 0.2, 2.0]], goals=[{"position": [7.0, 0.2, 2.0], "radius": 2.0}]))
    facts.add(record(3, "aaa", goals=None))
    assert facts == VersionFacts(episodes=3, open_paths=1, small_radii=1)
    facts.add(record(1, "aaa", start_position=[-16.2672, 0.15184, 0.72078], start_rotation=[0, 0.707107, 0, 0.707107]))
    assert facts.first_heading == "new"
