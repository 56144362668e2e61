"""The two examples run; the one from scratch learns."""

from __future__ import annotations

import csv
import importlib.util
import shutil
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
from stable_baselines3 import PPO

from streamvln_gym.agents import StreamVLNAgent

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(name: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    example = importlib.util.module_from_spec(specification)
    sys.modules[name] = example
    specification.loader.exec_module(example)
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) <= 200
    return example


def test_ids_are_learned_from_as_they_were_acted_on(monkeypatch):
    """Normalised, they would be cut to whole numbers on their way through the rollout buffer."""
    example, seen = load("sb3_from_scratch"), []

    class Checked(PPO):
        def train(self):
            for part in self.rollout_buffer.get(64):
                log_probs = self.policy.evaluate_actions(part.observations, part.actions.long().flatten())[1]
                seen.append((log_probs - part.old_log_prob).abs().max().item())

    monkeypatch.setattr(example, "PPO", Checked)
    example.main(["--steps", "1024", "--episodes", "1"])
    assert len(seen) == 16 and max(seen) < 1e-4


def test_plain_ppo_learns_within_three_minutes():
    """Half as many steps are too few: four of five seeds were then below random actions, on one kind of processor."""
    begun = time.process_time()
    low, _ = load("sb3_from_scratch").main([])
    assert low > 1.5, "95 % sure that it gains more than 1.5 over random actions"
    assert time.process_time() - begun < 2 * 180


@pytest.mark.parametrize("options", [["--features"], ["--lora", "4", "--hold", "0"]])
def test_ppo_on_a_checkpoint(tiny_flats, checkpoint, tmp_path, options, capsys):
    folder = tiny_flats.root / "datasets" / "ppo"
    folder.mkdir(exist_ok=True)
    for split in ("train", "val_seen"):
        shutil.copy(tiny_flats.episodes_path, folder / f"{split}.json.gz")
    files = ["--dataset", str(folder / "{split}.json.gz"), "--scenes", "2", "--judged-scenes", "2", "--check"]
    sizes = ["--decisions", "32", "--envs", "2", "--rollout", "8", "--batch", "8", "--judged", "3", "--max-steps", "24"]
    keep = load("sb3_ppo").main(
        ["--checkpoint", str(checkpoint), "--out", str(tmp_path), "--evaluate-every", "1", *files, *sizes, *options]
    )
    assert [decisions for decisions, _ in keep.history] == [0, 16, 32]
    assert StreamVLNAgent.from_pretrained(tmp_path / "best").trained
    table = read_table(tmp_path / "progress.csv")
    for name in ("rollout/ep_rew_mean", "train/approx_kl", "train/entropy_loss", "train/value_loss", "eval/success"):
        assert any(row[name] for row in table), name
    assert sum(bool(row["eval/success"]) for row in table) == 3, "the last evaluation too"
    assert (tmp_path / "ppo.zip").is_file()
    assert "the rollout buffer" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        load("sb3_ppo").main(["--dataset", str(tiny_flats.episodes_path)])
    assert "would be trained in and judged by" in capsys.readouterr().err


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))
