"""Reader of trajectory folders in the format that StreamVLN's published training data has.

    <folder>/annotations.json        [{"id", "video", "instructions": [str, ...], "actions": [-1, 1, 2, ...]}, ...]
    <folder>/<video>/rgb/000.jpg     one picture per action, 001.jpg, ...

`actions[i]` is the action that led to picture i (-1 for the first, which no action led to), so what is to be learned
at picture i is `actions[i + 1]`, and STOP at the last one.

One addition to the published format, for trajectories along which somebody else than the expert acted (DAgger): with
the optional key `"executed"`, `actions` holds the expert's actions in the states that were visited, and `executed` what
was executed there: the start marker and one action for each picture, a STOP only at the last. Then

* `actions` may hold STOP anywhere: the expert would have stopped where the driver went on;
* `actions` may hold one entry more than usual, the expert's action at the last picture, where that is not STOP (the
  driver stopped too early, or ran out of steps).

Published readers ignore the key and learn the same, as long as `actions` has its usual length.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from streamvln_gym.errors import DatasetError

STOP = 0
START_MARKER = -1
MOVES = (1, 2, 3)
# Shorter episodes are never trained on, so their pictures need not exist.
MIN_ACTIONS = 4
ANNOTATIONS = "annotations.json"
PICTURE_SUFFIXES = (".jpg", ".png")


@dataclass(frozen=True)
class Trajectory:
    """One demonstrated episode.

    Attributes:
        source: where it is annotated, for messages: file and entry.
        id: the annotation's id.
        instructions: sentences that describe this path; each makes training windows of its own.
        actions: the action to take at each step, the final STOP included (the file's, shifted by one).
        folder: holds rgb/000.jpg, rgb/001.jpg, ..., as many as `actions`.
        suffix: ".jpg" or ".png".
        executed: what was executed at each step, as many as `actions`, where that is not `actions` itself.
    """

    source: str
    id: int | str
    instructions: tuple[str, ...]
    actions: tuple[int, ...]
    folder: Path
    suffix: str = PICTURE_SUFFIXES[0]
    executed: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.actions)

    def picture_path(self, step: int) -> Path:
        return self.folder / "rgb" / f"{step:03d}{self.suffix}"

    def picture(self, step: int) -> NDArray[np.uint8]:
        """The camera picture of `step`, (height, width, 3) uint8.

        Raises:
            DatasetError: the file is missing, truncated or not a picture.
        """
        path = self.picture_path(step)
        try:
            with Image.open(path) as image:
                return np.array(image.convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for damaged files
            raise DatasetError(
                f"{path} (picture of step {step}, {self.source}) cannot be read: {error}; copy or record it again"
            ) from error

    def verify(self) -> None:
        """Decodes every picture.

        Raises:
            DatasetError: as `picture`.
        """
        for step in range(len(self)):
            self.picture(step)


def load_trajectories(folder: str | Path, check_pictures: bool = True) -> list[Trajectory]:
    """Reads and checks a trajectory folder. Pictures are listed here, and opened only when they are used.

    Args:
        folder: holds `annotations.json`.
        check_pictures: look whether every picture is there. Without, one that is missing shows when it is used.

    Returns:
        One trajectory per entry, in file order.

    Raises:
        DatasetError: the file is missing or malformed, or pictures are missing or surplus; the message names the file
            and the entry.
    """
    path = Path(folder) / ANNOTATIONS
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror}): is this a trajectory folder?") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DatasetError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(entries, list):
        raise DatasetError(f"{path} must hold a list of trajectories, not {_kind(entries)}")
    return [_read_entry(path, index, entry, check_pictures) for index, entry in enumerate(entries)]


def _read_entry(path: Path, index: int, entry: Any, check_pictures: bool) -> Trajectory:
    source = f"{path}, entry {index}"
    if not isinstance(entry, dict):
        raise DatasetError(f"{source}: must be an object, not {_kind(entry)}")
    if missing := [key for key in ("id", "video", "instructions", "actions") if key not in entry]:
        raise DatasetError(f"{source}: lacks {', '.join(repr(key) for key in missing)}")
    name, video = entry["id"], entry["video"]
    if isinstance(name, bool) or not isinstance(name, (int, str)):
        raise DatasetError(f"{source}: 'id' must be a number or a string, not {_kind(name)}")
    source = f"{source} (id {name!r})"
    if not isinstance(video, str) or not video:
        raise DatasetError(f"{source}: 'video' must be the folder of the pictures' folder rgb, got {video!r}")
    instructions = _read_instructions(source, entry["instructions"])
    executed: tuple[int, ...] | None = None
    if "executed" in entry:
        executed = _read_executed(source, entry["executed"])
        actions = _read_labels(source, entry["actions"], len(executed))
    else:
        actions = _read_actions(source, entry["actions"])
    folder = path.parent / video
    checked = check_pictures and len(actions) >= MIN_ACTIONS
    suffix = _check_listing(source, folder / "rgb", len(actions)) if checked else PICTURE_SUFFIXES[0]
    return Trajectory(source, name, instructions, actions, folder, suffix, executed)


def _read_instructions(source: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise DatasetError(f"{source}: 'instructions' must be a list of at least one string, got {value!r}")
    for index, instruction in enumerate(value):
        if not isinstance(instruction, str) or not instruction.strip():
            raise DatasetError(f"{source}: instructions[{index}] must be a sentence, got {instruction!r}")
    return tuple(value)


def _read_actions(source: str, value: Any) -> tuple[int, ...]:
    """The file's actions, shifted: what to do at each picture."""
    moves = _after_marker(source, "actions", value)
    for index, action in enumerate(moves, start=1):
        if not _is_action(action) or action == STOP:
            hint = " (the final STOP is not written)" if _is_action(action) else ""
            raise DatasetError(
                f"{source}: actions[{index}] must be 1 (forward), 2 (left) or 3 (right), got {action!r}{hint}"
            )
    return (*moves, STOP)


def _read_executed(source: str, value: Any) -> tuple[int, ...]:
    """What was executed at each picture."""
    executed = _after_marker(source, "executed", value)
    if not executed:
        raise DatasetError(f"{source}: 'executed' must hold an action for each picture after {START_MARKER}")
    for index, action in enumerate(executed, start=1):
        if not _is_action(action) or (action == STOP and index < len(executed)):
            hint = " (STOP can only be the last)" if _is_action(action) else ""
            raise DatasetError(
                f"{source}: executed[{index}] must be 1 (forward), 2 (left) or 3 (right), got {action!r}{hint}"
            )
    return tuple(executed)


def _read_labels(source: str, value: Any, count: int) -> tuple[int, ...]:
    """The expert's actions at `count` pictures along which another driver acted."""
    labels = _after_marker(source, "actions", value)
    for index, action in enumerate(labels, start=1):
        if not _is_action(action):
            raise DatasetError(
                f"{source}: actions[{index}] must be 0 (stop), 1 (forward), 2 (left) or 3 (right), got {action!r}"
            )
    if len(labels) not in (count - 1, count):
        raise DatasetError(
            f"{source}: 'executed' has {count} actions after {START_MARKER}, so 'actions' must have {count}, or "
            f"{count - 1} and a final STOP that is not written; it has {len(labels)}"
        )
    return (*labels, STOP) if len(labels) < count else tuple(labels)


def _after_marker(source: str, key: str, value: Any) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise DatasetError(f"{source}: {key!r} must be a list that starts with {START_MARKER}, got {value!r}")
    if isinstance(value[0], bool) or value[0] != START_MARKER:
        raise DatasetError(f"{source}: {key}[0] must be the start marker {START_MARKER}, got {value[0]!r}")
    return value[1:]


def _is_action(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value in (STOP, *MOVES)


def _check_listing(source: str, folder: Path, count: int) -> str:
    """Checks that `folder` holds pictures 0 ... count - 1 and no other; returns their suffix."""
    try:
        names = {child.name for child in folder.iterdir() if child.suffix in PICTURE_SUFFIXES}
    except OSError as error:
        raise DatasetError(f"{source}: the pictures' folder {folder} cannot be listed: {error.strerror}") from error
    suffix = PICTURE_SUFFIXES[0]
    if names and not any(name.endswith(suffix) for name in names):
        suffix = PICTURE_SUFFIXES[1]
    expected = {f"{step:03d}{suffix}" for step in range(count)}
    if missing := sorted(expected - names):
        raise DatasetError(
            f"{source}: {count} actions need pictures 000{suffix} to {count - 1:03d}{suffix} in {folder}, "
            f"but {len(missing)} {'is' if len(missing) == 1 else 'are'} missing: {_some(missing)}"
        )
    if surplus := sorted(names - expected):
        raise DatasetError(
            f"{source}: {folder} holds pictures beyond its {count} actions: {_some(surplus)}; "
            "they do not belong together"
        )
    return suffix


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _kind(value: Any) -> str:
    return {dict: "an object", list: "a list", str: "a string", type(None): "null"}.get(type(value), repr(value))
