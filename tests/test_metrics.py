"""Metrics against hand-computed values and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest

from streamvln_gym import metrics
from streamvln_gym.episodes import Episode, Goal, Instruction


def brute_force_dtw(query: np.ndarray, reference: np.ndarray) -> float:
    """The textbook recursion."""
    table = np.full((len(query) + 1, len(reference) + 1), np.inf)
    table[0, 0] = 0.0
    for i, q in enumerate(query, start=1):
        for j, r in enumerate(reference, start=1):
            best = min(table[i - 1, j], table[i, j - 1], table[i - 1, j - 1])
            table[i, j] = np.linalg.norm(q - r) + best
    return float(table[-1, -1])


def line(*xs: float) -> np.ndarray:
    """Points on the x axis."""
    return np.array([[x, 0.0, 0.0] for x in xs])


def episode(**changes) -> Episode:
    values = {
        "episode_id": "1",
        "trajectory_id": "1",
        "scene_id": "s/s.glb",
        "start_position": (0.0, 0.0, 0.0),
        "start_rotation": (0.0, 0.0, 0.0, 1.0),
        "instruction": Instruction("go"),
        "goals": (Goal((4.0, 0.0, 0.0)),),
        "reference_path": ((0.0, 0.0, 0.0), (2.0, 0.0, 0.0), (4.0, 0.0, 0.0)),
        **changes,
    }
    return Episode(**values)


def straight(a, b) -> float:
    """A world without walls."""
    return float(np.linalg.norm(np.asarray(a) - np.asarray(b).reshape(-1, 3), axis=1).min())


def run(walk: np.ndarray, played: Episode, stop: bool = True, distance=straight) -> metrics.EpisodeMetrics:
    """The metrics after walking along points (the first is the start) and stopping."""
    goal = played.goals[0].position
    running = metrics.EpisodeMetrics(played, walk[0], distance(walk[0], goal), distance)
    for point in walk[1:]:
        running.update(point, distance(point, goal), collided=False, stopped=False)
    if stop:
        running.update(walk[-1], distance(walk[-1], goal), collided=False, stopped=True)
    return running


def test_success_is_strict_at_three_metres() -> None:
    assert metrics.success(True, 2.999) == 1.0
    assert metrics.success(True, 3.0) == 0.0
    assert metrics.success(False, 0.0) == 0.0
    assert metrics.success(True, math.inf) == 0.0


def test_oracle_success_counts_any_step() -> None:
    assert metrics.oracle_success([5.0, 2.9, 6.0]) == 1.0
    assert metrics.oracle_success([5.0, 3.0]) == 0.0


@pytest.mark.parametrize(
    ("succeeded", "shortest", "travelled", "expected"),
    [(1, 10.0, 12.5, 0.8), (1, 10.0, 9.0, 1.0), (0, 10.0, 10.0, 0.0), (1, math.inf, 5.0, 0.0), (1, 0.0, 0.0, 1.0),
     (1, 0.0, 2.0, 0.0)],
)  # fmt: skip
def test_spl(succeeded: float, shortest: float, travelled: float, expected: float) -> None:
    assert metrics.spl(succeeded, shortest, travelled) == pytest.approx(expected)


def test_dtw_by_hand() -> None:
    # (0,0) + (1,0)->1 + (2,2) + (4,4): the point at 1 is 1 m from both its neighbours.
    assert metrics.dtw(line(0, 1, 2, 4), line(0, 2, 4)) == pytest.approx(1.0)
    assert metrics.dtw(line(0), line(0, 2, 4)) == pytest.approx(6.0)
    assert metrics.dtw(line(1, 3), line(2)) == pytest.approx(2.0)


def test_dtw_equals_brute_force() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        query = rng.normal(size=(rng.integers(1, 30), 3)) * 5
        reference = rng.normal(size=(rng.integers(1, 30), 3)) * 5
        assert metrics.dtw(query, reference) == pytest.approx(brute_force_dtw(query, reference), abs=1e-9)


def test_dtw_of_a_path_with_itself_is_zero() -> None:
    path = np.cumsum(np.random.default_rng(1).normal(size=(200, 3)), axis=0)
    assert metrics.dtw(path, path) == pytest.approx(0.0, abs=1e-9)


def test_dtw_needs_points() -> None:
    with pytest.raises(ValueError, match="reference of at least one point"):
        metrics.dtw(line(0), np.empty((0, 3)))
    with pytest.raises(ValueError, match="query of at least one point"):
        metrics.dtw(np.empty((0, 3)), line(0))


def test_ndtw_by_hand_drops_repeats_of_the_query() -> None:
    expected = math.exp(-1.0 / (3 * 3.0))
    assert metrics.ndtw(line(0, 1, 2, 4), line(0, 2, 4)) == pytest.approx(expected)
    assert metrics.ndtw(line(0, 1, 1, 1, 2, 4, 4), line(0, 2, 4)) == pytest.approx(expected)


def test_drop_repeats_keeps_returns() -> None:
    assert metrics.drop_repeats(line(0, 0, 1, 1, 0)).tolist() == line(0, 1, 0).tolist()
    assert metrics.drop_repeats(line(5)).tolist() == line(5).tolist()


def test_cls_by_hand() -> None:
    # The agent stays at 0: coverage (1 + e^(-2/3) + e^(-4/3)) / 3, expected length 4 * coverage, own length 0.
    coverage = (1 + math.exp(-2 / 3) + math.exp(-4 / 3)) / 3
    expected_length = 4 * coverage
    assert metrics.cls(line(0), line(0, 2, 4)) == pytest.approx(coverage * expected_length / (2 * expected_length))
    assert metrics.cls(line(0, 2, 4), line(0, 2, 4)) == pytest.approx(1.0)
    # 12 m instead of 4 m: score 4 / (4 + 8).
    assert metrics.cls(line(0, 2, 4, 2, 4, 2, 4), line(0, 2, 4)) == pytest.approx(4 / (4 + 8))


def test_running_metrics_equal_the_pure_functions_at_every_step() -> None:
    rng = np.random.default_rng(2)
    walk = np.cumsum(rng.normal(size=(40, 3)) * [1, 0, 1], axis=0)
    walk = np.repeat(walk, rng.integers(1, 3, len(walk)), axis=0)  # turns: positions repeat
    played = episode()
    reference = np.array(played.reference_path)
    for steps in (1, 2, 17, len(walk)):
        result = run(walk[:steps], played, stop=False).result
        assert result["ndtw"] == pytest.approx(metrics.ndtw(walk[:steps], reference))
        assert result["cls"] == pytest.approx(metrics.cls(walk[:steps], reference))
        assert result["success"] == result["spl"] == result["sdtw"] == 0.0


def test_a_successful_episode() -> None:
    result = run(line(0, 1, 2, 3, 3), episode()).result
    assert result == {
        "path_length": 3.0,
        "steps": 5,
        "collisions": 0,
        "navigation_error": 1.0,
        "oracle_success": 1.0,
        "success": 1.0,
        "spl": 1.0,  # shorter than the shortest way: it stopped 1 m before the goal
        "success_rule": "goal",
        "ndtw": pytest.approx(math.exp(-2.0 / 9)),
        "sdtw": pytest.approx(math.exp(-2.0 / 9)),
        "cls": pytest.approx(metrics.cls(line(0, 1, 2, 3), line(0, 2, 4))),
        "path_reference": "reference_path",
    }


def test_passing_the_goal_without_stopping_there_is_oracle_success_only() -> None:
    result = run(line(0, 4, 8), episode()).result
    assert (result["oracle_success"], result["success"], result["spl"], result["sdtw"]) == (1.0, 0.0, 0.0, 0.0)


def test_collisions_are_counted() -> None:
    running = metrics.EpisodeMetrics(episode(), (0, 0, 0), 4.0, straight)
    for collided in (True, False, True):
        running.update((0, 0, 0), 4.0, collided, stopped=False)
    assert (running.result["collisions"], running.result["steps"], running.result["path_length"]) == (2, 3, 0.0)


def test_ground_truth_locations_take_precedence_over_the_reference_path() -> None:
    played = episode(gt_locations=((0.0, 0.0, 0.0), (1.0, 0.0, 0.0)))
    result = run(line(0, 1), played).result
    assert result["ndtw"] == pytest.approx(1.0) and result["path_reference"] == "ground_truth"


def test_references_of_paths_are_counted_and_told() -> None:
    results = [{"ndtw": 1.0, "path_reference": name} for name in ("ground_truth", "reference_path", "ground_truth")]
    results += [{"ndtw": 1.0}, {"steps": 3, "path_reference": None}]  # an old result, and one without a path
    counts = metrics.count_path_references(results)
    assert counts == {"ground_truth": 2, "reference_path": 1, "unknown": 1}
    note = metrics.path_reference_note(counts)
    assert "of 4 episodes: 1 are against the reference path" in note and "1 do not say against what" in note
    assert "\n" not in note
    assert metrics.path_reference_note({"ground_truth": 4}) == metrics.path_reference_note({}) == ""


def test_the_results_behind_a_mean_are_counted() -> None:
    results = [{"navigation_error": math.inf, "success": 0.0, "steps": 2}, {"steps": 4}]
    assert metrics.count_values(results) == {"success": 1, "steps": 2}


def test_an_unreachable_goal_gives_infinity_and_zeros_never_nan() -> None:
    result = run(line(0, 4), episode(), distance=lambda a, b: math.inf).result
    assert result["navigation_error"] == math.inf
    assert (result["success"], result["spl"], result["oracle_success"], result["sdtw"]) == (0.0, 0.0, 0.0, 0.0)
    assert not any(math.isnan(value) for value in result.values() if isinstance(value, float))


def test_without_ground_truth_metrics_are_absent() -> None:
    running = metrics.EpisodeMetrics(episode(goals=(), reference_path=()), (0, 0, 0), None, straight)
    running.update((1, 0, 0), None, collided=False, stopped=True)
    assert running.result == {"path_length": 1.0, "steps": 1, "collisions": 0}
    assert not running.succeeded and running.remaining is None


RETURN = {
    "goals": (Goal((0.0, 0.0, 0.0)),),
    "reference_path": ((0.0, 0.0, 0.0), (10.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
    "info": {"via": [[10.0, 0.0, 0.0]], "needs_memory": "return"},
}


def test_standing_still_scores_nothing_where_the_goal_is_the_start() -> None:
    result = run(line(0), episode(**RETURN)).result
    assert result["success_rule"] == "via"
    assert (result["navigation_error"], result["success"], result["spl"], result["sdtw"]) == (0.0, 0.0, 0.0, 0.0)
    assert result["oracle_success"] == 0.0


def test_a_return_counts_once_the_via_position_was_visited() -> None:
    there_and_back = run(line(0, 4, 7.5, 4, 0), episode(**RETURN)).result
    assert (there_and_back["success"], there_and_back["oracle_success"]) == (1.0, 1.0)
    assert there_and_back["spl"] == 1.0  # 15 m walked of the reference path's 20 m
    assert run(line(0, 4, 7.0, 4, 0), episode(**RETURN)).result["success"] == 0.0  # 3.0 m is not within 3 m


def test_the_reference_path_is_the_shortest_length_of_a_return() -> None:
    detour = run(line(0, 10, 0, 10, 0), episode(**RETURN)).result
    assert detour["spl"] == pytest.approx(20.0 / 40.0)


def test_via_positions_count_in_order_only() -> None:
    info = {"via": [[10.0, 0.0, 0.0], [-10.0, 0.0, 0.0]]}
    assert run(line(0, -10, 10, 0), episode(**{**RETURN, "info": info})).result["success"] == 0.0
    assert run(line(0, 10, -10, 0), episode(**{**RETURN, "info": info})).result["success"] == 1.0


def test_what_is_left_to_go_leads_over_the_via_positions() -> None:
    info = {"via": [[10.0, 0.0, 0.0], [-10.0, 0.0, 0.0]]}
    played = episode(**{**RETURN, "info": info, "goals": (Goal((-4.0, 0.0, 0.0)), Goal((0.0, 0.0, 0.0)))})
    left = [
        run(line(*walk), played, stop=False).remaining for walk in ((0,), (0, 4), (0, 7.5), (0, 7.5, -8), (0, 9, 0))
    ]
    # From 7.5 on the first counts as visited: over the second (17.5 m away) to the nearer goal; from -8 on the second.
    assert left == pytest.approx([10 + 20 + 6, 6 + 20 + 6, 17.5 + 6, 4.0, 10.0 + 6])


def test_via_distances_are_geodesic() -> None:
    def walled(a, b) -> float:
        return straight(a, b) + (100.0 if np.asarray(a)[0] < 9.5 and np.asarray(b).reshape(-1, 3)[0, 0] > 9.5 else 0.0)

    assert run(line(0, 9.0, 0), episode(**RETURN), distance=walled).result["success"] == 0.0
    assert run(line(0, 9.6, 0), episode(**RETURN), distance=walled).result["success"] == 1.0


def test_summary_shows_an_unreachable_goal_and_is_not_spoilt_by_it() -> None:
    good = run(line(0, 1, 2, 3), episode()).result
    bad = run(line(0, 4), episode(), distance=lambda a, b: math.inf).result
    blind = {"path_length": 2.0, "steps": 1, "collisions": 0}
    means = metrics.summarize([good, bad, blind])
    assert means["episodes"] == 3
    assert means["unreachable"] == 1
    assert means["navigation_error"] == 1.0
    assert means["success"] == 0.5
    assert means["path_length"] == pytest.approx((3.0 + 4.0 + 2.0) / 3)


def test_summary_of_nothing_but_unreachable_goals_is_infinite() -> None:
    bad = run(line(0, 4), episode(), distance=lambda a, b: math.inf).result
    assert metrics.summarize([bad])["navigation_error"] == math.inf
    assert metrics.summarize([]) == {"episodes": 0, "unreachable": 0}
