"""The benchmark of checkpoints: its conditions, its records, its comparisons, and the card that is written from it."""

import argparse
import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

from streamvln_gym.agents import StreamVLNAgent
from streamvln_gym.errors import CheckpointError, EpisodeNotFoundError
from streamvln_gym.models import StreamVLNForConditionalGeneration, StreamVLNProcessor
from streamvln_gym.simulators.embedded.simulator import EmbeddedSimulator

ROOT = Path(__file__).parents[1]
MAX_STEPS = 14
CONDITIONS = ("own", "other", "neutral", "direct", "no_memory", "random", "forward", "oracle")


@pytest.fixture(scope="module")
def modules():
    """(checkpoint, checkpoint_episodes, checkpoint_summary, write_model_card), which are no package."""
    torch.set_num_threads(1)
    sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tools")]
    names = ("checkpoint", "checkpoint_episodes", "checkpoint_summary", "write_model_card")
    yield tuple(importlib.import_module(name) for name in names)
    del sys.path[:2]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two checkpoints of one thin layer whose answers depend on what they see."""
    made = []
    for seed in (2, 3):
        processor = StreamVLNProcessor.tiny()
        config = processor.config
        for part in (config.vision_config, config.text_config):
            part.num_hidden_layers = 1
            part.initializer_range = 0.1
        config.text_config.layer_types = ["full_attention"]
        config.initializer_range = 0.1
        model = StreamVLNForConditionalGeneration.from_seed(config, seed=seed)
        folder = tmp_path_factory.mktemp(f"checkpoint{seed}")
        StreamVLNAgent(model, processor).save_pretrained(folder)
        made.append(str(folder))
    return made


def options(folder: str, data: Path, out: Path, **changes) -> argparse.Namespace:
    values = {
        "checkpoint": folder, "against": [], "data": str(data), "split": "val_unseen", "episodes": 0, "seed": 0,
        "conditions": list(CONDITIONS), "device": "cpu",
        "max_steps": MAX_STEPS, "workers": 1, "out": out,
    }  # fmt: skip
    return argparse.Namespace(**{**values, **changes})


def read_lines(out: Path, condition: str) -> dict:
    """Records by episode id, without the seconds."""
    records = map(json.loads, (out / f"{condition}.jsonl").read_text().splitlines())
    return {r["episode_id"]: {k: v for k, v in r.items() if k != "seconds"} for r in records}


class FakeDataset:
    """Episode ids "<scene>-<k>"."""

    name, split = "fake", "val"

    def __init__(self, scenes: int, episodes: int) -> None:
        self.episode_ids = [f"{scene}-{k}" for scene in range(scenes) for k in range(episodes)]

    def scene_of(self, episode_id: str) -> str:
        return episode_id.split("-")[0]


def test_other_episodes_are_a_derangement_over_scenes(modules):
    _, episodes, *_ = modules
    dataset = FakeDataset(7, 5)
    others = episodes.other_episodes(dataset, seed=0)
    assert sorted(others) == sorted(others.values()) == sorted(dataset.episode_ids)
    assert all(dataset.scene_of(one) != dataset.scene_of(other) for one, other in others.items())
    assert others == episodes.other_episodes(dataset, seed=0)
    assert others != episodes.other_episodes(dataset, seed=1)
    with pytest.raises(EpisodeNotFoundError, match="one scene"):
        episodes.other_episodes(FakeDataset(1, 5), seed=0)


def test_names_of_other_checkpoints(modules):
    _, episodes, *_ = modules
    found = episodes.against_conditions(["runs/bc/checkpoint", "short=runs/a=b"])
    assert {name: folder for name, (_, folder) in found.items()} == {
        "against": "runs/bc/checkpoint",
        "short": "runs/a=b",
    }
    assert found["short"][0].plays == "short"
    assert found["short"][0].has_network
    for values in (["a", "b"], ["own=a"], ["checkpoint=a"]):
        with pytest.raises(ValueError, match="another name"):
            episodes.against_conditions(values)


def test_a_batch_plays_what_single_episodes_play(modules, folders, tiny_flats, monkeypatch):
    _, episodes, *_ = modules
    settings = episodes.Settings({"checkpoint": folders[0]}, str(tiny_flats.episodes_path), max_steps=MAX_STEPS)
    player, own = episodes.Player(settings), episodes.CONDITIONS["own"]
    ids = ("40", "50", "51")
    texts = tuple(player.dataset.episode(e).instruction.text for e in ids)
    looks = []
    observe = EmbeddedSimulator.observe
    monkeypatch.setattr(EmbeddedSimulator, "observe", lambda self, s: looks.append(1) or observe(self, s))
    together = list(player.play(episodes.Task(own, ids, texts)))
    (agent,) = player._agents.values()
    assert len(looks) == agent.stats.calls  # nothing is rendered that the policy does not see
    alone = [next(player.play(episodes.Task(own, (e,), (t,)))) for e, t in zip(ids, texts, strict=True)]
    found = {record["episode_id"]: {**record, "seconds": 0} for record in together}
    assert found == {record["episode_id"]: {**record, "seconds": 0} for record in alone}
    assert set(found) == set(ids)
    assert all(len(record["actions"]) == record["steps"] for record in together)
    assert all(record["stopped"] == (record["actions"][-1] == 0) for record in together)


def test_direct_pictures_have_the_networks_size(modules, folders, tiny_flats, monkeypatch):
    _, episodes, *_ = modules
    settings = episodes.Settings({"checkpoint": folders[0]}, str(tiny_flats.episodes_path), max_steps=1)
    sizes = []
    observe = EmbeddedSimulator.observe
    monkeypatch.setattr(
        EmbeddedSimulator, "observe", lambda self, s: sizes.append(observe(self, s)["rgb"].shape) or observe(self, s)
    )
    player = episodes.Player(settings)
    for name in ("own", "direct", "random"):
        next(player.play(episodes.Task(episodes.CONDITIONS[name], ("10",), ("Go.",))))
    assert sizes == [(480, 640, 3), (112, 112, 3)]  # and none for the random agent


def test_evaluate_resumes_and_refuses_others(modules, folders, tiny_flats, tmp_path, monkeypatch):
    checkpoint, episodes, _, card = modules
    monkeypatch.setattr(checkpoint, "LATENCY_STEPS", 36)
    data, out = tiny_flats.episodes_path, tmp_path / "out"
    checkpoint.evaluate(options(folders[0], data, out, episodes=3, conditions=["own", "random"]))
    before = (out / "own.jsonl").read_text()
    assert len(read_lines(out, "own")) == 3
    with (out / "own.jsonl").open("a") as file:
        file.write('{"episode_id": "4')  # killed while it wrote
    summary = checkpoint.evaluate(options(folders[0], data, out, against=[f"early={folders[1]}"]))
    assert (out / "own.jsonl").read_text().startswith(before)
    assert json.loads((out / "summary.json").read_text()) == summary
    assert set(summary["conditions"]) == {*episodes.CONDITIONS, "early"}
    assert all(entry["episodes"] == 7 for entry in summary["conditions"].values())
    others = {e: record["instruction_of"] for e, record in read_lines(out, "other").items()}
    assert all((others[e] in "40 50 51") != (e in "40 50 51") for e in others)
    assert (
        read_lines(out, "early")["10"]["checkpoint"] == summary["digests"]["early"] != summary["digests"]["checkpoint"]
    )
    kinds = {"episode start", "window start", "within a window", "before a window", "hand-out"}
    assert set(summary["latency_ms"]) == kinds
    assert summary["latency_ms"]["within a window"]["calls"] == 5 * 7
    assert summary["latency_ms"]["before a window"]["calls"] == summary["latency_ms"]["window start"]["calls"] == 5
    text = card.write_card(summary, described={"early": "before DAgger"})
    assert "untrained" in text
    assert "* **early**: before DAgger" in text
    assert folders[1] not in text
    with pytest.raises(ValueError, match="give this run a file of its own"):
        checkpoint.evaluate(options(folders[1], data, out, conditions=["own"]))


def test_conditions_are_played_one_by_one(modules, folders, tiny_flats, tmp_path, monkeypatch):
    checkpoint = modules[0]
    monkeypatch.setattr(checkpoint, "LATENCY_STEPS", 1)
    data, settings = tiny_flats.episodes_path, {"max_steps": 500}
    first = checkpoint.evaluate(options(folders[0], data, tmp_path, conditions=["oracle"], **settings))
    assert list(first["conditions"]) == ["oracle"]
    assert first["conditions"]["oracle"]["success"] == 1.0
    assert first["comparisons"] == []
    (tmp_path / "random.jsonl").write_text("")  # a run that was killed before its first episode
    second = checkpoint.evaluate(options(folders[0], data, tmp_path, conditions=["forward"], **settings))
    assert list(second["conditions"]) == ["forward", "oracle"]
    assert second["conditions"]["oracle"] == first["conditions"]["oracle"]


def test_weights_that_change_meanwhile_are_noticed(modules, folders, tiny_flats):
    _, episodes, *_ = modules
    digests = {"checkpoint": episodes.digest(episodes.load_agent(folders[1]))}
    settings = episodes.Settings({"checkpoint": folders[0]}, str(tiny_flats.episodes_path), digests=digests)
    with pytest.raises(CheckpointError, match="have changed since the run began"):
        next(episodes.Player(settings).play(episodes.Task(episodes.CONDITIONS["own"], ("10",), ("Go.",))))
    settings = episodes.Settings(
        {"checkpoint": folders[1]}, str(tiny_flats.episodes_path), max_steps=1, digests=digests
    )
    no_memory = episodes.Task(episodes.CONDITIONS["no_memory"], ("10",), ("Go.",))
    assert next(episodes.Player(settings).play(no_memory))["steps"] == 1


def test_an_episode_is_written_down_when_it_ends(modules, folders, tiny_flats, tmp_path, monkeypatch):
    checkpoint, episodes, *_ = modules
    monkeypatch.setattr(checkpoint, "LATENCY_STEPS", 1)
    together = episodes.play_together

    def killed(envs, policy, task):
        yield next(together(envs, policy, task))
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(episodes, "play_together", killed)
        checkpoint.evaluate(options(folders[0], tiny_flats.episodes_path, tmp_path, conditions=["random"]))
    kept = read_lines(tmp_path, "random")
    assert len(kept) == 1
    checkpoint.evaluate(options(folders[0], tiny_flats.episodes_path, tmp_path, conditions=["random"]))
    assert len(read_lines(tmp_path, "random")) == 7
    assert kept.items() <= read_lines(tmp_path, "random").items()
    assert len((tmp_path / "random.jsonl").read_text().splitlines()) == 7


def test_workers_change_nothing(modules, folders, tiny_flats, tmp_path, monkeypatch):
    checkpoint = modules[0]
    monkeypatch.setattr(checkpoint, "LATENCY_STEPS", 1)
    for workers in (1, 2):
        out = tmp_path / str(workers)
        checkpoint.evaluate(
            options(folders[0], tiny_flats.episodes_path, out, workers=workers, conditions=["own", "random"])
        )
    for condition in ("own", "random"):
        records = read_lines(tmp_path / "1", condition)
        assert len(records) == 7
        assert records == read_lines(tmp_path / "2", condition)


def record(episode_id: str, scene: str, kind: str, success: float, spl: float) -> dict:
    return {
        "episode_id": episode_id, "scene_id": scene, "needs_memory": kind, "success": success, "spl": spl,
        "navigation_error": 1.0, "oracle_success": 1.0, "ndtw": 0.5, "steps": 40, "stopped": True, "seconds": 0.5,
    }  # fmt: skip


@pytest.fixture
def played() -> dict[str, dict[str, dict]]:
    """Two conditions of twelve episodes in four scenes; "own" succeeds in all plain ones, "other" in none."""
    own, other = {}, {}
    for k in range(12):
        kind = ("", "", "return")[k % 3]
        own[str(k)] = record(str(k), f"scene{k // 3}", kind, float(not kind), 0.75 * (not kind))
        other[str(k)] = record(str(k), f"scene{k // 3}", kind, 0.0, 0.0)
    return {"own": own, "other": other}


def test_summary_of_a_condition(modules, played):
    summary = modules[2].summarize_condition(list(played["own"].values()))
    assert summary["success"] == pytest.approx(8 / 12)
    assert summary["spl"] == pytest.approx(0.5)
    assert summary["seconds"] == 6.0
    assert summary["stopped"] == 1.0
    rates = summary["success_rates"]
    assert (rates["all"]["episodes"], rates["needs_memory"]["episodes"], rates["plain"]["episodes"]) == (12, 4, 8)
    assert rates["needs_memory"]["rate"] == 0.0
    assert rates["plain"]["low"] == pytest.approx(0.6756, abs=1e-4)  # Wilson, 8 of 8
    assert rates["all"]["over_scenes"] == pytest.approx([8 / 12, 8 / 12])  # every scene is alike
    assert summary["success_rates_by_kind"]["return"]["episodes"] == 4


def test_paired_comparison(modules, played):
    compared = modules[2].compare_all(played)
    assert [entry["subset"] for entry in compared] == ["all", "needs_memory", "plain"]
    everything, memory, plain = compared
    assert everything["success"]["difference"] == pytest.approx(8 / 12)
    assert everything["p_value"] == 2 / 2**8
    assert plain["success"] == {"difference": 1.0, "low": 1.0, "high": 1.0}
    assert plain["spl"]["difference"] == pytest.approx(0.75)
    assert memory["success"]["difference"] == 0.0
    assert memory["p_value"] == 1.0
    del played["other"]["0"], played["other"]["3"]
    assert modules[2].compare(played["own"], played["other"])["episodes"] == 10
    assert modules[2].compare(played["own"], {}) is None


def test_one_scene_has_no_interval_over_scenes(modules, played):
    one = {"own": {k: played["own"][k] for k in "012"}, "other": {k: played["other"][k] for k in "012"}}
    compared = modules[2].compare(one["own"], one["other"])
    assert compared["success"] == {"difference": pytest.approx(2 / 3), "low": None, "high": None}
    assert modules[2].success_rate(list(one["own"].values()))["over_scenes"] is None
    assert "+66.7" in modules[2].comparisons_table([{"first": "own", "second": "other", **compared}])


def test_card_says_what_is_not_shown(modules, played):
    card, summary = modules[3], modules[2]
    whole = {
        "trained": True, "digests": {"checkpoint": "abc"}, "versions": {"streamvln-gym": "1"}, "dataset": "flats-v1",
        "split": "val_unseen", "simulator": "embedded", "parameters": 8_000_000, "processor": "a CPU", "max_steps": 500,
        "against": {}, "latency_ms": {"window start": {"median": 50.0, "p95": 60.0, "calls": 9}},
        "network": {
            "image_size": 112, "tokens_per_frame": 16, "window_steps": 32, "chunk_size": 4, "num_history": 8,
            "memory_strategy": "pooled",
        },
        "conditions": {
            name: {"meaning": f"meaning of {name}", **summary.summarize_condition(list(records.values()))}
            for name, records in played.items()
        },
        "comparisons": summary.compare_all(played),
    }  # fmt: skip
    log = [{"updates": k, "frames": 10 * k, "seconds": 60.0 * k, "success": k / 100} for k in range(1, 31)]
    training = {"runs": [{"scenes": 50, "optimize": {"learning_rate": 0.001}, "hardware": "one GPU"}]}
    text = card.write_card(whole, log, training)
    assert "**66.7 [39.1, 86.2] %** (12 episodes in 4 scenes)" in text
    assert "30 updates, 300 frames in 30 minutes on one GPU" in text
    assert "| `optimize.learning_rate` | `0.001` |" in text
    assert "streamvln-gym online-dagger \\\n    --scenes 50 \\\n    --optimize.learning-rate 0.001\n" in text
    for part in ("license: apache-2.0", "from_pretrained()", "## Limits", "Wilson", "## Licence"):
        assert part in text
    assert "| own - other, plain | 8 | +100.0 [+100.0, +100.0] | +0.750 [+0.750, +0.750] | 0.0078 |" in text
    assert "Not shown" not in text
    assert card.training_seconds([*log[:4], *log[:2]]) == 360.0  # a run that was taken up again
    assert [row["updates"] for row in card.pick_rows(log)] == [1, 5, 9, 13, 18, 22, 26, 30]
    whole["comparisons"] = summary.compare_all({"own": played["other"], "other": played["own"]})
    assert "**Not shown: following instructions.**" in card.write_card(whole)


def test_a_card_of_several_runs(modules):
    card = modules[3]
    log = [{"run": run, "updates": k, "frames": 10 * k, "seconds": 60.0 * k} for run, k in ((1, 1), (1, 2), (2, 3))]
    runs = [
        {"checkpoint": None, "seed": 0, "processes": 1, "hardware": "one GPU"},
        {"checkpoint": "of run 1", "seed": 4, "collect": {"streams": 64}, "processes": 2, "hardware": "two GPUs"},
    ]
    assert [record["updates"] for record in card.last_of_runs(log)] == [2, 3]
    volume = card._training_volume(log, {"runs": runs})
    assert volume.startswith("Training: 5 updates, 50 frames in ")
    assert volume.endswith("the first's frames and episodes are counted.")
    assert "on one GPU, then two GPUs." in volume
    assert card.command(runs[0]) == "streamvln-gym online-dagger"
    words = card.command(runs[1]).replace(" \\\n   ", "").split()
    assert words[:5] == ["torchrun", "--nproc-per-node", "2", "--no-python", "streamvln-gym"]
    assert words[6:] == ["--checkpoint", '"..."', "--seed", "4", "--collect.streams", "64"]


def test_json_without_infinities(modules):
    clean = modules[0].without_infinities({"a": [float("inf"), 1.5], "b": {"c": float("nan"), "d": True}})
    assert clean == {"a": ["inf", 1.5], "b": {"c": None, "d": True}}
