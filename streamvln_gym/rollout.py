"""Plays episodes with an agent and writes down what happened: metrics, JSON lines, videos."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal, get_args

import gymnasium as gym
import numpy as np
from tqdm import tqdm

from streamvln_gym import __version__
from streamvln_gym.devices import choose_device, is_small, one_torch_thread
from streamvln_gym.digests import checkpoint_digest, episodes_digest
from streamvln_gym.episode_run import EpisodeRun, needs_picture
from streamvln_gym.episodes import Episode, EpisodeDataset
from streamvln_gym.metrics import METRICS
from streamvln_gym.models.shipped import SHIPPED_NAME
from streamvln_gym.records import append_record, read_records
from streamvln_gym.selection import source_of
from streamvln_gym.simulators.choice import SimulatorChoice
from streamvln_gym.video import film_name
from streamvln_gym.viewer import RunViewer
from streamvln_gym.vlnce.predictions import TRAJECTORY, check_predictions, trajectory_record, write_predictions

AgentName = Literal["streamvln", "oracle", "random", "forward"]
UNTRAINED = "untrained weights"


@dataclass(frozen=True)
class PlayConfig:
    """Who plays which episodes: what `rollout` and `evaluate` have in common.

    Attributes:
        agent: who plays.
        checkpoint: folder (or hub id) of a StreamVLN checkpoint; default: "streamvln-tiny", which ships in the package.
        env: environment id, "StreamVLN-Flats-v0", "StreamVLN-R2R-v0" or "StreamVLN-RxR-v0".
        data: a dataset's name (r2r, rxr, envdrop, scalevln, flats), a folder that `build-flats --out` wrote, or a
            VLN-CE episode file, to play instead of the id's own data.
        data_dir: the folder with `datasets/` and `scene_datasets/`.
        split: of the dataset.
        scenes: play only in these scenes (ids or short names).
        languages: play only episodes in these languages, such as hi-IN, or en for every kind of English.
        episode_ids: play only these episodes.
        role: of RxR's paths.
        episodes: how many; they are taken in turn from the scenes. 0 plays the whole split.
        seed: shuffles the episodes and seeds the agent; default: file order.
        max_steps: actions after which an episode is cut off.
        device: of the StreamVLN agent, "auto", "cpu" or "cuda".
        simulator: "embedded", "habitat", or "auto": habitat where it is installed and can draw what is played.
    """

    agent: AgentName = "streamvln"
    checkpoint: str | None = None
    env: str = "StreamVLN-Flats-v0"
    data: Path | None = None
    data_dir: Path = Path("data")
    split: str = "val_unseen"
    scenes: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    episode_ids: tuple[str, ...] = ()
    role: Literal["guide", "follower", "all"] = "guide"
    episodes: int = 0
    seed: int | None = None
    max_steps: int = 500
    device: str = "auto"
    simulator: SimulatorChoice = "auto"


@dataclass(frozen=True)
class RolloutConfig(PlayConfig):
    """What `rollout` plays and writes.

    Attributes:
        episodes: how many; they are taken in turn from the scenes. 0 plays the whole split.
        video: folder for one MP4 per episode; None writes none.
        panel: draw below the videos what a StreamVLN agent remembers, decided and paid, see docs/watching.md.
        viewer: show the run live in Rerun's viewer.
        rerun: file (.rrd) to record the run into, for Rerun's viewer.
        json: file for one JSON line per episode; an existing file is added to, and the episodes it has are not played
            again.
        predictions: file for the predictions that the leaderboards of the test splits take: .json in the VLN-CE
            challenge's format (R2R-CE), .jsonl in the RxR-Habitat challenge's; with `json`, a stopped run goes on.
    """

    episodes: int = 3
    video: Path | None = Path("videos")
    panel: bool = True
    viewer: bool = False
    rerun: Path | None = None
    json: Path | None = None
    predictions: Path | None = None


def rollout(config: RolloutConfig) -> list[dict[str, Any]]:
    """Plays the episodes and returns one record per episode (the JSON lines).

    Raises:
        StreamVLNGymError: data, checkpoint, simulator or viewer cannot be had; the message says what to do.
        ValueError: the seed is negative, there is no such device, or the results cannot be written.
    """
    check_seed(config.seed)
    check_agent(config)
    if config.agent == "streamvln":
        check_network(config.checkpoint, config.device)
    _check_writable(config)
    viewer = RunViewer(config.rerun, config.viewer) if config.rerun or config.viewer else None
    env = gym.make(config.env, render_mode="rgb_array" if config.video else None, **env_options(config))
    try:
        dataset = env.unwrapped.dataset  # type: ignore[attr-defined]
        if config.predictions:
            check_predictions(config.predictions, dataset)
        agent, label = make_agent(config, env)
        checkpoint = str(config.checkpoint or SHIPPED_NAME) if config.agent == "streamvln" else None
        identity: dict[str, Any] = {
            "agent": config.agent,
            "checkpoint": checkpoint,
            "seed": config.seed,
            "max_steps": config.max_steps,
            "version": __version__,
            "dataset": dataset.name,
            "split": dataset.split,
            "source": source_of(dataset),
            "simulator": env.unwrapped.simulator.name,  # type: ignore[attr-defined]
        }
        if checkpoint and config.json:
            identity["checkpoint_sha256"] = checkpoint_digest(checkpoint)
        if label:
            identity["note"] = label
        same = {name: value for name, value in identity.items() if name != "checkpoint"}  # wherever its weights lie
        done = read_records(config.json, same) if config.json else {}
        if config.predictions:  # what was played without them lacks the positions
            done = {episode_id: record for episode_id, record in done.items() if TRAJECTORY in record}
        wanted = choose_episodes(dataset, config.episodes, config.seed)
        records = [done[episode_id] for episode_id in wanted if episode_id in done]
        _check_episodes(config, records, dataset)
        missing = [episode_id for episode_id in wanted if episode_id not in done]
        small = is_small(agent)
        if hasattr(agent, "watch") and (viewer or (config.video and config.panel)):
            agent = agent.watch()
        with one_torch_thread(small), viewer or nullcontext():
            for episode_id in tqdm(missing, desc=f"{config.agent} on {dataset.name}/{dataset.split}", unit="episode"):
                if config.agent == "random":  # drawn anew for every episode: a run taken up again gives the same
                    agent = random_agent(config.seed, episode_id)
                record = {**identity, **play(env, agent, episode_id, config.video, label, viewer, config.panel)}
                if config.json:
                    record["episode_sha256"] = episodes_digest([dataset.episode(episode_id)])
                if config.predictions:
                    run: Any = env.unwrapped
                    record |= trajectory_record(run.episode, run.trajectory)
                records.append(record)
                if config.json:
                    append_record(config.json, record)
        if config.predictions and records:
            write_predictions(config.predictions, records)
        return records
    finally:
        env.close()


def check_seed(seed: int | None) -> None:
    """Refuses a negative seed."""
    if seed is not None and seed < 0:
        raise ValueError(f"the seed must not be negative, got {seed}")


def env_options(config: PlayConfig) -> dict[str, Any]:
    """The environment's arguments."""
    options: dict[str, Any] = {
        name: getattr(config, name) or None for name in ("scenes", "languages", "episode_ids")
    } | {name: getattr(config, name) for name in ("split", "max_steps", "data_dir", "role", "simulator")}
    if config.data is not None:
        options["dataset"] = str(config.data)
    return options


def _check_episodes(config: RolloutConfig, records: Sequence[Mapping[str, Any]], dataset: EpisodeDataset) -> None:
    """Refuses results of other episodes that have the same ids, as in another file or release."""
    for record in records:
        if record.get("episode_sha256") != episodes_digest([dataset.episode(record["episode_id"])]):
            raise ValueError(
                f"{config.json} has a result of another episode {record['episode_id']!r} than this dataset's: give "
                "this run a file of its own"
            )


def _check_writable(config: RolloutConfig) -> None:
    """Finds out before the first episode whether its results can be written."""
    files = (("json", config.json), ("predictions", config.predictions), ("rerun", config.rerun))
    for option, folder in (("video", config.video), *((option, file and file.parent) for option, file in files)):
        if folder is None:
            continue
        try:
            folder.mkdir(parents=True, exist_ok=True)
            writable = os.access(folder, os.W_OK)
        except OSError:
            writable = False
        if not writable:
            raise ValueError(f"cannot write into the folder {folder}: give another one with --{option}")


def check_agent(config: PlayConfig) -> None:
    """Refuses an agent that there is not, and a checkpoint for one that takes none."""
    if config.agent not in get_args(AgentName):
        raise ValueError(f"unknown agent {config.agent!r}: use streamvln, oracle, random or forward")
    if config.checkpoint is not None and config.agent != "streamvln":
        raise ValueError(f"a checkpoint is for the agent 'streamvln', not for {config.agent!r}: leave one of them out")


def check_network(checkpoint: str | None, device: str | None) -> None:
    """Looks for a StreamVLN agent's checkpoint and device, before anything is built, played or written.

    Args:
        checkpoint: its name, None for the one that ships.
        device: its name, None for one of another machine.

    Raises:
        CheckpointError: there is no such checkpoint, or no configuration in it.
        ValueError: there is no such device.
    """
    from streamvln_gym.agents.checkpoint import find_folder
    from streamvln_gym.models.conversion import read_json

    if device is not None:
        choose_device(device)
    read_json(find_folder(checkpoint or SHIPPED_NAME) / "config.json")


def make_agent(config: PlayConfig, env: gym.Env | None, device: str | None = None) -> tuple[Any, str]:
    """The agent, and what has to be said about it wherever its numbers appear ("" if nothing).

    Args:
        config: who plays.
        env: where; only the oracle needs one.
        device: in place of the configuration's.
    """
    import streamvln_gym.agents as agents

    check_agent(config)
    if config.agent == "oracle":
        return agents.OracleAgent(env), ""
    if config.agent == "random":
        return random_agent(config.seed, ""), ""
    if config.agent == "forward":
        return agents.ForwardAgent(), ""
    agent = agents.StreamVLNAgent.from_pretrained(config.checkpoint, device=choose_device(device or config.device))
    return agent, "" if agent.trained else UNTRAINED


def random_agent(seed: int | None, episode_id: str) -> Any:
    """The random agent for one episode; what it does depends on nothing but the run's seed and the episode."""
    from streamvln_gym.agents import RandomAgent

    return RandomAgent(seed=zlib.crc32(f"{seed}/{episode_id}".encode()))


def choose_episodes(dataset: EpisodeDataset, count: int, seed: int | None = None) -> list[str]:
    """The first `count` episode ids (0: all) when the scenes take turns; a seed shuffles scenes and episodes before."""
    if count < 0:
        raise ValueError(f"the number of episodes must not be negative, got {count}")
    by_scene: dict[str, list[str]] = {}
    for episode_id in dataset.episode_ids:
        by_scene.setdefault(dataset.scene_of(episode_id), []).append(episode_id)
    groups: Sequence[list[str]] = list(by_scene.values())
    if seed is not None:
        rng = np.random.default_rng(seed)
        groups = [[group[k] for k in rng.permutation(len(group))] for group in groups]
        groups = [groups[k] for k in rng.permutation(len(groups))]
    turns = [episode_id for turn in zip_longest(*groups) for episode_id in turn if episode_id is not None]
    return turns[:count] if count else turns


def play(
    env: gym.Env,
    agent: Any,
    episode_id: str,
    video: Path | None = None,
    label: str = "",
    viewer: RunViewer | None = None,
    panel: bool = True,
) -> dict[str, Any]:
    """Plays one episode.

    Args:
        env: a `VLNEnv`, wrapped or not.
        agent: with `reset()` and `act(obs)`; where it has a `view` (see `StreamVLNAgent.watch`), that is shown too.
        episode_id: of the environment's dataset.
        video: folder for an MP4; needs an environment with render_mode="rgb_array".
        label: written into the video's frames.
        viewer: shown every step as well.
        panel: whether the agent's view is drawn into the video.

    Returns:
        The record: ids, dataset, split, simulator, instruction, actions, and every metric under its name.
    """
    file = None
    if video is not None:
        dataset: EpisodeDataset = env.unwrapped.dataset  # type: ignore[attr-defined]
        file = video / film_name(f"{dataset.name}_{dataset.split}_{episode_id}")
    with EpisodeRun(env, episode_id, file, label, viewer, panel) as run:
        agent.reset()
        while not run.finished:
            action = agent.act(run.observation)
            run.step(action, needs_picture(agent), getattr(agent, "view", None))
    return episode_record(run.episode, run.info, run.actions)


def episode_record(episode: Episode, info: Mapping[str, Any], actions: Sequence[int]) -> dict[str, Any]:
    """A finished episode as a record, see `play`.

    Args:
        episode: what was played.
        info: the environment's, of the last step.
        actions: what was executed.
    """
    ids = ("dataset", "split", "simulator", "scene_id", "episode_id", "trajectory_id", "needs_memory")
    record: dict[str, Any] = {key: info[key] for key in ids}
    record["instruction"] = episode.instruction.text
    record["actions"] = list(actions)
    record |= {rule: info.get(rule) for rule in ("success_rule", "path_reference")}
    record |= {name: info[name] for name in METRICS if name in info}
    return record
