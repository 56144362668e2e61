"""Miniature files in the layouts in which VLN-CE data are published, two or three episodes each."""

from __future__ import annotations

import gzip
import json
import math
import shutil
import struct
from pathlib import Path
from typing import Any

R2R = "R2R_VLNCE_v1-3_preprocessed"
RXR = "RxR_VLNCE_v0"
WORDS = ["<pad>", "<unk>", "leave", "the", "room", "and", "stop", "."]
START, DOOR, GOAL = [1.0, 0.2, 3.0], [4.1, 0.2, 2.0], [7.0, 0.2, 2.0]
"""Places in the tiny flats of conftest, which stand in for scans."""


def record(number: int | str, scan: str, yaw: float = 0.0, **changes: Any) -> dict[str, Any]:
    """An R2R-CE episode; a change to None removes the field."""
    made: dict[str, Any] = {
        "episode_id": number,
        "trajectory_id": number,
        "scene_id": f"mp3d/{scan}/{scan}.glb",
        "start_position": START,
        "start_rotation": [0.0, math.sin(yaw / 2), 0.0, math.cos(yaw / 2)],
        "info": {"geodesic_distance": 6.3},
        "goals": [{"position": GOAL, "radius": 3.0}],
        "instruction": {"instruction_text": "Leave the room and stop.", "instruction_tokens": [2, 3, 4, 5, 6, 7, 0, 0]},
        "reference_path": [START, DOOR, GOAL],
    } | changes
    return {key: value for key, value in made.items() if value is not None}


def truth(yaw: float = 0.0) -> dict[str, Any]:
    """Ground truth of such an episode, whose first step goes where `yaw` faces."""
    x, y, z = START
    first = [x - 0.25 * math.sin(yaw), y, z - 0.25 * math.cos(yaw)]
    return {"locations": [START, first, GOAL], "actions": [1, 1, 0], "forward_steps": 2}


def rxr_record(number: int, scan: str, language: str, **changes: Any) -> dict[str, Any]:
    """An RxR-CE episode: string ids, no tokens, instruction ids and languages."""
    told = {
        "instruction_id": str(1000 + number),
        "instruction_text": {"hi-IN": "रसोई में रुकें।", "te-IN": "ఎడమ"}.get(language, "Stop in the kitchen."),
        "language": language,
        "annotator_id": "3",
        "edit_distance": 0.1,
        "timed_instruction": [{"word": "Stop", "start_time": 0.4, "end_time": 1.0}],
    }
    return record(str(number), scan, instruction=told, **changes)


def without_goal(made: dict[str, Any]) -> dict[str, Any]:
    """The episode as test splits have it."""
    return {key: value for key, value in made.items() if key not in ("goals", "reference_path", "info")}


def write_json(path: Path, document: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = json.dumps(document, ensure_ascii=False).encode()
    path.write_bytes(gzip.compress(raw, 1) if path.name.endswith(".gz") else raw)
    return path


def write_split(path: Path, records: list[Any], with_truth: bool = True, **truths: Any) -> Path:
    """An episode file with ground truth for each episode that has a goal."""
    vocabulary = {"word_list": WORDS, "num_vocab": len(WORDS), "UNK_INDEX": 1, "PAD_INDEX": 0}
    write_json(path, {"episodes": records, "instruction_vocab": vocabulary})
    if with_truth:
        entries = {str(r["episode_id"]): truth() for r in records if r.get("goals")}
        write_json(path.with_name(path.name.replace(".json", "_gt.json")), entries | truths)
    return path


def write_scan(data: Path, scan: str, tiny: Path | None = None) -> None:
    """A scan: a copy of a tiny flat, or a GLB of nothing but its header."""
    folder = data / "scene_datasets/mp3d" / scan
    folder.mkdir(parents=True)
    if tiny is None:
        (folder / f"{scan}.glb").write_bytes(b"glTF" + struct.pack("<II", 2, 12))
        (folder / f"{scan}.navmesh").write_bytes(b"")
        return
    for file in tiny.parent.iterdir():
        copy = Path(shutil.copy(file, folder / file.name.replace(tiny.stem, scan)))
        if copy.suffix == ".json":  # the stage configuration names its GLB
            copy.write_text(copy.read_text().replace(tiny.stem, scan))


def write_r2r(data: Path, folder: str = R2R, tiny: Path | None = None) -> Path:
    """R2R-CE below `data`: train, val_seen, val_unseen, test (without goals), embeddings; with its scans."""
    root = data / "datasets" / folder
    write_split(root / "train/train.json.gz", [record(k, scan) for k, scan in enumerate(("aaa", "bbb"), 11)])
    write_split(root / "val_seen/val_seen.json.gz", [record(21, "aaa")])
    write_split(root / "val_unseen/val_unseen.json.gz", [record(31, "ccc"), record(32, "ccc"), record(33, "eee")])
    write_split(root / "test/test.json.gz", [without_goal(record(k, "ddd")) for k in (41, 42)], with_truth=False)
    write_json(root / "embeddings.json.gz", [[0.1, 0.2]])
    for scan in ("aaa", "bbb", "ccc", "ddd", "eee"):
        write_scan(data, scan, tiny)
    return root


def write_rxr(data: Path, folder: str = RXR, tiny: Path | None = None) -> Path:
    """RxR-CE below `data`: val_unseen by guide and follower, with the same ids; test_challenge; with its scans."""
    root = data / "datasets" / folder
    spoken = list(enumerate(("en-US", "en-IN", "hi-IN", "te-IN")))
    for role, count in (("guide", 4), ("follower", 2)):
        records = [rxr_record(k, "ccc" if k % 2 else "ddd", language) for k, language in spoken[:count]]
        write_split(root / f"val_unseen/val_unseen_{role}.json.gz", records)
    challenge = [without_goal(rxr_record(k, "ddd", language)) for k, language in reversed(spoken)]
    write_split(root / "test_challenge/test_challenge_guide.json.gz", challenge, with_truth=False)
    (root / "text_features").mkdir()
    for scan in ("ccc", "ddd"):
        write_scan(data, scan, tiny)
    return root
