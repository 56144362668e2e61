"""docs/architecture.md names every module, and nothing that is not there."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "tools"), *sys.path])
    import write_architecture

    return write_architecture


def test_every_module_is_named_with_its_purpose(tool):
    written = PAGE.split(tool.BEGIN)[1].split(tool.END)[0].strip()
    assert written == tool.listing(), "docs/architecture.md is out of date: run python tools/write_architecture.py"
    names = {path.name for folder in tool.source_folders() for path in folder.glob("*.py")} - {"__init__.py"}
    assert {"env.py", "slow_memory.py", "watershed.py"} <= names <= set(re.findall(r"^\| `(\w+\.py)`", written, re.M))


def test_a_file_without_a_docstring_is_refused(tool, tmp_path):
    (tmp_path / "a.py").write_text("x = 1\n")
    with pytest.raises(ValueError, match="no docstring"):
        tool.summary(tmp_path / "a.py")


def test_every_named_file_exists(tool):
    before = PAGE.split(tool.BEGIN)[0]
    for name in re.findall(r"`((?:\w+/)*\w+\.py)`", before):
        assert any(ROOT.glob(name)) or any((ROOT / "streamvln_gym").rglob(name)), f"{name} does not exist"
