"""Episodes of vision-and-language navigation, and what every dataset of them offers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from streamvln_gym.errors import EpisodeNotFoundError

Position = tuple[float, float, float]
"""(x, y, z) in metres, world frame."""
Quaternion = tuple[float, float, float, float]
"""(x, y, z, w)."""


@dataclass(frozen=True)
class Goal:
    """Where an episode ends.

    Attributes:
        position: metres.
        radius: metres, as the episode file states it (the success distance is the environment's own setting).
    """

    position: Position
    radius: float = 3.0


@dataclass(frozen=True)
class Instruction:
    """What the agent is told.

    Attributes:
        text: the instruction.
        tokens: ids in the dataset's own vocabulary (`instruction_vocab`), None if the file has none.
        language: "en-US", "en-IN", "hi-IN" or "te-IN" in RxR; None where the dataset does not say.
        extra: the file's further keys (RxR: `annotator_id`, `instruction_id`, `timed_instruction`, ...), as they are.
    """

    text: str
    tokens: tuple[int, ...] | None = None
    language: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Episode:
    """One episode: a start in a scene, an instruction and, but for the test splits, a goal and a path to it.

    Attributes:
        episode_id: unique in its dataset.
        trajectory_id: shared by episodes whose instructions describe one path.
        scene_id: the scene's file relative to the dataset's `scenes_dir`, e.g. "mp3d/<scan>/<scan>.glb".
        start_position: metres, on the navigation mesh.
        start_rotation: quaternion (x, y, z, w).
        instruction: what the agent is told.
        goals: empty on test splits.
        reference_path: the path that the instruction describes, start and goal included; empty on test splits.
        geodesic_distance: metres from start to goal as the file states it, None on test splits.
        gt_locations: ground-truth positions along the path, None if the dataset has none.
        gt_actions: ground-truth actions, None if the dataset has none.
        info: the further keys of the file's `info`, e.g. `needs_memory` and `via`.
    """

    episode_id: str
    trajectory_id: str
    scene_id: str
    start_position: Position
    start_rotation: Quaternion
    instruction: Instruction
    goals: tuple[Goal, ...] = ()
    reference_path: tuple[Position, ...] = ()
    geodesic_distance: float | None = None
    gt_locations: tuple[Position, ...] | None = None
    gt_actions: tuple[int, ...] | None = None
    info: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def needs_memory(self) -> str:
        """The kind of memory that the episode needs ("return", ...), "" if none is known to be needed."""
        return str(self.info.get("needs_memory") or "")

    @cached_property
    def via(self) -> tuple[Position, ...]:
        """Positions that must be visited in order before the goal counts (see `metrics`)."""
        return tuple(position(point) for point in self.info.get("via") or ())


def position(values: Iterable[float]) -> Position:
    """Three numbers as a tuple of floats."""
    x, y, z = values
    return float(x), float(y), float(z)


@runtime_checkable
class EpisodeDataset(Protocol):
    """A split of a dataset. It may be built lazily: only `episode` needs to touch what belongs to one scene."""

    name: str
    """ "r2r", "rxr", "flats-v1", or an episode file's name without its endings."""
    split: str
    scenes_dir: Path
    """The folder that scene ids are relative to."""
    instruction_charset: frozenset[str]
    """Every character that occurs in an instruction."""
    instruction_max_length: int
    """Length of the longest instruction, characters."""

    @property
    def episode_ids(self) -> Sequence[str]:
        """The episodes, in file order."""

    def scene_of(self, episode_id: str) -> str:
        """An episode's scene id, without loading anything.

        Raises:
            EpisodeNotFoundError: there is no such episode.
        """

    def episode(self, episode_id: str) -> Episode:
        """An episode.

        Raises:
            EpisodeNotFoundError: there is no such episode.
        """

    def scene_path(self, scene_id: str) -> Path:
        """The scene's GLB."""

    def __len__(self) -> int:
        """Number of episodes."""


def scene_name(scene_id: str) -> str:
    """The short name of a scene: "mp3d/abc/abc.glb" -> "abc", "hm3d/val/00800-xyz/xyz.basis.glb" -> "xyz"."""
    return Path(scene_id).stem.removesuffix(".basis")


def not_found(kind: str, wanted: object, dataset: EpisodeDataset, known: Sequence[str]) -> EpisodeNotFoundError:
    """The error for an episode or scene that a dataset does not have; it shows a few that it has."""
    some = ", ".join(repr(item) for item in list(known[:3]))
    return EpisodeNotFoundError(
        f"{dataset.name}/{dataset.split} has no {kind} {wanted!r}; it has {len(known)}"
        + (f", such as {some}" if some else "")
        + ". Ask for one of those, or make the environment with another split or dataset."
    )
