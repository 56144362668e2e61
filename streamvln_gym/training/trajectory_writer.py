"""Writer of trajectory folders: episodes appear whole or not at all, whenever the process is killed.

    <folder>/episodes/<name>.json    annotation of one finished episode; where it is, its pictures are complete
    <folder>/images/<name>/rgb/      000.jpg, ...; also depth/, camera.json and privileged.npz where recorded
    <folder>/annotations.json        all annotations, written by `merge_annotations`: what readers look at
    <folder>/.staging/               episodes that are being recorded

The formats of annotations and pictures are those of `trajectories`, of depth and cameras those of `geometry`.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from streamvln_gym.errors import DatasetError
from streamvln_gym.training.privileged import Privileged
from streamvln_gym.training.trajectories import ANNOTATIONS, PICTURE_SUFFIXES, START_MARKER, STOP
from streamvln_gym.whole_writes import write_whole

EPISODES = "episodes"
IMAGES = "images"
PRIVILEGED_FILE = "privileged.npz"
_STAGING = ".staging"
_MILLIMETRES = 1000.0
_SKIPPED = "skipped"
_ORIGIN = "origin"  # digest of the episodes that were played; kept out of the annotations


class TrajectoryWriter:
    """Records one episode; a context manager that throws away what was not published.

        with TrajectoryWriter(folder, "flat_000003_flats-v1_003004") as writer:
            writer.add(rgb)  # for every picture
            writer.publish(3004, ["Leave the bedroom ..."], actions)

    Args:
        folder: the trajectory folder.
        name: of the episode, unique in the folder; becomes the name of its files.
        quality: of the JPEG pictures, 1 to 100.

    Raises:
        DatasetError: the folder cannot be written.
    """

    def __init__(self, folder: Path, name: str, quality: int = 90) -> None:
        self.folder = folder
        self.name = name
        self._quality = quality
        self._count = 0
        self._depth_pictures = 0
        self._poses: list[list[list[float]]] = []
        self._privileged: list[Privileged] = []
        self._stage = folder / _STAGING / f"{name}.{os.getpid()}"
        with _writing(self._stage):
            shutil.rmtree(self._stage, ignore_errors=True)
            (self._stage / "rgb").mkdir(parents=True)

    def __enter__(self) -> TrajectoryWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        shutil.rmtree(self._stage, ignore_errors=True)

    def add(
        self,
        rgb: NDArray[np.uint8],
        depth: NDArray[np.float32] | None = None,
        pose: NDArray[np.floating] | None = None,
        privileged: Privileged | None = None,
    ) -> None:
        """Adds the next frame; what is given of the first frame must be given of all.

        Args:
            rgb: (H, W, 3).
            depth: (H, W, 1) or (H, W) metres.
            pose: (4, 4) camera to episode frame; wherever there is depth.
            privileged: targets of auxiliary losses.

        Raises:
            DatasetError: the file cannot be written.
        """
        number = f"{self._count:03d}"
        path = self._stage / "rgb" / f"{number}{PICTURE_SUFFIXES[0]}"
        with _writing(path):
            # Colours at full resolution: instructions name them, and pictures may be small.
            path.write_bytes(_encoded(rgb, "JPEG", quality=self._quality, subsampling=0))
            if depth is not None:
                (self._stage / "depth").mkdir(exist_ok=True)
                millimetres = np.rint(depth.reshape(rgb.shape[:2]) * _MILLIMETRES).clip(0, 65535).astype(np.uint16)
                (self._stage / "depth" / f"{number}.png").write_bytes(_encoded(millimetres, "PNG"))
                self._depth_pictures += 1
        if pose is not None:
            self._poses.append(pose.tolist())
        if privileged is not None:
            self._privileged.append(privileged)
        self._count += 1

    def publish(
        self,
        trajectory_id: int | str,
        instructions: Sequence[str],
        actions: Sequence[int],
        executed: Sequence[int] | None = None,
        intrinsics: NDArray[np.floating] | None = None,
        notes: Mapping[str, Any] | None = None,
        origin: str | None = None,
    ) -> None:
        """Moves the episode into the folder; it replaces one of the same name.

        Args:
            trajectory_id: the annotation's id.
            instructions: sentences that describe the path.
            actions: what to do at each picture; STOP at the last unless `executed` is given.
            executed: what was executed at each picture, if somebody else than the expert drove.
            intrinsics: (3, 3), where poses were given.
            notes: further keys of the annotation, as JSON values; readers ignore them.
            origin: what `is_recorded` will be asked with.

        Raises:
            DatasetError: a file cannot be written.
            ValueError: the numbers of frames and actions differ, or depth lacks poses or intrinsics.
        """
        counts = {"actions": len(actions), "executed actions": len(actions if executed is None else executed)}
        optional = {
            "depth pictures": self._depth_pictures,
            "poses": len(self._poses),
            "auxiliary targets": len(self._privileged),
        }
        counts |= {name: count for name, count in optional.items() if count}
        if wrong := {name: count for name, count in counts.items() if count != self._count}:
            raise ValueError(f"episode {self.name} has {self._count} pictures, but {wrong}")
        if self._depth_pictures and not self._poses:
            raise ValueError(f"episode {self.name} has depth without poses: who reads it needs both")
        if executed is None and (not actions or actions[-1] != STOP):
            raise ValueError(f"episode {self.name} does not end with STOP: pass `executed` if the expert did not drive")
        with _writing(self._stage):
            if self._poses:
                if intrinsics is None:
                    raise ValueError("poses were recorded, so intrinsics are needed too")
                cameras = {"intrinsics": intrinsics.tolist(), "poses": self._poses}
                (self._stage / "camera.json").write_text(json.dumps(cameras), encoding="utf-8")
            if self._privileged:
                Privileged.stack(self._privileged).save(self._stage / PRIVILEGED_FILE)
        entry = {
            "id": trajectory_id,
            "video": f"{IMAGES}/{self.name}",
            "instructions": list(instructions),
            **_file_actions(actions, executed),
            **(notes or {}),
            **({} if origin is None else {_ORIGIN: origin}),
        }
        self._move()
        _write_episode(self.folder, self.name, entry)

    def _move(self) -> None:
        target = self.folder / IMAGES / self.name
        with _writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                replaced = self._stage.with_name(f"{self._stage.name}.replaced")
                shutil.rmtree(replaced, ignore_errors=True)
                os.rename(target, replaced)
                os.rename(self._stage, target)
                shutil.rmtree(replaced, ignore_errors=True)
            else:
                os.rename(self._stage, target)


def mark_skipped(
    folder: Path, name: str, reason: str, notes: Mapping[str, Any] | None = None, origin: str | None = None
) -> None:
    """Says that an episode is not recorded, and why, so that no later run tries again; it gets no annotation."""
    _write_episode(folder, name, {_SKIPPED: reason, **(notes or {}), **({} if origin is None else {_ORIGIN: origin})})


def read_notes(folder: Path, key: str) -> list[Any]:
    """What `notes` have under `key`, of all episodes that have it, skipped ones too, in the order of their names.

    Raises:
        DatasetError: an annotation is damaged.
    """
    entries = (_read_episode(path) for path in sorted((folder / EPISODES).glob("*.json")))
    return [entry[key] for entry in entries if key in entry]


def is_recorded(folder: Path, name: str, origin: str | None = None) -> bool:
    """Whether the episode `name` is complete, or marked as skipped.

    Args:
        folder: the trajectory folder.
        name: of the episode.
        origin: digest of what would be played; None does not ask.

    Raises:
        DatasetError: its annotation is damaged, or it is of another episode with the same id.
    """
    path = folder / EPISODES / f"{name}.json"
    if not path.exists():
        return False
    entry = _read_episode(path)
    if origin is not None and entry.get(_ORIGIN, origin) != origin:
        raise DatasetError(
            f"{path} was recorded from other data: its episode has the same id, but another instruction, start or "
            "path. Record into another folder"
        )
    if _SKIPPED in entry:
        return True
    pictures = folder / IMAGES / name / "rgb"
    expected = len(entry["executed"]) - 1 if "executed" in entry else len(entry["actions"])
    return pictures.is_dir() and sum(child.suffix in PICTURE_SUFFIXES for child in pictures.iterdir()) == expected


def merge_annotations(folder: Path) -> list[dict[str, Any]]:
    """Writes `annotations.json` from the annotations of all finished episodes, in the order of their names.

    Returns:
        The annotations.

    Raises:
        DatasetError: an annotation is damaged, or the file cannot be written.
    """
    entries = [_read_episode(path) for path in sorted((folder / EPISODES).glob("*.json"))]
    entries = [
        {key: value for key, value in entry.items() if key != _ORIGIN} for entry in entries if _SKIPPED not in entry
    ]
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
    write_file(folder, ANNOTATIONS, f"[\n{lines}\n]\n")
    return entries


def remove_unfinished(folder: Path) -> None:
    """Removes what killed processes have left behind; nobody may be recording into `folder`."""
    shutil.rmtree(folder / _STAGING, ignore_errors=True)


def write_file(folder: Path, name: str, text: str) -> None:
    """Writes the file `name` of a trajectory folder; readers see it whole or not at all.

    Raises:
        DatasetError: it cannot be written.
    """
    path = folder / name
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)


# ------------------------------------------------------------------------------------------------------------ helpers


def _encoded(picture: NDArray[Any], kind: str, **options: Any) -> bytes:
    """A picture file's content. Pillow must not write it: it takes a write that a full disk cut short for a success."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, kind, **options)
    return buffer.getvalue()


def _file_actions(actions: Sequence[int], executed: Sequence[int] | None) -> dict[str, list[int]]:
    """The entry's actions, see `trajectories`: a STOP at the last picture is not written, except in "executed"."""
    written = list(actions[:-1] if actions[-1] == STOP else actions)
    return {
        "actions": [START_MARKER, *written],
        **({} if executed is None else {"executed": [START_MARKER, *executed]}),
    }


def _write_episode(folder: Path, name: str, entry: dict[str, Any]) -> None:
    write_file(folder, f"{EPISODES}/{name}.json", json.dumps(entry, ensure_ascii=False) + "\n")


def _read_episode(path: Path) -> dict[str, Any]:
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read: {error}; remove it to record this episode again") from error
    if not isinstance(entry, dict) or not (_SKIPPED in entry or {"id", "video", "actions"} <= set(entry)):
        raise DatasetError(f"{path} is no annotation of an episode: remove it to record this episode again")
    return entry


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DatasetError(
            f"cannot write {path}: {error.strerror or error}. Make room there, or record into a folder that you can "
            "write to. The finished episodes are kept: the same command goes on with the next one."
        ) from error
