"""Where the published VLN-CE data lie below a data folder, what they are called and how many episodes they have.

Sources: the READMEs of VLN-CE (https://github.com/jacobkrantz/VLN-CE), its data page with the changelog
(https://jacobkrantz.github.io/vlnce/data, pull request #32) and habitat-lab's DATASETS.md.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROLES = ("guide", "follower")
"""Who walked RxR's paths: the author of the instruction (what everybody evaluates on), or another reader of it."""

GET_MP3D = (
    "the Matterport3D scans (ask for access on https://niessner.github.io/Matterport/, then, with the download script "
    "that they send: `python2 download_mp.py --task habitat -o data/scene_datasets/mp3d/`, and unpack so that there "
    "is mp3d/<scan>/<scan>.glb)"
)
GET_HM3D = (
    "the HM3D scans (https://aihabitat.org/datasets/hm3d/; for the embedded simulator the plain `hm3d-*-glb` files, "
    "as `.basis.glb` has compressed textures)"
)
_GET_EPISODES = "https://github.com/jacobkrantz/VLN-CE#data"
_R2R_VERSIONS = ("v1-3", "v1-2", "v1-1", "v1")


@dataclass(frozen=True)
class Layout:
    """A dataset as it is published.

    Attributes:
        name: as in `gym.make(..., dataset=name)`.
        title: as people write it.
        folders: where it is looked for, below `<data>/datasets`, in this order.
        patterns: episode files in such a folder, in this order; "{split}" and "{role}" are filled in.
        get: how to get the episodes.
        get_scans: how to get the scans.
        episodes: documented number of episodes of a split.
        scenes: documented number of scenes of a split.
        only: the splits that it has, where `folders` hold other splits too; empty: all.
    """

    name: str
    title: str
    folders: tuple[str, ...]
    patterns: tuple[str, ...]
    get: str
    get_scans: str
    episodes: dict[str, int] = field(default_factory=dict)
    scenes: dict[str, int] = field(default_factory=dict)
    only: tuple[str, ...] = ()

    def find(self, data_dir: Path, split: str, role: str = "guide") -> Path | None:
        """The episode file of a split: the first that exists, None without one."""
        if self.only and split not in self.only:
            return None
        return next((path for path in self.candidates(data_dir, split, role) if path.is_file()), None)

    def candidates(self, data_dir: Path, split: str, role: str = "guide") -> Iterator[Path]:
        """Every place where the episode file of a split is looked for, in order."""
        for folder in self.folders:
            for pattern in self.patterns:
                yield data_dir / "datasets" / folder / pattern.format(split=split, role=role)

    def splits(self, data_dir: Path) -> list[str]:
        """The splits that are there, by name."""
        found = set()
        for folder in self.folders:
            root = data_dir / "datasets" / folder
            for name in (path.name for path in [*root.glob("*"), *root.glob("*.json.gz")]):
                split = name.removesuffix(".gz").removesuffix(".json")
                if not split.endswith("_gt") and any(self.find(data_dir, split, role) for role in ROLES):
                    found.add(split)
        return sorted(found)

    @property
    def has_roles(self) -> bool:
        """Whether its files come by role."""
        return any("{role}" in pattern for pattern in self.patterns)


_R2R_FOLDERS = tuple(f"R2R_VLNCE_{version}{ending}" for version in _R2R_VERSIONS for ending in ("_preprocessed", ""))
_BY_SPLIT = ("{split}/{split}.json.gz", "{split}/{split}.json")

LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout(
            "r2r",
            "R2R-CE",
            ("r2r", *_R2R_FOLDERS, "vln/mp3d/r2r/v1"),
            _BY_SPLIT,
            f"the R2R-CE episodes ({_GET_EPISODES}: R2R_VLNCE_v1-3_preprocessed.zip)",
            GET_MP3D,
            {"train": 10_819, "val_seen": 778, "val_unseen": 1_839, "test": 3_408},
            {"train": 61, "val_seen": 53, "val_unseen": 11, "test": 18},
        ),
        Layout(
            "rxr",
            "RxR-CE",
            ("rxr", "RxR_VLNCE_v0"),
            ("{split}/{split}_{role}.json.gz", "{split}/{split}_{role}.json"),
            f"the RxR-CE episodes ({_GET_EPISODES}: RxR_VLNCE_v0.zip)",
            GET_MP3D,
        ),
        Layout(
            "envdrop",
            "R2R-CE EnvDrop",
            ("envdrop", *(name for name in _R2R_FOLDERS if name.endswith("preprocessed")), "r2r"),
            ("{split}.json.gz", *_BY_SPLIT),
            f"the EnvDrop episodes (in R2R_VLNCE_v1-3_preprocessed.zip, {_GET_EPISODES})",
            GET_MP3D,
            {"envdrop": 146_304},
            {"envdrop": 60},
            only=("envdrop", "joint_train_envdrop"),
        ),
        Layout(
            "scalevln",
            "ScaleVLN",
            ("scalevln", "ScaleVLN"),
            ("{split}.json.gz", *_BY_SPLIT),
            "the ScaleVLN episodes in VLN-CE's format (as the projects that train on them publish them)",
            GET_HM3D,
        ),
    )
}
"""The datasets that are found by name."""

ENVDROP_BEFORE_V1_3 = 146_413
"""Episodes of EnvDrop up to v1-2; v1-3 removed the 109 that could no longer be navigated."""


def layout_of(path: Path) -> Layout | None:
    """The dataset that an episode file belongs to, by the names of its folders; None if they say nothing.

    Only folders below the last `datasets` count, as a project may have any name (~/r2r/data/datasets/rxr); without a
    `datasets` all do. The innermost that has a dataset's name decides.
    """
    parts = Path(os.path.normpath(path.absolute())).parts[:-1]
    if "datasets" in parts:
        parts = parts[len(parts) - parts[::-1].index("datasets") :]
    stem = path.name.removesuffix(".gz").removesuffix(".json")
    if stem in LAYOUTS["envdrop"].only:
        return LAYOUTS["envdrop"]
    for end in range(len(parts), 0, -1):
        for layout in LAYOUTS.values():
            names = [tuple(folder.split("/")) for folder in layout.folders]
            if any(parts[:end][-len(name) :] == name for name in names):
                return layout
    return LAYOUTS["rxr"] if stem.endswith(tuple(f"_{role}" for role in ROLES)) else None


def scan_path(scenes_dir: Path, scene_id: str) -> Path:
    """A scene's GLB (which may be missing); HM3D's plain `.glb` where its `.basis.glb` is not there."""
    path = scenes_dir / scene_id
    if scene_id.endswith(".basis.glb") and not path.is_file():
        plain = path.with_name(f"{path.name.removesuffix('.basis.glb')}.glb")
        return plain if plain.is_file() else path
    return path


def split_and_role(path: Path) -> tuple[str, str]:
    """A file's split and role ("" without): "val_seen_guide.json.gz" -> ("val_seen", "guide")."""
    stem = path.name.removesuffix(".gz").removesuffix(".json")
    for role in ROLES:
        if stem.endswith(f"_{role}"):
            return stem.removesuffix(f"_{role}"), role
    return stem, ""
