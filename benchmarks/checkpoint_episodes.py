"""The episodes of `benchmarks/checkpoint.py`: under which conditions they are played, and how.

A worker takes the episodes of one scene at a time and plays them together: one batched model call per chunk, and one
picture per call, since what the policy does not look at is not rendered. An episode's record is handed over when it
ends. A batch decides as single agents do, so neither workers nor interruptions change a result.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import numpy as np
import torch

from streamvln_gym.agents import ForwardAgent, OracleAgent, StreamVLNAgent
from streamvln_gym.env import VLNEnv
from streamvln_gym.episodes import EpisodeDataset
from streamvln_gym.errors import CheckpointError, EpisodeNotFoundError
from streamvln_gym.metrics import METRICS
from streamvln_gym.models.memory_strategies import strategy_of
from streamvln_gym.rollout import random_agent
from streamvln_gym.selection import open_dataset
from streamvln_gym.simulators.base import CameraConfig

NEUTRAL_INSTRUCTION = "."
"""Says nothing; a blank instruction would say less, but the agent refuses it."""
PATIENCE = 0.5  # seconds between two looks for workers that were killed


@dataclass(frozen=True)
class Condition:
    """How the episodes are played.

    Attributes:
        name: also of its file of records.
        meaning: for people.
        plays: "random", "forward", "oracle", or which of `Settings.checkpoints`.
        instruction: "own", "other" (of an episode in another scene) or "neutral".
        direct: pictures are rendered at the network's own resolution; otherwise 640x480, as environments do by default.
        memory_strategy: in place of the checkpoint's own.
    """

    name: str
    meaning: str
    plays: str = "checkpoint"
    instruction: str = "own"
    direct: bool = False
    memory_strategy: str | None = None

    @property
    def has_network(self) -> bool:
        return self.plays not in ("random", "forward", "oracle")


CONDITIONS = {
    condition.name: condition
    for condition in (
        Condition("own", "the episode's own instruction, 640x480 pictures"),
        Condition("other", "the instruction of an episode in another scene", instruction="other"),
        Condition("neutral", f"an empty instruction ({NEUTRAL_INSTRUCTION!r})", instruction="neutral"),
        Condition("direct", "pictures rendered at the network's own resolution", direct=True),
        Condition("no_memory", "slow memory switched off at test time", memory_strategy="none"),
        Condition("random", "an agent that acts at random", plays="random"),
        Condition("forward", "an agent that walks straight ahead and stops", plays="forward"),
        Condition("oracle", "the geodesic follower, which knows map and path", plays="oracle"),
    )
}


def against_conditions(values: Sequence[str]) -> dict[str, tuple[Condition, str]]:
    """Conditions of other checkpoints, with their folders, by name.

    Args:
        values: each "NAME=FOLDER", or "FOLDER", which is called "against".

    Raises:
        ValueError: a name is taken.
    """
    found: dict[str, tuple[Condition, str]] = {}
    for value in values:
        named = re.fullmatch(r"([\w-]+)=(.+)", value)
        name, folder = named.groups() if named else ("against", value)
        if name in found or name in CONDITIONS or name == "checkpoint":
            raise ValueError(f"--against {value}: there is a {name!r} already; give it another name as NAME=FOLDER")
        found[name] = Condition(name, f"another checkpoint, {folder}", plays=name), folder
    return found


@dataclass(frozen=True)
class Settings:
    """What all episodes have in common.

    Attributes:
        checkpoints: folder or hub id by name, "checkpoint" and those to compare with; None means the package's own.
        data: "flats", a folder of built flats, or a VLN-CE episode file.
        split: of the dataset.
        scenes: ids of the scenes that are needed; None means all.
        max_steps: actions after which an episode is cut off.
        seed: of the other episodes' instructions and the random agent.
        device: of the networks.
        digests: of the checkpoints, by name, as far as they are to be what they were when the run began.
    """

    checkpoints: Mapping[str, str | None]
    data: str = "flats"
    split: str = "val_unseen"
    scenes: tuple[str, ...] | None = None
    max_steps: int = 500
    seed: int = 0
    device: str = "cpu"
    digests: Mapping[str, str] = field(default_factory=dict)

    def open(self) -> EpisodeDataset:
        """The dataset."""
        return open_dataset(self.data, self.split, Path("data"), self.scenes)


@dataclass(frozen=True)
class Task:
    """Episodes of one scene that are played together under one condition.

    Attributes:
        condition: how.
        episode_ids: (N,).
        instructions: (N,) what the agent is told.
    """

    condition: Condition
    episode_ids: tuple[str, ...]
    instructions: tuple[str, ...]


class Policy(Protocol):
    """Decides for N episodes at once."""

    def decide(
        self, observations: Sequence[Mapping[str, Any]], starts: np.ndarray, active: np.ndarray
    ) -> list[list[int]]:
        """N chunks of actions; empty where an episode is not active."""


class NetworkPolicy:
    """A StreamVLN agent, a model call at a time.

    Args:
        agent: its batch is this policy's.
    """

    def __init__(self, agent: StreamVLNAgent) -> None:
        self.agent = agent

    def decide(
        self, observations: Sequence[Mapping[str, Any]], starts: np.ndarray, active: np.ndarray
    ) -> list[list[int]]:
        return self.agent.predict_chunk_batch(observations, starts, active=active)


class PicturelessPolicy:
    """Agents that are shown nothing, one for each episode.

    Args:
        agents: (N,) with `reset` and `act`; reset when their episodes start.
    """

    def __init__(self, agents: Sequence[Any]) -> None:
        self.agents = agents

    def decide(
        self, observations: Sequence[Mapping[str, Any]], starts: np.ndarray, active: np.ndarray
    ) -> list[list[int]]:
        for agent, fresh in zip(self.agents, starts, strict=True):
            if fresh:
                agent.reset()
        return [[agent.act({})] if on else [] for agent, on in zip(self.agents, active, strict=True)]


def load_agent(name: str | None, device: str = "cpu", memory_strategy: str | None = None) -> StreamVLNAgent:
    """The agent of a checkpoint in float32, where a batch decides as single agents do."""
    return StreamVLNAgent.from_pretrained(name, device=device, dtype=torch.float32, memory_strategy=memory_strategy)


def digest(agent: StreamVLNAgent) -> str:
    """Names a network by its weights and configuration, wherever it was loaded from."""
    sha = hashlib.sha256()
    for name, tensor in sorted(agent.model.state_dict().items()):
        sha.update(name.encode())
        sha.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    origin = ("_name_or_path", "architectures", "dtype", "transformers_version")
    values = {key: value for key, value in agent.model.config.to_dict().items() if key not in origin}
    sha.update(repr(sorted(values.items())).encode())
    return sha.hexdigest()[:16]


def other_episodes(dataset: EpisodeDataset, seed: int) -> dict[str, str]:
    """For every episode one of another scene: the scenes go round in a drawn order, each takes from the next.

    With as many episodes in every scene each episode is taken once. What an episode gets depends on the whole split and
    the seed, not on which episodes are played.

    Raises:
        EpisodeNotFoundError: there is one scene only.
    """
    scenes: dict[str, list[str]] = {}
    for episode_id in dataset.episode_ids:
        scenes.setdefault(dataset.scene_of(episode_id), []).append(episode_id)
    if len(scenes) < 2:
        raise EpisodeNotFoundError(
            f"{dataset.name}/{dataset.split} has one scene, but an instruction of another scene was asked for: use a "
            "dataset of at least two scenes, or leave the condition 'other' out"
        )
    rng = np.random.default_rng(seed)
    names = list(scenes)
    ring = [names[k] for k in rng.permutation(len(names))]
    taken: dict[str, str] = {}
    for position, scene in enumerate(ring):
        givers = scenes[ring[(position + 1) % len(ring)]]
        order = rng.permutation(len(givers))
        for k, episode_id in enumerate(scenes[scene]):
            taken[episode_id] = givers[order[k % len(order)]]
    return taken


class Player:
    """Plays tasks in one process; networks are loaded when they are first needed.

    Args:
        settings: what all episodes have in common.
        dataset: opened from them.
    """

    def __init__(self, settings: Settings, dataset: EpisodeDataset | None = None) -> None:
        torch.set_num_threads(1)
        self.settings = settings
        self.dataset = dataset or settings.open()
        self._agents: dict[tuple[str, str | None], StreamVLNAgent] = {}

    def play(self, task: Task) -> Iterator[dict[str, Any]]:
        """The records of a task's episodes as these end; `seconds` is the time since the one before."""
        condition = task.condition
        sensors, camera = ["instruction"], CameraConfig()
        begun = time.perf_counter()
        if condition.has_network:
            agent = self._agent(condition)
            sensors += ["rgb", *(("depth", "camera_pose") if strategy_of(agent.model.config).needs_geometry else ())]
            if condition.direct:
                camera = CameraConfig.of_size(agent.model.config.image_size, agent.model.config.image_size, 2)
        envs = [
            VLNEnv(self.dataset, camera=camera, sensors=sensors, max_steps=self.settings.max_steps)
            for _ in task.episode_ids
        ]
        try:
            for record in play_together(envs, self._policy(task, envs), task):
                now = time.perf_counter()
                yield {**record, "seconds": round(now - begun, 3)}
                begun = now
        finally:
            for env in envs:
                env.close()

    def _policy(self, task: Task, envs: Sequence[VLNEnv]) -> Policy:
        plays = task.condition.plays
        if plays == "random":
            return PicturelessPolicy([random_agent(self.settings.seed, e) for e in task.episode_ids])
        if plays == "forward":
            return PicturelessPolicy([ForwardAgent() for _ in envs])
        if plays == "oracle":
            return PicturelessPolicy([OracleAgent(env) for env in envs])
        return NetworkPolicy(self._agent(task.condition))

    def _agent(self, condition: Condition) -> StreamVLNAgent:
        key = condition.plays, condition.memory_strategy
        if key not in self._agents:
            name = self.settings.checkpoints[condition.plays]
            agent = load_agent(name, self.settings.device, condition.memory_strategy)
            expected = self.settings.digests.get(condition.plays)
            if expected is not None and digest(agent) != expected:
                raise CheckpointError(
                    f"the weights of {name or 'the package'} have changed since the run began: evaluate the new ones "
                    "into another folder"
                )
            self._agents[key] = agent
        return self._agents[key]


def play_together(envs: Sequence[VLNEnv], policy: Policy, task: Task) -> Iterator[dict[str, Any]]:
    """Plays N episodes to their ends, chunk by chunk.

    Yields:
        N records in the order in which they end: ids, `actions`, `stopped`, and every metric under its name.
    """
    observations: list[dict[str, Any]] = []
    for env, episode_id, instruction in zip(envs, task.episode_ids, task.instructions, strict=True):
        observation, info = env.reset(options={"episode_id": episode_id})
        observations.append({**observation, "instruction": instruction, "intrinsics": info["intrinsics"]})
    starts, active = np.ones(len(envs), bool), np.ones(len(envs), bool)
    actions: list[list[int]] = [[] for _ in envs]
    while active.any():
        chunks = policy.decide(observations, starts, active)
        starts = np.zeros(len(envs), bool)
        for slot in np.flatnonzero(active).tolist():
            env = envs[slot]
            for action in chunks[slot]:
                _, terminated, truncated, info = env.advance(action)
                actions[slot].append(int(action))
                if terminated or truncated:
                    active[slot] = False
                    yield _record(info, actions[slot], terminated)
                    break
            else:
                observations[slot] |= {**env.observe(), "instruction": task.instructions[slot]}


def _record(info: Mapping[str, Any], actions: list[int], stopped: bool) -> dict[str, Any]:
    ids = ("dataset", "split", "simulator", "scene_id", "episode_id", "trajectory_id", "needs_memory")
    metrics = {name: info[name] for name in METRICS if name in info}
    return {**{key: info[key] for key in ids}, **metrics, "stopped": bool(stopped), "actions": actions}


_player: Player | None = None
_results: Any = None


def _start_worker(settings: Settings, results: Any) -> None:
    global _player, _results
    _player, _results = Player(settings), results


def _play_in_worker(number: int, task: Task) -> None:
    assert _player is not None
    for record in _player.play(task):
        _results.put((number, record))


def play_all(settings: Settings, tasks: Sequence[Task], workers: int) -> Iterator[tuple[Task, dict[str, Any]]]:
    """Plays tasks in this process (one worker) or in so many others; records come as episodes end.

    Raises:
        concurrent.futures.process.BrokenProcessPool: a worker was killed.
    """
    if workers <= 1 or len(tasks) <= 1:
        player = Player(settings)
        for task in tasks:
            for record in player.play(task):
                yield task, record
        return
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    pool = ProcessPoolExecutor(min(workers, len(tasks)), context, _start_worker, (settings, results))
    futures = {pool.submit(_play_in_worker, number, task) for number, task in enumerate(tasks)}
    pending = futures
    try:
        while pending:
            finished, pending = wait(pending, PATIENCE, FIRST_COMPLETED)
            while not results.empty():
                number, record = results.get()
                yield tasks[number], record
            if any(future.exception() for future in finished if not future.cancelled()):
                # What is being played is played to its end and kept.
                pool.shutdown(wait=False, cancel_futures=True)
            pending = {future for future in pending if not future.cancelled()}  # `wait` would wait for these
        for future in futures:
            if not future.cancelled():
                future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        while not all(future.done() for future in futures):
            while not results.empty():  # a worker waits where nobody reads
                results.get()
            time.sleep(PATIENCE / 10)
