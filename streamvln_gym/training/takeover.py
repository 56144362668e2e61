"""Who drives while DAgger records: policy or expert, by rules that are asked at every chunk and every action.

Labels are the expert's whoever drives. The rules decide which states are visited, and `KeepConfig` which episodes are
worth learning from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from streamvln_gym.simulators.base import Action


@dataclass(frozen=True)
class TakeOverConfig:
    """When the expert takes over from the policy, and for how long; StreamVLN's published rules, as we read them.

    Attributes:
        differing_steps: the expert takes over at the next chunk when more than so many of the policy's actions since
            the last take-over differ from the expert's; None: never.
        waypoint_share: likewise when more than this share of the steps that the expert would have taken to the next
            way-point differ; counted from the last take-over or way-point; None: never.
        stop_distance: a STOP of the policy so many metres or more (geodesic) from the goal is not executed: the expert
            takes over at once; None: it is.
        chunks: whole chunks that the expert then drives; after a refused STOP also the rest of the one begun.
    """

    differing_steps: int | None = 12
    waypoint_share: float | None = 0.8
    stop_distance: float | None = 3.0
    chunks: int = 1

    def __post_init__(self) -> None:
        for name, least in {"differing_steps": 0, "waypoint_share": 0.0, "stop_distance": 0.0, "chunks": 1}.items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ValueError(f"TakeOverConfig.{name} must be at least {least}, got {value}")


@dataclass(frozen=True)
class KeepConfig:
    """Which recorded episodes are kept.

    Attributes:
        distance: kept if the episode ends at most so many metres (geodesic) from the goal; None: wherever it ends.
        path_ratio: kept if the path is at most so many times as long as the reference; None: however long it is.
    """

    distance: float | None = 3.0
    path_ratio: float | None = 2.0

    def __post_init__(self) -> None:
        for name in ("distance", "path_ratio"):
            value = getattr(self, name)
            if value is not None and not value >= 0.0:
                raise ValueError(f"KeepConfig.{name} must not be negative, got {value}")

    def why_not(self, distance: float, path_length: float, reference_length: float) -> str | None:
        """Why an episode is dropped; None if it is kept.

        Args:
            distance: geodesic metres to the goal at the end.
            path_length: metres walked.
            reference_length: metres of the reference path, or of the shortest way where there is none.
        """
        if self.distance is not None and not distance <= self.distance:
            return f"dropped: it ended {distance:.2f} m from the goal, more than {self.distance:g} m"
        if self.path_ratio is not None:
            longest = self.path_ratio * reference_length
            if path_length > longest:
                return f"dropped: its path of {path_length:.2f} m is longer than {longest:.2f} m"
        return None


@dataclass(frozen=True)
class Moment:
    """What the rules know of a state.

    Attributes:
        label: the expert's action here.
        distance: geodesic metres to the goal.
        visited: way-points visited so far.
        steps_to_waypoint: gives the expert's steps from here to the next way-point.
    """

    label: int
    distance: float
    visited: int
    steps_to_waypoint: Callable[[], int]


class DrivingRule(Protocol):
    """One reason why the expert drives."""

    def claims(self, moment: Moment) -> bool:
        """Whether the expert shall drive the chunk that begins here; asked once at every chunk."""
        ...

    def refuses(self, action: int, moment: Moment) -> bool:
        """Whether the policy's action shall not be executed and the expert take over at once."""
        ...

    def note(self, action: int, moment: Moment, by_expert: bool) -> None:
        """Is told what is executed here."""
        ...


class _Rule:
    """Claims, refuses and notes nothing."""

    def claims(self, moment: Moment) -> bool:
        return False

    def refuses(self, action: int, moment: Moment) -> bool:
        return False

    def note(self, action: int, moment: Moment, by_expert: bool) -> None:
        pass


class Mixing(_Rule):
    """The expert drives with probability beta, drawn for each chunk or once for the episode.

    Args:
        beta: in [0, 1].
        per: "chunk" or "episode".
        generator: of the draws, of this episode alone.

    Attributes:
        whole_episode: whether the expert drives all of it.
    """

    def __init__(self, beta: float, per: Literal["chunk", "episode"], generator: np.random.Generator) -> None:
        self._beta = beta
        self._generator = generator
        drawn = per == "episode"
        self._fixed = bool(generator.random() < beta) if drawn else None
        self.whole_episode = self._fixed is True or beta >= 1.0

    def claims(self, moment: Moment) -> bool:
        return bool(self._generator.random() < self._beta) if self._fixed is None else self._fixed


class DisagreementRule(_Rule):
    """The expert takes over when the policy has disagreed too long (see `TakeOverConfig`).

    Args:
        differing_steps: since the expert last drove; None: any number.
        waypoint_share: of the expert's steps to the next way-point; None: any share.
    """

    def __init__(self, differing_steps: int | None, waypoint_share: float | None) -> None:
        self._differing_steps = differing_steps
        self._waypoint_share = waypoint_share
        self._differing = 0
        self._start_leg(None, 0)

    def claims(self, moment: Moment) -> bool:
        too_many = self._differing_steps is not None and self._differing > self._differing_steps
        too_large = self._waypoint_share is not None and self._on_leg > self._waypoint_share * self._leg_steps
        return too_many or too_large

    def note(self, action: int, moment: Moment, by_expert: bool) -> None:
        if by_expert:
            self._differing = 0
            self._start_leg(None, 0)
            return
        if self._waypoint_share is not None and moment.visited != self._leg:
            self._start_leg(moment.visited, moment.steps_to_waypoint())
        differs = int(action != moment.label)
        self._differing += differs
        self._on_leg += differs

    def _start_leg(self, visited: int | None, steps: int) -> None:
        self._leg = visited
        self._leg_steps = steps
        self._on_leg = 0


class StopRule(_Rule):
    """A STOP far from the goal is not executed.

    Args:
        distance: metres from the goal at which it is refused.
    """

    def __init__(self, distance: float) -> None:
        self._distance = distance

    def refuses(self, action: int, moment: Moment) -> bool:
        return action == Action.STOP and moment.distance >= self._distance


class Helm:
    """Decides action by action who drives an episode.

    Args:
        mixing: draws chunks for the expert.
        rules: the take-over rules.
        chunks: whole chunks that the expert drives after a take-over.

    Attributes:
        expert_steps: actions that the expert has driven.
        take_overs: how often a take-over rule has given it the helm.
    """

    def __init__(self, mixing: Mixing, rules: Sequence[DrivingRule] = (), chunks: int = 1) -> None:
        self._mixing = mixing
        self._rules = rules
        self._chunks = chunks
        self._held = 0
        self._by_expert = False
        self.expert_steps = 0
        self.take_overs = 0

    @property
    def asks_policy(self) -> bool:
        """Whether the policy may drive at all in this episode."""
        return not self._mixing.whole_episode

    def start_chunk(self, moment: Moment) -> None:
        """Says that a chunk begins."""
        drawn = self._mixing.claims(moment)
        if self._held:
            self._held -= 1
            self._by_expert = True
            return
        claimed = any([rule.claims(moment) for rule in self._rules])
        if claimed:
            self.take_overs += 1
            self._held = self._chunks - 1
        self._by_expert = drawn or claimed

    @property
    def by_expert(self) -> bool:
        """Whether the expert drives what is left of the chunk."""
        return self._by_expert

    def choose(self, proposed: int, moment: Moment) -> int:
        """The action to execute.

        Args:
            proposed: the policy's; not read while the expert drives.
            moment: the present state.
        """
        if not self._by_expert and any([rule.refuses(proposed, moment) for rule in self._rules]):
            self.take_overs += 1
            self._held = self._chunks
            self._by_expert = True
        action = moment.label if self._by_expert else proposed
        self.expert_steps += self._by_expert
        for rule in self._rules:
            rule.note(action, moment, self._by_expert)
        return action


def make_helm(
    beta: float, per: Literal["chunk", "episode"], take_over: TakeOverConfig, generator: np.random.Generator
) -> Helm:
    """The helm of one episode.

    Args:
        beta: probability that the expert drives, whatever the policy does.
        per: what it is drawn for.
        take_over: the further rules.
        generator: of the draws, of this episode alone.
    """
    rules: list[DrivingRule] = []
    if take_over.differing_steps is not None or take_over.waypoint_share is not None:
        rules.append(DisagreementRule(take_over.differing_steps, take_over.waypoint_share))
    if take_over.stop_distance is not None:
        rules.append(StopRule(take_over.stop_distance))
    return Helm(Mixing(beta, per, generator), rules, take_over.chunks)
