"""A file or a folder is replaced as a whole, whatever happens."""

from __future__ import annotations

import subprocess
import sys

import pytest

from streamvln_gym.whole_writes import recover, whole_file, whole_folder, write_whole

REPLACES = """
import os, signal, sys
from pathlib import Path
from streamvln_gym.whole_writes import whole_folder

def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)

moment, target = sys.argv[1], Path(sys.argv[2])
rename, done = os.rename, []

def counted(*names):
    if moment == f"before rename {len(done) + 1}":
        kill()
    rename(*names)
    done.append(names)
    if moment == f"after rename {len(done)}":
        kill()

os.rename = counted
with whole_folder(target) as folder:
    folder.mkdir()
    (folder / "weights").write_text("new")
    if moment == "writing":
        kill()
    (folder / "config").write_text("new")
"""


def read(folder):
    return {file.name: file.read_text() for file in folder.iterdir()}


@pytest.fixture
def target(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights").write_text("old")
    (folder / "gone").write_text("old")
    return folder


def write(target):
    with whole_folder(target) as folder:
        folder.mkdir()
        (folder / "weights").write_text("new")


def test_it_is_replaced_and_nothing_is_left_beside_it(target):
    write(target)
    assert read(target) == {"weights": "new"}
    assert [path.name for path in target.parent.iterdir()] == ["model"]


def test_it_may_be_the_first(tmp_path):
    write(tmp_path / "model")
    assert read(tmp_path / "model") == {"weights": "new"}


@pytest.mark.parametrize(
    ("moment", "left"),
    [
        ("writing", "old"),
        ("before rename 1", "old"),
        ("after rename 1", "old"),
        ("before rename 2", "old"),
        ("after rename 2", "new"),
    ],
)
def test_a_kill_leaves_one_of_both(target, moment, left):
    killed = subprocess.run([sys.executable, "-c", REPLACES, moment, str(target)], check=False)
    assert killed.returncode == -9
    recover(target)
    expected = {"weights": "old", "gone": "old"} if left == "old" else {"weights": "new", "config": "new"}
    assert read(target) == expected
    assert [path.name for path in target.parent.iterdir()] == ["model"]
    write(target)
    assert read(target) == {"weights": "new"}


def test_an_error_leaves_the_old_one(target):
    with pytest.raises(OSError, match="No space left"), whole_folder(target) as folder:
        folder.mkdir()
        (folder / "weights").write_text("half")
        raise OSError(28, "No space left on device")
    assert read(target) == {"weights": "old", "gone": "old"}
    assert [path.name for path in target.parent.iterdir()] == ["model"]


def test_an_error_of_the_second_rename_leaves_the_old_one(target):
    with pytest.raises(FileNotFoundError), whole_folder(target):
        pass  # nothing was made that could take its place
    assert read(target) == {"weights": "old", "gone": "old"}


@pytest.mark.parametrize("shared", [False, True])
def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path, shared):
    for content, read in (("alt\u00e4r\n", "alt\u00e4r\n".encode()), (b"new", b"new")):
        write_whole(tmp_path / "row.json", content, shared)
        assert (tmp_path / "row.json").read_bytes() == read
    assert [path.name for path in tmp_path.iterdir()] == ["row.json"]


@pytest.mark.parametrize("shared", [False, True])
def test_an_error_leaves_the_old_file(tmp_path, shared):
    file = tmp_path / "row.json"
    file.write_text("old")
    with pytest.raises(OSError, match="No space left"), whole_file(file, shared) as partial:
        partial.write_text("ha")
        raise OSError(28, "No space left on device")
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["row.json"]


def test_a_killed_write_leaves_the_old_file_and_the_next_one_takes_its_leftover(tmp_path):
    file = tmp_path / "row.json"
    file.write_text("old")
    script = (
        "import os, signal, sys; from pathlib import Path; from streamvln_gym.whole_writes import whole_file\n"
        "with whole_file(Path(sys.argv[1])) as partial:\n"
        "    partial.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(file)], check=False).returncode == -9
    assert file.read_text() == "old"
    write_whole(file, "new")
    assert file.read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["row.json"]


def test_two_writers_of_a_shared_file_do_not_meet(tmp_path):
    file = tmp_path / "scene.mesh"
    with whole_file(file, shared=True) as one, whole_file(file, shared=True) as other:
        one.write_text("one")
        other.write_text("other")
        assert one != other
    assert file.read_text() == "one"  # which was put there last
