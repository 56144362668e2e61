"""The two examples run; the one from scratch learns."""

from __future__ import annotations

import csv
import importlib.util
import shutil
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
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


@pytest.fixture
def ppo_options(tiny_flats, checkpoint, tmp_path) -> list[str]:
    """Of a run of two rollouts and three evaluations."""
    folder = tiny_flats.root / "datasets" / "ppo"
    folder.mkdir(exist_ok=True)
    for split in ("train", "val_seen"):
        shutil.copy(tiny_flats.episodes_path, folder / f"{split}.json.gz")
    files = ["--dataset", str(folder / "{split}.json.gz"), "--scenes", "2", "--judged-scenes", "2"]
    sizes = ["--decisions", "32", "--envs", "2", "--rollout", "8", "--batch", "8", "--judged", "3", "--max-steps", "24"]
    return ["--checkpoint", str(checkpoint), "--out", str(tmp_path), "--evaluate-every", "1", *files, *sizes]


@pytest.mark.parametrize("options", [["--features"], ["--lora", "4", "--hold", "0"]])
def test_ppo_on_a_checkpoint(tiny_flats, ppo_options, tmp_path, options, capsys):
    example = load("sb3_ppo")
    keep = example.main([*ppo_options, *options])
    assert [decisions for decisions, _ in keep.history] == [0, 16, 32]
    assert StreamVLNAgent.from_pretrained(tmp_path / "best").trained
    table = read_table(tmp_path / "progress.csv")
    for name in ("rollout/ep_rew_mean", "train/approx_kl", "train/entropy_loss", "train/value_loss", "eval/success"):
        assert any(row[name] for row in table), name
    assert sum(bool(row["eval/success"]) for row in table) == 3, "the last evaluation too"
    assert "the rollout buffer" in capsys.readouterr().out
    check_saved(example, keep.model, [*ppo_options, *options, "--resume"])
    with pytest.raises(SystemExit):
        example.main(["--dataset", str(tiny_flats.episodes_path)])
    assert "would be trained in and judged by" in capsys.readouterr().err


def check_saved(example: ModuleType, ppo: PPO, arguments: list[str]) -> None:
    """What was written decides as what is in memory does."""
    options = example.read_options(arguments)
    loaded = PPO.load(options.out / "ppo.zip", device=options.device)
    ppo.policy.save_checkpoint(options.out / "last")
    agent = StreamVLNAgent.from_pretrained(options.out / "last", device=options.device)
    judged = example.make_envs(agent.processor, options, "val_seen", options.judged_scenes, 2)
    seen = judged.reset()
    for _ in range(5):
        actions, _ = ppo.predict(seen, deterministic=True)
        assert np.array_equal(actions, loaded.predict(seen, deterministic=True)[0])
        seen, *_ = judged.step(actions)
    judged.close()
    if options.features:
        return  # the policy reads features, and the environment below shows pictures
    env = example.make_maker(agent.processor, options, "val_seen", options.judged_scenes)()
    seen, _ = env.reset(seed=options.seed)
    done = False
    while not done:
        action, _ = ppo.predict(seen, deterministic=True)
        said = agent.predict_chunk(env.unwrapped.observe())
        assert said == action[: len(said)].tolist()
        seen, _, terminated, truncated, _ = env.step(action)
        done = terminated or truncated
    env.close()


def test_a_run_that_is_cut_goes_on(ppo_options, tmp_path, monkeypatch, capsys):
    example = load("sb3_ppo")
    evaluated = example.KeepBest._evaluate

    def cut(keep):
        if keep.num_timesteps == 32:
            raise KeyboardInterrupt
        evaluated(keep)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(example.KeepBest, "_evaluate", cut)
        example.main(ppo_options)
    archive = (tmp_path / "ppo.zip").read_bytes()
    steps = PPO.load(tmp_path / "ppo.zip").policy.optimizer.state_dict()["state"][0]["step"]
    assert steps > 0
    curve = (tmp_path / "progress.csv").read_bytes()
    for options, words in (
        ([], "holds a run, which --resume goes on with; a new one needs another --out"),
        (["--resume", "--rate", "3e-5"], "whose options were others (then, now): {'rate': (1e-05, 3e-05)}"),
    ):
        with pytest.raises(SystemExit):
            example.main([*ppo_options, *options])
        assert words in capsys.readouterr().err
    assert (tmp_path / "ppo.zip").read_bytes() == archive

    keep = example.main([*ppo_options, "--resume"])
    assert [decisions for decisions, _ in keep.history] == [0, 16, 32], "as if it had not been cut, and each once"
    assert keep.model.num_timesteps == 32
    assert keep.model.policy.optimizer.state_dict()["state"][0]["step"] == 2 * steps, "the optimizer went on"
    assert keep.best == max((means for _, means in keep.history), key=keep.measure)
    assert (tmp_path / "progress.csv").read_bytes() == curve
    rows = read_table(tmp_path / "progress_from_16.csv")
    assert {row["time/total_timesteps"] for row in rows if row["time/total_timesteps"]} == {"32"}
    again = example.main([*ppo_options, "--resume"])
    assert [steps for steps, _ in again.history] == [0, 16, 32] and again.best == keep.best, "all is done already"
    assert sorted(file.name for file in tmp_path.glob("progress*")) == ["progress.csv", "progress_from_16.csv"]
    shutil.rmtree(tmp_path / "best")
    anew = example.main([*ppo_options, "--resume"])
    assert [steps for steps, _ in anew.history] == [32], "what was best is gone, so the end is judged and kept"
    assert StreamVLNAgent.from_pretrained(tmp_path / "best").trained


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))
