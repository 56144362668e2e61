"""`data check`: corrupt and partial data folders are named with their remedy, and what it finds good can be played."""

from __future__ import annotations

import gzip
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streamvln_gym.cli import main
from streamvln_gym.data_check import check_data
from streamvln_gym.data_check.episode_file import LANGUAGES, _check_ids
from streamvln_gym.data_check.report import DataReport, Tally
from streamvln_gym.env import VLNEnv
from streamvln_gym.errors import DatasetError, StreamVLNGymError
from streamvln_gym.selection import open_dataset
from tests.conftest import SMALL_CAMERA, TinyFlats
from tests.miniatures import GOAL, R2R, START, WORDS, record, truth, write_json, write_r2r, write_rxr, write_split

VAL = f"datasets/{R2R}/val_unseen/val_unseen.json.gz"
TRUTH = f"datasets/{R2R}/val_unseen/val_unseen_gt.json.gz"
SCAN = "scene_datasets/mp3d/ccc/ccc.glb"
PAGE = b"<!DOCTYPE html><html><title>Google Drive - Quota exceeded</title></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"
OLD_FIRST = {
    "start_position": [-16.2672, 0.151841, 0.720776],
    "start_rotation": [0.0, 0.0007963, 0.0, 0.99999968],
    "reference_path": [[-16.2672, 0.151841, 0.720776], GOAL],
}


def content(path: str, raw: bytes) -> Callable[[Path], None]:
    return lambda root: (root / path).write_bytes(raw)  # type: ignore[func-returns-value]


def cut(path: str) -> Callable[[Path], None]:
    return lambda root: (root / path).write_bytes((root / path).read_bytes()[:-20])  # type: ignore[func-returns-value]


def episode(**changes: Any) -> Callable[[Path], None]:
    """val_unseen holds a changed episode beside a good one."""

    def write(root: Path) -> None:
        write_split(root / VAL, [record(31, "ccc", **changes), record(32, "ccc")])

    return write


def episodes(*records: Any, **truths: Any) -> Callable[[Path], None]:
    return lambda root: write_split(root / VAL, list(records), **truths)  # type: ignore[return-value]


def move(source: str, target: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        (root / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(root / source, root / target)

    return change


def instruction(text: str, tokens: list[int]) -> dict[str, Any]:
    return {"instruction_text": text, "instruction_tokens": tokens}


def no_trajectory_id(root: Path) -> None:
    write_split(root / VAL, [{**record(31, "ccc"), "trajectory_id": None}, record(32, "ccc")])


BROKEN: dict[str, tuple[Callable[[Path], Any], str, str, str]] = {
    # what was done to a good folder: the change, then severity, kind and words of the finding
    "cut off": (cut(VAL), "error", "truncated", "ends too early"),
    "web page": (content(VAL, PAGE), "error", "not the file", "is a web page"),
    "packed web page": (content(VAL, gzip.compress(PAGE)), "error", "not the file", "is a web page"),
    "pointer": (content(VAL, POINTER), "error", "not the file", "git lfs pull"),
    "zip under its name": (content(VAL, b"PK\x03\x04rest"), "error", "not the file", "zip archive"),
    "empty file": (content(VAL, b""), "error", "not the file", "0 bytes"),
    "not packed": (content(VAL, b'{"episodes": []}'), "error", "not the file", "is not compressed"),
    "no JSON": (content(VAL, gzip.compress(b"{nonsense")), "error", "unreadable", "not valid JSON"),
    "JSON cut off": (content(VAL, gzip.compress(b'{"episodes": [{"a": 1}')), "error", "unreadable", "not valid JSON"),
    "not UTF-8": (content(VAL, gzip.compress(b'{"episodes": ["\xff"]}')), "error", "unreadable", "not valid JSON"),
    "no list": (lambda root: write_json(root / VAL, {"data": 1}), "error", "unreadable", "no list 'episodes'"),
    "no episodes": (lambda root: write_json(root / VAL, {"episodes": []}), "error", "unreadable", "is empty"),
    "a list": (lambda root: write_json(root / VAL, [1, 2]), "error", "unreadable", "no list 'episodes'"),
    "missing field": (episode(start_position=None), "error", "record", "'start_position' is missing"),
    "not a number": (episode(start_position=[1.0, float("nan"), 2.0]), "error", "record", "3 finite numbers"),
    "huge integer": (episode(start_position=[10**400, 0, 0]), "error", "record", "'start_position' must hold 3 finite"),
    "huge radius": (episode(goals=[{"position": GOAL, "radius": 10**400}]), "error", "record", "[0].radius' must be"),
    "huge distance": (episode(info={"geodesic_distance": -(10**400)}), "error", "record", "geodesic_distance' must be"),
    "text radius": (episode(goals=[{"position": START, "radius": "3m"}]), "error", "record", "must be a number"),
    "goals no list": (episode(goals={"position": START}), "error", "record", "'goals' must be a list"),
    "tokens no list": (episode(instruction=instruction("Go.", 7)), "error", "record", "must be a list"),  # type: ignore[arg-type]
    "long quaternion": (episode(start_rotation=[0, 0, 0, 2]), "error", "record", "unit quaternion"),
    "w first": (episode(start_rotation=[1.0, 0.0, 0.0, 0.0]), "error", "quaternion", "w, x, y, z"),
    "empty instruction": (episode(instruction=instruction(" ", [2])), "error", "empty instruction", "31 (1 of 2)"),
    "unknown token": (episode(instruction=instruction("Go.", [99])), "error", "tokens", f"{len(WORDS)} words"),
    "token no integer": (episode(instruction=instruction("Go.", ["a", None])), "error", "tokens", "not all integers"),  # type: ignore[list-item]
    "trajectory without id": (no_trajectory_id, "error", "trajectory id", "None is neither"),
    "negative radius": (episode(goals=[{"position": GOAL, "radius": -1}]), "error", "radius", "positive, got -1"),
    "radius 0": (episode(goals=[{"position": GOAL, "radius": 0}]), "error", "radius", "positive, got 0"),
    "without a goal": (episode(goals=[]), "note", "no goals", "SR, SPL and NE leave it out: 31 (1 of 2)"),
    "unreachable": (episode(info={"geodesic_distance": float("inf")}), "error", "unreachable", "not finite"),
    "short distance": (episode(info={"geodesic_distance": 0.1}), "warning", "distance", "straight line"),
    "scene without .glb": (episode(scene_id="mp3d/ccc"), "error", "scene path", "no path of a .glb"),
    "flat scene path": (episode(scene_id="mp3d/ccc.glb"), "warning", "scene path", "another form"),
    "duplicate": (episodes(record(31, "ccc"), record("31", "ccc")), "error", "duplicate ids", "have one id: 31"),
    "leak": (episodes(record(31, "ccc"), record(32, "aaa")), "error", "split leak", "mp3d/aaa/aaa.glb"),
    "scan missing": (lambda root: (root / SCAN).unlink(), "error", "missing scans", "1 of its 2 scans"),
    "scan too deep": (
        move("scene_datasets/mp3d/ccc", "scene_datasets/mp3d/v1/tasks/mp3d/ccc"),
        "error",
        "missing scans",
        "move them so that",
    ),
    "scan a web page": (content(SCAN, PAGE), "error", "scans", "no GLB files"),
    "scan a pointer": (content(SCAN, POINTER), "error", "scans", "no GLB files"),
    "scan cut off": (content(SCAN, b"glTF\x02\0\0\0\xff\0\0\0"), "error", "scans", "are cut off"),
    "truth cut off": (cut(TRUTH), "error", "truncated", "val_unseen_gt.json.gz"),
    "truth a list": (lambda root: write_json(root / TRUTH, []), "error", "unreadable", "by episode id"),
    "truth without locations": (
        episodes(record(31, "ccc"), **{"31": {"actions": [1]}}),
        "error",
        "ground truth",
        "'locations'",
    ),
    "truth elsewhere": (
        episodes(record(31, "ccc"), **{"31": {**truth(), "locations": [[9, 0, 9], [9, 0, 8], [7, 0, 2]]}}),
        "error",
        "ground truth",
        "starts elsewhere",
    ),
    "truth incomplete": (
        lambda root: write_json(root / TRUTH, {"31": truth()}),
        "warning",
        "ground truth",
        "lacks an episode: 32, 33",
    ),
    "truth of others": (episodes(record(31, "ccc"), **{"99": truth()}), "warning", "ground truth", "the file lacks"),
    "truth does not fit": (
        episodes(record(31, "ccc"), **{"31": {**truth(), "actions": [1] * 9 + [0]}}),
        "warning",
        "ground truth",
        "numbers of locations and actions",
    ),
    "truth of another release": (
        episodes(record(31, "ccc", yaw=1.6), record(32, "ccc", yaw=-1.6)),
        "error",
        "version",
        "92 degrees",
    ),
    "v1's radii in v1-3's folder": (
        episode(goals=[{"position": GOAL, "radius": 2.0}]),
        "error",
        "version",
        "the folder says v1-3, but the file is v1",
    ),
    "v1's paths in v1-3's folder": (
        episode(reference_path=[[4.1, 0.2, 2.0]]),
        "warning",
        "version",
        "lack the start or the goal",
    ),
    "headings of v1-2": (
        lambda root: write_split(root / f"datasets/{R2R}/train/train.json.gz", [record(1, "aaa", **OLD_FIRST)], False),
        "error",
        "version",
        "before v1-3",
    ),
    "folder in the folder": (
        move(f"datasets/{R2R}", f"datasets/r2r/{R2R}"),
        "error",
        "wrong folder",
        "Move it to",
    ),
    "two releases": (
        lambda root: shutil.copytree(root / f"datasets/{R2R}", root / "datasets/R2R_VLNCE_v1-2"),
        "warning",
        "several releases",
        "is there 2 times",
    ),
    "still a zip": (content(f"datasets/{R2R}.zip", b"PK\x03\x04"), "warning", "archive", "Unpack it"),
    "side file": (content(f"datasets/{R2R}/val_unseen/._val_unseen.json.gz", b"\0\5"), "warning", "side file", "macOS"),
    "half a download": (content("datasets/x.zip.crdownload", b"PK"), "warning", "unfinished", "again"),
    "truth alone": (lambda root: (root / VAL).unlink(), "warning", "ground truth", "without its episode file"),
    "nothing": (lambda root: shutil.rmtree(root / "datasets"), "error", "no episodes", "datasets/r2r"),
}


def test_a_good_folder(tmp_path: Path) -> None:
    write_r2r(tmp_path)
    write_rxr_files(tmp_path)
    report = check_data(tmp_path)
    assert report.ok, report.lines()
    assert {problem.kind for problem in report.problems} == {"number of episodes"}  # miniatures are no whole splits
    found = {(file.dataset, file.split, file.role): file for file in report.files}
    val = found["r2r", "val_unseen", ""]
    assert (val.episodes, val.with_goals, val.ground_truth, val.version) == (3, 3, 3, "v1-3")
    assert val.scenes == ["mp3d/ccc/ccc.glb", "mp3d/eee/eee.glb"]
    assert found["r2r", "test", ""].with_goals == 0 and found["r2r", "test", ""].ground_truth is None
    guide = found["rxr", "val_unseen", "guide"]
    assert guide.languages == {"en-US": 1, "en-IN": 1, "hi-IN": 1, "te-IN": 1}
    assert len(found) == 4 + 3 and all(file.readable for file in report.files)


def write_rxr_files(root: Path) -> None:
    """RxR beside R2R, whose scans are there already."""
    write_rxr(root / "other")
    shutil.move(root / "other/datasets/RxR_VLNCE_v0", root / "datasets/RxR_VLNCE_v0")
    shutil.rmtree(root / "other")


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_folder_is_named_with_its_remedy(tmp_path: Path, name: str) -> None:
    write_r2r(tmp_path)
    change, severity, kind, words = BROKEN[name]
    change(tmp_path)
    report = check_data(tmp_path)
    matching = [p for p in report.problems if p.kind == kind and words in f"{p.what} {p.remedy}"]
    assert matching and matching[0].severity == severity, report.lines()
    assert matching[0].remedy and matching[0].where
    assert report.ok == (not any(p.severity == "error" for p in report.problems))
    json.dumps(report.to_json())
    assert_good_episodes_can_be_had(report, tmp_path)


@pytest.mark.parametrize("name", ["cut off", "web page", "no JSON", "no episodes"])
def test_a_broken_file_is_named_once_with_one_remedy(tmp_path: Path, name: str) -> None:
    write_r2r(tmp_path)
    BROKEN[name][0](tmp_path)
    report = check_data(tmp_path / VAL)
    (problem,) = [p for p in report.problems if p.severity == "error" and p.kind != "missing scans"]
    assert problem.where == str(tmp_path / VAL) and "VLN-CE#data" in problem.remedy
    assert "val_unseen.json.gz" not in problem.what and "ownload the VLN-CE" not in problem.what and problem.what


def assert_good_episodes_can_be_had(report: DataReport, root: Path) -> None:
    """A file without an error opens, and gives each of its episodes; any other at most says what is wrong."""
    bad = {p.where for p in report.problems if p.severity == "error"}
    for file in report.files:
        if file.path in bad or not file.readable:
            try:
                dataset = open_dataset(file.path, file.split, root)
                for episode_id in dataset.episode_ids:
                    dataset.episode(episode_id)
            except StreamVLNGymError as error:
                assert len(str(error)) > 30  # a sentence, not a crash
        else:
            dataset = open_dataset(file.path, file.split, root)
            assert len(dataset) == file.episodes
            assert all(dataset.episode(episode_id).instruction.text for episode_id in dataset.episode_ids)


@pytest.mark.parametrize("name", [name for name, case in BROKEN.items() if case[1] == "warning"])
def test_what_is_found_good_is_played(tmp_path: Path, tiny_flats: TinyFlats, name: str) -> None:
    write_r2r(tmp_path, tiny=tiny_flats.scenes_dir / "flats/tiny_a/tiny_a.glb")
    BROKEN[name][0](tmp_path)
    report = check_data(tmp_path)
    played = 0
    for file in report.files:
        if any(p.where == file.path and p.severity == "error" for p in report.problems):
            continue
        env = VLNEnv(dataset=file.path, split=file.split, data_dir=tmp_path, camera=SMALL_CAMERA, sensors=("gps",))
        for episode_id in env.dataset.episode_ids:
            env.reset(options={"episode_id": episode_id})
            *_, info = [env.step(1), env.step(0)][-1]
            assert info["steps"] == 2
            played += 1
        env.close()
    assert played >= 5


def test_navigation_finds_starts_off_the_mesh_and_goals_out_of_reach(tmp_path: Path, tiny_flats: TinyFlats) -> None:
    write_r2r(tmp_path, tiny=tiny_flats.scenes_dir / "flats/tiny_a/tiny_a.glb")
    closed = [{"position": [9.0, 0.2, 1.0], "radius": 3.0}]
    changed = [record(31, "ccc", start_position=[50.0, 0.2, 50.0]), record(32, "ccc", goals=closed), record(33, "eee")]
    write_split(tmp_path / VAL, changed, with_truth=False)
    (tmp_path / "scene_datasets/mp3d/eee/eee.glb").write_bytes(b"glTF\x02\0\0\0\x0c\0\0\0")
    assert not [p for p in check_data(tmp_path / VAL).problems if p.kind in ("start", "unreachable")]
    problems = {p.kind: p for p in check_data(tmp_path / VAL, navigation=True).problems if p.severity == "error"}
    assert "31 (1 of 3)" in problems["start"].what and "32 (1 of 3)" in problems["unreachable"].what
    assert problems["scans"].where.endswith("eee.glb")


def test_navigation_takes_the_plain_scan_and_counts_missing_ones(tmp_path: Path, tiny_flats: TinyFlats) -> None:
    """HM3D's ids end in .basis.glb where ScaleVLN's scans are plain."""
    write_r2r(tmp_path, tiny=tiny_flats.scenes_dir / "flats/tiny_a/tiny_a.glb")
    basis: dict[str, Any] = {"scene_id": "mp3d/ccc/ccc.basis.glb"}
    far = record(32, "ccc", start_position=[500.0, 0.2, 3.0], **basis)
    gone = [record(k, scan) for k, scan in enumerate(("fff", "ggg"), 33)]
    write_split(tmp_path / VAL, [record(31, "ccc", **basis), far, *gone], with_truth=False)
    problems = {p.kind: p for p in check_data(tmp_path / VAL, navigation=True).problems}
    assert "32 (1 of 4)" in problems["start"].what and "unreachable" not in problems
    assert problems["not navigated"].severity == "note"
    assert "2 of its 3 scenes, whose scans are missing: mp3d/fff/fff.glb" in problems["not navigated"].what


def test_releases_of_training_splits_are_not_mixed_unsaid(tmp_path: Path) -> None:
    write_r2r(tmp_path, "vln/mp3d/r2r/v1")
    write_split(tmp_path / f"datasets/{R2R}/envdrop/envdrop.json.gz", [record(1, "bbb")])
    problem = next(p for p in check_data(tmp_path).problems if p.kind == "version")
    assert problem.severity == "warning" and "v1 (" in problem.what and "v1-3 (" in problem.what


def test_linked_folders_are_looked_into(tmp_path: Path) -> None:
    root = write_r2r(tmp_path / "disk")
    data = tmp_path / "data"
    (data / "datasets").mkdir(parents=True)
    (data / "datasets" / R2R).symlink_to(root)
    (data / "datasets/loop").symlink_to(data)
    (data / "datasets/gone.json.gz").symlink_to(tmp_path / "nothing")
    (data / "scene_datasets").symlink_to(tmp_path / "disk/scene_datasets")
    report = check_data(data)
    assert report.ok and len(report.files) == 4
    assert [p.where for p in report.problems if p.kind == "dangling link"] == [str(data / "datasets/gone.json.gz")]
    assert open_dataset("r2r", "val_unseen", data).episode_ids == ("31", "32", "33")


def test_a_part_of_a_folder_and_a_file(tmp_path: Path) -> None:
    write_r2r(tmp_path)
    whole = {file.path for file in check_data(tmp_path).files}
    assert {Path(file.path) for file in check_data(tmp_path / "datasets").files} == {Path(path) for path in whole}
    (file,) = check_data(tmp_path / VAL).files
    assert file.episodes == 3
    with pytest.raises(DatasetError, match="there is nothing at"):
        check_data(tmp_path / "moon")


@pytest.mark.parametrize("part", ["", f"datasets/{R2R}", f"datasets/{R2R}/val_unseen", VAL])
def test_a_data_folder_may_lie_below_a_folder_called_datasets(tmp_path: Path, part: str) -> None:
    data = tmp_path / "datasets/vln/data"
    write_r2r(data)
    report = check_data(data / part)
    assert report.ok and report.files, report.lines()


def test_folders_that_only_have_the_name_datasets_are_no_data_folder(tmp_path: Path) -> None:
    """Loose episodes below one are looked at by themselves; a published folder in one is in its place without scans."""
    loose = write_split(tmp_path / "datasets/loose/r2r/val_unseen/val_unseen.json.gz", [record(31, "ccc")]).parents[2]
    missing = next(p for p in check_data(loose).problems if p.kind == "missing scans")
    assert str(loose / "scene_datasets") in missing.what
    root = write_r2r(tmp_path / "data")
    shutil.rmtree(tmp_path / "data/scene_datasets")
    for folder in (root, root.parent):
        problems = [p for p in check_data(folder).problems if p.severity == "error"]
        assert {p.kind for p in problems} == {"missing scans"}
        assert all(str(tmp_path / "data/scene_datasets") in p.what for p in problems)


@pytest.mark.parametrize("path", ["val_unseen.json.gz", ".", "..", "../../..", "../../../datasets"])
def test_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    write_r2r(tmp_path)
    monkeypatch.chdir((tmp_path / VAL).parent)
    report = check_data(Path(path))
    assert report.ok, report.lines()
    assert str(tmp_path / VAL) in [file.path for file in report.files]


def test_two_dots_after_a_link_lead_where_the_link_leads(tmp_path: Path) -> None:
    write_r2r(tmp_path / "disk")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/link").symlink_to(tmp_path / "disk/scene_datasets")
    report = check_data(tmp_path / "data/link/..")
    assert report.ok and report.root == str(tmp_path / "disk")


def test_projects_named_like_a_dataset_do_not_mislead(tmp_path: Path) -> None:
    data = tmp_path / "r2r/scalevln"
    write_r2r(data)
    write_rxr_files(data)
    for path in (data, data / f"datasets/{R2R}/../RxR_VLNCE_v0"):
        report = check_data(path)
        assert report.ok and "rxr" in {file.dataset for file in report.files}, report.lines()


def test_ids_used_in_each_language_are_counted_in_linear_time() -> None:
    spoken = Counter({(str(k), language): 1 for k in range(20_000) for language in LANGUAGES})
    spoken["7", "hi-IN"] += 1
    ids: Counter[str] = Counter()
    for (name, _), count in spoken.items():
        ids[name] += count
    tally, begin = Tally(), time.perf_counter()
    _check_ids(ids, spoken, tally)
    assert time.perf_counter() - begin < 5.0  # seconds; going through all for each took more than a minute
    assert {(p.severity, p.what.rpartition("(")[2]) for p in tally.problems("x", 20_000)} == {
        ("error", "1 of 20,000)"),
        ("note", "19999 of 20,000)"),
    }


def test_the_command_prints_and_fails_on_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_r2r(tmp_path)
    main(["data", "check", str(tmp_path)])
    assert "r2r val_unseen: " in capsys.readouterr().out
    (tmp_path / SCAN).unlink()
    with pytest.raises(SystemExit) as stopped:
        main(["data", "check", str(tmp_path), "--json"])
    assert stopped.value.code == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False and report["problems"][0]["kind"] == "missing scans"
    assert "download_mp.py --task habitat -o data/scene_datasets/mp3d/" in report["problems"][0]["remedy"]
