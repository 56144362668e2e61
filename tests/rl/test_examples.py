"""The two examples run; the one from scratch learns."""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(name: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    example = importlib.util.module_from_spec(specification)
    sys.modules[name] = example
    specification.loader.exec_module(example)
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) <= 200
    return example


def test_plain_ppo_begins_to_learn():
    low, _ = load("sb3_from_scratch").main(["--steps", "5120", "--episodes", "40"])
    assert low > 0, "95 % sure that it is better than random actions"


@pytest.mark.long
def test_plain_ppo_learns_within_three_minutes():
    begun = time.process_time()
    low, _ = load("sb3_from_scratch").main([])
    assert low > 1.5
    assert time.process_time() - begun < 2 * 180
