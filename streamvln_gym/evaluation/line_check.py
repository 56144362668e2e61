"""Whether a line of `episodes.jsonl` or `timings.jsonl` holds what its names say: files are copied and edited."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from streamvln_gym.metrics import METRICS

_TEXTS = ("fingerprint", "dataset", "split", "simulator", "scene_id", "episode_id", "instruction", "note")
_TEXTS_OR_NONE = ("needs_memory", "failure", "language", "success_rule", "path_reference")
_PATHS = ("trajectory", "reference_path", "via")
_ACTIONS = (0, 1, 2, 3)


def record_problem(record: Mapping[str, Any]) -> str | None:
    """What is wrong with the values of an episode's record, None if nothing is; what it lacks is no matter here."""
    for name in _TEXTS:
        if name in record and not isinstance(record[name], str):
            return f"{name!r} must be text, got {record[name]!r}"
    for name in _TEXTS_OR_NONE:
        if not isinstance(record.get(name), (str, type(None))):
            return f"{name!r} must be text or null, got {record[name]!r}"
    for name in METRICS:
        if name in record and (not _is_number(record[name]) or math.isnan(record[name])):
            return f"{name!r} must be a number, got {record[name]!r}"
    for name in _PATHS:
        points = record.get(name)
        if points is not None and not (isinstance(points, list) and all(map(_is_point, points))):
            return f"{name!r} must be a list of [x, y, z]"
    for name in ("start", "goal"):
        if record.get(name) is not None and not _is_point(record[name]):
            return f"{name!r} must be [x, y, z], got {record[name]!r}"
    actions, headings = record.get("actions", []), record.get("headings", [])
    if not isinstance(actions, list) or not all(type(action) is int and action in _ACTIONS for action in actions):
        return "'actions' must be a list of actions, 0 to 3"
    if headings is not None and not (isinstance(headings, list) and all(map(_is_number, headings))):
        return "'headings' must be a list of degrees"
    if not isinstance(record.get("stopped", True), bool):
        return f"'stopped' must be true or false, got {record['stopped']!r}"
    return _key_problem(record)


def timing_problem(timing: Mapping[str, Any]) -> str | None:
    """What is wrong with the values of an episode's timing, None if nothing is."""
    calls = timing.get("calls", [])
    if not isinstance(calls, list) or not all(_is_call(call) for call in calls):
        return "'calls' must be a list of [step, milliseconds, KV length, tokens, opens a window]"
    return _key_problem(timing)


def _key_problem(line: Mapping[str, Any]) -> str | None:
    key = line.get("key", ["", "", 0])
    if not isinstance(key, list) or len(key) != 3 or not all(isinstance(part, (str, int)) for part in key):
        return f"'key' must be [scene, episode, instruction], got {key!r}"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_point(value: Any) -> bool:
    return isinstance(value, list) and len(value) >= 3 and all(_is_number(x) and math.isfinite(x) for x in value)


def _is_call(value: Any) -> bool:
    return isinstance(value, list) and len(value) >= 5 and all(isinstance(part, (int, float)) for part in value)
