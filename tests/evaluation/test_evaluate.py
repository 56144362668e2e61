import json
import os
import re
import shutil
from dataclasses import replace
from functools import partial

import imageio
import pytest
from filelock import FileLock

from streamvln_gym.agents import StreamVLNAgent
from streamvln_gym.cli import main
from streamvln_gym.errors import CheckpointError, DatasetError, EpisodeNotFoundError, EvaluationError
from streamvln_gym.evaluation import evaluate, read_run
from streamvln_gym.evaluation.failures import FAILURE_KINDS
from streamvln_gym.metrics import METRICS
from streamvln_gym.rollout import UNTRAINED, RolloutConfig, rollout
from streamvln_gym.vlnce import write_dataset
from tests.conftest import copy_of
from tests.evaluation.conftest import lines_of


def test_a_run_leaves_everything_in_its_folder(config, tmp_path):
    result = evaluate(config())
    out = tmp_path / "run"
    run = json.loads((out / "run.json").read_text())
    assert run["episodes"] == 7 and run["fingerprint"] == result.summary["fingerprint"]
    identity = run["identity"]
    assert (identity["agent"], identity["dataset"], identity["split"]) == ("oracle", "tiny", "tiny")
    assert identity["simulator"] == "embedded" and len(identity["dataset_sha256"]) == 64
    records = [json.loads(line) for line in lines_of(out)]
    assert [record["episode_id"] for record in records] == ["10", "11", "20", "30", "40", "50", "51"]
    assert {record["fingerprint"] for record in records} == {run["fingerprint"]}
    first = records[0]
    assert first["key"] == ["flats/tiny_a/tiny_a.glb", "10", 0]
    assert len(first["trajectory"]) == len(first["headings"]) == len(first["actions"]) + 1
    assert first["trajectory"][0] == first["start"] == [1.0, 0.2, 3.0]
    assert first["goal"] == [7.0, 0.2, 2.0] and first["reference_path"][-1] == first["goal"]
    assert first["stopped"] is True and first["failure"] is None and first["needs_memory"] is None
    assert records[3]["needs_memory"] == "return"
    assert set(METRICS) <= set(first)
    timings = [json.loads(line) for line in (out / "timings.jsonl").read_text().splitlines()]
    assert [timing["key"] for timing in timings] == [record["key"] for record in records]
    assert all(timing["seconds"] > 0 and timing["calls"] == [] for timing in timings)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["metrics"]["success"]["mean"] == 1.0 and summary["episodes"] == 7
    assert read_run(out).records == result.records


def test_records_are_those_of_rollout(config, tiny_flats):
    evaluated = {record["episode_id"]: record for record in evaluate(config(agent="random", seed=5)).records}
    played = rollout(
        RolloutConfig(data=tiny_flats.episodes_path, split="tiny", agent="random", seed=5, episodes=0, video=None)
    )
    for record in played:
        own = evaluated[record["episode_id"]]
        for name in (*METRICS, "actions", "instruction", "scene_id", "success_rule", "path_reference"):
            assert own[name] == record[name]


def test_failures_have_kinds(config):
    result = evaluate(config(agent="forward"))
    kinds = {record["failure"] for record in result.records}
    assert kinds - {None} <= set(FAILURE_KINDS) and kinds - {None}
    assert sum(result.summary["failures"].values()) == sum(record["success"] == 0 for record in result.records)


def test_the_number_of_workers_changes_nothing(config, tmp_path):
    evaluate(config(agent="random", seed=1, out=tmp_path / "one"))
    evaluate(config(agent="random", seed=1, out=tmp_path / "two", workers=2))
    assert lines_of(tmp_path / "one") == lines_of(tmp_path / "two")
    assert (tmp_path / "one/summary.json").read_bytes() == (tmp_path / "two/summary.json").read_bytes()


def test_a_finished_run_is_not_played_again(config, tmp_path):
    first = evaluate(config())
    shards = {path: path.read_bytes() for path in (tmp_path / "run/shards").iterdir()}
    assert evaluate(config()).records == first.records
    assert {path: path.read_bytes() for path in (tmp_path / "run/shards").iterdir()} == shards


def half_done(config, tmp_path):
    """A run that was killed while it wrote its fifth result; its merged file."""
    evaluate(config())
    out = tmp_path / "run"
    merged = (out / "episodes.jsonl").read_bytes()
    (shard,) = (out / "shards").glob("episodes-*")
    lines = shard.read_bytes().splitlines(keepends=True)
    shard.write_bytes(b"".join(lines[:4]) + lines[4][:20])
    for name in ("episodes.jsonl", "timings.jsonl", "summary.json"):
        (out / name).unlink()
    return shard, merged


def test_a_killed_run_goes_on(config, tmp_path):
    shard, merged = half_done(config, tmp_path)
    evaluate(config())
    out = tmp_path / "run"
    assert (out / "episodes.jsonl").read_bytes() == merged
    assert len(shard.read_bytes().splitlines()) == 4
    assert sorted(len(path.read_bytes().splitlines()) for path in (out / "shards").glob("episodes-*")) == [3, 4]
    assert len((out / "timings.jsonl").read_text().splitlines()) == 7


@pytest.fixture
def spoken(config, tiny_flats, tmp_path):
    """Makes configurations, as `config`, over the tiny flats in two languages, of the first episode in none."""
    data, dataset = shutil.copytree(tiny_flats.root, tmp_path / "data"), tiny_flats.dataset
    episodes = [dataset.episode(episode_id) for episode_id in dataset.episode_ids]
    languages = [None, *["hi-IN", "en-US"] * 3]
    told = [replace(e.instruction, language=spoken) for e, spoken in zip(episodes, languages, strict=True)]
    path = data / tiny_flats.episodes_path.relative_to(tiny_flats.root)
    write_dataset(path, [replace(e, instruction=i) for e, i in zip(episodes, told, strict=True)])
    return partial(config, data=path, data_dir=data)


def test_records_say_the_language(spoken):
    result = evaluate(spoken())
    assert [record.get("language") for record in result.records] == [None, *["hi-IN", "en-US"] * 3]
    assert "language" not in result.records[0]
    counts = {name: part["episodes"] for name, part in result.summary["by_language"].items()}
    assert counts == {"en-US": 3, "hi-IN": 3, "unknown": 1}


def test_a_run_whose_records_lack_the_language_goes_on(spoken, tmp_path):
    """As an older release wrote them."""
    shard, _ = half_done(spoken, tmp_path)
    lines = shard.read_bytes().splitlines(keepends=True)[:4]
    shard.write_bytes(b"".join(re.sub(rb',"language":"[^"]*"', b"", line) for line in lines))
    assert b"language" not in shard.read_bytes()
    result = evaluate(spoken(report=True))
    assert [record.get("language") for record in result.records] == [None] * 4 + ["en-US", "hi-IN", "en-US"]
    assert read_run(tmp_path / "run").records == result.records
    assert result.summary["by_language"]["unknown"]["episodes"] == 4


def test_a_damaged_result_is_named(config, tmp_path):
    shard, _ = half_done(config, tmp_path)
    lines = shard.read_bytes().splitlines(keepends=True)
    shard.write_bytes(lines[0] + b"{'half'\n" + b"".join(lines[1:4]))
    with pytest.raises(EvaluationError, match=rf"line 2 of {shard} is not a result.*run the same command again"):
        evaluate(config())


def test_results_of_another_run_are_not_mixed_in(config, tmp_path):
    shard, _ = half_done(config, tmp_path)
    evaluate(config(agent="forward", out=tmp_path / "other"))
    (stray,) = (tmp_path / "other/shards").glob("episodes-*")
    shutil.copy(stray, shard.with_name("episodes-s7-w0-0.jsonl"))
    with pytest.raises(EvaluationError, match=r"line 1 of .*episodes-s7-w0-0.jsonl is of another evaluation"):
        evaluate(config())


def test_contradicting_results_are_refused(config, tmp_path):
    shard, _ = half_done(config, tmp_path)
    record = json.loads(shard.read_bytes().splitlines()[0])
    line = json.dumps({**record, "success": 0.5}) + "\n"
    shard.with_name("episodes-s7-w0-0.jsonl").write_text(line)
    with pytest.raises(EvaluationError, match=r"have different results of episode '10'"):
        evaluate(config())


def test_the_same_result_twice_counts_once(config, tmp_path):
    shard, merged = half_done(config, tmp_path)
    shard.with_name("episodes-s7-w0-0.jsonl").write_bytes(shard.read_bytes().splitlines(keepends=True)[0])
    assert evaluate(config()).summary["episodes"] == 7
    assert (tmp_path / "run/episodes.jsonl").read_bytes() == merged


def test_another_configuration_is_refused_by_name(config):
    evaluate(config(agent="random", seed=1))
    message = "holds another evaluation: seed was 1 and is now 2; max_steps was 500 and is now 9. Use its settings"
    with pytest.raises(EvaluationError, match=message):
        evaluate(config(agent="random", seed=2, max_steps=9))
    with pytest.raises(EvaluationError, match=r"it had 7 episodes and now there are 3"):
        evaluate(config(agent="random", seed=1, episodes=3))


def test_of_a_camera_only_what_differs_is_told(config):
    evaluate(config(agent="streamvln", max_steps=1, width=32, height=24))
    message = r"holds another evaluation: camera\.width was 32 and is now 64; camera\.height was 24 and is now 48\. Use"
    with pytest.raises(EvaluationError, match=message):
        evaluate(config(agent="streamvln", max_steps=1, width=64, height=48))


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"checkpoint": "/nonexist/x"}, CheckpointError, "there is no folder /nonexist/x"),
        ({"device": "foo"}, ValueError, "there is no device 'foo' here.*use auto, cpu"),
        ({"device": "cuda:99"}, ValueError, "there is no device 'cuda:99' here"),
    ],
)
def test_device_and_checkpoint_are_looked_for_before_anything_is_written(
    config, tmp_path, monkeypatch, settings, kind, message
):
    monkeypatch.setattr("streamvln_gym.evaluation.player.open_environment", None)  # would build and read
    with pytest.raises(kind, match=message):
        evaluate(config(agent="streamvln", **settings))
    assert not (tmp_path / "run").exists()


def test_other_episodes_under_the_same_name_are_refused(config, tiny_flats, tmp_path):
    path = tiny_flats.root / "datasets" / "changed" / "tiny.json.gz"
    episodes = [tiny_flats.dataset.episode(episode_id) for episode_id in tiny_flats.dataset.episode_ids]
    write_dataset(path, episodes)
    evaluate(config(data=path))
    text = replace(episodes[0].instruction, text="Stop.", tokens=None)
    write_dataset(path, [replace(episodes[0], instruction=text), *episodes[1:]])
    with pytest.raises(EvaluationError, match=r"dataset_sha256 was"):
        evaluate(config(data=path))
    shutil.rmtree(path.parent)


def test_two_evaluations_do_not_share_a_folder(config, tmp_path):
    (tmp_path / "run").mkdir()
    with (
        FileLock(tmp_path / "run" / ".lock"),
        pytest.raises(EvaluationError, match=r"another evaluation is writing into .*run: wait for its end"),
    ):
        evaluate(config())
    assert evaluate(config()).summary["episodes"] == 7


def test_results_without_their_run_file_are_refused(config, tmp_path):
    half_done(config, tmp_path)
    (tmp_path / "run/run.json").unlink()
    with pytest.raises(EvaluationError, match=r"has results but no run.json"):
        evaluate(config())
    (tmp_path / "run/run.json").write_text("{")
    with pytest.raises(EvaluationError, match=r"run.json cannot be read"):
        evaluate(config())


def test_films_show_the_first_episodes_and_change_no_result(config, tmp_path):
    evaluate(config(max_steps=5))
    before = lines_of(tmp_path / "run")
    evaluate(config(max_steps=5, videos=2))
    films = sorted(path.name for path in (tmp_path / "run/videos").iterdir())
    assert films == ["10.mp4", "40.mp4"]  # the scenes take turns
    frames = imageio.mimread(tmp_path / "run/videos/10.mp4", memtest=False)
    assert len(frames) == 6 and frames[0].shape == (600, 1280, 3)
    assert lines_of(tmp_path / "run") == before


def test_films_of_ids_that_are_no_file_names(config, tiny_flats, tmp_path):
    episode = replace(tiny_flats.dataset.episode("10"), episode_id="a/b")
    data = copy_of(tiny_flats, tmp_path, episode).episodes_path
    for _ in range(2):  # the second time, the film is found
        evaluate(config(data=data, max_steps=2, videos="all", report=True))
        assert [path.name for path in (tmp_path / "run/videos").iterdir()] == ["a%2Fb.mp4"]
        assert '"video":"videos/a%252Fb.mp4"' in (tmp_path / "run/report.html").read_text()
    assert len(list((tmp_path / "run/shards").glob("timings-*"))) == 1


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"agent": "me"}, ValueError, "unknown agent 'me'"),
        ({"checkpoint": "somewhere"}, ValueError, "leave one of them out"),
        ({"seed": -1}, ValueError, "the seed must not be negative"),
        ({"workers": 0}, ValueError, "workers must be at least 1, got 0"),
        ({"envs_per_worker": 0}, ValueError, "envs_per_worker must be at least 1"),
        ({"videos": -1}, ValueError, "videos must be at least 0"),
        ({"engine": "mpi"}, ValueError, "unknown engine 'mpi'"),
        ({"engine": "ranks"}, EvaluationError, "needs a launcher.*torchrun"),
        ({"agent": "streamvln", "checkpoint": "/no/such/folder"}, CheckpointError, "/no/such/folder"),
        ({"data": "/no/such/file.json.gz"}, DatasetError, "/no/such/file.json.gz"),
        ({"data": None, "split": "nowhere"}, EpisodeNotFoundError, "no split 'nowhere'"),
        ({"scenes": ("tiny_c",)}, EpisodeNotFoundError, "no scene 'tiny_c'"),
        ({"episode_ids": ("99",)}, EpisodeNotFoundError, "99"),
    ],
)
def test_what_cannot_be_had_is_named(config, changes, error, message):
    with pytest.raises(error, match=message):
        evaluate(config(**changes))


def test_a_folder_that_cannot_be_written_is_named(config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EvaluationError, match=rf"cannot write into {tmp_path}/file/run.*--out"):
        evaluate(config(out=tmp_path / "file" / "run"))
    with pytest.raises(EvaluationError, match=r"cannot write into /proc/nowhere"):
        evaluate(config(out=type(tmp_path)("/proc/nowhere")))


def test_a_scene_that_is_missing_is_an_error_of_the_run_in_any_worker(config, tiny_flats, tmp_path):
    copied = copy_of(tiny_flats, tmp_path, *(tiny_flats.dataset.episode(e) for e in ("10", "40")))
    data = {"data": copied.episodes_path, "split": "x"}
    for workers in (1, 2):
        with pytest.raises(Exception, match=r"tiny_b.glb"):
            evaluate(config(**data, workers=workers))
    os.remove(copied.episodes_path)


def test_the_network_plays_the_same_in_any_company(config, thin_checkpoint, tmp_path):
    settings = {"agent": "streamvln", "checkpoint": thin_checkpoint, "max_steps": 20, "device": "cpu"}
    settings |= {"width": 64, "height": 48}
    alone = evaluate(config(**settings, out=tmp_path / "alone"))
    together = evaluate(config(**settings, out=tmp_path / "together", envs_per_worker=3))
    assert alone.identity["checkpoint_sha256"] and alone.records[0]["note"] == UNTRAINED
    assert [r["actions"] for r in alone.records] == [r["actions"] for r in together.records]
    assert len({tuple(r["actions"]) for r in alone.records}) > 1
    calls = [json.loads(line)["calls"] for line in (tmp_path / "alone/timings.jsonl").read_text().splitlines()]
    for record, part in zip(alone.records, calls, strict=True):
        assert [call[0] for call in part] == list(range(0, len(record["actions"]), 4))
        assert [call[4] for call in part] == [True] + [False] * (len(part) - 1)
    (shard,) = (tmp_path / "together/shards").glob("episodes-*")
    merged = lines_of(tmp_path / "together")
    shard.write_bytes(b"".join(shard.read_bytes().splitlines(keepends=True)[:4]))  # half a group is finished
    copied = shutil.copytree(thin_checkpoint, tmp_path / "elsewhere")  # the same weights
    evaluate(config(**{**settings, "checkpoint": copied}, out=tmp_path / "together", envs_per_worker=3))
    assert lines_of(tmp_path / "together") == merged
    StreamVLNAgent.untrained(7).save_pretrained(thin := tmp_path / "other")
    with pytest.raises(EvaluationError, match=r"checkpoint was .* and is now .*other.*; checkpoint_sha256 was"):
        evaluate(config(**{**settings, "checkpoint": thin}, out=tmp_path / "together", envs_per_worker=3))


def test_the_command_prints_and_goes_on(tiny_flats, tmp_path, capsys):
    command = ["evaluate", "--agent", "oracle", "--data", str(tiny_flats.episodes_path), "--split", "tiny"]
    command += ["--workers", "1", "--out", str(tmp_path / "run")]
    for _ in range(2):
        main(command)
        printed = capsys.readouterr().out
        assert "oracle on tiny/tiny, simulator embedded: 7 episodes of 2 scenes" in " ".join(printed.split())
        assert (tmp_path / "run/report.html").stat().st_size > 10_000
        assert "95 % interval" in printed and "return" in printed
    with pytest.raises(SystemExit, match=r"streamvln-gym: .*holds another evaluation: agent was 'oracle'"):
        main([*command, "--agent", "forward"])


@pytest.mark.parametrize("workers", [1, 2])
def test_a_scene_that_is_broken_does_not_hold_up_the_others(config, tiny_flats, tmp_path, workers):
    """When it is mended, the same command plays what is missing."""
    data = shutil.copytree(tiny_flats.root, tmp_path / "data")
    options = {"data": data / tiny_flats.episodes_path.relative_to(tiny_flats.root), "data_dir": data}
    asked = config(**options, workers=workers)
    scene = data / "scene_datasets" / "flats" / "tiny_b" / "tiny_b.glb"
    whole = scene.read_bytes()
    scene.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        EvaluationError, match=r"episodes 40, .* could not be played: .*tiny_b.* All others are finished"
    ):
        evaluate(asked)
    scene.write_bytes(whole)
    result = evaluate(asked)
    assert len(result.records) == 7
    untouched = evaluate(config(**options, out=tmp_path / "again"))
    assert [r["actions"] for r in result.records] == [r["actions"] for r in untouched.records]
