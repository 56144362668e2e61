"""One episode of a VLN-CE file: checking its record, making an `Episode` of it and the other way round."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from streamvln_gym.episodes import Episode, Goal, Instruction, position

_INSTRUCTION_KEYS = ("instruction_text", "instruction_tokens", "language")
_INFO_KEYS = ("geodesic_distance",)
_REQUIRED = ("episode_id", "scene_id", "start_position", "start_rotation", "instruction")
_SCENES_PREFIX = "data/scene_datasets/"  # VLN-CE's own loader removes it too


def record_problem(record: Any) -> str | None:
    """What is wrong with an episode's record, None if nothing is: then `to_episode` succeeds for each instruction."""
    if not isinstance(record, dict):
        return f"it is not an object but {type(record).__name__}"
    for name in _REQUIRED:
        if name not in record:
            return f"the field {name!r} is missing"
    if not isinstance(record["episode_id"], (str, int)):
        return f"the field 'episode_id' must be a string or an integer, got {record['episode_id']!r}"
    if not isinstance(record["scene_id"], str) or not record["scene_id"]:
        return f"the field 'scene_id' must be a non-empty string, got {record['scene_id']!r}"
    if not _is_vector(record["start_position"], 3):
        return f"the field 'start_position' must hold 3 finite numbers, got {record['start_position']!r}"
    rotation = record["start_rotation"]
    if not _is_vector(rotation, 4) or abs(math.hypot(*rotation) - 1.0) > 1e-2:
        return f"the field 'start_rotation' must be a unit quaternion [x, y, z, w], got {rotation!r}"
    return _instruction_problem(record["instruction"]) or _path_problem(record)


def instructions_of(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """An episode's instructions: most files have one, some a list of them (objects or texts)."""
    told = record["instruction"]
    each = told if isinstance(told, list) else [told]
    return [{"instruction_text": one} if isinstance(one, str) else one for one in each]


def scene_of_record(record: Mapping[str, Any]) -> str:
    """An episode's scene id, relative to the folder of the scenes."""
    return record["scene_id"].removeprefix(_SCENES_PREFIX)


def truth_problem(entry: Any) -> str | None:
    """What is wrong with the ground truth of one episode, None if nothing is."""
    locations = entry.get("locations") if isinstance(entry, dict) else None
    if not isinstance(locations, list) or not locations or not _are_points(locations):
        return "the field 'locations' must be a non-empty list of [x, y, z]"
    actions = entry.get("actions")
    if actions is not None and not (isinstance(actions, list) and all(type(a) is int and 0 <= a < 99 for a in actions)):
        return "the field 'actions' must be a list of action numbers"
    return None


def pack_truth(entry: Mapping[str, Any]) -> bytes:
    """Ground truth that `truth_problem` found good, in few bytes: it is most of what the large datasets hold."""
    locations = np.array(entry["locations"], dtype=np.float64)
    actions = np.array(entry.get("actions") or (), dtype=np.int32)
    return len(locations).to_bytes(4, "little") + locations.tobytes() + actions.tobytes()


def unpack_truth(packed: bytes) -> dict[str, Any]:
    """The positions and actions that `pack_truth` packed."""
    end = 4 + 24 * int.from_bytes(packed[:4], "little")
    locations = np.frombuffer(packed[4:end], dtype=np.float64).reshape(-1, 3)
    return {"locations": locations.tolist(), "actions": np.frombuffer(packed[end:], dtype=np.int32).tolist()}


def to_episode(
    record: Mapping[str, Any], part: int = 0, ground_truth: Mapping[str, Any] | None = None, episode_id: str = ""
) -> Episode:
    """The episode of a record that `record_problem` found good.

    Args:
        record: from the file.
        part: which of its instructions.
        ground_truth: the episode's entry in the ground-truth file.
        episode_id: default: the record's own.
    """
    instruction = instructions_of(record)[part]
    info = record.get("info") or {}
    tokens = instruction.get("instruction_tokens")
    x, y, z, w = map(float, record["start_rotation"])
    geodesic = info.get("geodesic_distance")
    return Episode(
        episode_id=episode_id or str(record["episode_id"]),
        trajectory_id=str(record.get("trajectory_id", record["episode_id"])),
        scene_id=scene_of_record(record),
        start_position=position(record["start_position"]),
        start_rotation=(x, y, z, w),
        instruction=Instruction(
            text=instruction["instruction_text"],
            tokens=None if tokens is None else tuple(tokens),
            language=instruction.get("language"),
            extra={key: value for key, value in instruction.items() if key not in _INSTRUCTION_KEYS},
        ),
        goals=tuple(
            Goal(position(goal["position"]), float(goal.get("radius") or 3.0)) for goal in record.get("goals") or ()
        ),
        reference_path=tuple(position(point) for point in record.get("reference_path") or ()),
        geodesic_distance=None if geodesic is None else float(geodesic),
        gt_locations=None if ground_truth is None else tuple(position(point) for point in ground_truth["locations"]),
        gt_actions=None if ground_truth is None else tuple(ground_truth.get("actions") or ()),
        info={key: value for key, value in info.items() if key not in _INFO_KEYS},
    )


def to_record(episode: Episode, tokens: tuple[int, ...]) -> dict[str, Any]:
    """An episode as VLN-CE's files hold it.

    Args:
        episode: the episode.
        tokens: of its instruction, where it has none itself.
    """
    instruction = episode.instruction
    own = instruction.tokens
    told: dict[str, Any] = {
        "instruction_text": instruction.text,
        "instruction_tokens": list(tokens if own is None else own),
    }
    if instruction.language is not None:
        told["language"] = instruction.language
    record: dict[str, Any] = {
        "episode_id": _id_to_json(episode.episode_id),
        "trajectory_id": _id_to_json(episode.trajectory_id),
        "scene_id": episode.scene_id,
        "start_position": list(episode.start_position),
        "start_rotation": list(episode.start_rotation),
        "instruction": {**told, **instruction.extra},
    }
    if episode.goals:
        record["goals"] = [{"position": list(goal.position), "radius": goal.radius} for goal in episode.goals]
    if episode.reference_path:
        record["reference_path"] = [list(point) for point in episode.reference_path]
    info = dict(episode.info)
    if episode.geodesic_distance is not None:
        info = {"geodesic_distance": episode.geodesic_distance, **info}
    if info:
        record["info"] = info
    return record


# ------------------------------------------------------------------------------------------------------------ helpers


def _instruction_problem(told: Any) -> str | None:
    several = isinstance(told, list)
    if several and not told:
        return "the field 'instruction' is an empty list"
    for index, one in enumerate(told if several else [told]):
        name = f"instruction[{index}]" if several else "instruction"
        if several and isinstance(one, str):
            continue
        if not isinstance(one, dict) or not isinstance(one.get("instruction_text"), str):
            return f"the field '{name}.instruction_text' is missing or not a string"
        if not isinstance(one.get("instruction_tokens"), (list, type(None))):
            return f"the field '{name}.instruction_tokens' must be a list, got {one['instruction_tokens']!r}"
        if not isinstance(one.get("language"), (str, type(None))):
            return f"the field '{name}.language' must be a string, got {one['language']!r}"
    return None


def _path_problem(record: Mapping[str, Any]) -> str | None:
    """What is wrong with goals, reference path and info."""
    for name in ("goals", "reference_path"):
        if not isinstance(record.get(name), (list, type(None))):
            return f"the field {name!r} must be a list, got {record[name]!r}"
    for index, goal in enumerate(record.get("goals") or ()):
        if not isinstance(goal, dict) or not _is_vector(goal.get("position"), 3):
            return f"the field 'goals[{index}].position' must hold 3 finite numbers, got {goal!r}"
        if not _is_number_or_none(goal.get("radius")):
            return f"the field 'goals[{index}].radius' must be a number, got {goal['radius']!r}"
    for index, point in enumerate(record.get("reference_path") or ()):
        if not _is_vector(point, 3):
            return f"the field 'reference_path[{index}]' must hold 3 finite numbers, got {point!r}"
    info = record.get("info") or {}
    if not isinstance(info, dict):
        return f"the field 'info' must be an object, got {info!r}"
    if not _is_number_or_none(info.get("geodesic_distance")):
        return f"the field 'info.geodesic_distance' must be a number, got {info['geodesic_distance']!r}"
    via = info.get("via") or ()
    if not isinstance(via, (list, tuple)):
        return f"the field 'info.via' must be a list, got {via!r}"
    for index, point in enumerate(via):
        if not _is_vector(point, 3):
            return f"the field 'info.via[{index}]' must hold 3 finite numbers, got {point!r}"
    if via and not record.get("reference_path"):
        return "it has 'info.via' but no 'reference_path', whose length its SPL is measured by"
    return None


def _is_vector(value: Any, length: int) -> bool:
    if not isinstance(value, (list, tuple)) or len(value) != length:
        return False
    try:
        return all(isinstance(x, (int, float)) and math.isfinite(x) for x in value)
    except OverflowError:  # JSON's integers have no end, floats have
        return False


def _is_number_or_none(value: Any) -> bool:
    """Whether it is None or a number that a float can hold."""
    try:
        return value is None or (isinstance(value, (int, float)) and isinstance(float(value), float))
    except OverflowError:
        return False


def _are_points(points: list[Any]) -> bool:
    """Whether all are [x, y, z] of finite numbers; quick, as a ground-truth file has millions of them."""
    try:
        array = np.array(points)
    except (ValueError, TypeError, OverflowError):
        return False
    return array.ndim == 2 and array.shape[1] == 3 and array.dtype.kind in "if" and bool(np.isfinite(array).all())


def _id_to_json(value: str) -> int | str:
    """R2R's files hold integer ids; other ids stay strings."""
    return int(value) if value.isdecimal() and value.isascii() and str(int(value)) == value else value
