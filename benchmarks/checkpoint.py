"""What a checkpoint can do: success under several conditions, paired comparisons, and the time of a decision.

    python benchmarks/checkpoint.py [--checkpoint FOLDER] [--split val_unseen] [--episodes N] [--workers N]
        [--conditions own other neutral direct no_memory random forward oracle] [--against [NAME=]FOLDER ...]
        [--out FOLDER]

* own: the episode's own instruction, in the environment as it is by default (640x480).
* other: the instruction of an episode in another scene. A policy that follows instructions must collapse.
* neutral: an empty instruction: ".", as the agent refuses a blank one.
* direct: the pictures are rendered at the network's own resolution instead of being scaled down from 640x480.
* no_memory: slow memory switched off at test time.
* random, forward: agents that look at nothing; oracle: the geodesic follower.
* against: other checkpoints with --against, own instruction, 640x480; such as one trained without memory, or by
  imitation only. Each has its NAME.

Every condition plays the same episodes, and all are compared with "own" pairwise. `--episodes N` draws so many, the
scenes taking turns; 0 plays the whole split. Success rates have Wilson's 95 % interval, which takes episodes for
independent; differences have one from 10,000 bootstrap samples of whole scenes, and McNemar's exact p.

Into `--out` go one JSON line per episode (`<condition>.jsonl`) and `summary.json`, which `tools/write_model_card.py`
reads. A run that was killed goes on with the episodes that are missing; a folder of another checkpoint, seed or version
is refused. Conditions can be played one by one into the same folder: the summary has all that are whole.
For small networks: all episodes of a scene are played in one batch, and decisions are timed on one CPU core
(`streamvln-gym evaluate` is for any size).
Networks run in float32, so that a batch decides as single agents do, and any number of workers gives the same results.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from act_times import ActTimes
from checkpoint_episodes import (
    CONDITIONS,
    NEUTRAL_INSTRUCTION,
    Condition,
    Settings,
    Task,
    against_conditions,
    digest,
    load_agent,
    other_episodes,
    play_all,
)
from checkpoint_summary import compare_all, comparisons_table, conditions_table, kinds_table, summarize_condition
from tqdm import tqdm

from streamvln_gym import __version__
from streamvln_gym.agents import StreamVLNAgent
from streamvln_gym.digests import episodes_digest
from streamvln_gym.episodes import EpisodeDataset
from streamvln_gym.errors import StreamVLNGymError
from streamvln_gym.records import append_record, read_records
from streamvln_gym.rollout import UNTRAINED, choose_episodes
from streamvln_gym.selection import source_of
from streamvln_gym.simulators.base import CameraConfig
from streamvln_gym.simulators.choice import resolve_simulator

LATENCY_EPISODES, LATENCY_STEPS = 5, 160  # steps of an episode: five windows of 32


class Run:
    """Plays what is missing and keeps every record.

    Args:
        settings: what all episodes have in common.
        out: folder of the records.
        episodes: how many, 0 for all.
        conditions: by name, in the order in which they are played.
        digests: of the checkpoints, by name.

    Attributes:
        dataset: of the whole split.
        episode_ids: what is played.
    """

    def __init__(
        self,
        settings: Settings,
        out: Path,
        episodes: int,
        conditions: Mapping[str, Condition],
        digests: Mapping[str, str],
    ) -> None:
        self.settings = settings
        self.out = out
        self.conditions = conditions
        self.digests = digests
        self.dataset = settings.open()
        self.episode_ids = choose_episodes(self.dataset, episodes, settings.seed)
        # What is generated is the same everywhere; a file may be another one of the same name.
        generated = hasattr(self.dataset, "build")
        self._digest = None if generated else episodes_digest(map(self.dataset.episode, self.dataset.episode_ids))
        self._others = other_episodes(self.dataset, settings.seed) if "other" in conditions else {}

    def play(self, workers: int) -> dict[str, dict[str, Any]]:
        """Plays the missing episodes; the records by condition and episode id, in the order of `episode_ids`.

        Conditions that earlier runs played to the end are among them.
        """
        done = {
            name: read_records(self.out / f"{name}.jsonl", self.identity(condition))
            for name, condition in (CONDITIONS | dict(self.conditions)).items()
        }
        missing = {name: [e for e in self.episode_ids if e not in done[name]] for name in self.conditions}
        dataset, settings = self._needed_scenes(missing, workers)
        for episode_id in dict.fromkeys(e for ids in missing.values() for e in ids):
            if not dataset.episode(episode_id).goals:
                raise ValueError(f"episode {episode_id} of {dataset.name}/{dataset.split} has no goal to succeed at")
        tasks = [
            task
            for name, condition in self.conditions.items()
            for task in self._tasks(condition, missing[name], dataset)
        ]
        count = sum(map(len, missing.values()))
        with tqdm(total=count, unit="episode", desc="evaluating") as bar:
            for task, record in play_all(settings, tasks, workers):
                name = task.condition.name
                whole = {**self.identity(task.condition), **record}
                if task.condition.instruction == "other":
                    whole["instruction_of"] = self._others[record["episode_id"]]
                append_record(self.out / f"{name}.jsonl", whole)
                done[name][record["episode_id"]] = whole
                bar.update()
        whole = [name for name in dict.fromkeys([*CONDITIONS, *done]) if all(e in done[name] for e in self.episode_ids)]
        return {name: {e: done[name][e] for e in self.episode_ids} for name in whole}

    def identity(self, condition: Condition) -> dict[str, Any]:
        """What makes records comparable."""
        return {
            "condition": condition.name,
            "checkpoint": self.digests.get(condition.plays),
            "seed": self.settings.seed,
            "max_steps": self.settings.max_steps,
            "version": __version__,
            "dataset": self.dataset.name,
            "split": self.dataset.split,
            "source": source_of(self.dataset),
            "simulator": resolve_simulator("auto", self.dataset.name),
            "episodes": self._digest,
        }

    def _tasks(self, condition: Condition, episode_ids: Sequence[str], dataset: EpisodeDataset) -> Iterator[Task]:
        """The episodes scene by scene."""
        scenes: dict[str, list[str]] = {}
        for episode_id in episode_ids:
            scenes.setdefault(dataset.scene_of(episode_id), []).append(episode_id)
        for ids in scenes.values():
            yield Task(condition, tuple(ids), tuple(self._instruction(condition, e, dataset) for e in ids))

    def _instruction(self, condition: Condition, episode_id: str, dataset: EpisodeDataset) -> str:
        kind = condition.instruction
        if kind == "neutral":
            return NEUTRAL_INSTRUCTION
        return dataset.episode(self._others[episode_id] if kind == "other" else episode_id).instruction.text

    def _needed_scenes(self, missing: Mapping[str, Sequence[str]], workers: int) -> tuple[EpisodeDataset, Settings]:
        """The dataset of the scenes that are played or whose instructions are used; flats are built now."""
        ids = dict.fromkeys(e for episodes in missing.values() for e in episodes)
        ids |= dict.fromkeys(self._others[e] for e in missing.get("other", ()))
        if not ids:
            return self.dataset, self.settings
        scenes = tuple(dict.fromkeys(self.dataset.scene_of(e) for e in ids))
        settings = Settings(**{**vars(self.settings), "scenes": scenes})
        dataset = settings.open()
        if hasattr(dataset, "build"):
            dataset.build(workers)
        return dataset, settings


def measure_latency(agent: StreamVLNAgent, instructions: Sequence[str]) -> dict[str, dict[str, float]]:
    """Milliseconds of `act` on one core, by kind of call: `median`, `p95`, `max`, `calls`; see `ActTimes`.

    The process's own seconds count, so that other programs disturb less. The 640x480 pictures are random; STOP, which
    would make an answer shorter, is switched off.

    Args:
        agent: on the CPU.
        instructions: of the episodes, one after the other; the first episode warms up and does not count.
    """
    stop = agent.processor.action_ids[0]

    def never_stop(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores[:, stop] = -torch.inf
        return scores

    timed = StreamVLNAgent(agent.model, agent.processor, agent.config, logits_processor=[never_stop])
    frames = np.random.default_rng(0).integers(0, 256, (16, 480, 640, 3), dtype=np.uint8)
    geometry: dict[str, Any] = {}
    if timed.needs_geometry:
        depth = np.full((480, 640, 1), 2.0, dtype=np.float32)
        geometry = {"depth": depth, "camera_pose": np.eye(4), "intrinsics": CameraConfig().intrinsics}
    times = ActTimes(timed)
    with _one_core():
        for episode, instruction in enumerate([instructions[0], *instructions]):
            timed.reset()
            for step in range(LATENCY_STEPS):
                times.act({"rgb": frames[step % 16], "instruction": instruction, **geometry})
            if episode == 0:
                times.clear()
    return times.summary()


@contextmanager
def _one_core() -> Iterator[None]:
    """One thread, and where the system can do so, one core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    if cores:
        os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if cores:
            os.sched_setaffinity(0, cores)


def without_infinities(value: Any) -> Any:
    """The same with "inf" for infinite numbers and None for NaN, which JSON has not."""
    if isinstance(value, Mapping):
        return {key: without_infinities(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_infinities(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf" if value > 0 else "-inf"
    return value


def _processor_name() -> str:
    """The CPU's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def evaluate(options: argparse.Namespace) -> dict[str, Any]:
    """Plays, measures, writes summary.json and returns it."""
    others = against_conditions(options.against)
    checkpoints = {"checkpoint": options.checkpoint, **{name: folder for name, (_, folder) in others.items()}}
    digests = {name: digest(load_agent(folder)) for name, folder in checkpoints.items()}
    settings = Settings(
        checkpoints,
        options.data,
        options.split,
        max_steps=options.max_steps,
        seed=options.seed,
        device=options.device,
        digests=digests,
    )
    agent = load_agent(options.checkpoint)
    conditions = {name: CONDITIONS[name] for name in options.conditions}
    conditions |= {name: condition for name, (condition, _) in others.items()}
    config = agent.model.config
    if "no_memory" in conditions and not (config.num_history and config.memory_strategy != "none"):
        print("the checkpoint has no slow memory: the condition 'no_memory' would be 'own' again and is left out")
        del conditions["no_memory"]
    if not conditions:
        raise ValueError("there is no condition to play: pass others")
    run = Run(settings, options.out, options.episodes, conditions, digests)
    records = run.play(options.workers)
    meanings = {name: condition.meaning for name, condition in (CONDITIONS | conditions).items()}
    instructions = [run.dataset.episode(e).instruction.text for e in run.episode_ids[:LATENCY_EPISODES]]
    summary = {
        **describe(agent, settings),
        "digests": digests,
        "dataset": run.dataset.name,
        "split": run.dataset.split,
        "simulator": next(iter(next(iter(records.values())).values()))["simulator"],
        "conditions": {
            name: {"meaning": meanings[name], **summarize_condition(list(played.values()), settings.seed)}
            for name, played in records.items()
        },
        "comparisons": compare_all(records, settings.seed),
        "latency_ms": measure_latency(agent, instructions),
    }
    clean: dict[str, Any] = without_infinities(summary)
    (options.out / "summary.json").write_text(json.dumps(clean, indent=1, allow_nan=False), encoding="utf-8")
    return clean


def describe(agent: StreamVLNAgent, settings: Settings) -> dict[str, Any]:
    """What was evaluated, and with what."""
    config = agent.model.config
    names = ("image_size", "tokens_per_frame", "num_history", "memory_strategy", "window_steps", "chunk_size")
    return {
        "checkpoint": settings.checkpoints["checkpoint"] or "the package's own",
        "against": {name: folder for name, folder in settings.checkpoints.items() if name != "checkpoint"},
        "trained": agent.trained,
        "parameters": sum(p.numel() for p in agent.model.parameters()),
        "network": {name: getattr(config, name) for name in names},
        "max_steps": settings.max_steps,
        "seed": settings.seed,
        "device": settings.device,
        "versions": {"streamvln-gym": __version__, "python": platform.python_version(), "torch": torch.__version__},
        "processor": _processor_name(),
    }


def main() -> None:
    """Evaluates and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="folder or hub id; default: the package's own network")
    parser.add_argument("--against", nargs="+", default=[], metavar="[NAME=]FOLDER", help="checkpoints to compare with")
    parser.add_argument("--data", default="flats", help="flats, a folder of built flats, or a VLN-CE episode file")
    parser.add_argument("--split", default="val_unseen")
    parser.add_argument("--episodes", type=int, default=0, help="how many; 0 (default) plays the whole split")
    parser.add_argument("--conditions", nargs="+", choices=CONDITIONS, default=list(CONDITIONS))
    parser.add_argument("--max-steps", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes; each takes a scene at a time")
    parser.add_argument("--device", default="cpu", help="of the networks that play")
    parser.add_argument("--out", type=Path, default=Path("runs/checkpoint"))
    options = parser.parse_args()
    try:
        summary = evaluate(options)
    except (StreamVLNGymError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    except BrokenProcessPool as error:
        raise SystemExit(
            "error: a worker process was killed (out of memory?). What was finished is kept: run the same command "
            "again to go on, or use fewer workers."
        ) from error
    note = "" if summary["trained"] else f" ({UNTRAINED})"
    data = f"{summary['dataset']}/{summary['split']}, {summary['simulator']} simulator"
    print(f"\n{summary['checkpoint']}{note} on {data}")
    print(conditions_table(summary["conditions"]))
    print(f"\n{kinds_table(summary['conditions'])}")
    if summary["comparisons"]:
        print(f"\n{comparisons_table(summary['comparisons'])}")
    print(f"\nms per decision on one core ({summary['processor']})")
    for kind, times in summary["latency_ms"].items():
        print(f"{kind:16} median {times['median']:8.2f}  p95 {times['p95']:8.2f}  ({times['calls']} calls)")
    print(f"\nwrote {options.out / 'summary.json'}")


if __name__ == "__main__":
    main()
