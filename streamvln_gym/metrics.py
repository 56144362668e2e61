"""Navigation metrics of VLN-CE: pure functions, an accumulator that an environment updates every step, and means.

Positions are metres, (x, y, z); distances between them are Euclidean where a formula compares paths (nDTW, CLS) and
geodesic where it says how far a goal is (navigation error, success). Sources: success, SPL: Anderson et al. 2018, "On
evaluation of embodied navigation agents"; nDTW, SDTW: Ilharco et al. 2019; CLS: Jain et al. 2019.

habitat's VLN-CE computes DTW with the approximation of `fastdtw`; here it is exact, so that nDTW is never lower here.

Two rules decide success, and `success_rule` of every result names the one that was used:

* "goal": stopped nearer than `success_distance` (strictly) to the goal.
* "via": for episodes with `info.via` (a return to where one started, say), every via position must first have been
  visited, in order, within `success_distance` geodesic metres; and the SPL's shortest length is the length of the
  reference path, because the straight way to the goal is short or nothing.

nDTW, SDTW and CLS compare with a path, and `path_reference` of every result names the one that was used:

* "ground_truth": the ground-truth positions, a step apart.
* "reference_path": the episode's reference path, a few corners; for episodes without ground truth. The values differ
  from those against ground truth, so that the two are not to be compared.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamvln_gym.episodes import Episode
from streamvln_gym.geometry import path_length

GROUND_TRUTH, REFERENCE_PATH, UNKNOWN = "ground_truth", "reference_path", "unknown"
"""What `path_reference` says; the last one is of results that were written before it was."""

SUCCESS_DISTANCE = 3.0
"""Metres, VLN-CE's threshold."""

METRICS = (
    "navigation_error",
    "oracle_success",
    "success",
    "spl",
    "ndtw",
    "sdtw",
    "cls",
    "path_length",
    "steps",
    "collisions",
)
"""Names under which `EpisodeMetrics` reports: NE, OS, SR, SPL, nDTW, SDTW, CLS and the rest."""

SHORT_NAMES = {
    "navigation_error": "NE (m)",
    "oracle_success": "OS",
    "success": "SR",
    "spl": "SPL",
    "ndtw": "nDTW",
    "sdtw": "SDTW",
    "cls": "CLS",
    "path_length": "path (m)",
    "steps": "steps",
    "collisions": "coll.",
}
"""The metrics' names in tables."""


def drop_repeats(positions: ArrayLike) -> NDArray[np.float64]:
    """The positions (N, 3) without those equal to the one before (turns, blocked steps)."""
    positions = np.asarray(positions, dtype=np.float64).reshape(-1, 3)
    if len(positions) < 2:
        return positions
    moved = np.any(positions[1:] != positions[:-1], axis=1)
    return positions[np.concatenate([[True], moved])]


def success(stopped: bool, distance_to_goal: float, success_distance: float = SUCCESS_DISTANCE) -> float:
    """1.0 if the agent said STOP with the goal nearer than `success_distance` metres, else 0.0."""
    return float(stopped and distance_to_goal < success_distance)


def oracle_success(distances_to_goal: Iterable[float], success_distance: float = SUCCESS_DISTANCE) -> float:
    """1.0 if any distance of the episode, the start's included, is below `success_distance` metres, else 0.0."""
    return float(any(distance < success_distance for distance in distances_to_goal))


def spl(succeeded: float, shortest_length: float, travelled_length: float) -> float:
    """Success weighted by path length: `S * L* / max(L*, L)`; 0 where the goal cannot be reached, never NaN."""
    if not succeeded or not math.isfinite(shortest_length):
        return 0.0
    longer = max(shortest_length, travelled_length)
    return float(succeeded) * (shortest_length / longer if longer > 0.0 else 1.0)


class RunningDTW:
    """Dynamic time warping against a fixed reference, one query point at a time: O(len(reference)) each.

    The row recursion `D[i, j] = c[j] + min(m[j], D[i, j-1])`, with m the better of the two cells of the row above, is
    solved for a whole row at once: in `E = D - cumsum(c)` it is a running minimum.

    Args:
        reference: (N, 3) metres, N >= 1.
    """

    def __init__(self, reference: ArrayLike) -> None:
        self._reference = np.asarray(reference, dtype=np.float64).reshape(-1, 3)
        if not len(self._reference):
            raise ValueError("DTW needs a reference of at least one point")
        self._row: NDArray[np.float64] | None = None

    def add(self, distances: NDArray[np.float64]) -> None:
        """Appends a query point, given by its distances (N,) to the reference's points."""
        total = np.cumsum(distances)
        if self._row is None:
            self._row = total
            return
        above = self._row.copy()
        np.minimum(above[1:], self._row[:-1], out=above[1:])
        self._row = total + np.minimum.accumulate(above - (total - distances))

    @property
    def value(self) -> float:
        """The DTW distance in metres of the points added so far."""
        if self._row is None:
            raise ValueError("DTW needs a query of at least one point")
        return max(0.0, float(self._row[-1]))


def dtw(query: ArrayLike, reference: ArrayLike) -> float:
    """Exact dynamic time warping distance in metres between two paths, (M, 3) and (N, 3), Euclidean cost."""
    reference = np.asarray(reference, dtype=np.float64).reshape(-1, 3)
    running = RunningDTW(reference)
    for point in np.asarray(query, dtype=np.float64).reshape(-1, 3):
        running.add(np.linalg.norm(reference - point, axis=1))
    return running.value


def ndtw(query: ArrayLike, reference: ArrayLike, threshold: float = SUCCESS_DISTANCE) -> float:
    """Normalised DTW, `exp(-DTW(Q, R) / (|R| * threshold))` in [0, 1]; repeats in the query are dropped.

    Args:
        query: (M, 3), the agent's positions with the start.
        reference: (N, 3), the ground-truth positions.
        threshold: metres.
    """
    points = np.asarray(reference, dtype=np.float64).reshape(-1, 3)
    return math.exp(-dtw(drop_repeats(query), points) / (len(points) * threshold))


def sdtw(succeeded: float, normalised_dtw: float) -> float:
    """Success weighted by nDTW."""
    return float(succeeded) * normalised_dtw


def coverage_score(
    nearest: NDArray[np.float64],
    reference_length: float,
    travelled_length: float,
    threshold: float = SUCCESS_DISTANCE,
) -> float:
    """CLS from its parts: path coverage times length score.

    Args:
        nearest: (N,) for every reference point, the distance in metres to the nearest point of the agent's path.
        reference_length: metres.
        travelled_length: metres.
        threshold: metres at which coverage has decayed to 1/e.
    """
    coverage = float(np.exp(-nearest / threshold).mean())
    expected = coverage * reference_length
    scale = expected + abs(expected - travelled_length)
    return coverage * (expected / scale if scale > 0.0 else 1.0)


def cls(query: ArrayLike, reference: ArrayLike, threshold: float = SUCCESS_DISTANCE) -> float:
    """Coverage weighted by length score of the path (M, 3) against the reference (N, 3), in [0, 1]."""
    query = np.asarray(query, dtype=np.float64).reshape(-1, 3)
    reference = np.asarray(reference, dtype=np.float64).reshape(-1, 3)
    nearest = np.linalg.norm(reference[:, None] - query[None], axis=2).min(axis=1)
    return coverage_score(nearest, path_length(reference), path_length(query), threshold)


class EpisodeMetrics:
    """The running metrics of one episode.

    Construct it at the start, `update` it after every action, read `result` at any time; success, SPL and SDTW are 0
    until the agent stops. What an episode has no ground truth for is absent: without a goal navigation error, success
    and what builds on them, without ground truth or a reference path nDTW, SDTW and CLS.

    Args:
        episode: gives the reference, the via positions and the goals.
        start: (3,) the agent's start.
        distance_to_goal: geodesic metres from there; None if the episode has no goal.
        geodesic_distance: `(position, goals) -> metres`, to the nearest; used for via positions only.
        success_distance: metres.
    """

    def __init__(
        self,
        episode: Episode,
        start: ArrayLike,
        distance_to_goal: float | None,
        geodesic_distance: Callable[[ArrayLike, ArrayLike], float],
        success_distance: float = SUCCESS_DISTANCE,
    ) -> None:
        self._success_distance = success_distance
        self._geodesic_distance = geodesic_distance
        self._via = list(episode.via)
        self._legs = self._legs_of(episode)
        self._distance = distance_to_goal
        self.success_rule = "via" if self._via else "goal"
        self._shortest = path_length(episode.reference_path) if self._via else distance_to_goal
        self._stopped = False
        self._oracle_success = False
        self._path_length = 0.0
        self._steps = 0
        self._collisions = 0
        self._position = np.array(start, dtype=np.float64)
        self._reference, self.path_reference = _reference(episode)
        if self._reference is not None:
            self._reference_length = path_length(self._reference)
            self._dtw = RunningDTW(self._reference)
            self._nearest = np.full(len(self._reference), np.inf)
            self._likeness: tuple[float, float] | None = None  # to it, at the present position
            self._uncompared: list[NDArray[np.float64]] = []  # positions; training never asks for the likeness
        self._visit()

    def update(self, position: ArrayLike, distance_to_goal: float | None, collided: bool, stopped: bool) -> None:
        """Counts one executed action.

        Args:
            position: (3,) where the agent stands after it.
            distance_to_goal: geodesic metres from there, or None.
            collided: whether a forward step was blocked.
            stopped: whether the action was STOP.
        """
        position = np.array(position, dtype=np.float64)
        self._steps += 1
        self._collisions += int(collided)
        self._stopped = stopped
        self._distance = distance_to_goal
        step = math.dist(position.tolist(), self._position.tolist())
        if step > 0.0:
            self._path_length += step
            self._position = position
            self._visit()

    @property
    def remaining(self) -> float | None:
        """Geodesic metres left to go: over the via positions not yet visited to the goal; None without a goal."""
        if not self._via or self._distance is None:
            return self._distance
        return self._to_via + self._legs[0]

    @property
    def succeeded(self) -> bool:
        """Whether the agent has stopped successfully."""
        return self._stopped and self._arrived

    @property
    def result(self) -> dict[str, Any]:
        """The metrics so far (names in `METRICS`, floats; steps and collisions int), and by what rule and reference.

        `success_rule` and `path_reference` are there where what they are about is.
        """
        values: dict[str, Any] = {
            "path_length": self._path_length,
            "steps": self._steps,
            "collisions": self._collisions,
        }
        if self._reference is not None:
            likeness = self._likeness = self._likeness or self._compare(self._reference)
            values |= {"ndtw": likeness[0], "cls": likeness[1], "path_reference": self.path_reference}
        if self._distance is not None and self._shortest is not None:
            succeeded = float(self.succeeded)
            values |= {
                "navigation_error": self._distance,
                "oracle_success": float(self._oracle_success),
                "success": succeeded,
                "spl": spl(succeeded, self._shortest, self._path_length),
                "success_rule": self.success_rule,
            }
            if self._reference is not None:
                values["sdtw"] = sdtw(succeeded, likeness[0])
        return values

    @property
    def _arrived(self) -> bool:
        return not self._via and self._distance is not None and self._distance < self._success_distance

    def _visit(self) -> None:
        """Takes the present position into account: via positions, oracle success, the path's likeness."""
        while self._via:
            self._to_via = float(self._geodesic_distance(self._position, self._via[0]))
            if self._to_via >= self._success_distance:
                break
            self._via.pop(0)
            self._legs.pop(0)
        self._oracle_success = self._oracle_success or self._arrived
        if self._reference is not None:
            self._uncompared.append(self._position)
            self._likeness = None

    def _legs_of(self, episode: Episode) -> list[float]:
        """From each via position on, over the later ones to the nearest goal, metres."""
        if not episode.via or not episode.goals:
            return [0.0] * len(episode.via)
        goals = np.array([goal.position for goal in episode.goals], dtype=np.float64)
        legs = [float(self._geodesic_distance(episode.via[-1], goals))]
        for begin, end in zip(episode.via[-2::-1], episode.via[:0:-1], strict=True):
            legs.insert(0, float(self._geodesic_distance(begin, end)) + legs[0])
        return legs

    def _compare(self, reference: NDArray[np.float64]) -> tuple[float, float]:
        """nDTW and CLS of the path so far."""
        for position in self._uncompared:
            offsets = reference - position
            distances = np.sqrt(np.einsum("ij,ij->i", offsets, offsets))
            self._dtw.add(distances)
            np.minimum(self._nearest, distances, out=self._nearest)
        self._uncompared.clear()
        ndtw = math.exp(-self._dtw.value / (len(reference) * SUCCESS_DISTANCE))
        return ndtw, coverage_score(self._nearest, self._reference_length, self._path_length)


def _reference(episode: Episode) -> tuple[NDArray[np.float64] | None, str]:
    """The positions (N, 3) that paths are compared with, None without any; and their `path_reference`."""
    if episode.gt_locations:
        return np.asarray(episode.gt_locations, dtype=np.float64), GROUND_TRUTH
    return np.asarray(episode.reference_path, dtype=np.float64) if episode.reference_path else None, REFERENCE_PATH


def summarize(results: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Means over episodes.

    Args:
        results: one mapping per episode (an `info` of a last step will do); only the names in `METRICS` are read.

    Returns:
        For every metric that occurs the mean over the episodes that have it, as float; a navigation error is averaged
        over the episodes whose goal can be reached (inf if there is none), and `unreachable` counts the others, so that
        one such episode is visible and spoils nothing. `episodes` counts all; `count_values` those behind each mean.
    """
    results = list(results)
    means: dict[str, float] = {"episodes": len(results), "unreachable": 0}
    for name in METRICS:
        values = np.array([float(result[name]) for result in results if name in result])
        if not len(values):
            continue
        finite = values[np.isfinite(values)]
        if name == "navigation_error":
            means["unreachable"] = len(values) - len(finite)
        means[name] = float(finite.mean()) if len(finite) else math.inf
    return means


def count_values(results: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """For every metric that occurs, how many results its mean in `summarize` is of."""
    found = Counter(
        name for result in results for name in METRICS if name in result and math.isfinite(float(result[name]))
    )
    return {name: found[name] for name in METRICS if name in found}


def count_path_references(results: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many results have nDTW against each `path_reference`; those that do not say which count as "unknown"."""
    found = Counter(result.get("path_reference") or UNKNOWN for result in results if "ndtw" in result)
    return {name: found[name] for name in (GROUND_TRUTH, REFERENCE_PATH, UNKNOWN) if found[name]}


def path_reference_note(counts: Mapping[str, int]) -> str:
    """One line about what `count_path_references` counted, "" where all is ground truth (or nothing)."""
    if not counts.keys() - {GROUND_TRUTH}:
        return ""
    meant = {REFERENCE_PATH: "are against the reference path (no ground truth)", UNKNOWN: "do not say against what"}
    parts = [f"{counts[name]} {meaning}" for name, meaning in meant.items() if name in counts]
    return (
        f"nDTW, SDTW and CLS of {sum(counts.values())} episodes: {', '.join(parts)}; do not compare them with values "
        "against ground-truth positions."
    )
