"""Validates a data folder: are episodes and scans whole, in their places, and of one release? (`data check`)"""

from __future__ import annotations

import os
import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from streamvln_gym.data_check.episode_file import CheckedFile, check_episode_file
from streamvln_gym.data_check.report import DataProblem, DataReport, some
from streamvln_gym.episodes import scene_name
from streamvln_gym.errors import DatasetError
from streamvln_gym.selection import scenes_dir_of
from streamvln_gym.vlnce.json_files import open_text
from streamvln_gym.vlnce.layouts import GET_HM3D, GET_MP3D, LAYOUTS, Layout, layout_of, scan_path, split_and_role

_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
_UNFINISHED = (".crdownload", ".part", ".partial", ".download", ".tmp")
_NO_EPISODES = ("embeddings", "annotations", "sub_instructions")  # other JSON files of these datasets
_UNSEEN = ("val_unseen", "test", "test_challenge")
_FOLDERS = {folder.partition("/")[0] for layout in LAYOUTS.values() for folder in layout.folders}


def check_data(path: Path, scenes_dir: Path | None = None, navigation: bool = False) -> DataReport:
    """Checks a data folder (with `datasets/` and `scene_datasets/`), a part of one, or one episode file.

    Args:
        path: what to check.
        scenes_dir: the folder that scene ids are relative to; default: the `scene_datasets` beside `datasets`.
        navigation: also load every scan and see whether starts are on its navigation mesh and goals can be reached.

    Raises:
        DatasetError: there is nothing at `path`.
    """
    if not path.exists():
        raise DatasetError(f"there is nothing at {path}. Give a data folder, such as data/, or an episode file.")
    path = _absolute(path)
    root = _root_of(path)
    problems: list[DataProblem] = []
    if path.is_file():
        files = [path]
    else:
        searched = root / "datasets" if root == path and (root / "datasets").is_dir() else path
        files = _episode_files(searched, problems)
    checked = [check_episode_file(file) for file in files]
    if path.is_dir():
        problems += _placement(root, [Path(one.summary.path) for one in checked])
    for one in checked:
        problems += one.problems
    problems += _between_splits(checked)
    if not checked:
        problems.append(_nothing_found(path))
    scenes = scenes_dir or (root / "scene_datasets" if path.is_dir() else scenes_dir_of(path, Path("data")))
    problems += _scans(checked, scenes)
    if navigation:
        from streamvln_gym.data_check.navigation import check_navigation

        for one in checked:
            problems += check_navigation(one, scenes)
    return DataReport(str(path), [one.summary for one in checked], problems)


# ------------------------------------------------------------------------------------------------------- what is there


def _absolute(path: Path) -> Path:
    """The path from the root on, without "..": the names of folders above "." or a file's bare name count, too."""
    plain = Path(os.path.abspath(path))
    # Links keep their names, as data are found by those; but ".." after a link is not the folder named before it.
    return plain if plain.exists() and plain.samefile(path) else path.resolve()


def _root_of(path: Path) -> Path:
    """The data folder that an absolute path is in (or is).

    Any folder may be called `datasets` (/mnt/datasets/vln/data), so that a data folder above `path` must show that it
    is one: by its scans, or by the published name of the folder in its `datasets` that leads to `path`.
    """
    if (path / "datasets").is_dir():
        return path
    nearest = next((folder for folder in (path, *path.parents) if folder.name == "datasets"), None)
    if nearest is None:
        return path
    published = nearest == path or path.relative_to(nearest).parts[0] in _FOLDERS
    return nearest.parent if published or (nearest.parent / "scene_datasets").is_dir() else path


def _episode_files(folder: Path, problems: list[DataProblem]) -> list[Path]:
    """The episode files below a folder; what lies there beside them and is no use becomes a problem."""
    found = []
    for path in _files_below(folder):
        name = path.name
        if not path.exists():
            what = f"a link to {os.readlink(path)}, where nothing is"
            problems.append(DataProblem("warning", "dangling link", str(path), what, "Correct or delete the link."))
        elif name.startswith("._") or "__MACOSX" in path.parts:
            what = "a side file of macOS, not data"
            problems.append(DataProblem("warning", "side file", str(path), what, "Delete it."))
        elif name.endswith(_ARCHIVES):
            what = "an archive: what it holds is not used until it is unpacked"
            problems.append(
                DataProblem("warning", "archive", str(path), what, "Unpack it here, or delete it if you have done so.")
            )
        elif name.endswith(_UNFINISHED):
            what = "the rest of a download that did not finish"
            problems.append(DataProblem("warning", "unfinished", str(path), what, "Download it again."))
        elif name.endswith((".json", ".json.gz")) and _is_episode_file(path, problems):
            found.append(path)
    return found


def _files_below(folder: Path) -> Iterator[Path]:
    """Every file below a folder, those of linked folders too (data are often linked from another disk)."""
    seen = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield from (Path(root) / name for name in sorted(names))


def _is_episode_file(path: Path, problems: list[DataProblem]) -> bool:
    split, _ = split_and_role(path)
    if split.endswith("_gt"):
        mine = path.with_name(f"{split.removesuffix('_gt')}.json")
        if not mine.exists() and not mine.with_name(f"{mine.name}.gz").exists():
            what = "ground truth without its episode file"
            problems.append(DataProblem("warning", "ground truth", str(path), what, "Put the episode file beside it."))
        return False
    if split.startswith(_NO_EPISODES) or "text_features" in path.parts or split == "package":
        return False
    known = split == path.parent.name or any(split in layout.episodes for layout in LAYOUTS.values())
    return known or layout_of(path) is not None or _begins_like_episodes(path)


def _begins_like_episodes(path: Path) -> bool:
    try:
        with open_text(path) as stream:
            return '"episodes"' in stream.read(1000)
    except (OSError, EOFError, ValueError):
        return False


def _nothing_found(path: Path) -> DataProblem:
    places = "; ".join(f"{layout.title} in datasets/{layout.folders[0]}" for layout in LAYOUTS.values())
    remedy = f"Get {LAYOUTS['r2r'].get} and unpack them so that there is {path}/datasets/r2r/val_unseen/... ({places})."
    return DataProblem("error", "no episodes", str(path), "no episode file was found", remedy)


def _placement(root: Path, files: Iterable[Path]) -> list[DataProblem]:
    """Files that `dataset=<name>` does not find, and splits that are there more than once."""
    problems = []
    places: dict[tuple[str, str, str], list[Path]] = defaultdict(list)
    for path in files:
        layout = layout_of(path)
        if layout is None:
            continue
        split, role = split_and_role(path)
        candidates = [candidate.absolute() for candidate in layout.candidates(root, split, role or "guide")]
        if path.absolute() in candidates:
            places[layout.name, split, role].append(path)
        elif not split.endswith("_bertidx"):
            problems.append(
                DataProblem(
                    "error",
                    "wrong folder",
                    str(path),
                    f"dataset={layout.name!r} does not look for it there",
                    f"Move it to {candidates[0]}, or play it by its path: dataset={str(path)!r}.",
                )
            )
    for (name, split, role), paths in places.items():
        if len(paths) > 1:
            used = LAYOUTS[name].find(root, split, role or "guide")
            what = f"{name} {split} {role}".strip() + f" is there {len(paths)} times: {some(map(str, paths))}"
            remedy = f"dataset={name!r} takes {used}: remove the others, or play them by their paths."
            problems.append(DataProblem("warning", "several releases", str(used), what, remedy))
    return problems


def _between_splits(checked: list[CheckedFile]) -> list[DataProblem]:
    """Scenes of unseen splits that are trained in, and releases that are mixed."""
    problems = []
    by_folder: dict[str, list[CheckedFile]] = defaultdict(list)
    for one in checked:
        by_folder[str(Path(one.summary.path).parents[1])].append(one)
    for folder, files in by_folder.items():
        trained = {scene for one in files if _trains(one) for scene in one.summary.scenes}
        for one in files:
            leaked = trained & set(one.summary.scenes)
            if one.summary.split in _UNSEEN and leaked:
                what = f"{len(leaked)} of its scenes are also in the training split: {some(sorted(leaked))}"
                remedy = "An unseen split must have scenes of its own: take both splits out of one release."
                problems.append(DataProblem("error", "split leak", one.summary.path, what, remedy))
        problems += _mixed(folder, files)
    problems += _mixed("", [one for one in checked if _trains(one)], "warning")
    return problems


def _trains(one: CheckedFile) -> bool:
    return "train" in one.summary.split or one.summary.split == "envdrop"


def _mixed(folder: str, files: list[CheckedFile], severity: str = "error") -> list[DataProblem]:
    """Whether files are of different releases; without a folder those of a whole data folder."""
    versions = {one.summary.version: one.summary.path for one in files if one.summary.version}
    if len(versions) < 2:
        return []
    shown = ", ".join(f"{version} ({path})" for version, path in sorted(versions.items()))
    return [
        DataProblem(
            "error" if severity == "error" else "warning",
            "version",
            folder or "training splits",
            f"releases are mixed: {shown}. They differ in start headings and ground truth.",
            "Take all of them out of one release, best v1-3 (https://github.com/jacobkrantz/VLN-CE#data).",
        )
    ]


# --------------------------------------------------------------------------------------------------------------- scans


def _scans(checked: list[CheckedFile], scenes_dir: Path) -> list[DataProblem]:
    """Scans that are missing, broken, or lack a navigation mesh."""
    problems = []
    elsewhere: dict[str, Path] | None = None
    state: dict[str, str] = {}
    for one in checked:
        groups: dict[str, list[str]] = defaultdict(list)
        for scene in one.summary.scenes:
            if scene not in state:
                state[scene] = _scan_state(scan_path(scenes_dir, scene))
            groups[state[scene]].append(scene)
        missing = groups.pop("missing", [])
        if missing:
            if elsewhere is None:
                elsewhere = {path.stem: path for path in _files_below(scenes_dir) if path.suffix == ".glb"}
            problems.append(_missing_scans(one, missing, scenes_dir, elsewhere))
        groups.pop("ok", None)
        for what, scenes in groups.items():
            severity, remedy = _SCAN_STATES[what]
            found = f"{len(scenes)} of its {len(one.summary.scenes)} scans {what}: {some(scenes)}"
            problems.append(
                DataProblem("error" if severity == "error" else "note", "scans", one.summary.path, found, remedy)
            )
    return problems


_SCAN_STATES = {
    "are no GLB files": ("error", "They are web pages, Git LFS pointers or empty: download them again."),
    "cannot be read": ("error", "Look at the files' permissions and the disk."),
    "are cut off": ("error", "The downloads did not finish: download them again."),
    "have no navigation mesh beside them": (
        "note",
        "The mesh is computed from the scan. For published results take the .navmesh files that come with the scans.",
    ),
    "are .basis.glb only": ("note", f"habitat reads them; for the embedded simulator get {GET_HM3D}."),
}


def _scan_state(path: Path) -> str:
    if not path.is_file():
        return "missing"
    try:
        with path.open("rb") as file:
            head = file.read(12)
    except OSError:
        return "cannot be read"
    if len(head) < 12 or not head.startswith(b"glTF"):
        return "are no GLB files"
    if path.stat().st_size < struct.unpack("<I", head[8:])[0]:
        return "are cut off"
    if path.name.endswith(".basis.glb"):
        return "are .basis.glb only"
    stem = path.name.removesuffix(".glb")
    meshes = (f"{stem}.navmesh", f"{stem}.navmesh.npz", f"{stem}.basis.navmesh")
    return "ok" if any(path.with_name(name).exists() for name in meshes) else "have no navigation mesh beside them"


def _missing_scans(one: CheckedFile, missing: list[str], scenes_dir: Path, elsewhere: dict[str, Path]) -> DataProblem:
    moved = {scene: elsewhere[scene_name(scene)] for scene in missing if scene_name(scene) in elsewhere}
    if moved:
        scene, place = next(iter(moved.items()))
        remedy = f"{len(moved)} lie elsewhere: move them so that {place} becomes {scenes_dir / scene}."
    else:
        layout: Layout | None = one.layout
        hm3d = any(scene.startswith("hm3d") for scene in missing)
        get = GET_HM3D if hm3d else layout.get_scans if layout else GET_MP3D
        remedy = f"Get {get}, below {scenes_dir}."
    what = f"{len(missing)} of its {len(one.summary.scenes)} scans are missing in {scenes_dir}: {some(missing)}"
    return DataProblem("error", "missing scans", one.summary.path, what, remedy)
