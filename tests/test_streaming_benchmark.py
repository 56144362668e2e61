"""The benchmark of the fast path, in tiny sizes on a CPU."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

from tests.thin_network import thin_parts

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def benchmark():
    thin_parts(0.1)  # what a network imports is not the benchmark's time
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield importlib.import_module("streaming_latency")
    sys.path.pop(0)


@pytest.fixture(scope="module")
def printed_and_written(benchmark, tmp_path_factory):
    """What `--tiny` prints and its JSON file."""
    file = tmp_path_factory.mktemp("benchmark") / "found.json"
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr("builtins.print", lambda *given, **_: lines.append(" ".join(map(str, given))))
        benchmark.main(["--tiny", "--out", str(file)])
    return "\n".join(lines), json.loads(file.read_text(encoding="utf-8"))


def test_every_part_runs(printed_and_written):
    _, written = printed_and_written
    assert written["errors"] == {}
    assert {
        "batch fast 1",
        "batch eager 1",
        "batch fast 3",
        "profile fast 1",
        "floors",
        "agreement",
        "memory full",
    } <= {*written["results"]}


def test_the_file_has_what_the_table_needs(printed_and_written):
    """Each row's figures, from the file alone, are those of the printed table."""
    printed, written = printed_and_written
    found, rates = written["results"], written["results"]["rates"]
    calls = found["options"]["steps"] / 4
    for name in ("fast 1", "eager 1", "fast 3"):
        batch = found[f"batch {name}"]
        times = [batch["median_ms"][kind] for kind in ("in window", "window start", "episode start")]
        assert all(0 < time < 60_000 for time in times)
        assert batch["steps_per_second"] == pytest.approx(batch["streams"] * 4 * calls / batch["seconds"])
        floor = batch["flops"] / rates["matmul"] + calls * 3 * rates["weight_bytes"] / rates["copy"]
        cells = [f"{number:.1f}" for number in (*times, batch["steps_per_second"])]
        row = f"| {name} | {batch['streams']} | {' | '.join(cells)} | nan | {batch['seconds'] / floor:.2f}× |"
        assert row in printed


def test_both_paths_agree(printed_and_written):
    """In float32 all choices, whatever the pictures; more than one answer is given."""
    agreement = printed_and_written[1]["results"]["agreement"]
    assert agreement["fast"] == {"choices": 72, "agree": 1.0, "chunks": 18}
    assert agreement["answers"] > 1


def test_a_part_that_fails_is_reported(benchmark, tmp_path, monkeypatch, capsys):
    def broken(*_):
        raise RuntimeError("no rates today")

    monkeypatch.setattr(benchmark, "measure_rates", broken)
    with pytest.raises(SystemExit, match="1"):
        benchmark.main(["--tiny", "--out", str(tmp_path / "found.json")])
    assert "no rates today" in json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["errors"]["rates"]
    assert "failed: rates" in capsys.readouterr().out


def test_the_default_type_is_left_alone(printed_and_written):
    assert torch.get_default_dtype() == torch.float32
