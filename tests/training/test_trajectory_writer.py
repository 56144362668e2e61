"""Episodes appear whole or not at all, in the format that the reader reads."""

import errno
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from streamvln_gym.errors import DatasetError
from streamvln_gym.training import TrajectoryWriter, load_trajectories, merge_annotations
from streamvln_gym.training.geometry import MILLIMETRES
from streamvln_gym.training.privileged import POSE_TARGETS, Privileged
from streamvln_gym.training.trajectory_writer import is_recorded, mark_skipped, remove_unfinished
from tests.training.conftest import INSTRUCTIONS, INTRINSICS, depth, picture, pose


def targets(step):
    rooms = np.full(2, step, np.uint8)
    return Privileged(np.full(64, step, np.uint8), np.full(64, 9, np.uint8), np.zeros(POSE_TARGETS, np.float32), rooms)


def write(folder, name, actions, executed=None, everything=False, quality=90):
    with TrajectoryWriter(folder, name, quality) as writer:
        for step in range(len(actions)):
            if everything:
                metres = (depth(step) / MILLIMETRES).astype(np.float32)[..., None]
                writer.add(picture(step), metres, np.array(pose(step)), targets(step))
            else:
                writer.add(picture(step))
        writer.publish(7, INSTRUCTIONS, actions, executed, np.array(INTRINSICS) if everything else None)


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_what_is_written_is_read(tmp_path):
    write(tmp_path, "a", [1, 2, 3, 1, 0])
    assert len(merge_annotations(tmp_path)) == 1
    (trajectory,) = load_trajectories(tmp_path)
    assert (trajectory.id, trajectory.instructions, trajectory.actions) == (7, INSTRUCTIONS, (1, 2, 3, 1, 0))
    assert trajectory.executed is None
    trajectory.verify()
    for step in range(5):
        assert np.abs(trajectory.picture(step).astype(int) - picture(step)).mean() < 4


@pytest.mark.parametrize(
    ("labels", "executed", "written"),
    [
        ([2, 0, 1, 0], [1, 1, 1, 0], [-1, 2, 0, 1]),
        ([2, 0, 1, 3], [1, 1, 1, 0], [-1, 2, 0, 1, 3]),
        ([2, 0, 1, 0], [1, 1, 1, 2], [-1, 2, 0, 1]),
    ],
)
def test_another_driver(tmp_path, labels, executed, written):
    write(tmp_path, "a", labels, executed)
    (entry,) = merge_annotations(tmp_path)
    assert entry["actions"] == written, "as published readers expect it, where it can be"
    (trajectory,) = load_trajectories(tmp_path)
    assert (trajectory.actions, trajectory.executed) == (tuple(labels), tuple(executed))


def test_depth_cameras_and_targets(tmp_path):
    write(tmp_path, "a", [1, 1, 1, 0], everything=True)
    video = tmp_path / "images" / "a"
    for step in range(4):
        with Image.open(video / "depth" / f"{step:03d}.png") as image:
            np.testing.assert_array_equal(np.array(image), depth(step))
    cameras = json.loads((video / "camera.json").read_text())
    assert cameras == {"intrinsics": INTRINSICS, "poses": [pose(step) for step in range(4)]}
    privileged = Privileged.load(video / "privileged.npz")
    np.testing.assert_array_equal(privileged.patch_class, np.arange(4)[:, None].repeat(64, 1))
    np.testing.assert_array_equal(privileged.rooms, np.arange(4)[:, None].repeat(2, 1))


def test_an_episode_that_is_not_published_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="in between"), TrajectoryWriter(tmp_path, "a") as writer:
        writer.add(picture(0))
        assert files(tmp_path), "staged"
        assert not is_recorded(tmp_path, "a")
        raise RuntimeError("in between")
    assert files(tmp_path) == set()


def test_an_episode_replaces_one_of_its_name(tmp_path):
    write(tmp_path, "a", [1, 1, 1, 1, 1, 0])
    write(tmp_path, "a", [2, 2, 2, 0])
    merge_annotations(tmp_path)
    (trajectory,) = load_trajectories(tmp_path)
    assert trajectory.actions == (2, 2, 2, 0)
    remove_unfinished(tmp_path)
    assert not any(name.startswith(".") for name in files(tmp_path))


def test_annotations_come_in_the_order_of_names(tmp_path):
    for name in ("b_000010", "b_000009", "a_000030"):
        write(tmp_path, name, [1, 1, 1, 0])
    mark_skipped(tmp_path, "a_000001", "the goal cannot be reached")
    entries = merge_annotations(tmp_path)
    assert [entry["video"] for entry in entries] == ["images/a_000030", "images/b_000009", "images/b_000010"]
    assert json.loads((tmp_path / "annotations.json").read_text()) == entries


def test_what_counts_as_recorded(tmp_path):
    assert not is_recorded(tmp_path, "a")
    write(tmp_path, "a", [1, 1, 1, 0])
    assert is_recorded(tmp_path, "a")
    write(tmp_path, "driven", [1, 1, 1, 3], [1, 1, 1, 0])
    assert is_recorded(tmp_path, "driven")
    (tmp_path / "images" / "a" / "rgb" / "003.jpg").unlink()
    assert not is_recorded(tmp_path, "a")
    mark_skipped(tmp_path, "b", "why")
    assert is_recorded(tmp_path, "b")


def test_another_episode_of_the_same_id_is_not_taken_for_done(tmp_path):
    with TrajectoryWriter(tmp_path, "a") as writer:
        for step in range(4):
            writer.add(picture(step))
        writer.publish(1, ["Go."], [1, 1, 1, 0], origin="one")
    mark_skipped(tmp_path, "b", "why", origin="one")
    for name in ("a", "b"):
        assert is_recorded(tmp_path, name, "one")
        assert is_recorded(tmp_path, name)
        with pytest.raises(DatasetError, match="recorded from other data"):
            is_recorded(tmp_path, name, "other")
    (entry,) = merge_annotations(tmp_path)
    assert "origin" not in entry


def test_depth_comes_with_poses_and_of_every_picture(tmp_path):
    with TrajectoryWriter(tmp_path, "a") as writer:
        for step in range(4):
            writer.add(picture(step), depth=np.ones((*picture(step).shape[:2], 1), np.float32))
        with pytest.raises(ValueError, match="depth without poses"):
            writer.publish(1, ["Go."], [1, 1, 1, 0])
    with TrajectoryWriter(tmp_path, "b") as writer:
        writer.add(picture(0), depth=np.ones((*picture(0).shape[:2], 1), np.float32), pose=np.eye(4))
        writer.add(picture(1), pose=np.eye(4))
        with pytest.raises(ValueError, match="depth pictures"):
            writer.publish(1, ["Go."], [1, 0], intrinsics=np.eye(3))


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"id": 1}'])
def test_a_damaged_annotation_is_named(tmp_path, text):
    write(tmp_path, "a", [1, 1, 1, 0])
    (tmp_path / "episodes" / "a.json").write_text(text)
    for check in (lambda: is_recorded(tmp_path, "a"), lambda: merge_annotations(tmp_path)):
        with pytest.raises(DatasetError, match=r"episodes/a\.json .* remove it to record this episode again"):
            check()


def test_counts_must_agree(tmp_path):
    with TrajectoryWriter(tmp_path, "a") as writer:
        writer.add(picture(0))
        writer.add(picture(1), pose=np.eye(4))
        with pytest.raises(ValueError, match=r"has 2 pictures, but .*'actions': 3, 'executed actions': 3, 'poses': 1"):
            writer.publish(1, INSTRUCTIONS, [1, 1, 0])
        with pytest.raises(ValueError, match=r"'executed actions': 1"):
            writer.publish(1, INSTRUCTIONS, [1, 0], [0])
    with TrajectoryWriter(tmp_path, "a") as writer:
        writer.add(picture(0))
        with pytest.raises(ValueError, match="does not end with STOP: pass `executed`"):
            writer.publish(1, INSTRUCTIONS, [1])


def test_poses_need_intrinsics(tmp_path):
    with TrajectoryWriter(tmp_path, "a") as writer:
        writer.add(picture(0), pose=np.eye(4))
        with pytest.raises(ValueError, match="intrinsics are needed too"):
            writer.publish(1, INSTRUCTIONS, [0])


def test_a_full_disk_is_said_and_loses_only_the_episode_in_flight(tmp_path, monkeypatch):
    write(tmp_path, "a", [1, 1, 1, 0])

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with TrajectoryWriter(tmp_path, "b") as writer:
        writer.add(picture(0))
        with monkeypatch.context() as patched:
            patched.setattr(Path, "write_bytes", full)
            with pytest.raises(DatasetError, match=r"001\.jpg: No space left on device\. Make room there.*are kept"):
                writer.add(picture(1))
    assert is_recorded(tmp_path, "a")
    assert not is_recorded(tmp_path, "b")
    assert len(merge_annotations(tmp_path)) == 1


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DatasetError, match=r"cannot write .*file"):
        TrajectoryWriter(tmp_path / "file", "a")
