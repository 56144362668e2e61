"""The tools that put a trained checkpoint into the package and write its card."""

import importlib
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from streamvln_gym.agents import StreamVLNAgent
from streamvln_gym.models import StreamVLNForConditionalGeneration, StreamVLNProcessor

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def tools():
    """(ship_checkpoint, write_model_card), which are no package."""
    torch.set_num_threads(1)
    sys.path.insert(0, str(ROOT / "tools"))
    yield importlib.import_module("ship_checkpoint"), importlib.import_module("write_model_card")
    del sys.path[0]


@pytest.fixture
def run(tmp_path) -> Path:
    """A folder as online DAgger leaves it."""
    agent = StreamVLNAgent.untrained(5, dtype=torch.bfloat16)
    agent.model.config.trained = True
    agent.save_pretrained(tmp_path / "run" / "checkpoint")
    options = {"out": "/home/someone/run", "checkpoint": "/home/someone/start", "scenes": 9, "minutes": 3.0}
    (tmp_path / "run" / "config.json").write_text(json.dumps(options))
    (tmp_path / "run" / "log.jsonl").write_text('{"updates": 7, "frames": 70, "seconds": 60.0, "success": 0.5}\n')
    return tmp_path / "run"


def ship(tool, run: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    tool.ship([run / "checkpoint"], [run / "config.json"] * 2, [run / "log.jsonl"] * 2, 2, "two GPUs", target)


def test_what_is_shipped(tools, run, tmp_path):
    target = tmp_path / "shipped"
    ship(tools[0], run, target)
    StreamVLNProcessor.tiny().save_pretrained(target)  # the tokenizer lies there already
    shipped, trained = StreamVLNAgent.from_pretrained(target), StreamVLNAgent.from_pretrained(run / "checkpoint")
    assert shipped.trained
    assert all(torch.equal(t, trained.model.state_dict()[n]) for n, t in shipped.model.state_dict().items())
    training = json.loads((target / "training.json").read_text())
    assert training["runs"] == [
        {"processes": 2, "hardware": "two GPUs", "checkpoint": "an earlier one", "scenes": 9},
        {"processes": 2, "hardware": "two GPUs", "checkpoint": "of run 1", "scenes": 9},
    ]
    records = [json.loads(line) for line in (target / "log.jsonl").read_text().splitlines()]
    assert [record["run"] for record in records] == [1, 2]
    for path in target.glob("*.json*"):
        assert "/home" not in path.read_text()


def test_a_run_that_continues_is_added_to_the_record(tools, run, tmp_path):
    target = tmp_path / "shipped"
    ship(tools[0], run, target)
    before = (target / "log.jsonl").read_text()
    tools[0].ship(
        [run / "checkpoint"], [run / "config.json"], [run / "log.jsonl"], 1, "one GPU", target, continues=True
    )
    runs = json.loads((target / "training.json").read_text())["runs"]
    assert [(r["checkpoint"], r["processes"], r["hardware"]) for r in runs] == [
        ("an earlier one", 2, "two GPUs"),
        ("of run 1", 2, "two GPUs"),
        ("of run 2", 1, "one GPU"),
    ]
    assert tools[0].recipe([{"minutes": 28.0, "decay_minutes": 14.0}], 1, "", 0, "", False)[0]["minutes"] == 28.0
    log = (target / "log.jsonl").read_text()
    assert log.startswith(before)
    assert json.loads(log.splitlines()[-1])["run"] == 3
    records = [json.loads(line) for line in log.splitlines()]
    assert (
        tools[1]
        ._training_volume(records, {"runs": runs})
        .startswith("Training: 21 updates, 210 frames in 3 minutes on two GPUs, then one GPU.")
    )


def test_the_mean_of_runs_that_began_together(tools, run, tmp_path):
    """And what goes on from it."""
    target, other = tmp_path / "shipped", tmp_path / "other"
    ship(tools[0], run, target)
    shutil.copytree(run / "checkpoint", other)
    moved = load_file(other / "model.safetensors")
    save_file({name: value + 1.0 for name, value in moved.items()}, other / "model.safetensors", {"format": "pt"})
    files = ([run / "config.json"] * 2, [run / "log.jsonl"] * 2, 1, "one GPU", target)
    tools[0].ship([run / "checkpoint", other], *files, continues=True)
    mean = load_file(target / "model.safetensors")
    first = load_file(run / "checkpoint" / "model.safetensors")
    assert all(value.dtype == torch.bfloat16 for value in mean.values())
    for name, value in mean.items():
        torch.testing.assert_close(
            value.float(), (first[name].float() + moved[name].float() + 1.0) / 2, atol=0.02, rtol=0.01
        )
    record = json.loads((target / "training.json").read_text())
    assert record["shipped"] == "the mean of runs 3 and 4"
    assert [r["checkpoint"] for r in record["runs"]] == ["an earlier one", "of run 1", "of run 2", "of run 2"]
    assert "The weights are the mean of runs 3 and 4, which began with" in tools[1]._recipe(
        {"dataset": "x"}, [], record
    )
    tools[0].ship([run / "checkpoint"], [run / "config.json"], [run / "log.jsonl"], 1, "", target, continues=True)
    record = json.loads((target / "training.json").read_text())
    assert (record["shipped"], record["runs"][-1]["checkpoint"]) == ("run 5", "of the mean of runs 3 and 4")


def test_the_mean_with_what_it_began_with(tools, run, tmp_path):
    target, weights = tmp_path / "shipped", run / "checkpoint" / "model.safetensors"
    ship(tools[0], run, target)
    before = {name: value.clone() for name, value in load_file(target / "model.safetensors").items()}  # not the file's
    save_file({name: value + 1.0 for name, value in before.items()}, weights, {"format": "pt"})
    files = ([run / "checkpoint"], [run / "config.json"], [run / "log.jsonl"], 1, "one GPU", target)
    tools[0].ship(*files, continues=True, average=True)
    for name, value in load_file(target / "model.safetensors").items():
        torch.testing.assert_close(value.float(), before[name].float() + 0.5, atol=0.02, rtol=0.01)
    record = json.loads((target / "training.json").read_text())
    assert record["shipped"] == "the mean of run 3 and of what it began with"
    assert "The weights are the mean of run 3 and of what it began with." in tools[1]._recipe(
        {"dataset": "x"}, [], record
    )
    tools[0].ship(*files, continues=True)
    record = json.loads((target / "training.json").read_text())
    assert record["runs"][-1]["checkpoint"] == "of the mean of run 3 and of what it began with"


def test_what_does_not_fit_is_refused(tools, run, tmp_path, monkeypatch):
    folder = run / "checkpoint"
    monkeypatch.setattr(tools[0], "LIMIT", 1000)
    with pytest.raises(ValueError, match="bytes"):
        ship(tools[0], run, tmp_path / "shipped")
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"trained": true', '"trained": false'))
    with pytest.raises(ValueError, match="random"):
        ship(tools[0], run, tmp_path / "shipped")
    (folder / "config.json").write_text(config)
    processor = StreamVLNProcessor.tiny(num_history=4)
    processor.config.text_config.num_hidden_layers = 1
    processor.config.text_config.layer_types = ["full_attention"]
    processor.config.trained = True
    small = StreamVLNForConditionalGeneration.from_seed(processor.config)
    StreamVLNAgent(small, processor).save_pretrained(folder)
    with pytest.raises(ValueError, match="other sizes"):
        ship(tools[0], run, tmp_path / "shipped")
    assert not any((tmp_path / "shipped").iterdir())


def test_the_card_is_written_into_the_folder(tools, run, tmp_path):
    target = tmp_path / "shipped"
    ship(tools[0], run, target)
    summary = {
        "trained": True, "digests": {"checkpoint": "abc"}, "versions": {"streamvln-gym": "1"}, "dataset": "flats-v1",
        "split": "val_unseen", "simulator": "embedded", "parameters": 8, "processor": "a CPU", "max_steps": 500,
        "checkpoint": "/home/someone/x", "against": {"blind": "/home/someone/y"}, "latency_ms": {}, "comparisons": [],
        "network": dict.fromkeys(
            ("image_size", "tokens_per_frame", "window_steps", "chunk_size", "num_history", "memory_strategy"), 1
        ),
        "conditions": {},
    }  # fmt: skip
    rate = {"rate": 0.5, "low": 0.4, "high": 0.6, "over_scenes": None, "episodes": 8}
    summary["conditions"]["blind"] = {
        "meaning": "another checkpoint, /home/someone/y", "episodes": 8, "spl": 0.5, "navigation_error": "inf",
        "oracle_success": 0.5, "steps": 9.0, "stopped": 1.0, "success_rates_by_kind": {},
        "success_rates": dict.fromkeys(("all", "plain", "needs_memory"), rate),
    }  # fmt: skip
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    path = tools[1].write_folder(target, tmp_path / "summary.json", {"blind": "trained without slow memory"})
    text = path.read_text()
    assert path == target / "README.md"
    assert "| blind | 8 | 50.0 [40.0, 60.0] |" in text
    assert "* **blind**: trained without slow memory" in text
    assert "14 updates, 140 frames" in text
    for kept in (path, target / "evaluation.json"):
        assert "/home" not in kept.read_text()
    assert tools[1].write_folder(target, None, {"blind": "trained without slow memory"}).read_text() == text
    estimate = {"mean": 0.871, "low": 0.83, "high": 0.91, "episodes": 720}
    (tmp_path / "whole.json").write_text(json.dumps({"metrics": {"success": estimate, "spl": estimate}}))
    for whole in (tmp_path / "whole.json", None):
        text = tools[1].write_folder(target, None, {"blind": "x"}, whole).read_text()
        assert "**87.1 % [83.0, 91.0]**, SPL 0.871 (all 720 episodes," in text
