import json
from pathlib import Path

import numpy as np
import pytest

from streamvln_gym.cli import main
from streamvln_gym.errors import EvaluationError
from streamvln_gym.evaluation import compare
from streamvln_gym.statistics import mcnemar, paired_difference
from tests.evaluation.made_runs import write_lines


def write_run(folder: Path, records: list[dict], **identity) -> Path:
    folder.mkdir()
    run = {"identity": {"dataset": "d", "split": "s", **identity}, "fingerprint": "f", "episodes": len(records)}
    (folder / "run.json").write_text(json.dumps(run))
    lines = [json.dumps({"fingerprint": "f", **record}) + "\n" for record in records]
    (folder / "episodes.jsonl").write_text("".join(lines))
    return folder


def record(number: int, success: float, error: float | str = 1.0, **changes) -> dict:
    scene = f"scene{number % 3}"
    values = {"key": [scene, str(number), 0], "scene_id": scene, "episode_id": str(number), "success": success}
    told = {"instruction": "Go.", "start": [0, 0, 0], "goal": [1, 0, 0], "reference_path": [[0, 0, 0], [1, 0, 0]]}
    return {**values, "spl": success / 2, "navigation_error": error, **told, **changes}


def test_the_difference_is_over_the_same_episodes(tmp_path):
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 2, 30), rng.integers(0, 2, 30)
    a = write_run(tmp_path / "a", [record(k, float(s)) for k, s in enumerate(first)], checkpoint="old")
    others = [record(k, float(s)) for k, s in enumerate(second)][::-1]
    b = write_run(tmp_path / "b", [*others[:-2], record(77, 1.0)], checkpoint="new")
    found = compare(a, b)
    one, other = first[2:].astype(float), second[2:].astype(float)
    scenes = [f"scene{k % 3}" for k in range(2, 30)]
    expected = paired_difference(other, one, scenes)
    success = found.metrics["success"]
    assert (success.difference, success.low, success.high) == pytest.approx(expected)
    assert (success.first, success.second) == pytest.approx((one.mean(), other.mean()))
    assert success.drawn == "scenes"
    assert found.metrics["spl"].difference == pytest.approx(success.difference / 2)
    assert found.p_value == pytest.approx(mcnemar(one, other))
    assert (found.first_alone, found.second_alone) == ((one > other).sum(), (other > one).sum())
    assert (found.episodes, found.only_first, found.only_second, found.unlike) == (28, 2, 1, 0)
    assert found.settings == {"checkpoint": ("old", "new")}


def test_success_is_also_compared_where_memory_is_needed(tmp_path, capsys):
    kinds = ["return", "", "counting", "", "return", ""]
    first, second = [0.0, 1.0, 0.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.0, 1.0, 1.0]
    runs = [
        write_run(
            tmp_path / name,
            [record(k, s, needs_memory=kind) for k, (s, kind) in enumerate(zip(won, kinds, strict=True))],
        )
        for name, won in (("a", first), ("b", second))
    ]
    found = compare(*runs).success_by_memory
    assert {name: (part.first, part.second, part.episodes) for name, part in found.items()} == {
        "memory needed": (pytest.approx(1 / 3), 1.0, 3),
        "no memory needed": (1.0, pytest.approx(2 / 3), 3),
    }
    scenes = ["scene0", "scene2", "scene1"]
    needed = found["memory needed"]
    assert (needed.difference, needed.low, needed.high) == pytest.approx(
        paired_difference([1, 1, 1], [0, 0, 1], scenes)
    )
    main(["compare", *map(str, runs)])
    assert "SR, memory needed (3)" in capsys.readouterr().out


def test_without_episodes_of_both_kinds_there_is_nothing_to_set_apart(tmp_path):
    a, b = (write_run(tmp_path / name, [record(0, 1.0), record(1, 0.0)]) for name in "ab")
    assert compare(a, b).success_by_memory == {}


def test_goals_out_of_reach_are_no_part_of_the_distance(tmp_path):
    a = write_run(tmp_path / "a", [record(0, 0.0, "inf"), record(1, 1.0, 2.0), record(2, 1.0, 4.0)])
    b = write_run(tmp_path / "b", [record(0, 0.0, 1.0), record(1, 1.0, 1.0), record(2, 1.0, 1.0)])
    error = compare(a, b).metrics["navigation_error"]
    assert (error.first, error.second, error.difference, error.episodes) == (3.0, 1.0, -2.0, 2)


def test_one_scene_is_drawn_by_episode_and_one_episode_has_no_interval(tmp_path):
    a = write_run(tmp_path / "a", [record(0, 0.0), record(3, 1.0)])
    b = write_run(tmp_path / "b", [record(0, 1.0), record(3, 1.0)])
    found = compare(a, b).metrics["success"]
    assert (found.drawn, found.low, found.high) == ("episodes", 0.0, 1.0)
    c = write_run(tmp_path / "c", [record(0, 1.0)])
    assert compare(a, c).metrics["success"].low is None


def test_episodes_that_are_not_the_same_are_left_out(tmp_path):
    a = write_run(tmp_path / "a", [record(0, 0.0), record(1, 1.0)])
    b = write_run(tmp_path / "b", [record(0, 1.0, instruction="Stay."), record(1, 1.0)])
    found = compare(a, b)
    assert (found.episodes, found.unlike) == (1, 1)
    turned = write_run(tmp_path / "turned", [record(0, 1.0, headings=[30.0]), record(1, 1.0, headings=[10.0])])
    other = write_run(tmp_path / "other", [record(0, 1.0, headings=[75.0]), record(1, 1.0, headings=[10.0, 25.0])])
    assert (compare(turned, other).episodes, compare(turned, other).unlike) == (1, 1), "another direction at the start"


def test_runs_without_goals_are_compared_in_what_they_have(tmp_path):
    plain = [
        {k: v for k, v in record(n, 0.0).items() if k not in ("success", "spl", "navigation_error")} for n in (0, 1)
    ]
    a = write_run(tmp_path / "a", [{**r, "steps": 4} for r in plain])
    b = write_run(tmp_path / "b", [{**r, "steps": 6} for r in plain])
    found = compare(a, b)
    assert found.p_value is None and list(found.metrics) == ["steps"] and found.metrics["steps"].difference == 2.0


def test_other_references_of_paths_are_told(tmp_path, capsys):
    def ran(name: str, *references: str | None) -> Path:
        told = [{} if kind is None else {"path_reference": kind} for kind in references]
        return write_run(tmp_path / name, [record(k, 1.0, ndtw=0.5, **more) for k, more in enumerate(told)])

    true, other = ran("true", *["ground_truth"] * 2), ran("other", "ground_truth", "reference_path")
    old = ran("old", None, None)
    found = compare(true, other)
    assert found.unlike_reference == 1
    assert found.path_reference == ({"ground_truth": 2}, {"ground_truth": 1, "reference_path": 1})
    main(["compare", str(true), str(other)])
    printed = " ".join(capsys.readouterr().out.split())
    assert "A ground_truth 2; B ground_truth 1, reference_path 1." in printed
    assert "In 1 episodes A and B are measured against different paths" in printed
    main(["compare", str(other), str(other)])
    assert "the means mix the two" in capsys.readouterr().out
    main(["compare", str(old), str(true)])
    assert "A unknown 2; B ground_truth 2." in capsys.readouterr().out
    for run in (true, old):
        main(["compare", str(run), str(run)])
        assert "are against" not in capsys.readouterr().out


def test_a_row_says_of_how_many_episodes_it_is_where_that_is_not_all(tmp_path, capsys):
    bare = {k: v for k, v in record(1, 0.0).items() if k not in ("success", "spl", "navigation_error")}
    runs = [write_run(tmp_path / name, [record(0, 1.0), record(2, 0.0), {**bare, "steps": 1}]) for name in "ab"]
    main(["compare", *map(str, runs)])
    printed = capsys.readouterr().out
    assert "SR (2)" in printed and "steps (1)" in printed and "3 episodes;" in printed
    assert "A alone succeeded in 0 episodes" in printed  # of those with a goal


def test_what_cannot_be_compared_is_named(tmp_path):
    a = write_run(tmp_path / "a", [record(0, 0.0)])
    b = write_run(tmp_path / "b", [record(1, 0.0)])
    with pytest.raises(EvaluationError, match=r"a \(d/s\) and .*b \(d/s\) have no episode in common"):
        compare(a, b)
    with pytest.raises(EvaluationError, match=r"nothing holds no evaluation .run.json is missing"):
        compare(a, tmp_path / "nothing")
    (b / "episodes.jsonl").unlink()
    with pytest.raises(EvaluationError, match="b is not finished"):
        compare(a, b)
    with (a / "episodes.jsonl").open("a") as file:
        file.write("nonsense\n")
    with pytest.raises(EvaluationError, match=r"line 2 of .*episodes.jsonl is not a result of this run"):
        compare(a, a)
    write_lines(a / "episodes.jsonl", [{"fingerprint": "f", **record(0, 0.0), "success": "x"}])
    with pytest.raises(EvaluationError, match=r"line 1 of .*episodes.jsonl .*'success' must be a number, got 'x'"):
        compare(a, a)
    (a / "episodes.jsonl").write_text("")
    with pytest.raises(EvaluationError, match="has 0 results, but the run has 1 episodes"):
        compare(a, a)


def test_of_nested_settings_only_those_that_differ_are_told(tmp_path):
    cameras = [{"width": width, "height": 48, "hfov": 79.0} for width in (64, 32)]
    runs = [write_run(tmp_path / n, [record(0, 1.0)], camera=c) for n, c in zip("ab", cameras, strict=True)]
    assert compare(*runs).settings == {"camera.width": (64, 32)}
    blind = write_run(tmp_path / "c", [record(0, 1.0)], camera=None)
    assert compare(runs[0], blind).settings == {"camera": (cameras[0], None)}


def test_the_command_prints_a_table_or_json(tmp_path, capsys):
    a = write_run(tmp_path / "a", [record(k, 0.0) for k in range(9)], seed=1)
    b = write_run(tmp_path / "b", [record(k, float(k != 4)) for k in range(9)], seed=2)
    main(["compare", str(a), str(b)])
    printed = capsys.readouterr().out
    assert "seed: A 1, B 2" in printed and "+0.889" in printed and "McNemar" in printed
    main(["compare", str(a), str(b), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["second_alone"] == 8 and found["p_value"] == pytest.approx(2 / 2**8)
    assert found["settings"] == {"seed": [1, 2]}
