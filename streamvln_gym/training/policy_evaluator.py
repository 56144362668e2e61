"""Evaluates a checkpoint on a split, in parallel over scenes; kills change nothing.

<file>            one JSON line per episode, as `rollout --json` writes them, in the order of `choose_episodes`
<file>.parts/     while it lasts: the finished episodes of each scene
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tqdm import tqdm

from streamvln_gym import __version__
from streamvln_gym.records import append_record, read_records
from streamvln_gym.rollout import UNTRAINED, choose_episodes, episode_record
from streamvln_gym.selection import open_dataset
from streamvln_gym.simulators.base import CameraConfig
from streamvln_gym.training.scene_workers import process_scenes, scenes_by_size

if TYPE_CHECKING:
    from streamvln_gym.env import VLNEnv


@dataclass(frozen=True)
class EvaluateConfig:
    """What is evaluated on.

    Attributes:
        data: "flats", "r2r", "rxr", a folder that `build-flats --out` wrote, or a VLN-CE episode file; default: what is
            recorded from.
        split: of the dataset.
        scenes: how many scenes; default: all of the split.
        episodes: how many; they are taken in turn from the scenes. 0 plays the whole split.
        max_steps: actions after which an episode is cut off.
    """

    data: str | None = None
    split: str = "val_unseen"
    scenes: int | None = None
    episodes: int = 100
    max_steps: int = 500

    def __post_init__(self) -> None:
        for name, least in {"episodes": 0, "max_steps": 1}.items():
            if getattr(self, name) < least:
                raise ValueError(f"EvaluateConfig.{name} must be at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True)
class EvaluationJob:
    """One evaluation.

    Attributes:
        settings: what is evaluated on; `data` is given.
        checkpoint: who is evaluated.
        device: of the policy, "auto", "cpu" or "cuda".
        camera: what it sees.
        data_dir: the folder with `datasets/` and `scene_datasets/`.
        batch: episodes of a scene that are played at once.
        workers: processes.
    """

    settings: EvaluateConfig
    checkpoint: str
    device: str
    camera: CameraConfig
    data_dir: Path
    batch: int
    workers: int


def evaluate_policy(job: EvaluationJob, path: Path) -> list[dict[str, Any]]:
    """Plays what is missing, and writes the file.

    Args:
        job: what to play.
        path: the file; one that is there is complete and is read.

    Returns:
        The records in the file's order.

    Raises:
        StreamVLNGymError: data, checkpoint or simulator cannot be had.
        ValueError: the file is of another evaluation.
    """
    settings = job.settings
    dataset = open_dataset(str(settings.data), settings.split, job.data_dir, settings.scenes)
    wanted = tuple(choose_episodes(dataset, settings.episodes))
    identity: dict[str, Any] = {"agent": "streamvln", "checkpoint": job.checkpoint, "max_steps": settings.max_steps}
    identity |= {"version": __version__, "dataset": dataset.name, "split": dataset.split}
    identity["picture"] = [job.camera.width, job.camera.height, job.camera.supersampling]
    parts = path.with_name(f"{path.name}.parts")
    if path.exists():
        shutil.rmtree(parts, ignore_errors=True)
        return list(read_records(path, identity).values())
    scenes = scenes_by_size(dataset, wanted)
    title = f"evaluating on {dataset.name}/{dataset.split}"
    with tqdm(total=len(wanted), desc=title, unit="episode") as bar:
        make = partial(SceneEvaluator, job, wanted, parts, identity)
        process_scenes(make, scenes, job.workers, bar, f"evaluated into {parts}")
    found: dict[str, dict[str, Any]] = {}
    for scene in scenes:
        found |= read_records(_part(parts, scene), identity)
    records = [found[episode_id] for episode_id in wanted]
    scratch = parts / path.name
    scratch.unlink(missing_ok=True)
    for record in records:
        append_record(scratch, record)
    os.replace(scratch, path)
    shutil.rmtree(parts)
    return records


class SceneEvaluator:
    """Plays the episodes of scenes in groups of a fixed size (see `PolicyRecorder`); only what is seen is rendered.

    Args:
        job: the evaluation.
        episode_ids: of all scenes.
        parts: folder of the scenes' records.
        identity: of every record.
    """

    def __init__(
        self, job: EvaluationJob, episode_ids: Sequence[str], parts: Path, identity: Mapping[str, Any]
    ) -> None:
        from streamvln_gym.env import VLNEnv
        from streamvln_gym.training.scene_recorder import load_policy

        self._job = job
        self._episode_ids = episode_ids
        self._parts = parts
        self._identity = identity
        self._policy = load_policy(job.checkpoint, job.device)
        settings = job.settings
        self._dataset = open_dataset(str(settings.data), settings.split, job.data_dir, settings.scenes)
        sensors = ("rgb", "depth", "instruction", "camera_pose")
        options: dict[str, Any] = {"camera": job.camera, "sensors": sensors, "max_steps": settings.max_steps}
        self._envs = [VLNEnv(self._dataset, "embedded", **options) for _ in range(job.batch)]

    def close(self) -> None:
        """Frees the scenes."""
        for env in self._envs:
            env.close()

    def process(self, scene_id: str, count: Callable[[int], object]) -> None:
        """Plays what is missing of a scene.

        Args:
            scene_id: the scene.
            count: is told the number of episodes after each group.
        """
        from streamvln_gym.devices import one_torch_thread
        from streamvln_gym.training.lockstep import play_together

        path = _part(self._parts, scene_id)
        done = read_records(path, self._identity)
        wanted = [episode_id for episode_id in self._episode_ids if self._dataset.scene_of(episode_id) == scene_id]
        note = {} if self._policy.trained else {"note": UNTRAINED}
        with one_torch_thread(True):
            for begin in range(0, len(wanted), self._job.batch):
                group = wanted[begin : begin + self._job.batch]
                if not done.keys() >= set(group):
                    players = [PlayedEpisode(env, name) for env, name in zip(self._envs, group, strict=False)]
                    play_together(self._policy, players)
                    for episode_id, player in zip(group, players, strict=True):
                        if episode_id not in done:
                            append_record(path, {**self._identity, **note, **player.record()})
                count(len(group))


class PlayedEpisode:
    """An episode that the policy plays alone; a `lockstep.Player`.

    Args:
        env: is reset.
        episode_id: of its dataset.
    """

    asks_policy = True

    def __init__(self, env: VLNEnv, episode_id: str) -> None:
        self._env = env
        _, self._info = env.reset(options={"episode_id": episode_id})
        self._intrinsics = self._info["intrinsics"]
        self._actions: list[int] = []
        self.finished = False
        self.n_executed = 0

    def look(self) -> dict[str, Any]:
        """The present observation, rendered now."""
        return {**self._env.observe(), "intrinsics": self._intrinsics}

    def play(self, chunk: Sequence[int]) -> None:
        """Executes the chunk, or what of it comes before the end."""
        self.n_executed = 0
        for action in chunk:
            _, terminated, truncated, self._info = self._env.advance(action)
            self._actions.append(int(action))
            self.n_executed += 1
            self.finished = terminated or truncated
            if self.finished:
                return

    def record(self) -> dict[str, Any]:
        """The finished episode's record, see `rollout.play`."""
        return episode_record(self._env.episode, self._info, self._actions)


def _part(parts: Path, scene_id: str) -> Path:
    return parts / f"{quote(scene_id, safe='')}.jsonl"
