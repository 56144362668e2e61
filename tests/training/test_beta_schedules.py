"""Beta schedules: their values, round by round."""

import pytest

from streamvln_gym.training.beta_schedules import ConstantBeta, ExponentialBeta, LinearBeta
from streamvln_gym.training.dagger_config import MixingConfig


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (ExponentialBeta(0.0), [0, 0, 0, 0]),
        (ExponentialBeta(0.5), [1, 0.5, 0.25, 0.125]),
        (ExponentialBeta(1.0), [1, 1, 1, 1]),
        (LinearBeta(1.0, 2), [1, 0.5, 0, 0]),
        (LinearBeta(0.8, 4), [0.8, 0.6, 0.4, 0.2]),
        (ConstantBeta(0.3), [0.3, 0.3, 0.3, 0.3]),
    ],
)
def test_values(schedule, expected):
    assert [schedule(number) for number in range(4)] == pytest.approx(expected)


@pytest.mark.parametrize("kind", [ExponentialBeta, LinearBeta, ConstantBeta])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_a_beta_is_a_probability(kind, value):
    with pytest.raises(ValueError, match="is a probability, from 0 to 1, got"):
        kind(value)


@pytest.mark.parametrize("schedule", [ExponentialBeta(), LinearBeta(), ConstantBeta()])
def test_rounds_begin_with_0(schedule):
    with pytest.raises(ValueError, match="numbered from 0, got -1"):
        schedule(-1)


def test_a_schedule_that_never_ends():
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        LinearBeta(1.0, 0)


def test_by_name():
    assert MixingConfig().make() == ExponentialBeta(0.0)
    assert MixingConfig("linear", 0.5, 3).make() == LinearBeta(0.5, 3)
    assert MixingConfig("constant", 0.5).make() == ConstantBeta(0.5)
    with pytest.raises(ValueError, match="unknown schedule 'cubic': use exponential, linear or constant"):
        MixingConfig("cubic")
    with pytest.raises(ValueError, match="per 'chunk' or per 'episode', not per 'step'"):
        MixingConfig(per="step")
