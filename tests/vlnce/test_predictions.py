"""Splits without goals are played, and predictions are what the leaderboards take."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamvln_gym.rollout as rollouts
from streamvln_gym.rollout import RolloutConfig, rollout
from streamvln_gym.simulators.base import AgentState
from streamvln_gym.vlnce.predictions import trajectory_record, write_predictions
from tests.conftest import TinyFlats
from tests.miniatures import START, rxr_record, write_r2r, write_rxr


@pytest.fixture
def data(tmp_path: Path, tiny_flats: TinyFlats) -> Path:
    """A data folder with R2R-CE's test split on a tiny flat."""
    write_r2r(tmp_path / "data", tiny=tiny_flats.scenes_dir / "flats/tiny_a/tiny_a.glb")
    return tmp_path / "data"


def settings(folder: Path, **changes: Any) -> RolloutConfig:
    given = {"agent": "random", "seed": 3, "episodes": 0, "max_steps": 12, "video": None, "data": Path("r2r")}
    return RolloutConfig(**{**given, "env": "StreamVLN-R2R-v0", "data_dir": folder, "split": "test", **changes})


def test_r2r_predictions(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "out" / "predictions.json"
    records = rollout(settings(data, predictions=path))
    assert sorted(record["episode_id"] for record in records) == ["41", "42"]
    assert "success" not in records[0] and records[0]["source"].endswith("test/test.json.gz")
    written = json.loads(path.read_text())
    assert set(written) == {"41", "42"}
    for record in records:
        states = written[record["episode_id"]]
        assert len(states) == len(record["actions"]) + 1
        assert states[0] == {"position": START, "heading": 0.0, "stop": False}
        assert [state["stop"] for state in states[:-1]] == [False] * len(record["actions"])
        assert states[-1]["stop"] == (record["actions"][-1] == 0)
        for state, after, action in zip(states, states[1:], record["actions"], strict=False):
            turned = math.remainder(after["heading"] - state["heading"], 2 * math.pi)
            assert turned == pytest.approx(math.radians({2: 15.0, 3: -15.0}.get(action, 0.0)), abs=1e-9)


def test_rxr_predictions(tiny_flats: TinyFlats, tmp_path: Path) -> None:
    write_rxr(tmp_path, tiny=tiny_flats.scenes_dir / "flats/tiny_a/tiny_a.glb")
    path = tmp_path / "predictions.jsonl"
    chosen = settings(tmp_path, data=Path("rxr"), env="StreamVLN-RxR-v0", split="test_challenge", predictions=path)
    records = rollout(chosen)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["instruction_id"] for row in rows] == [1000, 1001, 1002, 1003]
    by_id = {record["instruction_id"]: record for record in records}
    for row in rows:
        assert set(row) == {"instruction_id", "path"} and row["path"][0] == START
        assert all(a != b for a, b in zip(row["path"], row["path"][1:], strict=False))
        assert row["path"][-1] == by_id[row["instruction_id"]]["trajectory"][-1][:3]
    with pytest.raises(ValueError, match=r"leaderboard wants a .jsonl file"):
        rollout(settings(tmp_path, data=Path("rxr"), split="test_challenge", predictions=tmp_path / "p.json"))
    with pytest.raises(ValueError, match="predictions are for the guide's episodes"):
        rollout(settings(tmp_path, data=Path("rxr"), split="val_unseen", role="follower", predictions=path))


def test_a_stopped_run_goes_on(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tmp_path / "whole.json"
    rollout(settings(data, predictions=whole))
    lines, part = tmp_path / "r.jsonl", tmp_path / "part.json"
    rollout(settings(data, json=lines, episodes=1))  # without positions: this one is played again
    rollout(settings(data, json=lines, episodes=1, predictions=part))
    assert len(json.loads(part.read_text())) == 1 and len(lines.read_text().splitlines()) == 2
    played = []
    play = rollouts.play
    monkeypatch.setattr(rollouts, "play", lambda *given: played.append(given[2]) or play(*given))
    rollout(settings(data, json=lines, predictions=part))
    assert len(played) == 1 and json.loads(part.read_text()) == json.loads(whole.read_text())


def test_only_chosen_episodes_are_played(data: Path) -> None:
    (record,) = rollout(settings(data, split="val_unseen", scenes=("ccc",), episode_ids=("32",)))
    assert record["episode_id"] == "32" and record["scene_id"] == "mp3d/ccc/ccc.glb"


def test_wrong_files_are_refused_before_anything_is_played(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.json file .* or a \.jsonl file"):
        rollout(settings(data, predictions=tmp_path / "p.txt"))
    with pytest.raises(ValueError, match="has no instruction ids"):
        rollout(settings(data, predictions=tmp_path / "p.jsonl"))
    assert not list(tmp_path.glob("p.*"))


def test_formats_are_exact(tmp_path: Path) -> None:
    from streamvln_gym.vlnce.records import to_episode

    states = [AgentState(np.array([x, 0.1, 0.0]), yaw) for x, yaw in ((0.1, 0.0), (0.1, 4.0), (0.35, 4.0), (0.35, 4.0))]
    record = {"episode_id": "7", "actions": [2, 1, 0]} | trajectory_record(
        to_episode(rxr_record(7, "ccc", "en-US")), states
    )
    write_predictions(tmp_path / "p.json", [record])
    write_predictions(tmp_path / "p.jsonl", [record])
    heading = 4.0 - 2 * math.pi
    first = json.loads((tmp_path / "p.json").read_text())["7"]
    assert [s["stop"] for s in first] == [False, False, False, True]
    assert first[1] == {"position": [0.1, 0.1, 0.0], "heading": pytest.approx(heading), "stop": False}
    assert json.loads((tmp_path / "p.jsonl").read_text()) == {
        "instruction_id": 1007,
        "path": [[0.1, 0.1, 0.0], [0.35, 0.1, 0.0]],
    }
    record["actions"] = [2, 1, 1]  # cut off at max_steps
    write_predictions(tmp_path / "p.json", [record])
    assert not any(state["stop"] for state in json.loads((tmp_path / "p.json").read_text())["7"])
