"""Checks one episode file and the ground truth beside it, episode by episode."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from streamvln_gym.data_check.releases import VersionFacts, guess_version
from streamvln_gym.data_check.report import DataProblem, FileSummary, Tally
from streamvln_gym.errors import DatasetError
from streamvln_gym.geometry import quaternion_to_yaw, wrap_angle
from streamvln_gym.vlnce.index import find_ground_truth, ground_truth_path
from streamvln_gym.vlnce.json_files import GET_DATA, broken_download, read_pieces
from streamvln_gym.vlnce.layouts import Layout, layout_of, split_and_role
from streamvln_gym.vlnce.records import instructions_of, record_problem, scene_of_record, truth_problem

LANGUAGES = ("en-US", "en-IN", "hi-IN", "te-IN")
_CORRECT = "Correct the file, or download it again (https://github.com/jacobkrantz/VLN-CE#data)."
_SAME_RELEASE = "Take episodes and ground truth out of one release (https://github.com/jacobkrantz/VLN-CE#data)."
_NO_GOALS = "Nothing, if that is meant so; else take the file out of the release again."
_TURNS = (math.radians(15.0), math.radians(30.0))  # of R2R-CE's and RxR-CE's ground-truth actions
_HEADING_OFF = math.radians(45.0)  # of the median episode: ground truth of another release


@dataclass
class Start:
    """What later checks need of an episode.

    Attributes:
        scene: its scene id.
        position: metres.
        yaw: radians.
        goals: positions, metres.
    """

    scene: str
    position: tuple[float, ...]
    yaw: float
    goals: list[list[float]]


@dataclass
class CheckedFile:
    """An episode file after its check.

    Attributes:
        summary: what it holds.
        problems: what is wrong with it.
        starts: by episode id in the file.
        layout: the dataset it belongs to, None if that is unknown.
    """

    summary: FileSummary
    problems: list[DataProblem] = field(default_factory=list)
    starts: dict[str, Start] = field(default_factory=dict)
    layout: Layout | None = None


def check_episode_file(path: Path) -> CheckedFile:
    """Reads an episode file and its ground truth once each."""
    layout = layout_of(path)
    split, role = split_and_role(path)
    summary = FileSummary(str(path), layout.name if layout else "", split, role)
    checked = CheckedFile(summary, layout=layout)
    tally, facts = Tally(), VersionFacts()
    try:
        _check_episodes(path, checked, tally, facts)
        _check_truth(path, checked, tally)
    except DatasetError as error:
        summary.readable = False
        what = _without_remedy(path, str(error))
        checked.problems.append(DataProblem("error", _kind_of(path, str(error)), str(path), what, _CORRECT))
    checked.problems += tally.problems(str(path), max(facts.episodes, len(checked.starts)))
    summary.readable &= not any(problem.severity == "error" for problem in checked.problems)
    if layout is not None and layout.name in ("r2r", "envdrop"):
        summary.version, summary.version_reason, more = guess_version(path, split, facts)
        checked.problems += more
    checked.problems += _count_problem(path, checked)
    return checked


def _check_episodes(path: Path, checked: CheckedFile, tally: Tally, facts: VersionFacts) -> None:
    ids: Counter[str] = Counter()
    spoken: Counter[tuple[str, str]] = Counter()
    languages: Counter[str] = Counter()
    scenes: dict[str, None] = {}
    tokens: dict[str, int] = {}
    vocabulary: int | None = None
    listed = False
    for piece in read_pieces(path, "episodes"):
        if piece.key == "instruction_vocab":
            vocabulary = _vocabulary_size(piece.value)
        if piece.key != "episodes":
            continue
        listed = True
        if piece.item is None:
            break
        record = piece.value
        problem = record_problem(record)
        name = str(record.get("episode_id", f"number {piece.item}")) if isinstance(record, dict) else str(piece.item)
        if problem:
            tally.add("error", "record", problem, _CORRECT, name)
            continue
        facts.add(record)
        scenes[scene_of_record(record)] = None
        for part, told in enumerate(instructions_of(record)):
            row = f"{name}_{part}" if isinstance(record["instruction"], list) else name
            ids[row] += 1
            spoken[row, str(told.get("language"))] += 1
        languages.update(told["language"] for told in instructions_of(record) if told.get("language"))
        checked.summary.episodes += len(instructions_of(record))
        checked.summary.with_goals += bool(record.get("goals"))
        tokens[name] = _check_instructions(record, name, tally)
        _check_place(record, name, tally)
        if not record.get("goals") and not checked.summary.split.startswith("test"):
            what = "an episode has no goal, so that SR, SPL and NE leave it out"
            tally.add("note", "no goals", what, _NO_GOALS, name)
        checked.starts[name] = _start(record)
    checked.summary.scenes, checked.summary.languages = list(scenes), dict(languages)
    if not facts.episodes and not tally.count("record"):
        what = "its list 'episodes' is empty" if listed else "it has no list 'episodes'"
        raise DatasetError(f"{path} is no VLN-CE episode file: {what}.")
    _check_ids(ids, spoken, tally)
    for name, largest in tokens.items():
        if vocabulary is not None and largest >= vocabulary:
            what = f"an instruction token is not in the file's vocabulary of {vocabulary:,} words"
            tally.add("error", "tokens", what, "Take tokens and vocabulary out of one file.", name)


def _check_ids(ids: Counter[str], spoken: Counter[tuple[str, str]], tally: Tally) -> None:
    in_one_language: dict[str, int] = {}  # how often at most
    for (name, _), count in spoken.items():
        in_one_language[name] = max(count, in_one_language.get(name, 0))
    for name, count in ids.items():
        if count == 1:
            continue
        if in_one_language[name] > 1 or (name, "None") in spoken:
            tally.add("error", "duplicate ids", "several episodes have one id", "Give each an id of its own.", name)
        else:
            what = "an id is used once in each language: '_<language>' is added to it"
            tally.add("note", "duplicate ids", what, "Nothing, if that is meant so.", name)


def _check_instructions(record: Mapping[str, Any], name: str, tally: Tally) -> int:
    """Looks at an episode's instructions; its largest token, -1 without tokens."""
    largest = -1
    for told in instructions_of(record):
        if not told["instruction_text"].strip():
            tally.add("error", "empty instruction", "the instruction is empty", _CORRECT, name)
        tokens = told.get("instruction_tokens") or []
        if not all(type(token) is int for token in tokens):
            what = "the instruction's tokens are not all integers"
            tally.add("error", "tokens", what, _CORRECT, name)
        else:
            largest = max([largest, *tokens])
            if tokens and (min(tokens) < 0 or not any(tokens)):
                tally.add("warning", "tokens", "the instruction's tokens are negative or all padding", _CORRECT, name)
        language = told.get("language")
        if language and language not in LANGUAGES:
            what = f"the language {language!r} is none of {', '.join(LANGUAGES)}"
            tally.add("warning", "language", what, "Check the field 'instruction.language'.", name)
    return largest


def _check_place(record: Mapping[str, Any], name: str, tally: Tally) -> None:
    """Scene path, trajectory, start, goal and distance."""
    if type(record.get("trajectory_id", 0)) not in (int, str):
        what = f"the trajectory id {record['trajectory_id']!r} is neither an integer nor a string"
        tally.add("error", "trajectory id", what, _CORRECT, name)
    for radius in (goal.get("radius") for goal in record.get("goals") or ()):
        if radius is not None and not (math.isfinite(radius) and radius > 0.0):
            tally.add("error", "radius", f"a goal's radius must be positive, got {radius!r}", _CORRECT, name)
    scene = record["scene_id"]
    parts = scene.replace("\\", "/").split("/")
    wanted = "Write it as mp3d/<scan>/<scan>.glb, relative to scene_datasets."
    if "\\" in scene or not scene.endswith(".glb") or ".." in parts:
        tally.add("error", "scene path", f"the scene id {scene!r} is no path of a .glb", wanted, name)
    elif scene.startswith("/"):
        tally.add("warning", "scene path", "the scene id is an absolute path of another machine", wanted, name)
    elif parts[-2:-1] == ["mp3d"] or (parts[0] == "mp3d" and parts[-2] != parts[-1].removesuffix(".glb")):
        tally.add("warning", "scene path", "the scene id has another form than Matterport3D's", wanted, name)
    x, _, z, _ = record["start_rotation"]
    if abs(math.hypot(*record["start_rotation"]) - 1.0) > 1e-4:
        tally.add("warning", "quaternion", "the start rotation's length is not 1", _CORRECT, name)
    if max(abs(x), abs(z)) > 1e-3:
        what = "the start rotation is no turn about the vertical (is it in the order w, x, y, z?)"
        tally.add("error", "quaternion", what, "Rotations are [x, y, z, w]: reorder them.", name)
    geodesic = (record.get("info") or {}).get("geodesic_distance")
    goals = record.get("goals") or ()
    if geodesic is not None and not math.isfinite(geodesic):
        tally.add("error", "unreachable", "the goal is unreachable: geodesic_distance is not finite", _CORRECT, name)
    elif geodesic is not None and goals:
        straight = min(math.dist(goal["position"], record["start_position"]) for goal in goals)
        if geodesic < straight - 0.5 and not (record.get("info") or {}).get("via"):
            what = "geodesic_distance is shorter than the straight line to the goal"
            tally.add("warning", "distance", what, "Check 'goals' and 'start_position'.", name)


def _start(record: Mapping[str, Any]) -> Start:
    goals = [goal["position"] for goal in record.get("goals") or ()]
    yaw = quaternion_to_yaw(record["start_rotation"])
    return Start(scene_of_record(record), tuple(record["start_position"]), yaw, goals)


def _vocabulary_size(value: Any) -> int | None:
    words = value.get("word_list") if isinstance(value, dict) else None
    return len(words) if isinstance(words, list) and words else None


# ------------------------------------------------------------------------------------------------------- ground truth


def _check_truth(path: Path, checked: CheckedFile, tally: Tally) -> None:
    truth_path = find_ground_truth(path)
    starts = checked.starts
    if truth_path is None:
        if checked.summary.with_goals:
            name = ground_truth_path(path).name
            what = f"there is no ground truth {name} beside it, so nDTW, SDTW and CLS go by reference paths"
            remedy = "For R2R-CE take the preprocessed release, which has it."
            checked.problems.append(DataProblem("note", "no ground truth", str(path), what, remedy))
        return
    found: set[str] = set()
    off: dict[float, list[float]] = {turn: [] for turn in _TURNS}
    for piece in read_pieces(truth_path):
        if piece.key is None:
            raise DatasetError(f"{truth_path} must hold an object by episode id, got {type(piece.value).__name__}.")
        problem = truth_problem(piece.value)
        if problem:
            tally.add("error", "ground truth", f"{truth_path.name}: {problem}", _CORRECT, piece.key)
            continue
        found.add(piece.key)
        if piece.key in starts:
            _check_entry(piece.value, starts[piece.key], piece.key, tally)
            for turn, angles in off.items():
                angles += _first_move_off(piece.value, starts[piece.key], turn)
    checked.summary.ground_truth = len(found)
    for name in starts:
        if name not in found:
            tally.add("warning", "ground truth", f"{truth_path.name} lacks an episode", _SAME_RELEASE, name)
    for name in sorted(found - set(starts)):
        what = f"{truth_path.name} has an episode that the file lacks"
        tally.add("warning", "ground truth", what, _SAME_RELEASE, name)
    beside = min((median(angles) for angles in off.values() if angles), default=0.0)
    if beside > _HEADING_OFF:
        what = (
            f"its start headings do not fit the ground truth: the first step of the median episode goes "
            f"{math.degrees(beside):.0f} degrees beside them. (R2R-CE's v1-3 changed every heading.)"
        )
        checked.problems.append(DataProblem("error", "version", str(path), what, _SAME_RELEASE))


def _check_entry(entry: Mapping[str, Any], start: Start, name: str, tally: Tally) -> None:
    locations, actions = entry["locations"], entry.get("actions") or []
    if math.dist(locations[0], start.position) > 0.5:
        tally.add("error", "ground truth", "it starts elsewhere than the episode", _SAME_RELEASE, name)
    if start.goals and min(math.dist(locations[-1], goal) for goal in start.goals) > 3.0:
        tally.add("warning", "ground truth", "it ends more than 3 m from the goal", _SAME_RELEASE, name)
    forward = sum(action == 1 for action in actions)
    if actions and not all(0 <= action <= 5 for action in actions):
        tally.add("warning", "ground truth", "it has actions other than 0 to 5", _SAME_RELEASE, name)
    if actions and len(locations) not in (len(actions), len(actions) + 1, forward, forward + 1):
        what = "its numbers of locations and actions do not fit"
        tally.add("warning", "ground truth", what, _SAME_RELEASE, name)
    if entry.get("forward_steps") not in (None, forward) and actions:
        tally.add("warning", "ground truth", "'forward_steps' is not the number of forward actions", _CORRECT, name)


def _first_move_off(entry: Mapping[str, Any], start: Start, turn: float) -> list[float]:
    """The angle between where the ground truth first goes and where the episode then faces, radians; [] if unknown."""
    yaw = start.yaw
    for action in entry.get("actions") or []:
        if action == 1:
            break
        yaw += turn * ((action == 2) - (action == 3))
    else:
        return []
    first = entry["locations"][0]
    for x, _, z in entry["locations"][1:]:
        dx, dz = x - first[0], z - first[2]
        if math.hypot(dx, dz) > 0.2:  # a shorter one slid along something
            return [abs(float(wrap_angle(math.atan2(-dx, -dz) - yaw)))]
        if math.hypot(dx, dz) > 1e-3:
            return []
    return []


# ------------------------------------------------------------------------------------------------------------ the rest


def _count_problem(path: Path, checked: CheckedFile) -> list[DataProblem]:
    """Whether the number of episodes is the published one."""
    split = checked.summary.split.removesuffix("_bertidx")
    published = checked.layout.episodes.get(split) if checked.layout else None
    have = len(checked.starts)
    if published is None or not have or have == published or checked.summary.version == "before v1-3":
        return []
    what = f"it has {have:,} episodes; the published split {split!r} has {published:,}"
    remedy = "Download it again if you did not choose a part yourself: numbers of a part are not the split's."
    return [DataProblem("warning", "number of episodes", str(path), what, remedy)]


def _without_remedy(path: Path, message: str) -> str:
    """An error's message without what the finding says beside it: which file, and what to do."""
    what = message.removesuffix(GET_DATA).strip().removeprefix(f"{path} ")
    return what.replace(f"cannot read {path}: ", "cannot be read: ")


def _kind_of(path: Path, message: str) -> str:
    for file in (path, find_ground_truth(path)):
        if file is not None and str(file) in message and broken_download(file):
            return "not the file"
    return "truncated" if "truncated" in message else "unreadable"
