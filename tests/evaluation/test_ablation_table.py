"""The benchmark's table says what the runs say."""

import json
import sys
from pathlib import Path

import pytest

from tests.evaluation.test_comparison import record, write_run

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import ablation_table

METRICS = {"navigation_error": 2.0, "oracle_success": 1.0, "ndtw": 0.5, "sdtw": 0.25}


@pytest.fixture
def runs(tmp_path):
    folders = {}
    for name, won in (("slow-fast", [1, 1, 1, 0]), ("no memory", [0, 1, 0, 0])):
        kinds = ["return", "", "return", ""]
        records = [record(k, float(s), needs_memory=kinds[k], **METRICS) for k, s in enumerate(won)]
        folder = folders[name] = write_run(tmp_path / name, records)
        calls = [[0, 30.0, 90, 85, True], [4, 20.0, 110, 27, False], [8, 22.0, 1300, 27, False]]
        (folder / "timings.jsonl").write_text(json.dumps({"calls": calls}) + "\n")
    return folders


def test_a_row_holds_a_run(runs):
    header, _, slow_fast, no_memory, *_ = ablation_table.table(runs)
    titles = [cell.strip() for cell in header.strip("|").split("|")]
    cells = dict(zip(titles, (cell.strip() for cell in slow_fast.strip("|").split("|")), strict=True))
    assert cells["variant"] == "slow-fast" and cells["tokens"] == "1,300"
    assert cells["SR %"].startswith("75.0 [") and cells["SPL"].startswith("0.38 [") and cells["nDTW"].startswith("0.50")
    assert cells["SR %, memory needed"].startswith("100.0") and cells["SR %, memory needed"].endswith("(2)")
    assert cells["SR %, not needed"].startswith("50.0")
    assert cells["ms in a window / at its start"] == "21 / 30"
    assert no_memory.startswith("| no memory | 25.0 [")


def test_the_others_are_compared_with_the_first(runs):
    *_, last = ablation_table.table(runs)
    name, every, needed, not_needed, p = (cell.strip() for cell in last.strip("|").split("|"))
    assert (name, p) == ("no memory", "0.5")
    assert every.startswith("-50.0 [") and needed.startswith("-100.0") and not_needed.startswith("+0.0")


@pytest.mark.parametrize("given", ["runs/a", "=runs/a", "a="])
def test_what_is_no_variant_is_refused(given, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["ablation_table.py", given])
    with pytest.raises(SystemExit):
        ablation_table.main()
    assert "expected NAME=FOLDER" in capsys.readouterr().err


def test_a_run_that_is_not_there_is_an_error_for_people(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ablation_table.py", f"a={tmp_path / 'nothing'}"])
    with pytest.raises(SystemExit, match=r"^error: .*nothing"):
        ablation_table.main()
