"""Results as JSON lines survive a run that is killed while it writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamvln_gym.records import append_record, read_records

HINDI = "दरवाज़े से बाहर निकलें"


def test_a_run_killed_at_any_byte_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    append_record(path, {"episode_id": "1", "instruction": HINDI})
    first = path.read_bytes()
    append_record(path, {"episode_id": "2", "instruction": HINDI})
    both = path.read_bytes()
    for end in range(len(both)):
        path.write_bytes(both[:end])
        whole = first if end >= len(first) else b""
        assert list(read_records(path, {})) == ["1"] * bool(whole)
        assert path.read_bytes() == whole
    append_record(path, {"episode_id": "2", "instruction": HINDI})
    assert path.read_bytes() == both and read_records(path, {})["2"]["instruction"] == HINDI


def test_reading_writes_no_whole_line_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill while a file is repaired must not lose what it holds."""
    path = tmp_path / "r.jsonl"
    path.write_bytes(b'{"episode_id": "1"}\n{"episode_id": "2')
    monkeypatch.setattr(Path, "write_text", None)
    monkeypatch.setattr(Path, "write_bytes", None)
    inode = path.stat().st_ino
    assert list(read_records(path, {})) == ["1"]
    assert path.stat().st_ino == inode and path.read_bytes() == b'{"episode_id": "1"}\n'


@pytest.mark.parametrize("line", [b"nonsense", b'{"episode_id": "\xe0"}', b"[1]", b"", b"{}"])
def test_a_whole_line_that_is_no_record_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "r.jsonl"
    raw = b'{"episode_id": "1"}\n' + line + b"\n"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=r"line 2 of .*r\.jsonl is not a record"):
        read_records(path, {})
    assert path.read_bytes() == raw
