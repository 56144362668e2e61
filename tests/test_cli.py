import json
import subprocess
import sys
from dataclasses import replace

import pytest

from streamvln_gym.agents import StreamVLNAgent
from streamvln_gym.cache import CACHE_VARIABLE
from streamvln_gym.cli import main
from streamvln_gym.doctor import diagnose
from streamvln_gym.findings import Finding
from streamvln_gym.models import shipped
from streamvln_gym.vlnce import write_dataset


def test_rollout_prints_a_table_and_writes_lines(tiny_flats, tmp_path, capsys):
    lines = tmp_path / "r.jsonl"
    main(
        ["rollout", "--agent", "oracle", "--data", str(tiny_flats.episodes_path), "--split", "tiny"]
        + ["--episodes", "2", "--video", "None", "--json", str(lines)]
    )
    printed = capsys.readouterr().out
    assert "oracle on tiny/tiny, simulator embedded" in printed
    for column in ("NE (m)", "SR", "SPL", "nDTW", "mean of 2"):
        assert column in printed
    assert len(lines.read_text().splitlines()) == 2


def test_rollout_says_of_how_many_episodes_a_mean_is_and_what_paths_are_compared_with(tiny_flats, tmp_path, capsys):
    dataset = tiny_flats.dataset
    one, other = (dataset.episode(episode_id) for episode_id in ("10", "20"))
    path = tmp_path / "datasets" / "some" / "some.json.gz"
    write_dataset(path, [one, replace(other, goals=(), gt_locations=None)])
    (tmp_path / "scene_datasets").symlink_to(dataset.scenes_dir)
    play = ["rollout", "--agent", "forward", "--max-steps", "3", "--episodes", "0", "--video", "None"]
    main([*play, "--data", str(path), "--split", "some", "--json", str(tmp_path / "r.jsonl")])
    printed = capsys.readouterr().out
    counts = next(line for line in printed.splitlines() if "of episodes" in line).split()
    assert counts[2:4] == ["1", "1"] and counts[-1] == "2"
    assert "nDTW, SDTW and CLS of 2 episodes: 1 are against the reference path" in printed
    told = [json.loads(line)["path_reference"] for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert sorted(told) == ["ground_truth", "reference_path"]


def test_only_untrained_weights_are_called_so(tiny_flats, tmp_path, capsys):
    StreamVLNAgent.untrained().save_pretrained(tmp_path)
    play = ["rollout", "--data", str(tiny_flats.episodes_path), "--split", "tiny", "--episodes", "1"]
    play += ["--video", "None", "--max-steps", "3"]
    main([*play, "--checkpoint", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "untrained weights" in printed and "weights are random" in printed
    main(play)
    printed = capsys.readouterr().out
    assert "streamvln on tiny/tiny" in printed
    assert "untrained" not in printed and "random" not in printed


def test_a_known_error_is_one_line_without_a_traceback(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["rollout", "--data", "/no/such/file.json.gz", "--video", "None"])
    assert str(caught.value).startswith("streamvln-gym: ")
    assert "/no/such/file.json.gz" in str(caught.value)


def test_build_flats_makes_a_folder_that_rollout_plays(tmp_path, capsys):
    out = tmp_path / "mine"
    main(["build-flats", "--split", "mine", "--scenes", "1", "--first-seed", "30001", "--out", str(out)])
    assert "1 flats of the split 'mine'" in capsys.readouterr().out
    assert (out / "datasets" / "flats" / "mine" / "mine.json.gz").exists()
    lines = tmp_path / "r.jsonl"
    main(
        ["rollout", "--agent", "oracle", "--data", str(out), "--split", "mine", "--episodes", "2"]
        + ["--video", "None", "--json", str(lines)]
    )
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [r["success"] for r in records] == [1.0, 1.0]
    assert records[0]["scene_id"] == "flats/flat_030001/flat_030001.glb"


def test_build_flats_of_an_unknown_split_says_what_to_do(tmp_path):
    with pytest.raises(SystemExit, match="--first-seed"):
        main(["build-flats", "--split", "mine", "--out", str(tmp_path)])


def test_doctor_reports(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    main(["doctor"])
    printed = capsys.readouterr().out
    for topic in ("python", "numba", "streamvln-tiny", "simulator", "Matterport3D", "flats", "cache"):
        assert topic in printed


def test_doctor_shows_brackets(tmp_path, monkeypatch, capsys):
    finding = Finding("viewer", "missing", "[/x] is no markup", "pip install 'streamvln-gym[viewer]'")
    monkeypatch.setattr("streamvln_gym.doctor.diagnose", lambda data_dir: [finding])
    main(["doctor"])
    said = capsys.readouterr().out
    assert "[/x] is no markup" in said and "streamvln-gym[viewer]" in said


def test_doctor_finds_an_unwritable_cache(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file" / "cache"))
    problems = [finding for finding in diagnose(tmp_path) if finding.status == "problem"]
    assert [finding.topic for finding in problems] == ["cache"]
    assert CACHE_VARIABLE in problems[0].remedy


def test_doctor_misses_the_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "SHIPPED_FOLDER", tmp_path)
    (finding,) = [finding for finding in diagnose(tmp_path) if finding.topic == "streamvln-tiny"]
    assert finding.status == "problem"
    assert "install the wheel" in finding.remedy


def test_doctor_finds_data(tiny_flats, tmp_path):
    (tmp_path / "datasets" / "r2r" / "val_unseen").mkdir(parents=True)
    (tmp_path / "datasets" / "r2r" / "val_unseen" / "val_unseen.json.gz").touch()
    findings = {finding.topic: finding for finding in diagnose(tmp_path)}
    assert findings["dataset 'r2r'"].status == "ok"
    assert "val_unseen" in findings["dataset 'r2r'"].detail
    assert findings["dataset 'rxr'"].status == "missing"
    assert findings["dataset 'rxr'"].remedy


def test_help_is_quick_and_needs_no_torch():
    code = (
        "import sys\nfrom streamvln_gym.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('torch', 'numba', 'trimesh', 'transformers') if m in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stdout
    assert printed.splitlines()[-1] == "[]"
    assert "build-flats" in printed


def test_an_unknown_environment_is_one_line(capsys):
    with pytest.raises(SystemExit, match=r"streamvln-gym: .*NoSuchEnv"):
        main(["rollout", "--env", "NoSuchEnv-v0", "--video", "None"])
