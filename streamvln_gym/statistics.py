"""How sure a mean over episodes is: intervals for a success rate, a mean and a paired difference.

Episodes of one scene resemble each other (they share rooms, often a path), so that intervals which take them for
independent, as Wilson's does, are too narrow; those of `bootstrap_mean` draw whole scenes, and allow for few of them.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

_DRAWS_AT_ONCE = 1000


class Estimate(NamedTuple):
    """A value with its confidence interval, both ends included."""

    value: float
    low: float
    high: float


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> Estimate:
    """A success rate with Wilson's score interval (Wilson 1927), which holds for few trials and rates near 0 or 1.

    Args:
        successes: how many trials succeeded.
        trials: at least 1; taken for independent.
        confidence: of the two-sided interval, in (0, 1).

    Raises:
        ValueError: there is no trial, or more successes than trials.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"need 0 <= successes <= trials and at least one trial, got {successes} of {trials}")
    z = _quantile(confidence)
    rate = successes / trials
    shrink = 1.0 + z * z / trials
    centre = (rate + z * z / (2.0 * trials)) / shrink
    half = z / shrink * math.sqrt(rate * (1.0 - rate) / trials + z * z / (4.0 * trials * trials))
    # Rounding must not leave the ends a hair off the rates that they are equal to.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == trials else centre + half
    return Estimate(rate, low, high)


def bootstrap_mean(
    values: ArrayLike,
    groups: Sequence[Hashable],
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Estimate:
    """A mean with a percentile bootstrap interval that draws whole groups (Davison and Hinkley 1997, section 3.8).

    Of G groups, the bootstrap's spread is too small by sqrt((G - 1) / G), and a normal's tails are too short: the
    interval's ends are moved away from the mean by sqrt(G / (G - 1)) and by Student's quantile of G - 1 degrees of
    freedom over the normal's (Hesterberg 2015, "What teachers should know about the bootstrap", section 3.2), as far as
    there are values.

    Args:
        values: (N,) one per episode.
        groups: (N,) its scene, say; values of one group may depend on each other.
        confidence: of the two-sided interval, in (0, 1).
        resamples: bootstrap samples.
        seed: of the draws.

    Raises:
        ValueError: sizes do not fit, a value is not finite, or there are less than two groups to draw from.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or len(numbers) != len(groups):
        raise ValueError(f"need one group for each value, got values {numbers.shape} and {len(groups)} groups")
    if not np.isfinite(numbers).all():
        raise ValueError("a mean of values that are not finite has no interval: leave those episodes out")
    if resamples < 1:
        raise ValueError(f"resamples must be positive, got {resamples}")
    _quantile(confidence)
    index: dict[Hashable, int] = {}
    members = np.array([index.setdefault(group, len(index)) for group in groups], dtype=np.int64)
    if len(index) < 2:
        raise ValueError(f"drawing groups needs at least two of them, got {len(index)}")
    sums, sizes = np.bincount(members, weights=numbers), np.bincount(members)
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    for begin in range(0, resamples, _DRAWS_AT_ONCE):
        count = min(_DRAWS_AT_ONCE, resamples - begin)
        drawn = rng.multinomial(len(index), np.full(len(index), 1.0 / len(index)), size=count)
        means[begin : begin + count] = (drawn @ sums) / (drawn @ sizes)
    ends = np.quantile(means, [(1.0 - confidence) / 2.0, (1.0 + confidence) / 2.0])
    mean, groups_drawn = numbers.mean(), len(index)
    wider = _student_quantile(confidence, groups_drawn - 1) / _quantile(confidence)
    ends = mean + (ends - mean) * wider * math.sqrt(groups_drawn / (groups_drawn - 1))
    low, high = np.clip(ends, numbers.min(), numbers.max())
    return Estimate(float(mean), float(low), float(high))


def paired_difference(
    first: ArrayLike,
    second: ArrayLike,
    groups: Sequence[Hashable],
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Estimate:
    """Mean of `first - second` over the same episodes, with the interval of `bootstrap_mean`.

    Args:
        first: (N,) one result per episode.
        second: (N,) the other result of the same episodes, in the same order.
        groups: (N,) see `bootstrap_mean`; so are the other arguments and the errors.
    """
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.shape != other.shape:
        raise ValueError(f"paired results must be of the same episodes, got shapes {one.shape} and {other.shape}")
    return bootstrap_mean(one - other, groups, confidence, resamples, seed)


def mcnemar(first: ArrayLike, second: ArrayLike) -> float:
    """McNemar's exact test: p of "both succeed equally often", two-sided, from the episodes where only one succeeded.

    Args:
        first: (N,) successes, 0 or 1 (or bool).
        second: (N,) of the same episodes, which are taken for independent.

    Returns:
        p; 1.0 where the two never differ.

    Raises:
        ValueError: sizes differ, or a value is neither 0 nor 1.
    """
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.shape != other.shape:
        raise ValueError(f"paired results must be of the same episodes, got shapes {one.shape} and {other.shape}")
    if not np.isin(one, (0, 1)).all() or not np.isin(other, (0, 1)).all():
        raise ValueError("successes must be 0 or 1")
    only_first, only_second = int((one > other).sum()), int((other > one).sum())
    differing = only_first + only_second
    tail = sum(math.comb(differing, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / 2**differing)


def _student_quantile(confidence: float, freedom: int) -> float:
    """Student's t distribution's quantile of a two-sided interval."""
    from scipy.stats import t

    return float(t.ppf((1.0 + confidence) / 2.0, freedom))


def _quantile(confidence: float) -> float:
    """The normal distribution's quantile of a two-sided interval."""
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence!r}")
    return NormalDist().inv_cdf((1.0 + confidence) / 2.0)
