import errno
import math
import os

import pytest

from streamvln_gym.errors import EvaluationError
from streamvln_gym.evaluation.shards import ShardWriter, decode, encode, read_shard


def line(number: int) -> bytes:
    return encode({"key": ["scene", str(number), 0], "navigation_error": math.inf})


def test_lines_are_read_back(tmp_path):
    writer = ShardWriter(tmp_path, "w")
    for number in range(3):
        writer.append(line(number), line(number))
    writer.close()
    lines = read_shard(tmp_path / "episodes-w-0.jsonl")
    assert [entry.raw for entry in lines] == [line(number) for number in range(3)]
    assert lines[0].value == {"key": ["scene", "0", 0], "navigation_error": math.inf}
    assert b"Infinity" not in lines[0].raw


def test_no_writer_adds_to_a_file_of_another_one(tmp_path):
    first, second = ShardWriter(tmp_path, "w"), ShardWriter(tmp_path, "w")
    assert (first.name, second.name) == ("w-0", "w-1")
    first.append(line(1), line(1))
    assert read_shard(tmp_path / "episodes-w-1.jsonl") == []


def test_a_half_line_at_the_end_is_cut(tmp_path):
    path = tmp_path / "episodes-w-0.jsonl"
    path.write_bytes(line(1) + line(2)[:-5])
    assert [entry.raw for entry in read_shard(path, cut=False)] == [line(1)]
    assert path.read_bytes() == line(1) + line(2)[:-5]  # its writer may be at it
    assert [entry.raw for entry in read_shard(path)] == [line(1)]
    assert path.read_bytes() == line(1)


@pytest.mark.parametrize("damage", [b"nonsense\n", b"[1, 2]\n", b"{}\n", b"\xff\xfe\n", b"\n"])
def test_a_damaged_line_is_named_with_its_remedy(tmp_path, damage):
    path = tmp_path / "episodes-w-0.jsonl"
    path.write_bytes(line(1) + damage + line(2))
    with pytest.raises(EvaluationError, match=rf"line 2 of {path} is not a result.*sed -i 2d {path}"):
        read_shard(path)
    assert path.read_bytes() == line(1) + damage + line(2)


def test_a_full_disk_leaves_whole_lines(tmp_path, monkeypatch):
    writer = ShardWriter(tmp_path, "w")
    writer.append(line(1), line(1))
    write = os.write
    room = [len(line(2)) + 7]  # the timing fits, the record does not

    def until_full(handle, content):
        taken = min(len(content), room[0])
        if not taken:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        room[0] -= taken
        return write(handle, content[:taken])

    monkeypatch.setattr(os, "write", until_full)
    with pytest.raises(EvaluationError, match=r"the disk is full.*finished episodes are kept.*make room and run"):
        writer.append(line(2), line(2))
    monkeypatch.undo()
    assert (tmp_path / "episodes-w-0.jsonl").read_bytes() == line(1)
    writer.append(line(2), line(2))
    assert [entry.raw for entry in read_shard(tmp_path / "episodes-w-0.jsonl")] == [line(1), line(2)]


def test_other_write_errors_are_told_as_they_are(tmp_path, monkeypatch):
    writer = ShardWriter(tmp_path, "w")

    def refuse(handle, content):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "write", refuse)
    with pytest.raises(EvaluationError, match=rf"cannot write into {tmp_path}.*Input/output error"):
        writer.append(line(1), line(1))


def test_what_is_encoded_is_decoded():
    value = {"key": [1], "text": "दरवाज़े", "error": math.inf, "none": None}
    assert decode(encode(value)) == value
    with pytest.raises(ValueError, match=r"not JSON compliant"):
        encode({"error": math.nan})
