"""What an episode asks for, apart from its words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from streamvln_gym.flats.clauses import ReturnToStart, Stop, TakeDoor
from streamvln_gym.flats.routes import Route

MEMORY_KINDS = ("return", "same_as", "counting", "second_room")


@dataclass(frozen=True)
class Task:
    """A route with the things to do on it.

    Attributes:
        route: from the start to the goal, over every visit.
        start_yaw: radians.
        stop: how it ends.
        kind: one of `MEMORY_KINDS`, or None for a plain episode.
        visits: leg index -> id of the object that is visited in that leg.
        doors: leg index -> the claim that has to be made about that leg's exit (memory kinds), whatever the style.
        return_leg: index of the leg in which the way back to the start begins (kind "return"), else None.
    """

    route: Route
    start_yaw: float
    stop: Stop | ReturnToStart
    kind: str | None = None
    visits: Mapping[int, int] = field(default_factory=dict)
    doors: Mapping[int, TakeDoor] = field(default_factory=dict)
    return_leg: int | None = None

    @property
    def told_legs(self) -> int:
        """How many legs the instruction describes one by one."""
        return len(self.route.legs) if self.return_leg is None else self.return_leg + 1
