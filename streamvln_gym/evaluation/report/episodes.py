"""What the page shows of an episode: a line of the list, and the numbers of which its map and its calls are drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamvln_gym.episodes import scene_name
from streamvln_gym.evaluation.report.measures import MEASURES
from streamvln_gym.evaluation.report.run_files import Record, key_of
from streamvln_gym.geometry import path_length

_ACTIONS = "SFLR"  # STOP, FORWARD, LEFT, RIGHT


@dataclass(frozen=True)
class EpisodeRow:
    """A line of the list.

    Attributes:
        episode_id: the dataset's, in which it is unique; names the episode in the page's address as well.
        instruction_id: RxR's, "" where the dataset has none.
        scene: short name.
        instruction: text.
        language: of the instruction, "" if the record does not say.
        outcome: see `outcome_of`.
        needs_memory: kind, "" if none is needed.
        values: the metrics as text, by name.
        sort: the metrics as numbers to sort by.
        length: metres of the described path, None without one.
    """

    episode_id: str
    instruction_id: str
    scene: str
    instruction: str
    language: str
    outcome: str
    needs_memory: str
    values: Mapping[str, str]
    sort: Mapping[str, float]
    length: float | None


def outcome_of(record: Record) -> str:
    """How an episode ended; "failed" is a failure without a kind (there is no described path to tell it by)."""
    if record.get("success") is None:
        return "unjudged"
    return "success" if record["success"] else record["failure"] or "failed"


def episode_row(record: Record, outcome: str) -> EpisodeRow:
    """An episode's line."""
    values = {name: measure.text(record.get(name)) for name, measure in MEASURES.items() if name in record}
    for name in ("success", "oracle_success"):
        if name in values:
            values[name] = "yes" if record[name] else "no"
    for name in ("steps", "collisions"):
        if name in values:
            values[name] = f"{record[name]:.0f}"
    finite = {name: float(record[name]) for name in values}
    _, _, instruction_id = key_of(record)
    return EpisodeRow(
        record["episode_id"],
        "" if instruction_id == "0" else instruction_id,
        scene_name(record["scene_id"]),
        record["instruction"],
        record.get("language") or "",
        outcome,
        record.get("needs_memory") or "",
        values,
        {name: value if math.isfinite(value) else 1e9 for name, value in finite.items()},
        path_length(record["reference_path"]) if record["reference_path"] else None,
    )


def episode_data(record: Record, timing: Mapping[str, Any] | None, video: str | None) -> dict[str, Any]:
    """What the page draws of an episode, small; lengths in whole centimetres, places as x, z, x, z, ...

    Returns:
        `scene`; `path`, the first place and then the steps from each to the next; `heights` [lowest, highest];
        `reference`, `via` and `goal` as places; `headings` in whole degrees if the record has them; `actions`, a letter
        each; `calls` [step, milliseconds, KV length, tokens, opens a window]; `video`, a relative address.
    """
    data: dict[str, Any] = {"scene": record["scene_id"], "actions": _letters(record.get("actions", ()))}
    positions = _positions(record.get("trajectory"))
    if len(positions):
        places = _places(positions)
        data["path"] = np.diff(places, axis=0, prepend=np.zeros((1, 2), dtype=np.int64)).ravel().tolist()
        data["heights"] = [int(f(100.0 * positions[:, 1])) for f in (np.min, np.max)]
    for name, points in (("reference", record.get("reference_path")), ("via", record.get("via"))):
        if points:
            data[name] = _places(_positions(points)).ravel().tolist()
    if record.get("goal"):
        data["goal"] = _places(_positions([record["goal"]])).ravel().tolist()
    if record.get("headings"):
        data["headings"] = [round(heading) for heading in record["headings"]]
    if timing and timing["calls"]:
        data["calls"] = [[call[0], round(call[1], 1), call[2], call[3], int(call[4])] for call in timing["calls"]]
    if video:
        data["video"] = video
    return data


def _letters(actions: Sequence[int]) -> str:
    return "".join(_ACTIONS[action] for action in actions)


def _positions(points: Any) -> np.ndarray:
    """Positions (N, 3) of a record, without further columns; (0, 3) if it has none."""
    return np.asarray(points, dtype=np.float64)[:, :3] if points else np.empty((0, 3))


def _places(positions: np.ndarray) -> np.ndarray:
    """Positions (N, 3) in metres as whole centimetres (N, 2) of x and z."""
    return np.round(100.0 * positions[:, [0, 2]]).astype(np.int64)
