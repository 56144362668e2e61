"""`dataset="auto"` and the downloaded datasets, with a stand-in on disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium as gym
import pytest

from streamvln_gym.env import VLNEnv
from streamvln_gym.errors import DatasetError, EpisodeNotFoundError
from streamvln_gym.selection import open_dataset
from tests.conftest import SMALL_CAMERA, TinyFlats


def install(tiny_flats: TinyFlats, root: Path, name: str = "r2r", scans: bool = True) -> Path:
    split = "val_unseen"
    stem = split if name == "r2r" else f"{split}_guide"
    (root / "datasets" / name / split).mkdir(parents=True)
    for ending in ("", "_gt"):
        source = tiny_flats.episodes_path.with_name(f"tiny{ending}.json.gz")
        shutil.copy(source, root / "datasets" / name / split / f"{stem}{ending}.json.gz")
    if scans:
        shutil.copytree(tiny_flats.scenes_dir, root / "scene_datasets")
    return root


@pytest.mark.parametrize("name", ["r2r", "rxr"])
def test_takes_the_downloaded_data_without_a_warning(tiny_flats: TinyFlats, tmp_path: Path, name) -> None:
    root = install(tiny_flats, tmp_path, name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = VLNEnv(data_dir=root, auto_dataset=name, camera=SMALL_CAMERA)
    _, info = env.reset()
    assert (info["dataset"], info["split"], info["simulator"]) == (name, "val_unseen", "embedded")
    assert (
        info["source"]
        == {
            "r2r": "datasets/r2r/val_unseen/val_unseen.json.gz",
            "rxr": "datasets/rxr/val_unseen/val_unseen_guide.json.gz",
        }[name]
    )


@pytest.mark.parametrize(("episodes", "words"), [(False, "val_unseen.json.gz is missing"), (True, "2 of the 2 scans")])
def test_otherwise_takes_the_flats_with_one_warning(
    tiny_flats: TinyFlats, tmp_path: Path, episodes: bool, words: str
) -> None:
    if episodes:
        install(tiny_flats, tmp_path, scans=False)
    with pytest.warns(UserWarning) as caught:
        env = VLNEnv(data_dir=tmp_path)
    assert len(caught) == 1 and words in str(caught[0].message)
    assert "NOT R2R-CE numbers" in str(caught[0].message) and "Get " in str(caught[0].message)
    assert env.dataset.name.startswith("flats")


def test_the_registered_ids_warn_once(tmp_path: Path) -> None:
    for env_id, name in (("StreamVLN-R2R-v0", "R2R-CE"), ("StreamVLN-RxR-v0", "RxR-CE")):
        with pytest.warns(UserWarning) as caught:
            gym.make(env_id, data_dir=tmp_path).close()
        assert len(caught) == 1 and f"NOT {name} numbers" in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gym.make("StreamVLN-Flats-v0").close()


def test_a_vector_environment_of_processes_warns_once(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import gymnasium\n"
        "if __name__ == '__main__':\n"
        "    envs = gymnasium.make_vec('streamvln_gym:StreamVLN-R2R-v0', num_envs=2, vectorization_mode='async',\n"
        "                              vector_kwargs={'context': 'spawn'})\n"
        "    envs.close()\n"
    )
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root}
    command = [sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment)
    assert done.stderr.count("NOT R2R-CE numbers") == 1


def test_explicit_data_that_is_missing_is_an_error(tiny_flats: TinyFlats, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="There are no R2R-CE episodes of the split 'val_unseen'"):
        VLNEnv(dataset="r2r", data_dir=tmp_path)
    root = install(tiny_flats, tmp_path, scans=False)
    with pytest.raises(DatasetError, match="2 of the 2 scans of R2R-CE val_unseen are missing"):
        VLNEnv(dataset="r2r", data_dir=root)
    with pytest.raises(DatasetError, match=r"split 'train'.*splits found there: val_unseen"):
        VLNEnv(dataset="r2r", split="train", data_dir=root)


def test_unknown_flats_split_is_an_error() -> None:
    with pytest.raises(EpisodeNotFoundError, match="no split 'moon'"):
        VLNEnv(dataset="flats", split="moon")


def test_a_corrupt_download_is_an_error_not_a_fallback(tiny_flats: TinyFlats, tmp_path: Path) -> None:
    root = install(tiny_flats, tmp_path)
    (root / "datasets/r2r/val_unseen/val_unseen.json.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(DatasetError, match="truncated"):
        VLNEnv(data_dir=root)


def test_a_folder_of_built_flats_is_a_dataset(tiny_flats: TinyFlats, tmp_path: Path) -> None:
    install(tiny_flats, tmp_path, "flats", scans=True)
    (tmp_path / "datasets/flats/val_unseen/val_unseen_guide.json.gz").rename(
        tmp_path / "datasets/flats/val_unseen/val_unseen.json.gz"
    )
    env = VLNEnv(dataset=tmp_path)
    assert env.dataset.name.startswith("flats-v") and len(env.dataset) == 7
    with pytest.raises(DatasetError, match="has no split 'train' of built flats"):
        VLNEnv(dataset=tmp_path, split="train")


def test_so_many_scenes_of_those_that_the_other_filters_leave() -> None:
    """As with files."""
    chosen = open_dataset("flats", "val_unseen", Path("data"), scenes=1, episode_ids=["20003000", "20003001"])
    assert chosen.episode_ids == ("20003000", "20003001")
