"""What episode files hold, from one pass over each: ids, scenes and languages in memory, the episodes outside it."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streamvln_gym.episode_filter import EpisodeFilter
from streamvln_gym.errors import DatasetError
from streamvln_gym.vlnce.json_files import GET_DATA, BlobStore, pack_json, read_pieces, unpack_json
from streamvln_gym.vlnce.records import (
    instructions_of,
    pack_truth,
    record_problem,
    scene_of_record,
    truth_problem,
    unpack_truth,
)


@dataclass
class EpisodeIndex:
    """The episodes of one or several files, row by row; a record with a list of instructions has a row for each.

    Attributes:
        ids: unique: the file's, with "_<k>" for instruction k of a list, "_<role>" where several roles were read, and
            "_<language>" for an id that the file uses once in each language.
        keys: (role, id in the file), by which ground truth is found.
        scenes, languages: of the rows.
        records: number in `store`, -1 for a row that the filter leaves out.
        parts: which instruction of the record.
        lengths: of the instruction, characters.
        characters: all that occur in instructions.
        store: the records.
        truth: number in `truth_store` by key.
        truth_store: the ground truth.
    """

    ids: list[str] = field(default_factory=list)
    keys: list[tuple[str, str]] = field(default_factory=list)
    scenes: list[str] = field(default_factory=list)
    languages: list[str | None] = field(default_factory=list)
    records: array = field(default_factory=lambda: array("q"))
    parts: array = field(default_factory=lambda: array("L"))
    lengths: array = field(default_factory=lambda: array("L"))
    characters: set[str] = field(default_factory=set)
    store: BlobStore = field(default_factory=BlobStore)
    truth: dict[tuple[str, str], int] = field(default_factory=dict)
    truth_store: BlobStore = field(default_factory=BlobStore)


def read_index(files: Mapping[str, Path], wanted: EpisodeFilter) -> EpisodeIndex:
    """Reads episode files and the ground truth beside them.

    Args:
        files: by role; a single file may have the role "".
        wanted: episodes that this filter cannot choose are not kept.

    Raises:
        DatasetError: a file is missing, broken or inconsistent; the message names file, episode and field.
    """
    index = EpisodeIndex()
    names: dict[str, str] = {}
    try:
        for role, path in files.items():
            _read_episodes(index, role, path, wanted, names)
            _tell_apart(index, path, role if len(files) > 1 else "")
        for role, path in files.items():
            truth = find_ground_truth(path)
            if truth is not None:
                _read_truth(index, role, truth)
    finally:
        index.store.seal()
        index.truth_store.seal()
    return index


def ground_truth_path(path: Path) -> Path:
    """Where the ground truth of an episode file lies: "val.json.gz" -> "val_gt.json.gz"."""
    stem = stem_of(path)
    return path.with_name(f"{stem}_gt{path.name[len(stem) :]}")


def find_ground_truth(path: Path) -> Path | None:
    """The ground truth beside an episode file, packed or not (v1-1 has it unpacked beside packed episodes); or None."""
    expected = ground_truth_path(path)
    name = expected.name
    other = expected.with_name(name.removesuffix(".gz") if name.endswith(".gz") else f"{name}.gz")
    return next((file for file in (expected, other) if file.exists()), None)


def stem_of(path: Path) -> str:
    """A file's name without .json.gz or .json."""
    return path.name.removesuffix(".gz").removesuffix(".json")


def _read_episodes(index: EpisodeIndex, role: str, path: Path, wanted: EpisodeFilter, names: dict[str, str]) -> None:
    """Appends a file's episodes; `names` holds each scene id and language once, for all rows that have it."""
    bases = None if wanted.episode_ids is None else _possible_ids(wanted)
    first = len(index.ids)
    for piece in read_pieces(path, "episodes"):
        if piece.key not in (None, "episodes"):
            continue
        if piece.item is None:
            if piece.value == [] and piece.key is not None:
                raise DatasetError(f"{path} has no episodes: its list 'episodes' is empty. {GET_DATA}")
            break
        record = piece.value
        problem = record_problem(record)
        if problem:
            known = isinstance(record, dict) and "episode_id" in record
            where = f"episode {record['episode_id']!r}" if known else f"episode number {piece.item}"
            raise DatasetError(f"{path}: {where}: {problem}. Correct the file, or: {GET_DATA}")
        number = None
        file_id = str(record["episode_id"])
        scene = scene_of_record(record)
        scene = names.setdefault(scene, scene)
        several = isinstance(record["instruction"], list)
        for part, told in enumerate(instructions_of(record)):
            language = told.get("language")
            language = names.setdefault(language, language) if language else None
            keep = wanted.may_keep(scene, language) and (bases is None or file_id in bases)
            if keep and number is None:
                number = index.store.append(pack_json(piece.text))
            index.ids.append(f"{file_id}_{part}" if several else file_id)
            index.keys.append((role, file_id))
            index.scenes.append(scene)
            index.languages.append(language)
            index.records.append(number if keep and number is not None else -1)
            index.parts.append(part)
            index.lengths.append(len(told["instruction_text"]))
            index.characters.update(told["instruction_text"])
    if len(index.ids) == first:
        raise DatasetError(f"{path} has no list 'episodes', so it is not a VLN-CE episode file. {GET_DATA}")


def _tell_apart(index: EpisodeIndex, path: Path, role: str) -> None:
    """Makes the ids of the rows that `path` gave unique."""
    rows = [row for row, key in enumerate(index.keys) if not role or key[0] == role]
    used = Counter(index.ids[row] for row in rows)
    repeated = {episode_id for episode_id, count in used.items() if count > 1}
    spoken = Counter((index.ids[row], index.languages[row]) for row in rows if index.ids[row] in repeated)
    for (episode_id, language), count in spoken.items():
        if count > 1 or language is None:
            raise DatasetError(
                f"{path}: two episodes have the field 'episode_id' {episode_id!r}. Give every episode an id of its own."
            )
    for row in rows:
        if index.ids[row] in repeated:
            index.ids[row] += f"_{index.languages[row]}"
        if role:
            index.ids[row] += f"_{role}"


def _read_truth(index: EpisodeIndex, role: str, path: Path) -> None:
    kept = {key for key, number in zip(index.keys, index.records, strict=True) if key[0] == role and number >= 0}
    for piece in read_pieces(path):
        if piece.key is None:
            kind = type(piece.value).__name__
            raise DatasetError(f"{path} must hold an object by episode id, got {kind}. {GET_DATA}")
        problem = truth_problem(piece.value)
        if problem:
            raise DatasetError(f"{path}: episode {piece.key!r}: {problem}. {GET_DATA}")
        if (role, piece.key) in kept:
            index.truth[role, piece.key] = index.truth_store.append(pack_truth(piece.value))


def _possible_ids(wanted: EpisodeFilter) -> set[str]:
    """Ids in the file that a wanted id can stand for: "7_hi-IN" may be its own, or "7" in Hindi."""
    found: set[str] = set()
    for wanted_id in map(str, wanted.episode_ids or ()):
        parts = wanted_id.split("_")
        found |= {"_".join(parts[:count]) for count in range(1, len(parts) + 1)}
    return found


def as_record(index: EpisodeIndex, row: int) -> tuple[Any, Any]:
    """A row's record and its ground truth (None without)."""
    number = index.truth.get(index.keys[row])
    record = unpack_json(index.store[index.records[row]])
    return record, None if number is None else unpack_truth(index.truth_store[number])
