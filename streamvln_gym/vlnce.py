"""VLN-CE's episode files: reading, checking and writing them."""

from __future__ import annotations

import gzip
import json
import math
import os
import re
import tempfile
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from streamvln_gym.episodes import Episode, Goal, Instruction, not_found, position, scene_name
from streamvln_gym.errors import DatasetError

_INSTRUCTION_KEYS = ("instruction_text", "instruction_tokens", "language")
_INFO_KEYS = ("geodesic_distance",)
_REQUIRED = ("episode_id", "scene_id", "start_position", "start_rotation", "instruction")
GET_DATA = (
    "Download the VLN-CE episodes again (https://github.com/jacobkrantz/VLN-CE#data), or use dataset='flats', which "
    "needs no download."
)


class VLNCEDataset:
    """The episodes of one file in VLN-CE's format. Use `VLNCEDataset.load`; the rest is `episodes.EpisodeDataset`.

    Args:
        path: the episode file, for messages.
        records: the file's episodes, checked.
        ground_truth: the ground-truth file's content, by episode id.
        scenes_dir: the folder that scene ids are relative to.
        name: of the dataset.
        split: its split.
    """

    def __init__(
        self,
        path: Path,
        records: Sequence[Mapping[str, Any]],
        ground_truth: Mapping[str, Mapping[str, Any]],
        scenes_dir: Path,
        name: str,
        split: str,
    ) -> None:
        self.path = path
        self.name = name
        self.split = split
        self.scenes_dir = scenes_dir
        self._records = {str(record["episode_id"]): record for record in records}
        self._ground_truth = ground_truth
        self._episode_ids = tuple(self._records)
        texts = [record["instruction"]["instruction_text"] for record in records]
        self.instruction_charset = frozenset().union(*texts)
        self.instruction_max_length = max(map(len, texts))

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        scenes_dir: str | os.PathLike[str] = "data/scene_datasets",
        name: str | None = None,
        split: str | None = None,
        scenes: int | Collection[str] | None = None,
    ) -> VLNCEDataset:
        """Reads an episode file and the ground truth beside it (`<name>_gt.json.gz`) if there is one.

        Args:
            path: `.json.gz` or `.json`.
            scenes_dir: the folder that scene ids are relative to.
            name: of the dataset; default: the file's name without its endings.
            split: default: likewise.
            scenes: only the episodes of these scenes (ids or short names), or of the first so many.

        Raises:
            DatasetError: a file is missing, corrupt or inconsistent; the message names file, episode and field.
            EpisodeNotFoundError: the file has no episode of one of `scenes`.
        """
        path = Path(path)
        data = _read(path)
        records = data.get("episodes") if isinstance(data, dict) else None
        if not isinstance(records, list):
            raise DatasetError(f"{path} has no list 'episodes', so it is not a VLN-CE episode file. {GET_DATA}")
        if not records:
            raise DatasetError(f"{path} has no episodes: its list 'episodes' is empty. {GET_DATA}")
        _check(path, records)
        gt_path = ground_truth_path(path)
        ground_truth = _read(gt_path) if gt_path.exists() else {}
        _check_ground_truth(gt_path, ground_truth)
        stem = _stem(path)
        dataset = cls(path, records, ground_truth, Path(scenes_dir), name or stem, split or stem)
        return dataset if scenes is None else dataset.restricted_to(scenes)

    def restricted_to(self, scenes: int | Collection[str]) -> VLNCEDataset:
        """The episodes of some scenes, given by scene id or short name, or of the first so many.

        Raises:
            EpisodeNotFoundError: there is no episode of one of them.
        """
        known = self.scene_ids
        if isinstance(scenes, int):
            if not 1 <= scenes <= len(known):
                raise ValueError(f"{self.path} has 1 to {len(known)} scenes to choose, not {scenes}")
            scenes = known[:scenes]
        for scene in scenes:
            if not any(scene in (scene_id, scene_name(scene_id)) for scene_id in known):
                raise not_found("scene", scene, self, [scene_name(scene_id) for scene_id in known])
        kept = [r for r in self._records.values() if {r["scene_id"], scene_name(r["scene_id"])} & set(scenes)]
        if not kept:
            raise DatasetError(f"no scene of {self.path} was chosen: `scenes` is empty. Name one, or pass scenes=None.")
        return VLNCEDataset(self.path, kept, self._ground_truth, self.scenes_dir, self.name, self.split)

    @property
    def episode_ids(self) -> Sequence[str]:
        """The episodes' ids, in file order."""
        return self._episode_ids

    @property
    def scene_ids(self) -> list[str]:
        """The scenes' ids, each once, in file order."""
        return list(dict.fromkeys(record["scene_id"] for record in self._records.values()))

    def scene_of(self, episode_id: str) -> str:
        """An episode's scene id."""
        return self._record(episode_id)["scene_id"]

    def scene_path(self, scene_id: str) -> Path:
        """The scene's GLB (which may be missing)."""
        return self.scenes_dir / scene_id

    def episode(self, episode_id: str) -> Episode:
        """An episode.

        Raises:
            EpisodeNotFoundError: there is no such episode.
        """
        return _to_episode(self._record(episode_id), self._ground_truth.get(episode_id))

    def __len__(self) -> int:
        return len(self._records)

    def _record(self, episode_id: str) -> Mapping[str, Any]:
        try:
            return self._records[episode_id]
        except KeyError:
            raise not_found("episode", episode_id, self, self._episode_ids) from None


def ground_truth_path(path: Path) -> Path:
    """Where the ground truth of an episode file lies: "val.json.gz" -> "val_gt.json.gz"."""
    stem = _stem(path)
    return path.with_name(f"{stem}_gt{path.name[len(stem) :]}")


def write_dataset(path: str | os.PathLike[str], episodes: Iterable[Episode]) -> None:
    """Writes a VLN-CE episode file and the ground truth beside it.

    The bytes depend on the episodes only, and a reader never sees half a file. Instructions without `tokens` get them
    from the file's own vocabulary (`instruction_vocab.word_list`: "<pad>", "<unk>", then the words in order of their
    first occurrence), as habitat's `R2RVLN-v1` demands one.

    Raises:
        DatasetError: an episode is inconsistent (what `VLNCEDataset.load` would refuse is not written).
    """
    path = Path(path)
    episodes = list(episodes)
    words = list(dict.fromkeys(word for episode in episodes for word in _words(episode.instruction.text)))
    vocabulary = {word: index for index, word in enumerate(["<pad>", "<unk>", *words])}
    records = [_to_record(episode, vocabulary) for episode in episodes]
    if not records:
        raise DatasetError(f"cannot write {path}: there are no episodes")
    _check(path, records)
    document = {
        "episodes": records,
        "instruction_vocab": {
            "word_list": list(vocabulary),
            "word2idx_dict": vocabulary,
            "num_vocab": len(vocabulary),
            "UNK_INDEX": 1,
            "PAD_INDEX": 0,
        },
    }
    ground_truth = {
        episode.episode_id: {
            "locations": [list(point) for point in episode.gt_locations],
            "actions": list(episode.gt_actions or ()),
            "forward_steps": sum(action == 1 for action in episode.gt_actions or ()),
        }
        for episode in episodes
        if episode.gt_locations is not None
    }
    _check_ground_truth(path, ground_truth)
    path.parent.mkdir(parents=True, exist_ok=True)
    if ground_truth:
        _write(ground_truth_path(path), ground_truth)
    else:
        ground_truth_path(path).unlink(missing_ok=True)
    _write(path, document)


def _stem(path: Path) -> str:
    return re.sub(r"\.json(\.gz)?$", "", path.name)


def _words(text: str) -> list[str]:
    return re.findall(r"[\w']+|[^\w\s]", text.lower())


def _read(path: Path) -> Any:
    """The JSON of a file, unzipped if its name ends in .gz."""
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.name.endswith(".gz") else raw).decode("utf-8")
        return json.loads(text)
    except FileNotFoundError as error:
        raise DatasetError(f"there is no episode file {path}. {GET_DATA}") from error
    except EOFError as error:
        raise DatasetError(f"{path} is truncated: the compressed file ends too early. {GET_DATA}") from error
    except (OSError, zlib.error) as error:
        raise DatasetError(f"cannot read {path}: {error}. {GET_DATA}") from error
    except ValueError as error:
        raise DatasetError(f"{path} is not valid JSON: {error}. {GET_DATA}") from error


def _write(path: Path, document: Any) -> None:
    """Writes JSON atomically; the same bytes for the same document (no time stamp in the gzip header)."""
    raw = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    if path.name.endswith(".gz"):
        raw = gzip.compress(raw, compresslevel=6, mtime=0)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _check(path: Path, records: Sequence[Any]) -> None:
    """Refuses records that no episode can be made of."""
    seen: set[str] = set()
    for index, record in enumerate(records):
        if not isinstance(record, dict):
            raise DatasetError(
                f"{path}: episode number {index} is not an object but {type(record).__name__}. {GET_DATA}"
            )
        problem = _problem(record)
        if problem:
            where = f"episode {record['episode_id']!r}" if "episode_id" in record else f"episode number {index}"
            raise DatasetError(f"{path}: {where}: {problem}. Correct the file, or: {GET_DATA}")
        episode_id = str(record["episode_id"])
        if episode_id in seen:
            raise DatasetError(
                f"{path}: two episodes have the field 'episode_id' {episode_id!r}. Give every episode an id of its own."
            )
        seen.add(episode_id)


def _problem(record: Mapping[str, Any]) -> str | None:
    """What is wrong with one episode of the file, None if nothing is."""
    for name in _REQUIRED:
        if name not in record:
            return f"the field {name!r} is missing"
    if not isinstance(record["scene_id"], str) or not record["scene_id"]:
        return f"the field 'scene_id' must be a non-empty string, got {record['scene_id']!r}"
    if not _is_vector(record["start_position"], 3):
        return f"the field 'start_position' must hold 3 finite numbers, got {record['start_position']!r}"
    rotation = record["start_rotation"]
    if not _is_vector(rotation, 4) or abs(math.hypot(*rotation) - 1.0) > 1e-2:
        return f"the field 'start_rotation' must be a unit quaternion [x, y, z, w], got {rotation!r}"
    instruction = record["instruction"]
    if not isinstance(instruction, dict) or not isinstance(instruction.get("instruction_text"), str):
        return "the field 'instruction.instruction_text' is missing or not a string"
    for index, goal in enumerate(record.get("goals") or ()):
        if not isinstance(goal, dict) or not _is_vector(goal.get("position"), 3):
            return f"the field 'goals[{index}].position' must hold 3 finite numbers, got {goal!r}"
    for index, point in enumerate(record.get("reference_path") or ()):
        if not _is_vector(point, 3):
            return f"the field 'reference_path[{index}]' must hold 3 finite numbers, got {point!r}"
    info = record.get("info") or {}
    if not isinstance(info, dict):
        return f"the field 'info' must be an object, got {info!r}"
    for index, point in enumerate(info.get("via") or ()):
        if not _is_vector(point, 3):
            return f"the field 'info.via[{index}]' must hold 3 finite numbers, got {point!r}"
    if info.get("via") and not record.get("reference_path"):
        return "it has 'info.via' but no 'reference_path', whose length its SPL is measured by"
    return None


def _check_ground_truth(path: Path, ground_truth: Any) -> None:
    if not isinstance(ground_truth, dict):
        raise DatasetError(f"{path} must hold an object by episode id, got {type(ground_truth).__name__}. {GET_DATA}")
    for episode_id, entry in ground_truth.items():
        locations = entry.get("locations") if isinstance(entry, dict) else None
        if not isinstance(locations, list) or not locations or not all(_is_vector(point, 3) for point in locations):
            raise DatasetError(
                f"{path}: episode {episode_id!r}: the field 'locations' must be a non-empty list of [x, y, z]. "
                f"{GET_DATA}"
            )


def _is_vector(value: Any, length: int) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) == length
        and all(isinstance(x, (int, float)) and math.isfinite(x) for x in value)
    )


def _to_episode(record: Mapping[str, Any], ground_truth: Mapping[str, Any] | None) -> Episode:
    instruction = record["instruction"]
    info = record.get("info") or {}
    tokens = instruction.get("instruction_tokens")
    x, y, z, w = map(float, record["start_rotation"])
    geodesic = info.get("geodesic_distance")
    return Episode(
        episode_id=str(record["episode_id"]),
        trajectory_id=str(record.get("trajectory_id", record["episode_id"])),
        scene_id=record["scene_id"],
        start_position=position(record["start_position"]),
        start_rotation=(x, y, z, w),
        instruction=Instruction(
            text=instruction["instruction_text"],
            tokens=None if tokens is None else tuple(tokens),
            language=instruction.get("language"),
            extra={key: value for key, value in instruction.items() if key not in _INSTRUCTION_KEYS},
        ),
        goals=tuple(
            Goal(position(goal["position"]), float(goal.get("radius") or 3.0)) for goal in record.get("goals") or ()
        ),
        reference_path=tuple(position(point) for point in record.get("reference_path") or ()),
        geodesic_distance=None if geodesic is None else float(geodesic),
        gt_locations=None if ground_truth is None else tuple(position(point) for point in ground_truth["locations"]),
        gt_actions=None if ground_truth is None else tuple(ground_truth.get("actions") or ()),
        info={key: value for key, value in info.items() if key not in _INFO_KEYS},
    )


def _to_record(episode: Episode, vocabulary: Mapping[str, int]) -> dict[str, Any]:
    instruction = episode.instruction
    tokens = instruction.tokens
    if tokens is None:
        tokens = tuple(vocabulary[word] for word in _words(instruction.text))
    told: dict[str, Any] = {"instruction_text": instruction.text, "instruction_tokens": list(tokens)}
    if instruction.language is not None:
        told["language"] = instruction.language
    record: dict[str, Any] = {
        "episode_id": _id_to_json(episode.episode_id),
        "trajectory_id": _id_to_json(episode.trajectory_id),
        "scene_id": episode.scene_id,
        "start_position": list(episode.start_position),
        "start_rotation": list(episode.start_rotation),
        "instruction": {**told, **instruction.extra},
    }
    if episode.goals:
        record["goals"] = [{"position": list(goal.position), "radius": goal.radius} for goal in episode.goals]
    if episode.reference_path:
        record["reference_path"] = [list(point) for point in episode.reference_path]
    info = dict(episode.info)
    if episode.geodesic_distance is not None:
        info = {"geodesic_distance": episode.geodesic_distance, **info}
    if info:
        record["info"] = info
    return record


def _id_to_json(value: str) -> int | str:
    """R2R's files hold integer ids; other ids stay strings."""
    return int(value) if value.isdecimal() and value.isascii() and str(int(value)) == value else value
