"""The reader of trajectory folders and its complaints."""

import json

import numpy as np
import pytest
from PIL import Image

from streamvln_gym.errors import DatasetError
from streamvln_gym.training import load_trajectories


def test_reads_actions_shifted_by_one_and_pictures(folder):
    (trajectory,) = load_trajectories(folder)
    assert trajectory.id == "a"
    assert trajectory.actions == (1, 2, 3, 1, 1, 1, 2, 2, 1, 0), "what to do at each picture, STOP at the last"
    assert len(trajectory) == 10
    assert len(trajectory.instructions) == 2
    with Image.open(folder / "images/a/rgb/003.jpg") as image:
        np.testing.assert_array_equal(trajectory.picture(3), np.asarray(image))
    trajectory.verify()


def test_reads_png_and_grey_pictures(writer):
    video = writer.pictures("a", 4, ".png")
    Image.fromarray(np.full((4, 4), 9, np.uint8)).save(video / "rgb" / "001.png")
    (trajectory,) = load_trajectories(writer.annotate(writer.entry("a", [1, 1, 1])))
    assert trajectory.picture(0).shape == (48, 64, 3)
    assert trajectory.picture(1).tolist() == np.full((4, 4, 3), 9).tolist()


def test_a_trajectory_too_short_to_train_on_needs_no_pictures(writer):
    (trajectory,) = load_trajectories(writer.annotate(writer.entry("a", [1, 1])))
    assert len(trajectory) == 3


def test_missing_folder(tmp_path):
    with pytest.raises(DatasetError, match=r"annotations.json cannot be read .*is this a trajectory folder"):
        load_trajectories(tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["[{", '{"a": 1}', "\udcff"])
def test_malformed_file(tmp_path, text):
    (tmp_path / "annotations.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DatasetError, match=r"annotations.json (is not valid JSON|must hold a list)"):
        load_trajectories(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": None}, "entry 1: 'id' must be a number or a string, not null"),
        ({"id": True}, "entry 1: 'id' must be a number or a string"),
        ({"video": ""}, r"entry 1 \(id 'b'\): 'video' must be"),
        ({"video": 3}, r"\(id 'b'\): 'video' must be"),
        ({"instructions": "Go."}, "'instructions' must be a list of at least one string, got 'Go.'"),
        ({"instructions": []}, "'instructions' must be a list of at least one string"),
        ({"instructions": ["Go.", " "]}, r"instructions\[1\] must be a sentence, got ' '"),
        ({"instructions": [["Go."]]}, r"instructions\[0\] must be a sentence"),
        ({"actions": []}, "'actions' must be a list that starts with -1"),
        ({"actions": [1, 2, 3, 1]}, r"actions\[0\] must be the start marker -1, got 1"),
        ({"actions": [-1, 1, 4, 1]}, r"actions\[2\] must be 1 \(forward\), 2 \(left\) or 3 \(right\), got 4"),
        ({"actions": [-1, 1, -1, 1]}, r"actions\[2\] must be .* got -1"),
        ({"actions": [-1, 1, 1, 0]}, r"actions\[3\] must be .* got 0 \(the final STOP is not written\)"),
        ({"actions": [-1, 1.0, 1, 1]}, r"actions\[1\] must be .* got 1.0"),
        ({"actions": [-1, True, 1, 1]}, r"actions\[1\] must be .* got True"),
    ],
)
def test_malformed_entry_is_named(writer, changes, message):
    writer.pictures("a", 4)
    folder = writer.annotate(writer.entry("a", [1, 1, 1]), {**writer.entry("b", [1, 1, 1]), **changes})
    with pytest.raises(DatasetError, match=message) as caught:
        load_trajectories(folder)
    assert str(folder / "annotations.json") in str(caught.value)


def test_entry_that_is_no_object_or_lacks_keys(writer):
    with pytest.raises(DatasetError, match="entry 0: must be an object, not a list"):
        load_trajectories(writer.annotate([1]))
    with pytest.raises(DatasetError, match="entry 0: lacks 'video', 'actions'"):
        load_trajectories(writer.annotate({"id": 1, "instructions": ["Go."]}))


def test_missing_pictures(folder):
    (folder / "images/a/rgb/004.jpg").unlink()
    with pytest.raises(DatasetError, match=r"\(id 'a'\): 10 actions need .*009.jpg in .* but 1 is missing: 004.jpg"):
        load_trajectories(folder)
    (trajectory,) = load_trajectories(folder, check_pictures=False)
    with pytest.raises(DatasetError, match=r"004.jpg \(picture of step 4, .*entry 0 \(id 'a'\)\) cannot be read"):
        trajectory.picture(4)


def test_missing_pictures_folder(writer):
    with pytest.raises(DatasetError, match=r"entry 0 \(id 'a'\): the pictures' folder .*rgb cannot be listed"):
        load_trajectories(writer.annotate(writer.entry("a", [1, 1, 1])))


def test_more_pictures_than_actions(writer):
    writer.pictures("a", 6)
    with pytest.raises(DatasetError, match=r"holds pictures beyond its 4 actions: 004.jpg, 005.jpg"):
        load_trajectories(writer.annotate(writer.entry("a", [1, 1, 1])))


@pytest.mark.parametrize("keep", [0, 20, 0.5, 0.99])
def test_truncated_picture(folder, keep):
    path = folder / "images/a/rgb/002.jpg"
    content = path.read_bytes()
    path.write_bytes(content[: keep if keep > 1 else int(keep * len(content))])
    (trajectory,) = load_trajectories(folder)
    with pytest.raises(DatasetError, match=r"002.jpg \(picture of step 2, .*annotations.json, entry 0 \(id 'a'\)\)"):
        trajectory.verify()


def test_published_annotations_are_read_unchanged(folder):
    """Published files hold further keys, which are of no interest here."""
    path = folder / "annotations.json"
    entries = json.loads(path.read_text())
    entries[0]["dataset"] = "R2R"
    path.write_text(json.dumps(entries))
    assert len(load_trajectories(folder)) == 1


@pytest.mark.parametrize(
    ("labels", "executed", "actions"),
    [
        ([2, 2, 0, 1], [1, 1, 1, 1, 0], (2, 2, 0, 1, 0)),  # the expert would have stopped; the driver went on
        ([2, 2, 1, 1, 3], [1, 1, 1, 1, 0], (2, 2, 1, 1, 3)),  # the driver stopped, the expert would not
        ([2, 2, 1, 1, 3], [1, 1, 1, 1, 2], (2, 2, 1, 1, 3)),  # cut off
        ([2, 2, 1, 1], [1, 1, 1, 1, 2], (2, 2, 1, 1, 0)),
    ],
)
def test_what_was_executed_and_what_the_expert_says(writer, labels, executed, actions):
    writer.pictures("a", 5)
    (trajectory,) = load_trajectories(writer.annotate(writer.driven("a", labels, executed)))
    assert trajectory.actions == actions
    assert trajectory.executed == tuple(executed)
    assert len(trajectory) == 5


def test_without_the_key_actions_were_executed(folder):
    assert load_trajectories(folder)[0].executed is None


@pytest.mark.parametrize(
    ("labels", "executed", "message"),
    [
        ([1, 1, 4], [1, 1, 1, 0], r"actions\[3\] must be 0 \(stop\), 1 .* got 4"),
        ([1, 1, 1], [1, 1, 0, 1], r"executed\[3\] must be 1 .* got 0 \(STOP can only be the last\)"),
        ([1, 1, 1], [1, 1, True, 0], r"executed\[3\] must be .* got True"),
        ([1, 1], [1, 1, 1, 0], r"'executed' has 4 actions after -1, so 'actions' must have 4, or 3 and .* it has 2"),
        ([1] * 5, [1, 1, 1, 0], "it has 5"),
        ([1], [], "'executed' must hold an action for each picture"),
    ],
)
def test_malformed_executed_actions(writer, labels, executed, message):
    writer.pictures("a", 4)
    folder = writer.annotate(writer.driven("a", labels, executed))
    with pytest.raises(DatasetError, match=message):
        load_trajectories(folder)


def test_executed_needs_its_start_marker(writer):
    writer.pictures("a", 4)
    folder = writer.annotate({**writer.entry("a", [1, 1, 1]), "executed": [1, 1, 1, 0]})
    with pytest.raises(DatasetError, match=r"executed\[0\] must be the start marker -1, got 1"):
        load_trajectories(folder)
