"""One environment of online DAgger: an episode driven chunk by chunk, with the expert's label in every state."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamvln_gym.episodes import Episode, EpisodeDataset
from streamvln_gym.expert import GeodesicFollower
from streamvln_gym.metrics import EpisodeMetrics
from streamvln_gym.simulators.base import Action, AgentState, Simulator
from streamvln_gym.training.online.config import MAX_STEPS, CollectConfig

NOTHING = -1
_LOOKED_AT = 16  # scenes
_LAPS = 40  # times that a scene is passed over before it goes to the end of the line
_FEW = 3  # so many episodes are always there to draw from
_WORDS, _LONGEST = 20, 4  # instructions of so many words more are of another kind, up to five kinds
_REMEMBERED = 0.99  # of what is known of a kind, when an episode of it is added: some 100 count
_MADE_UP = 1.0  # metres around the shortest way so far: a lost way counts as found again, a standstill as overcome


@dataclass
class _Failures:
    """How often episodes of a kind fail of late."""

    failed: float = 0.0
    played: float = 0.0

    @property
    def rate(self) -> float:
        """Half of them, as long as nothing is known; never 0."""
        return (self.failed + 0.5) / (self.played + 1.0)

    def add(self, failed: bool) -> None:
        self.failed = _REMEMBERED * self.failed + failed
        self.played = _REMEMBERED * self.played + 1.0


class EpisodeSupply:
    """Which episode is played next: drawn from a few scenes, of which one after the other makes way for the next.

    Args:
        dataset: where episodes come from.
        scenes: the scenes to draw from, in order and over again.
        config: `shelf` scenes are mixed; a scene leaves when every episode was played `plays` times on average, and the
            next one is there. `failing_share` of the draws follow what `note` was told.
        rng: decides.

    Attributes:
        ready: whether a scene is there; one that is not is built by other processes. By default all are, or are built
            when their turn comes.
    """

    def __init__(
        self, dataset: EpisodeDataset, scenes: Sequence[str], config: CollectConfig, rng: np.random.Generator
    ) -> None:
        self._dataset = dataset
        self._ids: dict[str, list[str]] = {scene: [] for scene in scenes}
        for episode_id in dataset.episode_ids:
            if (scene := dataset.scene_of(episode_id)) in self._ids:
                self._ids[scene].append(episode_id)
        self._plays = config.plays
        self._failing_share = config.failing_share
        self._failures: dict[tuple[str | None, int], _Failures] = {}
        self._rng = rng
        self.ready: Callable[[str], bool] = lambda scene: True
        self._coming = deque(scenes)
        self._passed: Counter[str] = Counter()
        self._shelf: deque[list[tuple[Episode, _Failures]]] = deque()
        for _ in range(min(config.shelf, len(scenes))):
            self._put(self._coming[0])
        self._list_shelf()
        self._left = self._plays * len(self._shelf[0])

    def next(self, longest: int) -> Episode:
        """The next episode: with a demonstration of at most `longest` actions, or one of the shortest there are."""
        shelved, lengths = self._shelved, self._lengths
        suitable = np.flatnonzero(lengths <= max(longest, self._short))
        self._left -= 1
        if self._left <= 0:
            self._change_scene()
        weights = np.full(len(suitable), 1.0 / len(suitable))
        if self._failing_share > 0.0:
            rates = np.array([shelved[number][1].rate for number in suitable])
            weights = self._failing_share * rates / rates.sum() + (1.0 - self._failing_share) * weights
        return shelved[int(self._rng.choice(suitable, p=weights))][0]

    def note(self, episode: Episode, success: bool) -> None:
        """Takes in how an agent that nobody helped did in an episode."""
        self._failures_of(episode).add(not success)

    @property
    def upcoming(self) -> Episode | None:
        """An episode in the scene that comes next; None while none of the next ones is there."""
        scene = self._next_scene()
        return None if scene is None else self._dataset.episode(self._ids[scene][0])

    def _failures_of(self, episode: Episode) -> _Failures:
        """What is known of the episode's kind: what has to be remembered, and how much the instruction says."""
        length = min(len(episode.instruction.text.split()) // _WORDS, _LONGEST)
        return self._failures.setdefault((episode.needs_memory, length), _Failures())

    def _change_scene(self) -> None:
        ready = self._next_scene()
        if ready is None:
            return
        passed_over = list(islice(self._coming, self._coming.index(ready)))
        self._shelf.popleft()
        self._put(ready)
        self._list_shelf()
        self._left = self._plays * len(self._shelf[0])
        for scene in passed_over:
            self._passed[scene] += 1
            if self._passed[scene] >= _LAPS:
                self._to_the_end(scene)

    def _next_scene(self) -> str | None:
        # A few are looked at: one that is built late, or that cannot be built, must not hold up the others.
        return next((scene for scene in islice(self._coming, _LOOKED_AT) if self.ready(scene)), None)

    def _put(self, scene: str) -> None:
        episodes = [self._dataset.episode(episode_id) for episode_id in self._ids[scene]]
        self._shelf.append([(episode, self._failures_of(episode)) for episode in episodes])
        self._to_the_end(scene)

    def _list_shelf(self) -> None:
        self._shelved = [entry for scene in self._shelf for entry in scene]
        self._lengths = np.array([len(episode.gt_actions or ()) for episode, _ in self._shelved])
        self._short = int(np.sort(self._lengths)[:_FEW][-1])

    def _to_the_end(self, scene: str) -> None:
        self._passed.pop(scene, None)
        self._coming.remove(scene)
        self._coming.append(scene)


@dataclass
class Stream:
    """An environment that streams of actions are executed in, one chunk after the other.

    Attributes:
        simulator: shared by the streams of a process; has the episode's scene loaded whenever this stream uses it.
        dataset: gives scenes' paths.
        config: the expert's and the episodes' limits.
        max_steps: of an episode.
        rescued: whether the expert brings a lost agent back.
        episode: the present one, None if this stream rests.
        start: its start.
        state: where the agent stands.
        steps: actions executed.
    """

    simulator: Simulator
    dataset: EpisodeDataset
    config: CollectConfig
    max_steps: int = MAX_STEPS
    rescued: bool = True
    episode: Episode | None = None
    start: AgentState = field(init=False)
    state: AgentState = field(init=False)
    steps: int = 0

    def begin(self, episode: Episode | None) -> None:
        """Starts an episode; None lets the stream rest."""
        self.episode = episode
        if episode is None:
            return
        self._scene = Path(self.dataset.scene_path(episode.scene_id))
        self.enter()
        self.state = self.start = AgentState.from_rotation(episode.start_position, episode.start_rotation)
        self.steps = 0
        goal = episode.goals[0].position
        self.follower = GeodesicFollower(
            self.simulator, [*episode.via, goal], self.config.stop_radius, self.config.via_radius
        )
        self._ignored = 0
        self._least = self.follower.remaining(self.state)
        self._progressed = 0  # the step at which the way was shortest
        self._driven_to = math.inf  # the way that may be left when the expert lets go again
        shown = len(episode.gt_actions or ()) or int(self._least / 0.15)
        self._limit = min(int(1.5 * shown) + self.config.spare_steps, self.max_steps)
        self._goals = np.array([g.position for g in episode.goals])
        self._distance = self.simulator.geodesic_distance(self.state.position, self._goals)
        self.metrics = EpisodeMetrics(episode, self.state.position, self._distance, self.simulator.geodesic_distance)

    def look(self, sensors: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Renders the present state."""
        self.enter()
        self.simulator.set_state(self.state)
        return self.simulator.observe(sensors)

    def drive(self, actions: Sequence[int], by_expert: bool) -> tuple[list[int], list[int], bool]:
        """Executes a chunk.

        A STOP at the wrong place is replaced by the expert's action, for what is to be learned lies beyond it; and in a
        `rescued` stream the expert brings back an agent that is lost.

        Args:
            actions: the policy's.
            by_expert: execute the expert's instead.

        Returns:
            Executed actions (STOP included), the expert's action in every state that was visited, and whether the
            episode is over. An episode that is given up ends with a label and without an action for it.
        """
        self.enter()
        by_expert = by_expert or (self.rescued and self._needs_rescue())
        executed: list[int] = []
        labels: list[int] = []
        for wanted in actions:
            label = self.follower.next_action(self.state)
            labels.append(label)
            action = label if by_expert or wanted == Action.STOP else int(wanted)
            if action == Action.STOP:
                return [*executed, action], labels, True
            if label == Action.STOP:
                self._ignored += 1
            if self._ignored > self.config.ignored_stops or self.steps >= self._limit:
                return executed, labels, True
            self.state, _ = self.simulator.try_step(self.state, action)
            self.steps += 1
            executed.append(action)
        return executed, labels, False

    def roam(self, actions: Sequence[int]) -> tuple[list[int], float, bool]:
        """Executes a chunk of an agent that nobody helps: its STOP counts, as in an evaluation.

        Args:
            actions: the policy's.

        Returns:
            Executed actions (STOP included), by how many metres the expert's way became shorter, and whether the
            episode is over; `metrics` has its result.
        """
        assert self.episode is not None
        self.enter()
        follower = self.follower
        left = follower.remaining(self.state)
        executed: list[int] = []
        over = False
        for wanted in actions:
            done, over = self.play([wanted])
            executed += done
            if follower.visited < len(self.episode.via):
                follower.advance(self.state)
            if over:
                break
        return executed, left - follower.remaining(self.state), over or self.steps >= self._limit

    def _needs_rescue(self) -> bool:
        """Whether the agent has gone astray or makes no headway; then the expert drives until that is made up."""
        self.follower.advance(self.state)
        left = self.follower.remaining(self.state)
        if left < self._least:
            self._least, self._progressed = left, self.steps
        if left > self._least + self.config.rescue_metres:
            self._driven_to = self._least + _MADE_UP
        elif self.steps - self._progressed > self.config.rescue_steps:
            self._driven_to = min(self._driven_to, self._least - _MADE_UP)
        elif left <= self._driven_to:
            self._driven_to = math.inf
        return self._driven_to < math.inf

    def play(self, actions: Sequence[int]) -> tuple[list[int], bool]:
        """Executes a chunk as an evaluation does: what the policy says counts, STOP too.

        Returns:
            Executed actions, and whether the episode is over; `metrics` has its result.
        """
        self.enter()
        executed: list[int] = []
        for wanted in actions:
            action = int(wanted)
            collided = False
            if action != Action.STOP:
                self.state, collided = self.simulator.try_step(self.state, action)
            if action == Action.FORWARD:
                self._distance = self.simulator.geodesic_distance(self.state.position, self._goals)
            self.metrics.update(self.state.position, self._distance, collided, action == Action.STOP)
            self.steps += 1
            executed.append(action)
            if action == Action.STOP or self.steps >= self.max_steps:
                return executed, True
        return executed, False

    def enter(self) -> None:
        """Loads the episode's scene, if it is not there."""
        self.simulator.load_scene(self._scene)
