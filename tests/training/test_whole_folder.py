"""A folder is replaced as a whole, whatever happens."""

from __future__ import annotations

import subprocess
import sys

import pytest

from streamvln_gym.training.whole_folder import recover, whole_folder

REPLACES = """
import os, signal, sys
from pathlib import Path
from streamvln_gym.training.whole_folder import whole_folder

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
