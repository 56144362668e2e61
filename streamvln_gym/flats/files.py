"""Names, ids and paths of the generated data: ordinary VLN-CE data below one root folder.

Layout (every scene folder and every file appears whole or not at all)::

    scene_datasets/flats/<scene>/<scene>.glb, .navmesh.npz, .scene_graph.json, .instances.npy, .stage_config.json
    datasets/flats/<split>/by_scene/<scene>.json.gz, <scene>_gt.json.gz
    datasets/flats/<split>/<split>.json.gz, <split>_gt.json.gz      (`build-flats` writes them last)
"""

from __future__ import annotations

from pathlib import Path

from streamvln_gym.vlnce import ground_truth_path

GENERATOR_VERSION = 1
"""Raised whenever a polygon, a picture, a path or a word of the generated data changes."""
DATASET_NAME = f"flats-v{GENERATOR_VERSION}"

PATHS_PER_SCENE = 6
INSTRUCTIONS_PER_PATH = 3
EPISODES_PER_SCENE = PATHS_PER_SCENE * INSTRUCTIONS_PER_PATH
MAX_INSTRUCTION_LENGTH = 900
"""Characters."""

_SCENE_FILES = (".glb", ".navmesh.npz", ".scene_graph.json", ".instances.npy", ".stage_config.json")
_IDS_PER_SCENE = 1000
_SEEN_OFFSET = 500  # val_seen uses the scenes of train: its ids must differ


def scene_name(seed: int) -> str:
    """Name of the flat with this scene seed: "flat_020003"."""
    return f"flat_{seed:06d}"


def scene_id(seed: int) -> str:
    """Its scene id, relative to `scenes_root`: "flats/flat_020003/flat_020003.glb"."""
    return f"flats/{scene_name(seed)}/{scene_name(seed)}.glb"


def first_episode_id(split: str, seed: int) -> int:
    """The number of a scene's first episode; the others follow it."""
    return seed * _IDS_PER_SCENE + (_SEEN_OFFSET if split == "val_seen" else 0)


def scenes_root(root: Path) -> Path:
    """The folder that scene ids are relative to."""
    return root / "scene_datasets"


def scene_folder(root: Path, seed: int) -> Path:
    """The folder of one flat."""
    return (scenes_root(root) / scene_id(seed)).parent


def is_built(root: Path, split: str, seed: int) -> bool:
    """Whether a flat and its episodes of a split are there, with all their files."""
    episodes = episode_file(root, split, seed)
    return episodes.exists() and ground_truth_path(episodes).exists() and scene_is_whole(root, seed)


def scene_is_whole(root: Path, seed: int) -> bool:
    """Whether all files of a flat are there."""
    folder = scene_folder(root, seed)
    return all((folder / f"{folder.name}{suffix}").exists() for suffix in _SCENE_FILES)


def split_file(root: Path, split: str) -> Path:
    """The episode file of a whole split."""
    return root / "datasets" / "flats" / split / f"{split}.json.gz"


def episode_file(root: Path, split: str, seed: int) -> Path:
    """The episode file of one flat."""
    return root / "datasets" / "flats" / split / "by_scene" / f"{scene_name(seed)}.json.gz"
