"""The episodes of a `habitat.Env` as this package's episodes. Nothing of habitat is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from streamvln_gym.episodes import Episode, Goal, Instruction, not_found, position
from streamvln_gym.errors import DatasetError


class HabitatEpisodes:
    """An `episodes.EpisodeDataset` over `habitat.Env.episodes`, in their order.

    Args:
        env: a `habitat.Env` (or what has its `episodes`).
        name: of the dataset, for `info` and results.
        split: likewise.
        ground_truth: the content of a `_gt` file by episode id (`locations`, `actions`), which nDTW and CLS then
            compare with; habitat's episodes have their reference path only.

    Raises:
        DatasetError: there are no episodes, or one has no instruction.
    """

    scenes_dir = Path(".")

    def __init__(
        self, env: Any, name: str, split: str, ground_truth: Mapping[str, Mapping[str, Any]] | None = None
    ) -> None:
        self.name = name
        self._ground_truth = ground_truth or {}
        self.split = split
        self._episodes: dict[str, Any] = {str(episode.episode_id): episode for episode in env.episodes}
        if not self._episodes:
            raise DatasetError("the habitat.Env has no episodes: give it a dataset (habitat.dataset in its config)")
        if len(self._episodes) != len(env.episodes):
            raise DatasetError(
                f"the {len(env.episodes)} episodes of the habitat.Env have only {len(self._episodes)} different ids: "
                "give every episode an id of its own"
            )
        texts = [instruction_of(episode).text for episode in self._episodes.values()]
        self.instruction_charset = frozenset().union(*texts)
        self.instruction_max_length = max(map(len, texts))

    @property
    def episode_ids(self) -> Sequence[str]:
        """The episodes' ids, in order."""
        return tuple(self._episodes)

    def scene_of(self, episode_id: str) -> str:
        """An episode's scene id: for habitat the path of its file."""
        return self.original(episode_id).scene_id

    def scene_path(self, scene_id: str) -> Path:
        """The scene's file."""
        return Path(scene_id)

    def episode(self, episode_id: str) -> Episode:
        """An episode.

        Raises:
            EpisodeNotFoundError: there is no such episode.
        """
        return to_episode(self.original(episode_id), self._ground_truth.get(episode_id))

    def original(self, episode_id: str) -> Any:
        """habitat's own episode object.

        Raises:
            EpisodeNotFoundError: there is no such episode.
        """
        if episode_id not in self._episodes:
            raise not_found("episode", episode_id, self, self.episode_ids)
        return self._episodes[episode_id]

    def __len__(self) -> int:
        return len(self._episodes)


def instruction_of(episode: Any) -> Instruction:
    """The instruction of a habitat episode: `instruction.instruction_text`, or a plain string.

    Raises:
        DatasetError: it has none.
    """
    instruction = getattr(episode, "instruction", None)
    if isinstance(instruction, str):
        return Instruction(instruction)
    text = getattr(instruction, "instruction_text", None)
    if not isinstance(text, str):
        raise DatasetError(
            f"the habitat episode {episode.episode_id!r} has no instruction.instruction_text: from_habitat_env needs a "
            "VLN dataset (R2RVLN-v1 or one like it)"
        )
    tokens = getattr(instruction, "instruction_tokens", None)
    further = {
        key: getattr(instruction, key)
        for key in ("instruction_id", "annotator_id", "timed_instruction")
        if getattr(instruction, key, None) is not None
    }
    return Instruction(text, None if tokens is None else tuple(tokens), getattr(instruction, "language", None), further)


def to_episode(episode: Any, ground_truth: Mapping[str, Any] | None = None) -> Episode:
    """A habitat (VLN) episode as this package's, with its entry of a `_gt` file."""
    info: Mapping[str, Any] = getattr(episode, "info", None) or {}
    x, y, z, w = (float(value) for value in episode.start_rotation)
    geodesic = info.get("geodesic_distance")
    trajectory = getattr(episode, "trajectory_id", None)
    goals = (goal for goal in getattr(episode, "goals", None) or () if goal is not None)
    return Episode(
        episode_id=str(episode.episode_id),
        trajectory_id=str(episode.episode_id if trajectory is None else trajectory),
        scene_id=str(episode.scene_id),
        start_position=position(episode.start_position),
        start_rotation=(x, y, z, w),
        instruction=instruction_of(episode),
        goals=tuple(Goal(position(goal.position), float(getattr(goal, "radius", None) or 3.0)) for goal in goals),
        reference_path=tuple(position(point) for point in getattr(episode, "reference_path", None) or ()),
        geodesic_distance=None if geodesic is None else float(geodesic),
        gt_locations=None if ground_truth is None else tuple(position(point) for point in ground_truth["locations"]),
        gt_actions=None if ground_truth is None else tuple(ground_truth.get("actions") or ()),
        info={key: value for key, value in info.items() if key != "geodesic_distance"},
    )
