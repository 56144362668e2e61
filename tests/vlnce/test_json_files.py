"""The reader of large JSON files: the same values as `json`, whatever the pieces' borders, and little memory."""

from __future__ import annotations

import gzip
import json
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

import streamvln_gym.vlnce.json_files as json_files
from streamvln_gym.errors import DatasetError
from streamvln_gym.vlnce import VLNCEDataset
from streamvln_gym.vlnce.json_files import BlobStore, pack_json, read_pieces, unpack_json
from tests.miniatures import rxr_record, truth, write_json

DOCUMENT: dict[str, Any] = {
    "before": 12.5,
    "episodes": [{"a": [1, -2.5e-3], "text": 'quo"te \\ [{ ]} रसोई ఎడమ 🙂'}, 7, None, "x" * 50, [], {}],
    "after": {"list": [True, [1, [2]]]},
}


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
def test_pieces_are_the_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, indent: Any) -> None:
    monkeypatch.setattr(json_files, "_CHUNK", chunk)
    path = tmp_path / "x.json"
    path.write_text(json.dumps(DOCUMENT, indent=indent, ensure_ascii=bool(indent)), encoding="utf-8")
    pieces = list(read_pieces(path, "episodes"))
    assert [p.value for p in pieces if p.item is not None] == DOCUMENT["episodes"]
    assert {p.key: p.value for p in pieces if p.item is None} == {k: DOCUMENT[k] for k in ("before", "after")}
    assert all(json.loads(p.text) == p.value for p in pieces)
    assert {p.key: p.value for p in read_pieces(path)} == DOCUMENT


@pytest.mark.parametrize(
    "text",
    ["", "{", '{"a"', '{"a":', '{"a": 1', '{"a": 1,', '{"a": [1,}', '{"a": 1} x', "{1: 2}", '{"a": "b', "[" * 100_000],
)
def test_broken_text_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DatasetError, match=r"x\.json.*Download"):
        list(read_pieces(tmp_path / "x.json", "a"))


def test_pieces_before_the_break_are_given(tmp_path: Path) -> None:
    raw = gzip.compress(json.dumps({"episodes": [{"n": n, "x": str(n) * 400} for n in range(5000)]}).encode(), 1)
    (tmp_path / "x.json.gz").write_bytes(raw[: len(raw) // 2])
    seen = []
    with pytest.raises(DatasetError, match="truncated"):
        seen.extend(piece.item for piece in read_pieces(tmp_path / "x.json.gz", "episodes"))


def test_the_store_gives_back_what_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in (1 << 24, 10):  # in memory, in a mapped file
        monkeypatch.setattr(json_files, "_IN_MEMORY", limit)
        store = BlobStore()
        assert [store.append(pack_json(json.dumps(value))) for value in DOCUMENT["episodes"]] == list(range(6))
        store.seal()
        assert [unpack_json(store[k]) for k in (5, 0, 3)] == [DOCUMENT["episodes"][k] for k in (5, 0, 3)]
        copy = pickle.loads(pickle.dumps(store))
        assert len(copy) == 6 and unpack_json(copy[0]) == DOCUMENT["episodes"][0]


def test_a_large_file_is_not_held_in_memory(tmp_path: Path) -> None:
    """400 RxR-like episodes of ~20 KB: 8 MB of JSON, ~50 MB as Python objects."""
    words = [{"word": f"w{k}", "start_time": k * 0.37, "end_time": k * 0.4} for k in range(300)]
    made = [rxr_record(k, f"scan{k % 20}", "en-US") for k in range(400)]
    for one in made:
        one["instruction"]["timed_instruction"] = words
    path = write_json(tmp_path / "train_guide.json.gz", {"episodes": made})
    write_json(tmp_path / "train_guide_gt.json.gz", {str(k): truth() for k in range(400)})
    tracemalloc.start()
    dataset = VLNCEDataset.load(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(dataset) == 400 and dataset.episode("399").instruction.extra["timed_instruction"] == words
    assert peak < 15e6
    assert pickle.loads(pickle.dumps(dataset)).episode("7") == dataset.episode("7")
