"""Runs made up for the report: houses of nine rooms, and agents that fail in every way that has a name."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from streamvln_gym.episodes import Episode, Goal, Instruction
from streamvln_gym.evaluation.failures import failure_kind
from streamvln_gym.geometry import path_length
from streamvln_gym.metrics import EpisodeMetrics
from streamvln_gym.scene_graph import Door, Room, SceneGraph, SceneObject

FINGERPRINT = "0123456789abcdef"
IDENTITY = {
    "agent": "streamvln",
    "checkpoint": "made-up",
    "checkpoint_sha256": "c0ffee" * 10,
    "dataset": "flats-v1",
    "split": "val_unseen",
    "source": "flats-v1",
    "dataset_sha256": "beef" * 16,
    "simulator": "embedded",
    "camera": {"width": 640, "height": 480},
    "max_steps": 160,
    "code_version": "0.1.0+abcdef",
}
_ROOM, _WALL = 4.0, 0.2
_TYPES = ("kitchen", "hallway", "bedroom", "living room", "hallway", "bathroom", "office", "playroom", "storage room")
_WAYS = ("success", "success", "success", "early", "wrong", "overshot", "no_stop", "stays")
_MEMORY = (None, None, None, "return", "counting")


def house(name: str) -> SceneGraph:
    """Three by three rooms, all neighbours joined by doors, with some furniture."""
    pitch = _ROOM + _WALL
    rooms = tuple(
        Room(k, kind, (k % 3 * pitch, k // 3 * pitch, k % 3 * pitch + _ROOM, k // 3 * pitch + _ROOM), "white", "tiled")
        for k, kind in enumerate(_TYPES)
    )
    pairs = [(k, k + 1) for k in range(9) if k % 3 < 2] + [(k, k + 3) for k in range(6)]
    doors = tuple(
        Door(
            n,
            pair,
            tuple(np.mean([rooms[k].centre for k in pair], axis=0)),
            "zx"[pair[1] - pair[0] == 1],
            0.9,
            "door",
            None,
        )
        for n, pair in enumerate(pairs)
    )
    corners = [(room.id, room.rect[0] + x, room.rect[1] + z) for room in rooms for x in (0.1, 2.9) for z in (0.1, 3.1)]
    things = tuple(
        SceneObject(n, "chair", None, None, room, (x, z, x + 1.0, z + 0.8), (0.0, 0.9), "floor", None)
        for n, (room, x, z) in enumerate(corners)
    )
    return SceneGraph(name, 0, rooms, doors, things)


def write_houses(scenes_dir: Path, count: int) -> None:
    """The houses' scene graphs, where a run's scene ids lead."""
    for k in range(count):
        path = scenes_dir / f"flats/house_{k}/house_{k}.scene_graph.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(house(path.parent.name).to_json())


def made_records(episodes: int, scenes: int, seed: int = 0) -> list[dict[str, Any]]:
    """Records as `evaluate` writes them, sorted by scene."""
    rng = np.random.default_rng(seed)
    graph = house("house")
    return [_record(k, f"house_{k * scenes // episodes}", graph, rng) for k in range(episodes)]


def made_timing(record: Mapping[str, Any]) -> dict[str, Any]:
    """What the episode's model calls took, as `evaluate` writes it."""
    calls: list[list[Any]] = []
    for step in range(0, len(record["actions"]), 4):
        opens = step % 32 == 0
        length = (230 if step else 96) if opens else calls[-1][2] + 28
        calls.append([step, 41.5 + 8.0 * opens + step % 7, length, 230 if opens else 28, opens])
    return {"key": record["key"], "calls": calls, "seconds": 1.0, "worker": "w0"}


def write_lines(path: Path, lines: list[Any]) -> None:
    """A file of JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(line, separators=(',', ':'))}\n" for line in lines))


def write_run(
    folder: Path,
    records: list[dict[str, Any]],
    planned: int | None = None,
    merged: bool = True,
    timings: bool = True,
    identity: Mapping[str, Any] = IDENTITY,
) -> Path:
    """A run's folder; `planned` episodes, of which the records are finished."""
    folder.mkdir(parents=True, exist_ok=True)
    about = {"identity": identity, "fingerprint": FINGERPRINT, "created": "2026-11-29T12:00:00+00:00"}
    (folder / "run.json").write_text(json.dumps({**about, "episodes": planned or len(records)}))
    calls = [made_timing(record) for record in records] if timings else []
    if merged:
        write_lines(folder / "episodes.jsonl", records)
        write_lines(folder / "timings.jsonl", calls)
    for k in range(2):  # workers took turns
        write_lines(folder / "shards" / f"episodes-w{k}-0.jsonl", records[k::2])
        write_lines(folder / "shards" / f"timings-w{k}-0.jsonl", calls[k::2])
    return folder


def _record(number: int, scene: str, graph: SceneGraph, rng: np.random.Generator) -> dict[str, Any]:
    """An episode through three to six rooms."""
    visited = _rooms(graph, int(rng.integers(3, 7)), rng)
    reference = _corners(graph, visited)
    way = str(rng.choice(_WAYS))
    walked = {
        "success": reference,
        "no_stop": reference,
        "early": _corners(graph, visited[: max(2, len(visited) - 2)]),
        "wrong": _corners(graph, [*visited[:-2], *_another(graph, visited)]),
        "overshot": [*reference, *reference[-2::-1]],
        "stays": [reference[0], reference[0] + np.array((0.9, 0.0, 0.9))],
    }[way]
    positions, headings, actions = _walk(np.asarray(walked), limit=160 if way == "no_stop" else None)
    goal = reference[-1]
    episode = Episode(
        episode_id=str(7000 + number),
        trajectory_id=str(number // 3),
        scene_id=f"flats/{scene}/{scene}.glb",
        start_position=tuple(reference[0]),
        start_rotation=(0.0, 0.0, 0.0, 1.0),
        instruction=Instruction(
            f"Leave the {graph.rooms[visited[0]].type} and walk on until you are in the "
            f"{graph.rooms[visited[-1]].type}, then stop in the middle of it. This is path {number}."
        ),
        goals=(Goal(tuple(goal)),),
        reference_path=tuple(map(tuple, reference)),
    )
    far = lambda point, target: float(np.linalg.norm(np.asarray(point) - target))  # noqa: E731
    metrics = EpisodeMetrics(episode, positions[0], far(positions[0], goal), far)
    for position, action in zip(positions[1:], actions, strict=True):
        metrics.update(position, far(position, goal), False, action == 0)
    record: dict[str, Any] = {
        "fingerprint": FINGERPRINT,
        "key": [episode.scene_id, episode.episode_id, 0],
        "dataset": IDENTITY["dataset"],
        "split": IDENTITY["split"],
        "simulator": IDENTITY["simulator"],
        "scene_id": episode.scene_id,
        "episode_id": episode.episode_id,
        "trajectory_id": episode.trajectory_id,
        "needs_memory": _MEMORY[number % len(_MEMORY)],
        "instruction": episode.instruction.text,
        "actions": actions,
        **metrics.result,
        "stopped": actions[-1] == 0,
        "trajectory": np.round(positions, 3).tolist(),
        "headings": headings,
        "start": list(episode.start_position),
        "goal": list(goal),
        "reference_path": [list(point) for point in reference],
        "geodesic_distance": path_length(reference),
    }
    return {**record, "failure": failure_kind(record, graph)}


def _rooms(graph: SceneGraph, count: int, rng: np.random.Generator) -> list[int]:
    """Neighbouring rooms, none twice in a row."""
    rooms = [int(rng.integers(9))]
    while len(rooms) < count:
        around = [door.other(rooms[-1]) for door in graph.doors_of(rooms[-1])]
        choices = [room for room in around if room not in rooms] or around
        rooms.append(int(rng.choice(choices)))
    return rooms


def _another(graph: SceneGraph, visited: list[int]) -> list[int]:
    """The room before the last one, and a neighbour that the path does not pass, if there is one."""
    around = [door.other(visited[-2]) for door in graph.doors_of(visited[-2])]
    return [visited[-2], next((room for room in around if room not in visited), visited[-3])]


def _corners(graph: SceneGraph, rooms: list[int]) -> list[np.ndarray]:
    """Centres of rooms and the doors between them, (x, y, z)."""
    places = [graph.rooms[rooms[0]].centre]
    for first, second in itertools.pairwise(rooms):
        places += [graph.doors_between(first, second)[0].position, graph.rooms[second].centre]
    return [np.array((x, 0.2, z)) for x, z in places]


def _walk(corners: np.ndarray, limit: int | None) -> tuple[np.ndarray, list[float], list[int]]:
    """Positions, headings (degrees) and actions along corners; then turns until the step `limit`, or a STOP."""
    positions, headings, actions = [corners[0]], [0.0], []

    def act(action: int, position: np.ndarray, heading: float) -> None:
        actions.append(action)
        positions.append(position)
        headings.append(heading)

    for first, last in itertools.pairwise(corners):
        offset = last - first
        wanted = float(np.degrees(np.arctan2(-offset[0], -offset[2])))
        for _ in range(round(abs((wanted - headings[-1] + 180.0) % 360.0 - 180.0) / 15.0)):
            left = (wanted - headings[-1] + 180.0) % 360.0 - 180.0 > 0.0
            act(2 if left else 3, positions[-1], (headings[-1] + (15.0 if left else -15.0) + 180.0) % 360.0 - 180.0)
        count = max(1, round(float(np.linalg.norm(offset)) / 0.25))
        for k in range(1, count + 1):
            act(1, first + offset * k / count, headings[-1])
    if limit is None:
        act(0, positions[-1], headings[-1])
    while limit is not None and len(actions) < limit:
        act(2, positions[-1], (headings[-1] + 15.0 + 180.0) % 360.0 - 180.0)
    return np.array(positions), headings, actions
