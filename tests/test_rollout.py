import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import imageio
import numpy as np
import pytest

from streamvln_gym.agents import StreamVLNAgent
from streamvln_gym.episodes import Goal
from streamvln_gym.errors import (
    CheckpointError,
    DatasetError,
    EpisodeNotFoundError,
    NavigationError,
    SimulatorUnavailableError,
)
from streamvln_gym.metrics import METRICS
from streamvln_gym.records import append_record, read_records
from streamvln_gym.rollout import UNTRAINED, RolloutConfig, choose_episodes, rollout
from streamvln_gym.vlnce import write_dataset


def config(tiny_flats, **changes):
    settings = {"data": tiny_flats.episodes_path, "split": "tiny", "agent": "oracle", "video": None, **changes}
    return RolloutConfig(**settings)


def test_records_name_everything(tiny_flats):
    (record,) = rollout(config(tiny_flats, episodes=1))
    assert record["agent"] == "oracle"
    assert (record["dataset"], record["split"], record["simulator"]) == ("tiny", "tiny", "embedded")
    assert record["instruction"].startswith("Leave the living room")
    assert record["actions"][-1] == 0
    assert record["success"] == 1.0
    assert set(METRICS) <= set(record)
    assert "note" not in record


def test_the_same_seed_gives_the_same_records(tiny_flats):
    first = rollout(config(tiny_flats, agent="random", episodes=3, seed=4, max_steps=30))
    again = rollout(config(tiny_flats, agent="random", episodes=3, seed=4, max_steps=30))
    other = rollout(config(tiny_flats, agent="random", episodes=3, seed=5, max_steps=30))
    assert first == again
    assert [r["actions"] for r in first] != [r["actions"] for r in other]


def test_streamvln_plays_with_the_weights_that_ship(tiny_flats, tmp_path):
    settings = {"agent": "streamvln", "episodes": 1, "max_steps": 6, "device": "cpu"}
    (record,) = rollout(config(tiny_flats, json=tmp_path / "r.jsonl", **settings))
    assert record["checkpoint"] == json.loads((tmp_path / "r.jsonl").read_text())["checkpoint"] == "streamvln-tiny"
    assert "note" not in record
    assert 1 <= len(record["actions"]) <= 6
    digests = ("checkpoint_sha256", "episode_sha256")  # so that nothing else is taken for it later
    assert rollout(config(tiny_flats, **settings)) == [{k: v for k, v in record.items() if k not in digests}]
    assert all(len(record[name]) == 64 for name in digests)


def test_results_of_other_weights_or_episodes_are_not_taken_for_these(tiny_flats, tmp_path):
    agent = StreamVLNAgent.untrained()
    agent.save_pretrained(tmp_path / "model")
    settings = {"agent": "streamvln", "checkpoint": str(tmp_path / "model"), "episodes": 1, "max_steps": 4}
    (played,) = rollout(config(tiny_flats, json=tmp_path / "r.jsonl", **settings))
    copied = shutil.copytree(tmp_path / "model", tmp_path / "elsewhere")  # the same weights
    assert rollout(config(tiny_flats, json=tmp_path / "r.jsonl", **{**settings, "checkpoint": str(copied)})) == [played]
    StreamVLNAgent.untrained(1).save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=r"line 1 of .*r\.jsonl is of a run with checkpoint_sha256="):
        rollout(config(tiny_flats, json=tmp_path / "r.jsonl", **settings))
    rollout(config(tiny_flats, json=tmp_path / "oracle.jsonl", episodes=1))
    turned = tmp_path / "data" / tiny_flats.episodes_path.name
    episodes = [tiny_flats.dataset.episode(name) for name in tiny_flats.dataset.episode_ids]
    write_dataset(turned, [replace(episode, start_rotation=(0.0, 1.0, 0.0, 0.0)) for episode in episodes])
    shutil.copytree(tiny_flats.scenes_dir, tmp_path / "scene_datasets")
    other = config(tiny_flats, json=tmp_path / "oracle.jsonl", episodes=1, data=turned, data_dir=tmp_path)
    with pytest.raises(ValueError, match=r"oracle\.jsonl has a result of another episode '10' than this dataset's"):
        rollout(other)


def test_an_oracle_that_cannot_reach_its_goal_names_the_episode(tiny_flats, tmp_path):
    path = tmp_path / "data" / tiny_flats.episodes_path.name
    first = tiny_flats.dataset.episode("10")
    write_dataset(
        path, [replace(first, goals=(Goal((9.4, 0.2, 1.0)),), reference_path=(), gt_locations=None, gt_actions=None)]
    )
    shutil.copytree(tiny_flats.scenes_dir, tmp_path / "scene_datasets")
    with pytest.raises(NavigationError, match=r"episode '10' of tiny/tiny: .*cannot reach"):
        rollout(config(tiny_flats, data=path, data_dir=tmp_path, episodes=1))


def test_streamvln_says_that_its_weights_are_random(tiny_flats, tmp_path):
    StreamVLNAgent.untrained().save_pretrained(tmp_path)
    settings = {"agent": "streamvln", "checkpoint": str(tmp_path), "episodes": 1, "max_steps": 6}
    (record,) = rollout(config(tiny_flats, json=tmp_path / "r.jsonl", **settings))
    assert record["note"] == UNTRAINED
    assert json.loads((tmp_path / "r.jsonl").read_text())["note"] == UNTRAINED
    assert 1 <= len(record["actions"]) <= 6


def test_scenes_take_turns(tiny_flats):
    dataset = tiny_flats.dataset
    chosen = choose_episodes(dataset, 3)
    assert chosen == ["10", "40", "11"]
    assert sorted(choose_episodes(dataset, 0)) == sorted(dataset.episode_ids)
    assert choose_episodes(dataset, 0, seed=1) != choose_episodes(dataset, 0, seed=2)
    with pytest.raises(ValueError, match="negative"):
        choose_episodes(dataset, -1)


def test_a_run_goes_on_where_it_stopped(tiny_flats, tmp_path):
    path = tmp_path / "deep" / "r.jsonl"
    rollout(config(tiny_flats, episodes=2, json=path))
    first = path.read_text()
    path.write_text(first + '{"episode_id": "11", "act')  # killed while it wrote
    records = rollout(config(tiny_flats, episodes=3, json=path))
    lines = path.read_text().splitlines()
    assert path.read_text().startswith(first)
    assert (
        [json.loads(line)["episode_id"] for line in lines] == [r["episode_id"] for r in records] == ["10", "40", "11"]
    )


def test_results_of_different_runs_are_not_mixed(tiny_flats, tmp_path):
    path = tmp_path / "r.jsonl"
    rollout(config(tiny_flats, episodes=1, json=path))
    with pytest.raises(ValueError, match=r"line 1 of .*agent='oracle'"):
        rollout(config(tiny_flats, agent="forward", episodes=1, json=path))


def test_infinite_distances_survive_the_file(tmp_path):
    path = tmp_path / "r.jsonl"
    append_record(path, {"episode_id": "1", "navigation_error": math.inf})
    assert "Infinity" not in path.read_text()
    assert read_records(path, {})["1"]["navigation_error"] == math.inf


def test_a_broken_line_is_named(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text('{"episode_id": "1"}\nnonsense\n')
    with pytest.raises(ValueError, match="line 2 of"):
        read_records(path, {})


def test_a_video_shows_every_step(tiny_flats, tmp_path):
    (record,) = rollout(config(tiny_flats, agent="forward", episodes=1, max_steps=5, video=tmp_path / "films"))
    (film,) = (tmp_path / "films").iterdir()
    assert film.name == "tiny_tiny_10.mp4"
    frames = imageio.mimread(film, memtest=False)
    assert len(frames) == record["steps"] + 1
    assert frames[0].shape == (600, 1280, 3)


def test_a_video_of_an_id_that_is_no_file_name(tiny_flats, tmp_path):
    path = tmp_path / "datasets" / "odd" / "tiny" / "tiny.json.gz"
    path.parent.mkdir(parents=True)
    write_dataset(path, [replace(tiny_flats.dataset.episode("10"), episode_id="../a/b")])
    odd = config(tiny_flats, data=path, data_dir=tiny_flats.root, max_steps=1, video=tmp_path / "films")
    rollout(odd)
    assert [film.name for film in (tmp_path / "films").iterdir()] == ["tiny_tiny_..%2Fa%2Fb.mp4"]


def test_the_label_is_in_the_video(tiny_flats, tmp_path):
    StreamVLNAgent.untrained().save_pretrained(tmp_path / "random")
    films = {}
    for name, checkpoint in (("shipped", None), ("random", str(tmp_path / "random"))):
        settings = {"agent": "streamvln", "checkpoint": checkpoint, "video": tmp_path / f"{name}_films"}
        rollout(config(tiny_flats, episodes=1, max_steps=1, **settings))
        (film,) = (tmp_path / f"{name}_films").iterdir()
        films[name] = np.asarray(imageio.mimread(film, memtest=False)[0]).astype(int)
    difference = np.abs(films["shipped"] - films["random"])
    assert difference[8:36, 8:180].mean() > 20 > difference[100:400, 900:1200].mean()


@pytest.mark.parametrize(("panel", "height"), [(True, 800), (False, 600)])
def test_streamvln_is_filmed_with_its_panel(tiny_flats, tmp_path, panel, height):
    settings = {"agent": "streamvln", "device": "cpu", "episodes": 1, "max_steps": 5}
    (record,) = rollout(config(tiny_flats, video=tmp_path, panel=panel, **settings))
    assert [record] == rollout(config(tiny_flats, **settings))
    (film,) = tmp_path.iterdir()
    frames = imageio.mimread(film, memtest=False)
    assert len(frames) == len(record["actions"]) + 1
    assert {frame.shape for frame in frames} == {(height, 1280, 3)}


def test_no_half_written_video_is_left(tiny_flats, tmp_path, monkeypatch):
    from streamvln_gym.agents import ForwardAgent

    def fail(self, obs):
        raise RuntimeError("the agent broke")

    monkeypatch.setattr(ForwardAgent, "act", fail)
    with pytest.raises(RuntimeError, match="the agent broke"):
        rollout(config(tiny_flats, agent="forward", episodes=1, video=tmp_path / "films"))
    assert not list((tmp_path / "films").iterdir())


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"agent": "oracle", "checkpoint": "somewhere"}, ValueError, "leave one of them out"),
        ({"agent": "streamvln", "checkpoint": "/no/such/folder"}, CheckpointError, "/no/such/folder"),
        ({"agent": "streamvln", "device": "foo"}, ValueError, "no device 'foo' here: use auto, cpu"),
        ({"agent": "me"}, ValueError, "unknown agent 'me'"),
        ({"seed": -1}, ValueError, "the seed must not be negative, got -1"),
        ({"json": Path("/dev/null/r.jsonl")}, ValueError, "cannot write into the folder /dev/null.*--json"),
        ({"video": Path("/dev/null/films")}, ValueError, "cannot write into the folder /dev/null/films.*--video"),
        ({"data": "/no/such/file.json.gz"}, DatasetError, "/no/such/file.json.gz"),
        ({"data": None, "split": "nowhere", "env": "StreamVLN-Flats-v0"}, EpisodeNotFoundError, "no split 'nowhere'"),
    ],
)
def test_what_cannot_be_had_is_named(tiny_flats, changes, error, message):
    with pytest.raises(error, match=message):
        rollout(config(tiny_flats, episodes=1, **changes))


def test_habitat_is_refused_with_the_remedy(tiny_flats):
    with pytest.raises(SimulatorUnavailableError, match="simulator='embedded'"):
        tiny_flats.make(simulator="habitat")
    with pytest.raises(SimulatorUnavailableError, match="simulator='embedded'"):
        rollout(config(tiny_flats, episodes=1, simulator="habitat"))


def test_a_random_run_taken_up_again_gives_the_same(tiny_flats, tmp_path):
    settings = {"agent": "random", "seed": 3, "max_steps": 20}
    whole = rollout(config(tiny_flats, episodes=3, **settings))
    path = tmp_path / "r.jsonl"
    rollout(config(tiny_flats, episodes=1, json=path, **settings))
    assert [r["actions"] for r in rollout(config(tiny_flats, episodes=3, json=path, **settings))] == [
        r["actions"] for r in whole
    ]
