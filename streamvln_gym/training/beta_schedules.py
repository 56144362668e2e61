"""Beta schedules of DAgger: how likely the expert drives in a round, whatever the policy does (Ross et al. 2011)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class BetaSchedule(Protocol):
    """Gives each round its beta."""

    def __call__(self, round_number: int) -> float:
        """Beta in [0, 1] of round 0, 1, ...

        Raises:
            ValueError: the number is negative.
        """
        ...


@dataclass(frozen=True)
class ExponentialBeta:
    """`p ** round`, StreamVLN's; p = 0 gives 0 in every round, also in the first.

    Attributes:
        p: in [0, 1].
    """

    p: float = 0.0

    def __post_init__(self) -> None:
        _check_share("p", self.p)

    def __call__(self, round_number: int) -> float:
        _check_round(round_number)
        return self.p**round_number if self.p > 0.0 else 0.0


@dataclass(frozen=True)
class LinearBeta:
    """Falls evenly from `first` in round 0 to 0 in round `rounds`, and stays there.

    Attributes:
        first: beta of round 0, in [0, 1].
        rounds: the first round without the expert, at least 1.
    """

    first: float = 1.0
    rounds: int = 5

    def __post_init__(self) -> None:
        _check_share("first", self.first)
        if self.rounds < 1:
            raise ValueError(f"LinearBeta.rounds must be at least 1, got {self.rounds}")

    def __call__(self, round_number: int) -> float:
        _check_round(round_number)
        return self.first * max(0.0, 1.0 - round_number / self.rounds)


@dataclass(frozen=True)
class ConstantBeta:
    """The same in every round.

    Attributes:
        beta: in [0, 1].
    """

    beta: float = 0.0

    def __post_init__(self) -> None:
        _check_share("beta", self.beta)

    def __call__(self, round_number: int) -> float:
        _check_round(round_number)
        return self.beta


def _check_share(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} of a beta schedule is a probability, from 0 to 1, got {value}")


def _check_round(round_number: int) -> None:
    if round_number < 0:
        raise ValueError(f"rounds are numbered from 0, got {round_number}")
