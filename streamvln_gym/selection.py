"""Which dataset an environment gets: what was asked for, or the rule of "auto". (Simulators: `simulators.choice`.)"""

from __future__ import annotations

import multiprocessing
import os
import re
import sys
import warnings
from collections.abc import Collection
from pathlib import Path

from streamvln_gym.episode_filter import EpisodeFilter, EpisodeSubset
from streamvln_gym.episodes import EpisodeDataset
from streamvln_gym.errors import DatasetError
from streamvln_gym.vlnce import VLNCEDataset
from streamvln_gym.vlnce.layouts import LAYOUTS, ROLES, Layout

_AUTO = ("r2r", "rxr")
_PASSED_ON = ("streamvln_gym", "gymnasium")


def open_dataset(
    dataset: str | os.PathLike[str] | EpisodeDataset,
    split: str,
    data_dir: Path,
    scenes: int | Collection[str] | None = None,
    auto_dataset: str = "r2r",
    languages: Collection[str] | None = None,
    episode_ids: Collection[str | int] | None = None,
    role: str = "guide",
) -> EpisodeDataset:
    """The dataset that was asked for (see `VLNEnv` for the arguments).

    Raises:
        DatasetError: it cannot be had, or no episode is left.
        EpisodeNotFoundError: it has no such scene, language or episode.
    """
    wanted = EpisodeFilter(scenes, languages, episode_ids)
    if role not in (*ROLES, "all"):
        raise ValueError(f"role must be one of {', '.join(ROLES)} or 'all', got {role!r}")
    if not isinstance(dataset, (str, os.PathLike)):
        return _ready(dataset, wanted)
    if auto_dataset not in _AUTO:
        raise ValueError(f"auto_dataset must be one of {', '.join(_AUTO)}, got {auto_dataset!r}")
    if dataset == "auto":
        try:
            return _open_downloaded(LAYOUTS[auto_dataset], split, data_dir, wanted, role)
        except _MissingDataError as missing:
            _warn_about_flats(LAYOUTS[auto_dataset], missing)
        return _open_flats(split, wanted)
    if dataset == "flats":
        if role != "guide":
            raise ValueError(f"the embedded flats have no roles: leave out role={role!r}")
        return _open_flats(split, wanted)
    if dataset in LAYOUTS:
        return _open_downloaded(LAYOUTS[str(dataset)], split, data_dir, wanted, role)
    path = Path(str(dataset).replace("{split}", split).replace("{role}", role))
    if path.is_dir():
        return _open_folder(path, split, wanted)
    if not re.search(r"\.json(\.gz)?$", path.name):
        raise DatasetError(
            f"unknown dataset {str(path)!r}: use 'auto', 'flats', {', '.join(map(repr, LAYOUTS))}, the path of a "
            "VLN-CE episode file (.json.gz or .json), or a folder that `streamvln-gym build-flats --out` wrote"
        )
    return _load(path, scenes_dir_of(path, data_dir), None, None, wanted, None)


def scenes_dir_of(path: Path, data_dir: Path) -> Path:
    """Where the scenes of an episode file lie: in the data folder that the file is in, otherwise in `data_dir`."""
    for parent in path.absolute().parents:
        if parent.name == "datasets" and (parent.parent / "scene_datasets").is_dir():
            return parent.parent / "scene_datasets"
    return data_dir / "scene_datasets"


def source_of(dataset: EpisodeDataset) -> str:
    """Which data on disk a dataset is, e.g. "datasets/R2R_VLNCE_v1-3_preprocessed/..."; else its name."""
    return getattr(dataset, "source", dataset.name)


class _MissingDataError(DatasetError):
    """The episodes or the scans of a downloaded dataset are not on disk."""


def _warn_about_flats(wanted: Layout, missing: DatasetError) -> None:
    """Says once that "auto" took the flats: not again in the workers of a vector environment that has said it."""
    if multiprocessing.current_process().name.startswith("Worker<AsyncVectorEnv>"):
        return
    warnings.warn(
        f"{missing} Until then this environment uses the embedded, generated flats (dataset='flats'): its numbers are "
        f"NOT {wanted.title} numbers. Pass dataset='flats' to silence this warning.",
        UserWarning,
        stacklevel=_callers_level(),
    )


def _callers_level() -> int:
    """The stack level, for `_warn_about_flats`, of the first caller outside of this package and Gymnasium."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _PASSED_ON:
        level, frame = level + 1, frame.f_back
    return level


def _open_downloaded(layout: Layout, split: str, data_dir: Path, wanted: EpisodeFilter, role: str) -> VLNCEDataset:
    if role != "guide" and not layout.has_roles:
        raise ValueError(f"{layout.title} has no roles: leave out role={role!r}")
    roles = (ROLES if role == "all" else (role,)) if layout.has_roles else ("",)
    files = {each: _find(layout, split, data_dir, each) for each in roles}
    first = next(iter(files.values()))
    source = first if len(files) == 1 else first.parent
    dataset = _load(
        files if len(files) > 1 else first,
        data_dir / "scene_datasets",
        layout.name if role == "guide" else f"{layout.name}-{role}",
        split,
        wanted,
        source.relative_to(data_dir).as_posix(),
    )
    missing = [scene for scene in dataset.scene_ids if not dataset.scene_path(scene).is_file()]
    if missing:
        raise _MissingDataError(
            f"{len(missing)} of the {len(dataset.scene_ids)} scans of {layout.title} {split} are missing, the first is "
            f"{dataset.scene_path(missing[0])} (for the episodes of {source}). Get {layout.get_scans} and put them "
            f"under {data_dir}/scene_datasets, or choose `scenes` that you have. `streamvln-gym data check {data_dir}` "
            "lists what is missing."
        )
    return dataset


def _find(layout: Layout, split: str, data_dir: Path, role: str) -> Path:
    path = layout.find(data_dir, split, role or "guide")
    if path is not None:
        return path
    present = layout.splits(data_dir)
    have = f" (splits found there: {', '.join(present)})" if present else ""
    expected = next(layout.candidates(data_dir, layout.only[0] if layout.only else split, role or "guide"))
    if layout.only and split not in layout.only:
        raise _MissingDataError(
            f"{layout.title} has no split {split!r}: its splits are {', '.join(layout.only)}{have}. Pass one of them, "
            f"such as split={layout.only[0]!r}."
        )
    raise _MissingDataError(
        f"There are no {layout.title} episodes of the split {split!r}: {expected} is missing{have}; looked in "
        f"{data_dir}/datasets for {', '.join(layout.folders)}. Get {layout.get} and {layout.get_scans}, and put them "
        f"under {data_dir}/datasets and {data_dir}/scene_datasets."
    )


def _load(
    path: Path | dict[str, Path],
    scenes_dir: Path,
    name: str | None,
    split: str | None,
    wanted: EpisodeFilter,
    source: str | None,
) -> VLNCEDataset:
    chosen = (wanted.scenes, wanted.languages, wanted.episode_ids)
    return VLNCEDataset.load(path, scenes_dir, name, split, *chosen, source=source)


def _open_folder(folder: Path, split: str, wanted: EpisodeFilter) -> EpisodeDataset:
    """A folder of built flats."""
    from streamvln_gym.flats.files import DATASET_NAME, scenes_root, split_file

    path = split_file(folder, split)
    if not path.exists():
        raise DatasetError(
            f"the folder {folder} has no split {split!r} of built flats: {path} is missing. Build it with "
            f"`streamvln-gym build-flats --split {split} --out {folder}`, or give the path of an episode file. A data "
            f"folder with downloaded datasets goes into data_dir, with dataset='r2r' or another name."
        )
    return _load(path, scenes_root(folder), DATASET_NAME, split, wanted, None)


def _open_flats(split: str, wanted: EpisodeFilter) -> EpisodeDataset:
    from streamvln_gym.flats.dataset import FlatsDataset

    others = EpisodeFilter(None, wanted.languages, wanted.episode_ids)
    if isinstance(wanted.scenes, int) and others:  # the first so many of those that the others leave
        return _subset(FlatsDataset(split), wanted)
    return _subset(FlatsDataset(split, scenes=wanted.scenes), others)


def _ready(dataset: EpisodeDataset, wanted: EpisodeFilter) -> EpisodeDataset:
    """A dataset object that was passed in."""
    if not isinstance(dataset, EpisodeDataset):
        raise TypeError(
            f"dataset must be a name, a path or an EpisodeDataset, got {type(dataset).__name__}; see "
            "streamvln_gym.episodes.EpisodeDataset for what one offers"
        )
    if isinstance(dataset, VLNCEDataset):
        return dataset.restricted_to(wanted) if wanted else dataset
    return _subset(dataset, wanted)


def _subset(dataset: EpisodeDataset, wanted: EpisodeFilter) -> EpisodeDataset:
    if not wanted:
        return dataset
    kept = wanted.choose(dataset, None)
    return EpisodeSubset(dataset, [dataset.episode_ids[k] for k in kept])
