"""The benchmark at full size, in thin sizes on a CPU; and the recipes of docs/full_size.md under the dry run."""

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

pytest.importorskip("accelerate")
pytest.importorskip("peft")

from streamvln_gym.cli import main
from streamvln_gym.models import StreamVLNConfig
from streamvln_gym.training.memory_estimate import GIB, Setup, WindowShape, estimate_memory

ROOT = Path(__file__).parents[1]
DOCS = (ROOT / "docs" / "full_size.md").read_text(encoding="utf-8")
RECIPES = re.findall(r'RECIPE="(.*?)"\nstreamvln-gym (train --dry-run [^$]*)\$RECIPE\n(.*?)\$RECIPE', DOCS, re.DOTALL)
PROMISED = [float(number) for number in re.findall(r"^```\n\n(\d+\.\d) GiB", DOCS, re.MULTILINE)]


@pytest.fixture(scope="module")
def benchmark():
    torch.set_num_threads(1)
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield importlib.import_module("full_size")
    sys.path.pop(0)


def last_line(text):
    return json.loads(text.strip().splitlines()[-1])


@pytest.mark.parametrize("part", ["lora", "qlora"])
def test_adapters(benchmark, capsys, part):
    """The loss of a fixed batch falls."""
    if part == "qlora":
        pytest.importorskip("bitsandbytes")
    benchmark.main([part, "--sizes", "thin", "--device", "cpu", "--steps", "4"])
    found = last_line(capsys.readouterr().out)
    assert found["last_loss"] < found["first_loss"]
    assert found["checkpointed_layers"] == "4 of 4"
    assert found["frames"] == 16
    assert found["tokens_per_second"] > 0
    assert found["mfu"] is None


@pytest.mark.parametrize(
    "options", [pytest.param([], marks=pytest.mark.long), ["--checkpointed", "3", "--batch-size", "2"]], ids=str
)
def test_all_weights_in_two_processes(options):
    """FSDP2 over gloo, with and without checkpointed layers."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(ROOT / "benchmarks" / "full_size.py"), "full", "--sizes", "thin", "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--steps", "2", *options], capture_output=True, text=True, env=environment, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    found = last_line(done.stdout)
    assert found["processes"] == 2
    assert found["last_loss"] < found["first_loss"]


def test_the_window_is_the_published_one(benchmark):
    """16 frames of 196 tokens, a dialogue of the published tokenizer, 8 answers of 5 tokens."""
    config = benchmark.network_config("full")
    config.vision_config.image_size = 14  # no large pictures
    batch = benchmark.make_batch(config, 2, seed=0)
    assert batch["attention_mask"].all(), "no padding, so attention needs no mask"
    shape = benchmark.shape_of(StreamVLNConfig.full_size(), batch)
    assert (shape.windows, shape.frames, shape.targets) == (2, 32, 80)
    assert 3136 + 200 < shape.length < 3136 + 400


def test_a_falling_loss_is_required(benchmark, capsys):
    with pytest.raises(SystemExit, match="the loss did not fall"):
        benchmark.main(["lora", "--sizes", "thin", "--device", "cpu", "--steps", "1"])


def test_all_weights_need_torchrun(benchmark, monkeypatch, capsys):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(SystemExit):
        benchmark.main(["full", "--sizes", "thin"])
    assert "torchrun" in capsys.readouterr().err


def test_the_choice_of_checkpointed_layers(benchmark):
    """As few as fit; between the dry run's two columns, which are its ends."""
    config, shape = StreamVLNConfig.full_size(), WindowShape(1, 16, 3401, 40)
    setup = Setup(trained_bytes=2, compute_bytes=2, state_bytes=4.0, processes=2, sharded=True)
    assert benchmark.choose_checkpointed(config, setup, shape, 75 * GIB) == 0
    some = benchmark.choose_checkpointed(config, setup, replace(shape, windows=2, frames=32, targets=80), 75 * GIB)
    assert 26 < some < 54, "SigLIP's layers and some of Qwen2's"
    kept, forgotten = (estimate_memory(config, replace(setup, checkpointing=c), shape).total for c in (False, True))
    assert benchmark.expected_bytes(config, setup, shape, 0) == kept
    assert benchmark.expected_bytes(config, setup, shape, 54) == pytest.approx(forgotten, rel=0.01)
    with pytest.raises(SystemExit, match="GiB would be needed"):
        benchmark.choose_checkpointed(config, setup, shape, 20 * GIB)


def test_vision_layers_are_checkpointed_first(benchmark):
    model = benchmark.empty_network(benchmark.network_config("thin"), torch.bfloat16)
    names = [type(layer).__name__ for layer in benchmark.layers_in_order(model)]
    assert names == ["SiglipEncoderLayer"] * 2 + ["Qwen2DecoderLayer"] * 2
    assert all(parameter.device.type == "meta" for parameter in model.parameters())
    assert not any(buffer.device.type == "meta" for buffer in model.buffers())


@pytest.mark.parametrize("number", range(len(RECIPES)))
def test_recipes_fit(number, tmp_path, capsys, monkeypatch):
    """`--dry-run` accepts each recipe, says that it fits, and says what the page says."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    assert len(RECIPES) == len(PROMISED) == 4
    for name in ("R2R", "RxR"):
        (tmp_path / name / "a" / "rgb").mkdir(parents=True)
        for step in range(65):
            Image.new("RGB", (8, 6)).save(tmp_path / name / "a" / "rgb" / f"{step:03d}.jpg")
        sentence = "Leave the bedroom, go down the hallway and wait by the piano in the living room."
        entry = {"id": 0, "video": "a", "instructions": [sentence], "actions": [-1, *[1, 2, 1, 3] * 16]}
        (tmp_path / name / "annotations.json").write_text(json.dumps([entry]))
    for name, values in re.findall(r"`(\S+\.json)`[^\n]*:\n\n```json\n(.*?)\n```", DOCS, re.DOTALL):
        (tmp_path / name).write_text(values)
    options, estimate, training = RECIPES[number]
    gpus = re.search(r"--gpus (\d)", estimate)[1]
    assert ("--num_processes " + gpus in training) == (gpus != "1")
    main(shlex.split(estimate + options.replace("\\\n", " ")))
    said = capsys.readouterr().out
    total = float(re.search(r"^fits: ([\d.]+) of", said, re.MULTILINE)[1])
    assert total == pytest.approx(PROMISED[number], abs=0.15)
    assert not (tmp_path / "runs").exists()
