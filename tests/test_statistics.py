"""Intervals and tests against known values."""

import math

import numpy as np
import pytest

from streamvln_gym.statistics import bootstrap_mean, mcnemar, paired_difference, wilson_interval


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        # Newcombe 1998, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (10, 10, 0.7225, 1.0),
    ],
)
def test_wilson_interval(successes, trials, low, high):
    estimate = wilson_interval(successes, trials)
    assert estimate.value == successes / trials
    assert estimate.low == pytest.approx(low, abs=5e-5)
    assert estimate.high == pytest.approx(high, abs=5e-5)


def test_wilson_interval_is_mirrored_and_widens_with_confidence():
    few, many = wilson_interval(3, 40), wilson_interval(37, 40)
    assert few.low == pytest.approx(1 - many.high)
    assert few.high == pytest.approx(1 - many.low)
    sure = wilson_interval(3, 40, confidence=0.99)
    assert sure.low < few.low < few.high < sure.high


def test_bootstrap_of_single_episodes_is_the_normal_interval():
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    estimate = bootstrap_mean(values, range(400))
    half = 1.96 * values.std() / math.sqrt(400)
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.low == pytest.approx(values.mean() - half, abs=0.05 * half)
    assert estimate.high == pytest.approx(values.mean() + half, abs=0.05 * half)


def test_bootstrap_of_two_groups_is_known_exactly():
    # Draws: AA, AB, BA, BB with means 0, 1/4, 1/4, 1 (A has three zeros, B one 1): a quarter of the draws each.
    estimate = bootstrap_mean([0, 0, 0, 1], ["a", "a", "a", "b"], confidence=0.4)
    assert estimate == (0.25, 0.25, 0.25)
    assert bootstrap_mean([0, 0, 0, 1], ["a", "a", "a", "b"], confidence=0.9) == (0.25, 0.0, 1.0)


def test_repeating_episodes_in_their_scene_adds_no_certainty():
    values = np.random.default_rng(2).normal(size=50)
    once = bootstrap_mean(values, range(50), seed=3)
    often = bootstrap_mean(np.repeat(values, 18), np.repeat(range(50), 18).tolist(), seed=3)
    assert often == pytest.approx(once)
    independent = bootstrap_mean(np.repeat(values, 18), range(900), seed=3)
    assert independent.high - independent.low < 0.3 * (once.high - once.low)


def test_paired_difference_sees_what_scenes_share():
    rng = np.random.default_rng(4)
    shared = rng.normal(scale=5.0, size=200)
    estimate = paired_difference(shared + 0.3, shared, range(200))
    assert estimate == pytest.approx((0.3, 0.3, 0.3))
    swapped = paired_difference(shared, shared + 0.3, range(200))
    assert swapped.value == pytest.approx(-0.3)


@pytest.mark.parametrize("scenes", [3, 11, 40])
def test_bootstrap_covers_as_often_as_it_says(scenes):
    rng = np.random.default_rng(5)
    groups = np.repeat(range(scenes), 6).tolist()
    covered = 0
    for trial in range(200):
        rates = rng.uniform(0.1, 0.7, scenes)  # mean 0.4
        values = rng.random(6 * scenes) < np.repeat(rates, 6)
        _, low, high = bootstrap_mean(values, groups, resamples=500, seed=trial)
        covered += low <= 0.4 <= high
    assert 0.90 <= covered / 200 <= 0.99


def test_a_difference_in_few_scenes_is_seldom_chance():
    """Two agents that are equally good, each better in some scenes."""
    rng, found = np.random.default_rng(6), 0
    groups = np.repeat(range(3), 50).tolist()
    for trial in range(200):
        rates = 0.6 + rng.normal(0.0, 0.1, (2, 3)).repeat(50, axis=1)
        one, other = rng.random((2, 150)) < rates
        _, low, high = paired_difference(one, other, groups, resamples=500, seed=trial)
        found += not low <= 0.0 <= high
    assert found / 200 < 0.1


def test_seed_decides_the_interval():
    values = np.random.default_rng(6).random(60)
    groups = [k // 6 for k in range(60)]
    assert bootstrap_mean(values, groups, seed=1) == bootstrap_mean(values, groups, seed=1)
    assert bootstrap_mean(values, groups, seed=1) != bootstrap_mean(values, groups, seed=2)


def test_mcnemar():
    first = [1] * 8 + [0] + [1] * 5 + [0] * 3
    second = [0] * 8 + [1] + [1] * 5 + [0] * 3
    assert mcnemar(first, second) == 2 * (1 + 9) / 2**9  # 8 against 1
    assert mcnemar(second, first) == mcnemar(first, second)
    assert mcnemar([1, 0], [1, 0]) == 1.0
    assert mcnemar([1, 0], [0, 1]) == 1.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wilson_interval(1, 0), "at least one trial"),
        (lambda: wilson_interval(4, 3), "4 of 3"),
        (lambda: wilson_interval(1, 3, confidence=95), "confidence"),
        (lambda: bootstrap_mean([1.0, 2.0], ["a"]), "one group for each value"),
        (lambda: bootstrap_mean([1.0, 2.0], ["a", "a"]), "at least two"),
        (lambda: bootstrap_mean([1.0, math.inf], ["a", "b"]), "not finite"),
        (lambda: bootstrap_mean([1.0, 2.0], ["a", "b"], resamples=0), "resamples"),
        (lambda: paired_difference([1.0], [1.0, 2.0], ["a"]), "same episodes"),
        (lambda: mcnemar([1], [0, 1]), "same episodes"),
        (lambda: mcnemar([0.5], [1]), "0 or 1"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
