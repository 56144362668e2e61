"""Predictions for the leaderboards of the test splits, in the formats of VLN-CE's `run.py --run-type inference`.

* R2R-CE (the VLN-CE challenge), a `.json` file: `{episode_id: [{"position": [x, y, z], "heading": h, "stop": bool}]}`:
  the start, then the state after every action; `stop` is true in the last one, if the agent said STOP.
* RxR-CE (the RxR-Habitat challenge), a `.jsonl` file: a line `{"instruction_id": n, "path": [[x, y, z], ...]}` an
  episode, positions without repeats, sorted by id.

Numbers are not rounded; the heading is habitat's HeadingSensor, radians in (-pi, pi], left positive, 0 along -Z.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from streamvln_gym.episodes import Episode, EpisodeDataset
from streamvln_gym.geometry import wrap_angle
from streamvln_gym.simulators.base import Action, AgentState
from streamvln_gym.whole_writes import write_whole

TRAJECTORY = "trajectory"
"""The key under which a record holds its states, [x, y, z, heading] each."""
_INSTRUCTION_ID = "instruction_id"


def check_predictions(path: Path, dataset: EpisodeDataset) -> None:
    """Finds out before the first episode whether predictions of a dataset can be written to `path`.

    Raises:
        ValueError: its ending says a format that the dataset cannot be written in.
    """
    has_ids = _INSTRUCTION_ID in dataset.episode(dataset.episode_ids[0]).instruction.extra
    if path.suffix not in (".json", ".jsonl"):
        raise ValueError(
            f"predictions are written to a .json file (R2R-CE's leaderboard) or a .jsonl file (RxR-CE's), not {path}"
        )
    if path.suffix == ".jsonl" and not has_ids:
        raise ValueError(
            f"{dataset.name}/{dataset.split} has no instruction ids, by which RxR-CE's predictions go: write a .json "
            f"file (R2R-CE's format) instead of {path}"
        )
    if path.suffix == ".json" and has_ids:
        raise ValueError(
            f"{dataset.name}/{dataset.split} has RxR's instruction ids, and RxR-CE's leaderboard wants a .jsonl file: "
            f"write {path.with_suffix('.jsonl')}"
        )
    if dataset.name.endswith(("-follower", "-all")):
        raise ValueError(f"predictions are for the guide's episodes, not for {dataset.name}: use role 'guide'")


def trajectory_record(episode: Episode, trajectory: Sequence[AgentState]) -> dict[str, Any]:
    """What a record needs so that predictions can be written of it.

    Args:
        episode: what was played.
        trajectory: the start, and the state after every action.
    """
    states = [[*map(float, state.position), float(wrap_angle(state.yaw))] for state in trajectory]
    instruction_id = episode.instruction.extra.get(_INSTRUCTION_ID)
    return {TRAJECTORY: states} | ({} if instruction_id is None else {_INSTRUCTION_ID: int(instruction_id)})


def write_predictions(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Writes the predictions of played episodes, all at once; the ending of `path` decides the format.

    Args:
        path: `.json` or `.jsonl`, see the module's text.
        records: of `rollout`, with `trajectory_record`'s keys.
    """
    if path.suffix == ".jsonl":
        rows = sorted(({_INSTRUCTION_ID: r[_INSTRUCTION_ID], "path": _moves(r[TRAJECTORY])} for r in records), key=_id)
        text = "".join(f"{json.dumps(row)}\n" for row in rows)
    else:
        text = json.dumps({record["episode_id"]: _states(record) for record in records})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text)


def _id(row: Mapping[str, Any]) -> int:
    return row[_INSTRUCTION_ID]


def _states(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """R2R-CE's prediction of an episode."""
    states = [{"position": [x, y, z], "heading": heading, "stop": False} for x, y, z, heading in record[TRAJECTORY]]
    states[-1]["stop"] = record["actions"][-1] == Action.STOP
    return states


def _moves(trajectory: Sequence[Sequence[float]]) -> list[list[float]]:
    """The positions without those equal to the one before."""
    path = [list(trajectory[0][:3])]
    for *position, _ in trajectory[1:]:
        if position != path[-1]:
            path.append(position)
    return path
