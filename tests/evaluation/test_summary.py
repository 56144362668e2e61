import io
import math

import pytest
from rich.console import Console

from streamvln_gym.evaluation.summary import length_class, summarize_run
from streamvln_gym.evaluation.tables import print_run
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


def test_languages_are_told_apart_where_there_are_several():
    spoken = [record(n, float(n < 2), 4.0, language=("hi-IN", "en-US", "hi-IN")[n]) for n in range(3)]
    summary = summarize_run(spoken)
    assert [(name, part["success"], part["spl"]) for name, part in summary["by_language"].items()] == [
        ("en-US", 1.0, 1.0),
        ("hi-IN", 0.5, 0.5),
    ]
    lines = [line.split() for line in printed(summary).splitlines()]
    assert next(line for line in lines if line[:1] == ["hi-IN"])[1:3] == ["2", "0.500"]
    older = record(3, 0.0, 4.0)  # of a run that an older release began
    assert list(summarize_run([*spoken, older])["by_language"]) == ["en-US", "hi-IN", "unknown"]
    for few in ([older], [older, spoken[0]], [spoken[0], spoken[2]]):
        assert "by_language" not in summarize_run(few) and "hi-IN" not in printed(summarize_run(few))


def test_episodes_without_a_described_path_have_no_class_of_length():
    records = [record(0, 1.0, 7.0), record(1, 0.0, 12.0), record(2, 1.0, 0.0, reference_path=[])]
    summary = summarize_run(records)
    assert {name: part["episodes"] for name, part in summary["by_length"].items()} == {"5-10 m": 1, "10-15 m": 1}
    assert summary["episodes"] == 3 and "0-5 m" not in printed(summary)
    assert summarize_run(records[2:])["by_length"] == {}


def test_one_goal_out_of_reach_is_counted_and_spoils_nothing():
    records = [record(0, 0.0, 4.0, navigation_error=math.inf), record(1, 1.0, 6.0)]
    summary = summarize_run(records)
    assert summary["unreachable"] == 1 and summary["metrics"]["navigation_error"]["mean"] == 2.0
    assert summary["by_scene"]["scene0"]["navigation_error"] == "inf"


def test_a_split_without_goals_has_no_rates():
    records = [
        {
            k: v
            for k, v in record(n, 0.0, 0.0, reference_path=[], failure=None).items()
            if k not in ("success", "spl", "navigation_error")
        }
        for n in range(3)
    ]
    summary = summarize_run(records)
    assert list(summary["metrics"]) == ["steps"] and "success_low" not in summary["by_scene"]["scene0"]


def without_goal(found: dict) -> dict:
    return {k: v for k, v in found.items() if k not in ("success", "spl", "navigation_error")}


def printed(summary: dict) -> str:
    console = Console(width=120, record=True, file=io.StringIO())
    identity = {"agent": "oracle", "dataset": "d", "split": "s", "simulator": "embedded"}
    print_run({"identity": identity, **summary}, console)
    return console.export_text()


def test_the_table_says_how_many_episodes_a_mean_is_of():
    records = [record(n, 1.0, 4.0) for n in range(3)]
    assert "4" not in [line.split()[-1] for line in printed(summarize_run(records)).splitlines() if line.strip()]
    some = summarize_run([*records, without_goal(record(3, 0.0, 4.0, failure=None))])
    assert some["by_scene"]["scene1"]["rated"] == 1
    lines = [line.split() for line in printed(some).splitlines()]
    assert next(line for line in lines if line[:1] == ["SR"])[-1] == "3"
    assert next(line for line in lines if line[:1] == ["steps"])[-1] == "4"
    assert next(line for line in lines if line[:1] == ["scene1"])[1:4] == ["1", "of", "2"]
    none = summarize_run([*records, without_goal(record(3, 0.0, 4.0, scene_id="bare", failure=None))])
    lines = [line.split() for line in printed(none).splitlines()]
    assert next(line for line in lines if line[:1] == ["bare"])[1:5] == ["0", "of", "1", "-"]


def test_what_paths_are_compared_with_is_counted():
    records = [record(n, 1.0, 4.0, ndtw=0.5, path_reference="ground_truth") for n in range(2)]
    assert summarize_run(records)["path_reference"] == {"ground_truth": 2}
    assert "nDTW, SDTW" not in printed(summarize_run(records))
    mixed = summarize_run([*records, record(2, 1.0, 4.0, ndtw=0.5, path_reference="reference_path")])
    assert mixed["path_reference"] == {"ground_truth": 2, "reference_path": 1}
    assert "of 3 episodes: 1 are against the reference path" in printed(mixed)


@pytest.mark.parametrize(
    ("length", "name"), [(0.0, "0-5 m"), (5.0, "5-10 m"), (29.9, "20-30 m"), (99.0, "30 m and more")]
)
def test_classes_of_length(length, name):
    assert length_class(record(0, 1.0, length)) == name
