"""VLN-CE's episode files as a dataset, and writing them."""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from streamvln_gym.episode_filter import EpisodeFilter
from streamvln_gym.episodes import Episode, not_found
from streamvln_gym.errors import DatasetError
from streamvln_gym.vlnce.index import EpisodeIndex, as_record, ground_truth_path, read_index, stem_of
from streamvln_gym.vlnce.layouts import scan_path
from streamvln_gym.vlnce.records import record_problem, to_episode, to_record, truth_problem
from streamvln_gym.whole_writes import write_whole


class VLNCEDataset:
    """The episodes of a file in VLN-CE's format. Use `VLNCEDataset.load`; the rest is `episodes.EpisodeDataset`.

    Files are read once, piece by piece. What stays in memory are ids, scenes and languages; an episode is parsed when
    it is asked for.

    Args:
        path: the episode file, for messages.
        index: what was read.
        rows: the rows of `index` that this dataset has.
        scenes_dir: the folder that scene ids are relative to.
        name: of the dataset.
        split: its split.
        source: where the data come from, as shown in `info` and result files.
    """

    def __init__(
        self,
        path: Path,
        index: EpisodeIndex,
        rows: Sequence[int],
        scenes_dir: Path,
        name: str,
        split: str,
        source: str,
    ) -> None:
        self.path = path
        self.name = name
        self.split = split
        self.source = source
        self.scenes_dir = scenes_dir
        self.instruction_charset = frozenset(index.characters)
        # The whole file's, as the characters are: environments with a part of it each have the same space.
        self.instruction_max_length = max(index.lengths)
        self._index = index
        self._rows = rows
        self._episode_ids = tuple(index.ids[row] for row in rows)
        self._row_of = dict(zip(self._episode_ids, rows, strict=True))

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]],
        scenes_dir: str | os.PathLike[str] = "data/scene_datasets",
        name: str | None = None,
        split: str | None = None,
        scenes: int | Collection[str] | None = None,
        languages: Collection[str] | None = None,
        episode_ids: Collection[str | int] | None = None,
        source: str | None = None,
    ) -> VLNCEDataset:
        """Reads an episode file and the ground truth beside it (`<name>_gt.json.gz`) if there is one.

        Args:
            path: `.json.gz` or `.json`; or several of them by role, whose ids then end in "_<role>".
            scenes_dir: the folder that scene ids are relative to.
            name: of the dataset; default: the file's name without its endings.
            split: default: likewise.
            scenes: only the episodes of these scenes (ids or short names), or of the first so many.
            languages: only the episodes in these languages, see `EpisodeFilter`.
            episode_ids: only these episodes.
            source: where the data come from; default: the file's name.

        Raises:
            DatasetError: a file is missing, corrupt or inconsistent; the message names file, episode and field.
            EpisodeNotFoundError: the file has no episode of one of `scenes`, `languages` or `episode_ids`.
        """
        files = {role: Path(file) for role, file in path.items()} if isinstance(path, Mapping) else {"": Path(path)}
        wanted = EpisodeFilter(scenes, languages, episode_ids)
        index = read_index(files, wanted)
        first = next(iter(files.values()))
        stem = stem_of(first)
        origin = source or first.name
        rows = range(len(index.ids))
        dataset = cls(first, index, rows, Path(scenes_dir), name or stem, split or stem, origin)
        return dataset.restricted_to(wanted) if wanted else dataset

    def restricted_to(self, scenes: int | Collection[str] | EpisodeFilter) -> VLNCEDataset:
        """Some of the episodes: those of some scenes (ids, short names, or the first so many), or what a filter keeps.

        Raises:
            EpisodeNotFoundError: there is no episode of one of them.
            DatasetError: nothing is left.
        """
        wanted = scenes if isinstance(scenes, EpisodeFilter) else EpisodeFilter(scenes)
        languages = [self._index.languages[row] for row in self._rows]
        rows = [self._rows[k] for k in wanted.choose(self, languages)]
        return VLNCEDataset(self.path, self._index, rows, self.scenes_dir, self.name, self.split, self.source)

    @property
    def episode_ids(self) -> Sequence[str]:
        """The episodes' ids, in file order."""
        return self._episode_ids

    @property
    def scene_ids(self) -> list[str]:
        """The scenes' ids, each once, in file order."""
        return list(dict.fromkeys(self._index.scenes[row] for row in self._rows))

    @property
    def languages(self) -> list[str]:
        """The languages that the file names, each once, in file order; empty if it names none."""
        return [spoken for spoken in dict.fromkeys(self._index.languages[row] for row in self._rows) if spoken]

    def scene_of(self, episode_id: str) -> str:
        """An episode's scene id."""
        return self._index.scenes[self._row(episode_id)]

    def scene_path(self, scene_id: str) -> Path:
        """The scene's GLB (which may be missing); HM3D's plain `.glb` where its `.basis.glb` is not there."""
        return scan_path(self.scenes_dir, scene_id)

    def episode(self, episode_id: str) -> Episode:
        """An episode.

        Raises:
            EpisodeNotFoundError: there is no such episode.
        """
        row = self._row(episode_id)
        record, truth = as_record(self._index, row)
        return to_episode(record, self._index.parts[row], truth, episode_id)

    def __len__(self) -> int:
        return len(self._rows)

    def _row(self, episode_id: str) -> int:
        try:
            return self._row_of[episode_id]
        except KeyError:
            raise not_found("episode", episode_id, self, self._episode_ids) from None


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
    records = [
        to_record(episode, tuple(vocabulary[word] for word in _words(episode.instruction.text))) for episode in episodes
    ]
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
    for episode_id, entry in ground_truth.items():
        problem = truth_problem(entry)
        if problem:
            raise DatasetError(f"cannot write {path}: ground truth of episode {episode_id!r}: {problem}")
    if ground_truth:
        _write(ground_truth_path(path), ground_truth)
    else:
        ground_truth_path(path).unlink(missing_ok=True)
    _write(path, document)


def _words(text: str) -> list[str]:
    return re.findall(r"[\w']+|[^\w\s]", text.lower())


def _check(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Refuses what reading would refuse."""
    if not records:
        raise DatasetError(f"cannot write {path}: there are no episodes")
    seen: set[str] = set()
    for record in records:
        problem = record_problem(record)
        if problem:
            raise DatasetError(f"cannot write {path}: episode {record['episode_id']!r}: {problem}")
        episode_id = str(record["episode_id"])
        if episode_id in seen:
            raise DatasetError(
                f"cannot write {path}: two episodes have the field 'episode_id' {episode_id!r}. Give every episode an "
                "id of its own."
            )
        seen.add(episode_id)


def _write(path: Path, document: Any) -> None:
    """Writes JSON; the same bytes for the same document (no time stamp in the gzip header)."""
    raw = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    path.parent.mkdir(parents=True, exist_ok=True)
    content = gzip.compress(raw, compresslevel=6, mtime=0) if path.name.endswith(".gz") else raw
    write_whole(path, content, shared=True)
