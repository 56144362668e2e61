"""Choosing some of a dataset's episodes: by scene, language and id."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from streamvln_gym.arguments import is_whole
from streamvln_gym.episodes import Episode, EpisodeDataset, not_found, scene_name
from streamvln_gym.errors import DatasetError, EpisodeNotFoundError


@dataclass(frozen=True)
class EpisodeFilter:
    """Which episodes are wanted; what is None does not choose, the rest must all hold.

    Attributes:
        scenes: ids or short names; or a number: the first so many of the scenes that the other fields leave.
        languages: such as "en-US", or "en" for every kind of English.
        episode_ids: as the dataset has them.
    """

    scenes: int | Collection[str] | None = None
    languages: Collection[str] | None = None
    episode_ids: Collection[str | int] | None = None

    def __post_init__(self) -> None:
        for name in ("scenes", "languages", "episode_ids"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise ValueError(f"{name} must be a collection such as [{value!r}], got the string {value!r}")
            if name == "scenes" and is_whole(value):
                object.__setattr__(self, name, int(value))  # of numpy's, too
            elif value is not None and not isinstance(value, Collection):
                wanted = "a number or a collection" if name == "scenes" else "a collection"
                raise ValueError(f"{name} must be {wanted}, got {value!r}")

    def __bool__(self) -> bool:
        return (self.scenes, self.languages, self.episode_ids) != (None, None, None)

    def may_keep(self, scene_id: str, language: str | None) -> bool:
        """Whether an episode can be among the chosen ones, so far as its scene and language say."""
        if self.languages is not None and not any(_speaks(language, wanted) for wanted in self.languages):
            return False
        named = self.scenes is not None and not isinstance(self.scenes, int)
        return not named or scene_id in self.scenes or scene_name(scene_id) in self.scenes  # type: ignore[operator]

    def choose(self, dataset: EpisodeDataset, languages: Sequence[str | None] | None) -> list[int]:
        """Positions of the chosen episodes in `dataset.episode_ids`.

        Args:
            dataset: to choose from.
            languages: of its episodes; None: it does not say.

        Raises:
            EpisodeNotFoundError: there is no such scene, language or episode.
            DatasetError: nothing is left.
            ValueError: there are not so many scenes, or the dataset has no languages to choose by.
        """
        ids = dataset.episode_ids
        scenes = [dataset.scene_of(episode_id) for episode_id in ids]
        self._check_languages(dataset, languages)
        self._check_names(dataset, ids, scenes)
        wanted = None if self.episode_ids is None else {str(episode_id) for episode_id in self.episode_ids}
        spoken = languages or [None] * len(ids)
        kept = [
            k
            for k, episode_id in enumerate(ids)
            if (wanted is None or episode_id in wanted) and self.may_keep(scenes[k], spoken[k])
        ]
        if isinstance(self.scenes, int):
            left = list(dict.fromkeys(scenes[k] for k in kept))
            if not 1 <= self.scenes <= len(left):
                raise ValueError(
                    f"{dataset.name}/{dataset.split} has 1 to {len(left)} scenes to choose, not {self.scenes}"
                )
            first = set(left[: self.scenes])
            kept = [k for k in kept if scenes[k] in first]
        if not kept:
            raise DatasetError(
                f"no episode of {dataset.name}/{dataset.split} is left by {self}. Each of these has episodes of its "
                "own, but none has them all: drop one of them (None does not choose)."
            )
        return kept

    def __str__(self) -> str:
        chosen = {"scenes": self.scenes, "languages": self.languages, "episode_ids": self.episode_ids}
        return ", ".join(f"{name}={_shown(value)}" for name, value in chosen.items() if value is not None)

    def _check_names(self, dataset: EpisodeDataset, ids: Sequence[str], scenes: Sequence[str]) -> None:
        if self.scenes is not None and not isinstance(self.scenes, int):
            known = dict.fromkeys(scenes)
            names = known | dict.fromkeys(map(scene_name, known))
            for scene in self.scenes:
                if scene not in names:
                    raise not_found("scene", scene, dataset, [scene_name(scene_id) for scene_id in known])
        if self.episode_ids is not None:
            present = set(ids)
            for episode_id in self.episode_ids:
                if str(episode_id) not in present:
                    raise not_found("episode", str(episode_id), dataset, ids)
        for name in ("scenes", "languages", "episode_ids"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, int) and not len(value):
                raise DatasetError(
                    f"no episode of {dataset.name}/{dataset.split} was chosen: `{name}` is empty. Name one, or pass "
                    f"{name}=None."
                )

    def _check_languages(self, dataset: EpisodeDataset, languages: Sequence[str | None] | None) -> None:
        if self.languages is None:
            return
        known = [language for language in dict.fromkeys(languages or ()) if language]
        if not known:
            raise ValueError(
                f"{dataset.name}/{dataset.split} does not say its episodes' languages: leave out languages="
                f"{_shown(self.languages)}"
            )
        for wanted in self.languages:
            if not any(_speaks(language, wanted) for language in known):
                raise EpisodeNotFoundError(
                    f"{dataset.name}/{dataset.split} has no episode in the language {wanted!r}; it has "
                    f"{', '.join(known)}."
                )


class EpisodeSubset:
    """Some episodes of any dataset; the rest of what it offers is the dataset's own.

    Args:
        dataset: the whole.
        episode_ids: those to keep, in this order.
    """

    def __init__(self, dataset: EpisodeDataset, episode_ids: Iterable[str]) -> None:
        self._dataset = dataset
        self.episode_ids: Sequence[str] = tuple(episode_ids)
        self._kept = frozenset(self.episode_ids)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # while it is being unpickled there is no dataset yet
            raise AttributeError(name)
        return getattr(self._dataset, name)

    @property
    def scene_ids(self) -> list[str]:
        """The scenes' ids, each once."""
        return list(dict.fromkeys(map(self.scene_of, self.episode_ids)))

    def scene_of(self, episode_id: str) -> str:
        """An episode's scene id."""
        return self._dataset.scene_of(self._known(episode_id))

    def episode(self, episode_id: str) -> Episode:
        """An episode."""
        return self._dataset.episode(self._known(episode_id))

    def __len__(self) -> int:
        return len(self.episode_ids)

    def _known(self, episode_id: str) -> str:
        if episode_id not in self._kept:
            raise not_found("episode", episode_id, self, self.episode_ids)  # type: ignore[arg-type]
        return episode_id


def _speaks(language: str | None, wanted: str) -> bool:
    return language is not None and (language == wanted or language.startswith(f"{wanted}-"))


def _shown(value: Any) -> str:
    if isinstance(value, int):
        return str(value)
    some = [str(item) for item in list(value)[:5]]
    return f"[{', '.join(some)}{', ...' if len(value) > 5 else ''}]"
