"""Work: groups of episodes that are played together, and who plays which next.

A group is always played by the same company, whoever plays it and however often the evaluation was killed: sums of a
batch may be rounded differently in other company.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from streamvln_gym.episodes import EpisodeDataset
from streamvln_gym.errors import EvaluationError, NavigationError, SceneError


@dataclass(frozen=True)
class Group:
    """Episodes of one scene that are played together.

    Attributes:
        number: among all groups.
        scene_id: the scene.
        episode_ids: in their order in the batch.
        known: those among them whose results are there already; they are played for company, or to be filmed.
        filmed: those among them to be filmed.
    """

    number: int
    scene_id: str
    episode_ids: tuple[str, ...]
    known: frozenset[str] = frozenset()
    filmed: frozenset[str] = frozenset()


def make_groups(
    dataset: EpisodeDataset,
    wanted: Sequence[str],
    batch: int,
    known: Collection[str] = (),
    filmed: Collection[str] = (),
) -> list[Group]:
    """The groups that still have something to be played, scene by scene.

    How the episodes are grouped depends on `wanted` and `batch` only; a scene's groups are as equal as they can be.

    Args:
        dataset: knows the scenes.
        wanted: ids of all episodes of the evaluation, in the dataset's order.
        batch: episodes of a group at most.
        known: ids of the finished ones.
        filmed: ids of those whose films are missing.
    """
    by_scene: dict[str, list[str]] = {}
    for episode_id in wanted:
        by_scene.setdefault(dataset.scene_of(episode_id), []).append(episode_id)
    done, shot = frozenset(known), frozenset(filmed)
    groups, number = [], 0
    for scene_id, members in by_scene.items():
        count = -(-len(members) // batch)
        for k in range(count):
            chosen = tuple(members[len(members) * k // count : len(members) * (k + 1) // count])
            if not done.issuperset(chosen) or shot.intersection(chosen):
                groups.append(Group(number, scene_id, chosen, done.intersection(chosen), shot.intersection(chosen)))
            number += 1
    return groups


UNPLAYABLE = (NavigationError, SceneError)
"""Errors of an episode or its scene, that others need not be held up by."""


def unplayable(episodes: Sequence[str], reason: str) -> EvaluationError:
    """The error about episodes that could not be played, when all others are.

    Args:
        episodes: their ids.
        reason: why one of them could not.
    """
    return EvaluationError(
        f"{listed(episodes)} could not be played: {reason}. All others are finished and kept. Where a scene's files "
        "are to blame, mend them and run the same command again; an episode file that is mended needs another --out"
    )


def listed(episodes: Sequence[str]) -> str:
    """ "episode 7", "episodes 7, 8 and 3 more"."""
    kind = "episode" if len(episodes) == 1 else "episodes"
    return f"{kind} {', '.join(episodes[:5])}{f' and {len(episodes) - 5} more' if len(episodes) > 5 else ''}"


@dataclass
class _Scene:
    groups: list[Group]
    workers: set[str] = field(default_factory=set)


class Dispatcher:
    """Hands out groups: a worker stays in its scene while that has any, since loading another one takes time.

    Scenes with most groups come first. When all of them have workers, the others help in the one with most left.

    Args:
        groups: all of them.
        attempts: how often a group is handed out whose workers are lost.

    Attributes:
        condemned: groups whose workers were lost so often that they are not handed out any more.
    """

    def __init__(self, groups: Sequence[Group], attempts: int) -> None:
        self._scenes: dict[str, _Scene] = {}
        for group in groups:
            self._scenes.setdefault(group.scene_id, _Scene([])).groups.append(group)
        self._attempts = attempts
        self._lost: dict[int, int] = {}
        self._scene_of: dict[str, str] = {}
        self.condemned: list[Group] = []

    @property
    def left(self) -> int:
        """Groups not handed out."""
        return sum(len(scene.groups) for scene in self._scenes.values())

    def take(self, worker: str) -> Group | None:
        """The next group for a worker, None if there is none."""
        current = self._scene_of.get(worker)
        if current is None or not self._scenes[current].groups:
            self.leave(worker)
            choices = [scene_id for scene_id, scene in self._scenes.items() if scene.groups]
            if not choices:
                return None
            current = min(choices, key=lambda s: (len(self._scenes[s].workers), -len(self._scenes[s].groups)))
            self._scene_of[worker] = current
            self._scenes[current].workers.add(worker)
        return self._scenes[current].groups.pop(0)

    def give_back(self, group: Group, worker: str) -> bool:
        """Takes a group back whose worker was lost; False: it was lost too often and is `condemned`."""
        self.leave(worker)
        self._lost[group.number] = self._lost.get(group.number, 0) + 1
        if self._lost[group.number] >= self._attempts:
            self.condemned.append(group)
            return False
        self._scenes[group.scene_id].groups.insert(0, group)
        return True

    def leave(self, worker: str) -> None:
        """The worker is in no scene any more."""
        scene_id = self._scene_of.pop(worker, None)
        if scene_id is not None:
            self._scenes[scene_id].workers.discard(worker)
