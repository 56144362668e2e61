"""The LoRA example runs, and its loss falls."""

import importlib.util
from pathlib import Path

import pytest
import torch

pytest.importorskip("peft")


def test_loss_falls(capsys):
    torch.set_num_threads(1)
    path = Path(__file__).parents[1] / "examples" / "lora.py"
    specification = importlib.util.spec_from_file_location("lora_example", path)
    example = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(example)
    losses = example.main(["--steps", "12", "--batch-size", "2"])
    assert len(losses) == 12
    assert min(losses[-3:]) < losses[0] - 1
    assert "red on the left" in capsys.readouterr().out
    assert len(path.read_text().splitlines()) <= 200
