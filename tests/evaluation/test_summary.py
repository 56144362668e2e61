import math

import pytest

from streamvln_gym.evaluation.summary import length_class, summarize_run
from streamvln_gym.statistics import bootstrap_mean, wilson_interval


def record(number: int, success: float, length: float, **changes) -> dict:
    values = {"scene_id": f"scene{number % 2}", "episode_id": str(number), "success": success, "spl": success}
    path = [[0.0, 0.0, 0.0], [length, 0.0, 0.0]]
    failure = None if success else "wrong_turn"
    found = {"navigation_error": 2.0, "needs_memory": None, "reference_path": path, "failure": failure, "steps": 3}
    return {**values, **found, **changes}


def test_means_have_intervals_over_scenes():
    records = [record(0, 1.0, 4.0), record(1, 0.0, 6.0), record(2, 1.0, 12.0), record(3, 1.0, 60.0)]
    summary = summarize_run(records)
    expected = bootstrap_mean([1, 0, 1, 1], ["scene0", "scene1", "scene0", "scene1"])
    success = summary["metrics"]["success"]
    assert (success["mean"], success["low"], success["high"]) == pytest.approx(expected)
    assert (success["episodes"], success["drawn"]) == (4, "scenes")
    assert summary["failures"]["wrong_turn"] == 1 and sum(summary["failures"].values()) == 1
    assert summarize_run(records) == summary


def test_subsets():
    records = [record(0, 1.0, 4.0, needs_memory="return"), record(1, 0.0, 12.0), record(2, 1.0, 12.5)]
    summary = summarize_run(records)
    assert list(summary["by_length"]) == ["0-5 m", "10-15 m"]
    assert summary["by_length"]["10-15 m"]["success"] == 0.5
    assert summary["by_memory"]["return"]["episodes"] == 1 and summary["by_memory"]["none"]["episodes"] == 2
    wilson = wilson_interval(2, 2)
    scene = summary["by_scene"]["scene0"]
    assert (scene["success_low"], scene["success_high"]) == (wilson.low, wilson.high)


def test_one_goal_out_of_reach_is_counted_and_spoils_nothing():
    records = [record(0, 0.0, 4.0, navigation_error=math.inf), record(1, 1.0, 6.0)]
    summary = summarize_run(records)
    assert summary["unreachable"] == 1 and summary["metrics"]["navigation_error"]["mean"] == 2.0
    assert summary["by_scene"]["scene0"]["navigation_error"] == "inf"


def test_a_split_without_goals_has_no_rates():
    records = [
        {k: v for k, v in record(n, 0.0, 0.0, reference_path=[], failure=None).items() if k not in ("success", "spl", "navigation_error")}
        for n in range(3)
    ]
    summary = summarize_run(records)
    assert list(summary["metrics"]) == ["steps"] and "success_low" not in summary["by_scene"]["scene0"]


@pytest.mark.parametrize(("length", "name"), [(0.0, "0-5 m"), (5.0, "5-10 m"), (29.9, "20-30 m"), (99.0, "30 m and more")])
def test_classes_of_length(length, name):
    assert length_class(record(0, 1.0, length)) == name
