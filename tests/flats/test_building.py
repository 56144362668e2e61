import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from streamvln_gym.cache import CACHE_VARIABLE
from streamvln_gym.errors import DatasetError, SceneError
from streamvln_gym.flats import building
from streamvln_gym.flats.building import build_scene, build_scenes, merge_split
from streamvln_gym.flats.dataset import FlatsDataset
from streamvln_gym.flats.files import EPISODES_PER_SCENE, episode_file, is_built, scene_folder, scenes_root
from streamvln_gym.simulators.embedded.simulator import EmbeddedSimulator
from streamvln_gym.vlnce import VLNCEDataset
from tests.flats.conftest import SEEDS

ENDINGS = (".glb", ".navmesh.npz", ".scene_graph.json", ".instances.npy", ".stage_config.json")
ONE = """
import sys
from pathlib import Path
from streamvln_gym.flats.building import build_scenes
build_scenes(Path(sys.argv[1]), "val_unseen", [int(s) for s in sys.argv[2:]], workers=1)
"""


def contents(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def start_build(root: Path, *seeds: int) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", ONE, str(root), *map(str, seeds)], stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )


def test_a_scene_has_all_its_files_and_nothing_else_is_left(flats_root):
    for seed in SEEDS:
        folder = scene_folder(flats_root, seed)
        assert sorted(p.name for p in folder.iterdir()) == sorted(folder.name + ending for ending in ENDINGS)
    assert not list(flats_root.rglob(".building-*"))


def test_another_process_builds_the_same_bytes(flats_root, tmp_path):
    process = start_build(tmp_path, SEEDS[1])
    assert process.wait(120) == 0, process.stderr.read()
    again = contents(tmp_path)
    assert len(again) == len(ENDINGS) + 2
    assert again == {name: data for name, data in contents(flats_root).items() if name in again}


@pytest.mark.parametrize("lost", [".glb", ".navmesh.npz", "folder"])
def test_a_flat_that_lost_a_file_is_built_again(flats_root, tmp_path, lost):
    shutil.copytree(flats_root, tmp_path, dirs_exist_ok=True)
    folder = scene_folder(tmp_path, SEEDS[0])
    shutil.rmtree(folder) if lost == "folder" else (folder / f"{folder.name}{lost}").unlink()
    assert not is_built(tmp_path, "val_unseen", SEEDS[0])
    build_scenes(tmp_path, "val_unseen", SEEDS[:2], workers=1)
    assert contents(tmp_path) == contents(flats_root)


def test_workers_build_the_same_bytes(flats_root, tmp_path):
    build_scenes(tmp_path, "val_unseen", SEEDS[:2], workers=2)
    again = contents(tmp_path)
    assert len(again) == 2 * (len(ENDINGS) + 2)
    assert again == {name: data for name, data in contents(flats_root).items() if name in again}


def test_two_processes_may_build_at_once(flats_root, tmp_path):
    processes = [start_build(tmp_path, SEEDS[0], SEEDS[1]) for _ in range(2)]
    for process in processes:
        assert process.wait(120) == 0, process.stderr.read()
    assert not list(tmp_path.rglob(".building-*"))
    again = contents(tmp_path)
    assert again == {name: data for name, data in contents(flats_root).items() if name in again}


def test_a_killed_build_leaves_only_whole_scenes_and_is_taken_up_again(tmp_path):
    process = start_build(tmp_path, *range(30_000, 30_012))
    folder = scenes_root(tmp_path) / "flats"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list(folder.glob(".building-*")):
        time.sleep(0.02)
    time.sleep(0.15)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    for built in folder.glob("flat_*"):
        assert sorted(p.name for p in built.iterdir()) == sorted(built.name + ending for ending in ENDINGS)
    build_scenes(tmp_path, "val_unseen", [30_000, 30_001], workers=1)
    part = VLNCEDataset.load(episode_file(tmp_path, "val_unseen", 30_001), scenes_root(tmp_path))
    assert len(part) == EPISODES_PER_SCENE


def test_what_a_killed_build_left_is_removed_later(flats_root, tmp_path, monkeypatch):
    folder = scenes_root(tmp_path) / "flats"
    leftover = folder / ".building-flat_020000-abc"
    (leftover / "flat_020000").mkdir(parents=True)
    os.utime(leftover, (time.time() - 7200,) * 2)
    build_scenes(tmp_path, "val_unseen", [SEEDS[2]], workers=1)
    assert not leftover.exists()


def test_the_seen_split_has_new_episodes_in_the_scenes_of_train(tmp_path):
    build_scene(tmp_path, "train", 3)
    before = contents(scene_folder(tmp_path, 3))
    build_scene(tmp_path, "val_seen", 3)
    assert contents(scene_folder(tmp_path, 3)) == before
    train = FlatsDataset("train", tmp_path, scenes=["flat_000003"])
    seen = FlatsDataset("val_seen", tmp_path, scenes=["flat_000003"])
    assert not set(train.episode_ids) & set(seen.episode_ids)
    assert train.episode(train.episode_ids[0]).start_position != seen.episode(seen.episode_ids[0]).start_position


def test_a_seen_split_built_first_makes_the_same_scene(tmp_path):
    build_scene(tmp_path / "a", "val_seen", 3)
    build_scene(tmp_path / "b", "train", 3)
    assert contents(scenes_root(tmp_path / "a")) == contents(scenes_root(tmp_path / "b"))


def test_a_merged_split_is_an_ordinary_episode_file(flats_root, tmp_path):
    shutil.copytree(flats_root, tmp_path, dirs_exist_ok=True)
    path = merge_split(tmp_path, "val_unseen", SEEDS)
    merged = VLNCEDataset.load(path, scenes_root(tmp_path))
    lazy = FlatsDataset("val_unseen", tmp_path, scenes=len(SEEDS))
    assert list(merged.episode_ids) == list(lazy.episode_ids)
    for episode_id in merged.episode_ids:
        assert merged.episode(episode_id) == lazy.episode(episode_id)
        assert merged.scene_path(merged.scene_of(episode_id)).exists()


def test_a_flat_that_offers_too_few_episodes_is_drawn_anew(tmp_path, monkeypatch):
    real, calls = building.sample_episodes, []

    def refuse_first(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise SceneError("offers only 1 of 6 paths")
        return real(*arguments)

    monkeypatch.setattr(building, "sample_episodes", refuse_first)
    build_scene(tmp_path, "val_unseen", SEEDS[0])
    assert len(calls) == 2
    assert len(list(scene_folder(tmp_path, SEEDS[0]).iterdir())) == len(ENDINGS)


def test_a_seed_without_any_usable_flat_is_an_error_and_leaves_nothing(tmp_path, monkeypatch):
    def refuse(*_):
        raise SceneError("offers only 1 of 6 paths")

    monkeypatch.setattr(building, "sample_episodes", refuse)
    monkeypatch.setattr(building, "_FLAT_ATTEMPTS", 2)
    with pytest.raises(SceneError, match="scene seed 20000"):
        build_scene(tmp_path, "val_unseen", SEEDS[0])
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_a_folder_that_cannot_be_written_is_named_with_the_remedy(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DatasetError, match=CACHE_VARIABLE):
        build_scenes(tmp_path / "file" / "cache", "val_unseen", [SEEDS[0]])


def test_a_cut_off_glb_is_named(flats_root, tmp_path):
    shutil.copytree(scene_folder(flats_root, SEEDS[0]), tmp_path / "flat_020000")
    glb = tmp_path / "flat_020000" / "flat_020000.glb"
    glb.write_bytes(glb.read_bytes()[:5000])
    with pytest.raises(SceneError, match=r"flat_020000\.glb"):
        EmbeddedSimulator().load_scene(glb)


def test_a_cut_off_episode_file_is_named(flats_root, tmp_path):
    shutil.copytree(flats_root, tmp_path, dirs_exist_ok=True)
    path = episode_file(tmp_path, "val_unseen", SEEDS[0])
    path.write_bytes(path.read_bytes()[:300])
    dataset = FlatsDataset("val_unseen", tmp_path, scenes=1)
    with pytest.raises(DatasetError, match=r"flat_020000\.json\.gz"):
        dataset.episode(dataset.episode_ids[0])
