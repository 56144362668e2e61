"""The embedded flats as an episode dataset that is built as it is used."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from streamvln_gym.arguments import is_whole
from streamvln_gym.cache import cache_dir
from streamvln_gym.episodes import Episode, not_found
from streamvln_gym.errors import DatasetError, EpisodeNotFoundError
from streamvln_gym.flats.files import (
    DATASET_NAME,
    EPISODES_PER_SCENE,
    MAX_INSTRUCTION_LENGTH,
    episode_file,
    first_episode_id,
    is_built,
    scene_id,
    scene_name,
    scenes_root,
)
from streamvln_gym.vlnce import VLNCEDataset

_PRINTABLE_ASCII = frozenset(map(chr, range(32, 127)))


@dataclass(frozen=True)
class SplitSpec:
    """A split's scene seeds: `first_seed`, `first_seed` + 1, ...; `scenes` by default, `max_scenes` at most."""

    first_seed: int
    scenes: int
    max_scenes: int

    @property
    def seeds(self) -> range:
        """All that it may have."""
        return range(self.first_seed, self.first_seed + self.max_scenes)


SPLITS = {
    "train": SplitSpec(0, 200, 20_000),
    "val_seen": SplitSpec(0, 40, 200),
    "val_unseen": SplitSpec(20_000, 40, 40),
}


def split_seeds(split: str, scenes: int | None = None, first_seed: int | None = None) -> list[int]:
    """The scene seeds of a split.

    Args:
        split: "train", "val_seen" or "val_unseen"; any other name needs `scenes` and `first_seed`.
        scenes: how many; default: the split's own number.
        first_seed: default: the split's own.

    Raises:
        EpisodeNotFoundError: the split is unknown, or has not that many scenes.
        ValueError: `first_seed` leads out of the split, or a split of one's own into val_unseen.
    """
    spec = SPLITS.get(split)
    if first_seed is not None:
        count = scenes if scenes is not None else (spec.scenes if spec else 0)
        if count < 1 or first_seed < 0:
            raise ValueError(f"need at least one scene and a first seed >= 0, got {count} from {first_seed}")
        seeds = range(first_seed, first_seed + count)
        if spec is not None and not (seeds[0] in spec.seeds and seeds[-1] in spec.seeds):
            raise ValueError(
                f"the split {split!r} has the seeds {spec.seeds[0]} to {spec.seeds[-1]}, not {seeds[0]} to "
                f"{seeds[-1]}: call a split of other seeds by a name of your own"
            )
        unseen = SPLITS["val_unseen"].seeds
        if spec is None and seeds[0] <= unseen[-1] and seeds[-1] >= unseen[0]:
            raise ValueError(
                f"the seeds {unseen[0]} to {unseen[-1]} are the flats of val_unseen, which nothing else may be made "
                f"of: take a first seed from {unseen[-1] + 1} on"
            )
        return list(seeds)
    if spec is None:
        raise EpisodeNotFoundError(
            f"the embedded flats have no split {split!r}; they have {', '.join(SPLITS)}. A split of your own is built "
            "with `streamvln-gym build-flats --split NAME --scenes N --first-seed S --out DIR` and used with "
            "dataset=DIR."
        )
    count = spec.scenes if scenes is None else scenes
    if not 1 <= count <= spec.max_scenes:
        raise EpisodeNotFoundError(f"the split {split!r} of the flats has 1 to {spec.max_scenes} scenes, not {count}")
    return list(range(spec.first_seed, spec.first_seed + count))


class FlatsDataset:
    """A split of the embedded flats; a scene is built when its first episode is asked for. See `EpisodeDataset`.

    Args:
        split: "train", "val_seen" or "val_unseen".
        root: where flats are built and kept; default: the cache folder.
        scenes: how many scenes to use, or their names or ids; default: all of the split.

    Raises:
        EpisodeNotFoundError: the split or a scene is unknown.
        ValueError: there are no scenes.
    """

    name = DATASET_NAME
    instruction_charset = _PRINTABLE_ASCII
    instruction_max_length = MAX_INSTRUCTION_LENGTH

    def __init__(
        self,
        split: str = "val_unseen",
        root: Path | None = None,
        scenes: int | Collection[str] | None = None,
    ) -> None:
        self.split = split
        self.root = Path(root) if root is not None else cache_dir() / DATASET_NAME
        self.scenes_dir = scenes_root(self.root)
        if scenes is None or is_whole(scenes):
            self.seeds = split_seeds(split, None if scenes is None else int(scenes))  # type: ignore[arg-type]
        elif isinstance(scenes, str) or not isinstance(scenes, Collection) or not len(scenes):
            raise ValueError(f"scenes must be a number of scenes or at least one scene name, got {scenes!r}")
        else:
            self.seeds = self._named(scenes)
        self._parts: dict[int, VLNCEDataset] = {}

    @cached_property
    def episode_ids(self) -> Sequence[str]:
        """The episodes' ids, scene by scene; known without building anything."""
        return tuple(
            str(first_episode_id(self.split, seed) + k) for seed in self.seeds for k in range(EPISODES_PER_SCENE)
        )

    @property
    def scene_ids(self) -> list[str]:
        """The scenes' ids."""
        return [scene_id(seed) for seed in self.seeds]

    def scene_of(self, episode_id: str) -> str:
        """An episode's scene id."""
        return scene_id(self._seed_of(episode_id))

    def episode(self, episode_id: str) -> Episode:
        """An episode; builds its scene if that is missing."""
        seed = self._seed_of(episode_id)
        if seed not in self._parts:
            from streamvln_gym.flats import building

            building.build_scenes(self.root, self.split, [seed])
            path = episode_file(self.root, self.split, seed)
            try:
                self._parts[seed] = VLNCEDataset.load(path, self.scenes_dir, self.name, self.split)
            except DatasetError as error:
                raise DatasetError(
                    f"the generated episodes in {path} are damaged: delete this file, and they are built anew ({error})"
                ) from error
        return self._parts[seed].episode(episode_id)

    def scene_path(self, scene_id: str) -> Path:
        """The scene's GLB."""
        return self.scenes_dir / scene_id

    def is_built(self, scene_id: str) -> bool:
        """Whether a scene of this split and its episodes are there already."""
        return is_built(self.root, self.split, self._seed_by_scene[scene_id])

    def build(self, workers: int | None = None, scene_ids: Collection[str] | None = None) -> None:
        """Builds every scene that is missing (of `scene_ids`), in parallel, with a progress bar."""
        from streamvln_gym.flats import building

        seeds = self.seeds if scene_ids is None else [self._seed_by_scene[scene_id] for scene_id in sorted(scene_ids)]
        building.build_scenes(self.root, self.split, seeds, workers)

    def __len__(self) -> int:
        return len(self.episode_ids)

    @cached_property
    def _seed_by_id(self) -> dict[str, int]:
        return {episode_id: self.seeds[k // EPISODES_PER_SCENE] for k, episode_id in enumerate(self.episode_ids)}

    @cached_property
    def _seed_by_scene(self) -> dict[str, int]:
        return dict(zip(self.scene_ids, self.seeds, strict=True))

    def _seed_of(self, episode_id: str) -> int:
        try:
            return self._seed_by_id[episode_id]
        except KeyError:
            raise not_found("episode", episode_id, self, self.episode_ids) from None

    def _named(self, scenes: Collection[str]) -> list[int]:
        spec = SPLITS[self.split]
        seed_by_name: dict[str, int] = {}
        for seed in range(spec.first_seed, spec.first_seed + spec.max_scenes):
            seed_by_name[scene_id(seed)] = seed_by_name[scene_name(seed)] = seed
        chosen = []
        for scene in scenes:
            if scene not in seed_by_name:
                known = [name for name in seed_by_name if "/" not in name]
                raise not_found("scene", scene, self, known)
            chosen.append(seed_by_name[scene])
        return sorted(set(chosen))
