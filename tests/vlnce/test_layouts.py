"""Downloaded datasets in the folders in which they are published: what is found, named and chosen."""

from __future__ import annotations

from pathlib import Path

import pytest
from gymnasium.vector import SyncVectorEnv

from streamvln_gym.episodes import scene_name
from streamvln_gym.errors import DatasetError, EpisodeNotFoundError
from streamvln_gym.selection import open_dataset, source_of
from streamvln_gym.vlnce import VLNCEDataset
from streamvln_gym.vlnce.layouts import LAYOUTS, layout_of, split_and_role
from tests.miniatures import R2R, record, rxr_record, write_json, write_r2r, write_rxr, write_scan, write_split


@pytest.mark.parametrize("folder", ["r2r", "R2R_VLNCE_v1", "R2R_VLNCE_v1-2", "R2R_VLNCE_v1-3", R2R, "vln/mp3d/r2r/v1"])
def test_r2r_is_found_wherever_it_was_unpacked(tmp_path: Path, folder: str) -> None:
    write_r2r(tmp_path, folder)
    dataset = open_dataset("r2r", "val_unseen", tmp_path)
    assert (dataset.name, dataset.split, dataset.episode_ids) == ("r2r", "val_unseen", ("31", "32", "33"))
    assert source_of(dataset) == f"datasets/{folder}/val_unseen/val_unseen.json.gz"
    assert dataset.episode("31").gt_actions == (1, 1, 0)
    assert dataset.episode("31").instruction.tokens == (2, 3, 4, 5, 6, 7, 0, 0)
    assert LAYOUTS["r2r"].splits(tmp_path) == ["test", "train", "val_seen", "val_unseen"]
    assert open_dataset("r2r", "test", tmp_path).episode("41").goals == ()


def test_the_first_folder_of_several_is_taken(tmp_path: Path) -> None:
    write_r2r(tmp_path, R2R)
    for folder in ("R2R_VLNCE_v1-2", "r2r"):
        write_split(tmp_path / f"datasets/{folder}/val_unseen/val_unseen.json.gz", [record(7, "ccc")])
        kept = "r2r" if folder == "r2r" else R2R
        assert source_of(open_dataset("r2r", "val_unseen", tmp_path)).split("/")[1] == kept


def test_rxr_by_role_and_language(tmp_path: Path) -> None:
    write_rxr(tmp_path)
    guide = open_dataset("rxr", "val_unseen", tmp_path)
    follower = open_dataset("rxr", "val_unseen", tmp_path, role="follower")
    everybody = open_dataset("rxr", "val_unseen", tmp_path, role="all")
    assert (guide.name, guide.episode_ids) == ("rxr", ("0", "1", "2", "3"))
    assert (follower.name, follower.episode_ids) == ("rxr-follower", ("0", "1"))
    assert everybody.name == "rxr-all" and "0_guide" in everybody.episode_ids and "0_follower" in everybody.episode_ids
    assert everybody.episode("1_follower").gt_actions == (1, 1, 0)
    assert source_of(everybody) == "datasets/RxR_VLNCE_v0/val_unseen"
    assert open_dataset("rxr", "val_unseen", tmp_path, languages=["en"]).episode_ids == ("0", "1")
    hindi = open_dataset("rxr", "val_unseen", tmp_path, languages=["hi-IN"])
    assert [hindi.episode(e).instruction.language for e in hindi.episode_ids] == ["hi-IN"]
    assert "ర" not in hindi.episode("2").instruction.text and hindi.instruction_max_length == len(
        "Stop in the kitchen."
    )
    challenge = open_dataset("rxr", "test_challenge", tmp_path)
    assert challenge.episode("3").goals == () and challenge.episode("3").instruction.extra["instruction_id"] == "1003"


def test_envdrop_and_scalevln(tmp_path: Path) -> None:
    write_scan(tmp_path, "aaa")
    write_split(tmp_path / "datasets/envdrop/envdrop.json.gz", [record(1, "aaa"), record(2, "aaa")])
    write_split(tmp_path / f"datasets/{R2R}/joint_train_envdrop/joint_train_envdrop.json.gz", [record(3, "aaa")])
    assert len(open_dataset("envdrop", "envdrop", tmp_path)) == 2
    assert open_dataset("envdrop", "joint_train_envdrop", tmp_path).episode_ids == ("3",)
    with pytest.raises(DatasetError, match="has no split 'val_unseen': its splits are envdrop, joint_train_envdrop"):
        open_dataset("envdrop", "val_unseen", tmp_path)
    scene = "hm3d/train/00000-abc/abc.basis.glb"
    write_split(tmp_path / "datasets/scalevln/scalevln_subset_150k.json.gz", [record(5, "x", scene_id=scene)])
    with pytest.raises(DatasetError, match=r"1 of the 1 scans of ScaleVLN .* HM3D scans"):
        open_dataset("scalevln", "scalevln_subset_150k", tmp_path)
    plain = tmp_path / "scene_datasets/hm3d/train/00000-abc/abc.glb"
    plain.parent.mkdir(parents=True)
    plain.write_bytes(b"glTF")
    assert open_dataset("scalevln", "scalevln_subset_150k", tmp_path).scene_path(scene) == plain


def test_filters_combine(tmp_path: Path) -> None:
    write_rxr(tmp_path)

    def ids(**chosen) -> tuple[str, ...]:
        return tuple(open_dataset("rxr", "val_unseen", tmp_path, **chosen).episode_ids)

    assert ids(scenes=["ccc"], languages=["en"]) == ("1",)
    assert ids(scenes=1) == ("0", "2") and ids(scenes=1, languages=["te-IN"]) == ("3",)
    assert ids(episode_ids=[2, "0"]) == ("0", "2")
    assert ids(role="all", episode_ids=["0_follower"]) == ("0_follower",)
    with pytest.raises(DatasetError, match=r"no episode .* is left by scenes=\[ccc\], languages=\[hi-IN\]"):
        ids(scenes=["ccc"], languages=["hi-IN"])
    with pytest.raises(EpisodeNotFoundError, match="language 'fr-FR'; it has en-US, en-IN, hi-IN, te-IN"):
        ids(languages=["fr-FR"])
    with pytest.raises(EpisodeNotFoundError, match="no episode '9'"):
        ids(episode_ids=["9"])
    with pytest.raises(ValueError, match="languages must be a collection such as"):
        ids(languages="en")
    with pytest.raises(ValueError, match="role must be one of guide, follower or 'all'"):
        ids(role="leader")
    write_r2r(tmp_path / "r2r")
    with pytest.raises(ValueError, match="does not say its episodes' languages"):
        open_dataset("r2r", "val_unseen", tmp_path / "r2r", languages=["en"])
    with pytest.raises(ValueError, match="R2R-CE has no roles"):
        open_dataset("r2r", "val_unseen", tmp_path / "r2r", role="follower")


def test_the_flats_are_filtered_too() -> None:
    whole = open_dataset("flats", "val_unseen", Path("data"))
    some = open_dataset("flats", "val_unseen", Path("data"), episode_ids=whole.episode_ids[5:7])
    assert list(some.episode_ids) == list(whole.episode_ids[5:7]) and len(some) == 2
    assert some.scene_of(some.episode_ids[0]) == whole.scene_of(whole.episode_ids[5])
    with pytest.raises(EpisodeNotFoundError, match="it has 2, such as"):
        some.episode(whole.episode_ids[0])


def test_lists_of_instructions_and_ids_that_languages_share(tmp_path: Path) -> None:
    two = [{"instruction_text": "Go."}, "Stop."]
    same = [rxr_record(7, "ccc", language) for language in ("en-US", "hi-IN")]
    path = write_split(tmp_path / "x.json.gz", [record(5, "ccc", instruction=two), *same])
    dataset = VLNCEDataset.load(path)
    assert dataset.episode_ids == ("5_0", "5_1", "7_en-US", "7_hi-IN")
    assert [dataset.episode(e).instruction.text for e in ("5_0", "5_1")] == ["Go.", "Stop."]
    assert dataset.episode("5_1").trajectory_id == "5" and dataset.episode("5_1").gt_actions == (1, 1, 0)
    assert VLNCEDataset.load(path, episode_ids=["7_hi-IN", "5_0"]).episode_ids == ("5_0", "7_hi-IN")
    assert dataset.episode("7_hi-IN").instruction.text == "रसोई में रुकें।"


def test_scene_ids_lose_the_prefix_that_vlnce_removes(tmp_path: Path) -> None:
    scene = "data/scene_datasets/mp3d/ccc/ccc.glb"
    path = write_split(tmp_path / "x.json", [record(5, "ccc", scene_id=scene)])
    assert VLNCEDataset.load(path).scene_ids == ["mp3d/ccc/ccc.glb"]
    assert VLNCEDataset.load(path).episode("5").scene_id == "mp3d/ccc/ccc.glb"


def test_a_file_says_its_dataset_split_and_role() -> None:
    assert split_and_role(Path("val_seen_follower.json.gz")) == ("val_seen", "follower")
    assert split_and_role(Path("joint_train_envdrop.json")) == ("joint_train_envdrop", "")
    for path, name in (
        (f"data/datasets/{R2R}/val_seen/val_seen.json.gz", "r2r"),
        (f"data/datasets/{R2R}/envdrop/envdrop.json.gz", "envdrop"),
        ("data/datasets/vln/mp3d/r2r/v1/train/train.json.gz", "r2r"),
        ("elsewhere/val_unseen_guide.json.gz", "rxr"),
        ("data/datasets/scalevln/scalevln_subset_150k.json.gz", "scalevln"),
        ("r2r/data/datasets/rxr/val_unseen/val_unseen_guide.json.gz", "rxr"),
        ("envdrop/scalevln/data/datasets/r2r/val_unseen/val_unseen.json.gz", "r2r"),
        ("data/datasets/r2r/../rxr/val_unseen/val_unseen_guide.json.gz", "rxr"),
        (f"rxr/datasets/vln/data/datasets/r2r/{R2R}/train/train.json.gz", "r2r"),
        ("r2r/mine/rxr/val_unseen/val_unseen_guide.json.gz", "rxr"),
        ("rxr/R2R_VLNCE_v1-3/val_unseen/val_unseen.json.gz", "r2r"),
    ):
        layout = layout_of(Path(path))
        assert layout is not None and layout.name == name
    assert layout_of(Path("mine/my_episodes.json")) is None
    assert layout_of(Path("r2r/data/datasets/mine/my_episodes.json")) is None


def test_nothing_there_says_where_it_was_looked_for(tmp_path: Path) -> None:
    write_json(tmp_path / "datasets/r2r/train/other.json", {})
    with pytest.raises(DatasetError, match=r"looked in .* for r2r, R2R_VLNCE_v1-3_preprocessed, .*zip"):
        open_dataset("r2r", "val_unseen", tmp_path)


def test_parts_of_one_file_go_into_one_vector_environment(tiny_flats):
    """Whatever the longest instruction of each part is."""
    scenes = tiny_flats.dataset.scene_ids
    envs = SyncVectorEnv([lambda scene=scene: tiny_flats.make(scenes=[scene]) for scene in scenes])
    observations, _ = envs.reset()
    assert len(observations["instruction"]) == len(scenes)
    envs.close()


def test_hm3ds_scenes_have_short_names():
    assert scene_name("hm3d/val/00800-TEEsavR23oF/TEEsavR23oF.basis.glb") == "TEEsavR23oF"
