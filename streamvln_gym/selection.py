"""Which dataset an environment gets: what was asked for, or the rule of "auto". (Simulators: `simulators.choice`.)"""

from __future__ import annotations

import multiprocessing
import os
import re
import warnings
from collections.abc import Collection
from pathlib import Path

from streamvln_gym.episodes import EpisodeDataset
from streamvln_gym.errors import DatasetError
from streamvln_gym.vlnce import VLNCEDataset

EPISODE_FILES = {"r2r": "datasets/r2r/{split}/{split}.json.gz", "rxr": "datasets/rxr/{split}/{split}_guide.json.gz"}
"""Where the downloaded datasets lie under `data_dir`."""

_TITLES = {"r2r": "R2R-CE", "rxr": "RxR-CE"}
_GET = {
    "r2r": "the R2R-CE episodes (https://github.com/jacobkrantz/VLN-CE#data)",
    "rxr": "the RxR-CE episodes (https://github.com/jacobkrantz/VLN-CE#data)",
}
_GET_SCANS = "the Matterport3D scans (https://niessner.github.io/Matterport/, after agreeing to their terms)"


def open_dataset(
    dataset: str | os.PathLike[str] | EpisodeDataset,
    split: str,
    data_dir: Path,
    scenes: int | Collection[str] | None = None,
    auto_dataset: str = "r2r",
) -> EpisodeDataset:
    """The dataset that was asked for (see `VLNEnv` for the arguments).

    Raises:
        DatasetError: it cannot be had.
    """
    if not isinstance(dataset, (str, os.PathLike)):
        return _ready(dataset, scenes)
    if isinstance(scenes, str):
        raise ValueError(f"scenes must be a collection of scene names such as [{scenes!r}], got the string {scenes!r}")
    if auto_dataset not in EPISODE_FILES:
        raise ValueError(f"auto_dataset must be one of {', '.join(EPISODE_FILES)}, got {auto_dataset!r}")
    if dataset == "auto":
        try:
            return _open_downloaded(auto_dataset, split, data_dir, scenes)
        except _MissingDataError as missing:
            _warn_about_flats(auto_dataset, missing)
        return _open_flats(split, scenes)
    if dataset == "flats":
        return _open_flats(split, scenes)
    if dataset in EPISODE_FILES:
        return _open_downloaded(str(dataset), split, data_dir, scenes)
    path = str(dataset).replace("{split}", split)
    if Path(path).is_dir():
        return _open_folder(Path(path), split, scenes)
    if not re.search(r"\.json(\.gz)?$", path):
        raise DatasetError(
            f"unknown dataset {path!r}: use 'auto', 'flats', 'r2r', 'rxr', the path of a VLN-CE episode file (.json.gz "
            "or .json), or a folder that `streamvln-gym build-flats --out` wrote"
        )
    return VLNCEDataset.load(path, _scenes_dir(Path(path), data_dir), scenes=scenes)


def _warn_about_flats(wanted: str, missing: DatasetError) -> None:
    """Says once that "auto" took the flats: not again in the workers of a vector environment that has said it."""
    if multiprocessing.current_process().name.startswith("Worker<AsyncVectorEnv>"):
        return
    warnings.warn(
        f"{missing} Until then this environment uses the embedded, generated flats (dataset='flats'): its numbers are "
        f"NOT {_TITLES[wanted]} numbers. Pass dataset='flats' to silence this warning.",
        UserWarning,
        stacklevel=4,
    )


class _MissingDataError(DatasetError):
    """The episodes or the scans of a downloaded dataset are not on disk."""


def _open_downloaded(name: str, split: str, data_dir: Path, scenes: int | Collection[str] | None) -> EpisodeDataset:
    path = data_dir / EPISODE_FILES[name].format(split=split)
    if not path.exists():
        present = sorted(entry.name for entry in path.parents[1].glob("*") if entry.is_dir())
        have = f" (splits found there: {', '.join(present)})" if present else ""
        raise _MissingDataError(
            f"There are no {_TITLES[name]} episodes of the split {split!r}: {path} is missing{have}. Get {_GET[name]} "
            f"and {_GET_SCANS}, and put them under {data_dir}/datasets/{name} and {data_dir}/scene_datasets/mp3d."
        )
    dataset = VLNCEDataset.load(path, data_dir / "scene_datasets", name, split, scenes)
    missing = [scene for scene in dataset.scene_ids if not dataset.scene_path(scene).exists()]
    if missing:
        raise _MissingDataError(
            f"{len(missing)} of the {len(dataset.scene_ids)} scans of {_TITLES[name]} {split} are missing, the first "
            f"is {dataset.scene_path(missing[0])}. Get {_GET_SCANS} and put them under "
            f"{data_dir}/scene_datasets/mp3d, or "
            "choose `scenes` that you have."
        )
    return dataset


def _open_folder(folder: Path, split: str, scenes: int | Collection[str] | None) -> EpisodeDataset:
    """A folder of built flats."""
    from streamvln_gym.flats.files import DATASET_NAME, scenes_root, split_file

    path = split_file(folder, split)
    if not path.exists():
        raise DatasetError(
            f"the folder {folder} has no split {split!r} of built flats: {path} is missing. Build it with "
            f"`streamvln-gym build-flats --split {split} --out {folder}`, or give the path of an episode file."
        )
    return VLNCEDataset.load(path, scenes_root(folder), DATASET_NAME, split, scenes)


def _scenes_dir(path: Path, data_dir: Path) -> Path:
    """Where the scenes of an episode file lie: in the data folder that the file is in, otherwise in `data_dir`."""
    for parent in path.absolute().parents:
        if parent.name == "datasets" and (parent.parent / "scene_datasets").is_dir():
            return parent.parent / "scene_datasets"
    return data_dir / "scene_datasets"


def _open_flats(split: str, scenes: int | Collection[str] | None) -> EpisodeDataset:
    from streamvln_gym.flats.dataset import FlatsDataset

    return FlatsDataset(split, scenes=scenes)


def _ready(dataset: EpisodeDataset, scenes: int | Collection[str] | None) -> EpisodeDataset:
    """A dataset object that was passed in."""
    if not isinstance(dataset, EpisodeDataset):
        raise TypeError(
            f"dataset must be a name, a path or an EpisodeDataset, got {type(dataset).__name__}; see "
            "streamvln_gym.episodes.EpisodeDataset for what one offers"
        )
    if scenes is None:
        return dataset
    if not isinstance(dataset, VLNCEDataset):
        raise ValueError("scenes cannot be chosen from this dataset object: choose them when you build it")
    return dataset.restricted_to(scenes)
