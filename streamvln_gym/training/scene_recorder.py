"""Records the episodes of one scene after the other: what each process of `recorder` does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import quote

import numpy as np

from streamvln_gym.env import VLNEnv
from streamvln_gym.episodes import Episode, scene_name
from streamvln_gym.errors import DatasetError, NavigationError
from streamvln_gym.expert import GeodesicFollower, expert_for
from streamvln_gym.simulators.base import Action, AgentState
from streamvln_gym.training.privileged import Privileged, patch_targets, pose_targets, room_target
from streamvln_gym.training.recorder import RecordConfig
from streamvln_gym.training.trajectory_writer import TrajectoryWriter, is_recorded, mark_skipped


@dataclass(frozen=True)
class Unit:
    """What is recorded at once: a path with all its instructions, or a single episode.

    Attributes:
        name: of the trajectory's files.
        episodes: that share the path.
    """

    name: str
    episodes: tuple[Episode, ...]


class SceneRecorder:
    """Plays episodes with the driver and writes them; one environment and one driver for all scenes.

    Args:
        config: of the recording.
    """

    def __init__(self, config: RecordConfig) -> None:
        self.config = config
        sensors = ["rgb", "instruction", "camera_pose"]
        if config.depth or config.privileged or config.driver == "streamvln":
            sensors.append("depth")
        if config.privileged:
            sensors.append("semantic")
        self._env = VLNEnv(
            dataset=config.data,
            simulator="embedded",
            split=config.split,
            data_dir=config.data_dir,
            camera=config.camera,
            sensors=sensors,
            max_steps=config.max_steps,
            scenes=config.scenes,
        )
        self._driver = _make_driver(config)
        self._episodes_of: dict[str, list[str]] = {}
        for episode_id in self._env.dataset.episode_ids:
            self._episodes_of.setdefault(self._env.dataset.scene_of(episode_id), []).append(episode_id)

    def __enter__(self) -> SceneRecorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._env.close()

    def record(self, scene_id: str, count: Callable[[int], object]) -> None:
        """Records what is missing of a scene.

        Args:
            scene_id: the scene.
            count: is told the number of episodes after each trajectory.

        Raises:
            DatasetError: the episodes have no goals, or a file cannot be written.
            StreamVLNGymError: the scene cannot be loaded.
        """
        units = self.units(scene_id)
        with _one_torch_thread(self.config.driver == "streamvln"):
            for unit in units[: self.config.per_scene or None]:
                if not is_recorded(self.config.out, unit.name):
                    self._record(unit)
                count(len(unit.episodes))

    def units(self, scene_id: str) -> list[Unit]:
        """A scene's trajectories in the order of the dataset."""
        groups: dict[Any, list[Episode]] = {}
        for episode_id in self._episodes_of[scene_id]:
            episode = self._env.dataset.episode(episode_id)
            groups.setdefault(_path_of(episode) if self.config.driver == "expert" else episode_id, []).append(episode)
        return [Unit(self._name(group[0]), tuple(group)) for group in groups.values()]

    def _record(self, unit: Unit) -> None:
        episode = unit.episodes[0]
        if not episode.goals:
            raise DatasetError(
                f"episode {episode.episode_id} of {self._env.dataset.name}/{self._env.dataset.split} has no goal, so "
                "there is nothing an expert could show: record a split that is not a test split"
            )
        texts = [member.instruction.text for member in unit.episodes if member.instruction.text.strip()]
        if not texts:
            mark_skipped(self.config.out, unit.name, "its instruction is empty")
            return
        with TrajectoryWriter(self.config.out, unit.name, self.config.quality) as writer:
            try:
                labels, executed = self._play(episode, writer)
            except NavigationError as error:
                mark_skipped(self.config.out, unit.name, str(error))
                return
            writer.publish(
                _plain_id(episode.episode_id),
                texts,
                labels,
                None if self._driver is None else executed,
                self.config.camera.intrinsics if self.config.depth else None,
            )

    def _play(self, episode: Episode, writer: TrajectoryWriter) -> tuple[list[int], list[int]]:
        """Plays to the end; returns the expert's and the driver's actions.

        Raises:
            NavigationError: the expert cannot reach the goal, or does not within `max_steps`.
        """
        env, config = self._env, self.config
        observation, info = env.reset(options={"episode_id": episode.episode_id})
        expert = expert_for(env.simulator, episode, config.along_reference, config.waypoint_radius)
        driver = self._driver(episode) if self._driver else None
        labels: list[int] = []
        executed: list[int] = []
        intrinsics = info["intrinsics"]
        while True:
            state = env.trajectory[-1]
            labels.append(expert.next_action(state))
            writer.add(
                observation["rgb"],
                observation["depth"] if config.depth else None,
                observation["camera_pose"] if config.depth else None,
                self._privileged(observation, expert, state) if config.privileged else None,
            )
            action = labels[-1] if driver is None else driver.act({**observation, "intrinsics": intrinsics})
            executed.append(int(action))
            _, terminated, truncated, _ = env.advance(action)
            if terminated or truncated:
                break
            observation = env.observe()
        if driver is None and executed[-1] != Action.STOP:
            raise NavigationError(f"the expert did not stop within {config.max_steps} steps")
        return labels, executed

    def _privileged(self, observation: dict[str, Any], expert: GeodesicFollower, state: AgentState) -> Privileged:
        classes, depth = patch_targets(observation, self.config.patches)
        graph = getattr(self._env.simulator, "scene_graph", None)
        pose = pose_targets(expert, state, self._env.trajectory[0])
        return Privileged(classes, depth, pose, np.asarray(room_target(graph, state)))

    def _name(self, episode: Episode) -> str:
        number = _plain_id(episode.episode_id)
        last = f"{number:06d}" if isinstance(number, int) else quote(number, safe="")
        return f"{quote(scene_name(episode.scene_id), safe='')}_{quote(self._env.dataset.name, safe='')}_{last}"


# ------------------------------------------------------------------------------------------------------------ helpers


def _path_of(episode: Episode) -> tuple[Any, ...]:
    """What episodes with the same pictures agree in."""
    goals = tuple(goal.position for goal in episode.goals)
    start = (episode.start_position, episode.start_rotation)
    return (episode.trajectory_id, *start, goals, episode.reference_path, episode.via)


def _plain_id(episode_id: str) -> int | str:
    """A number as in published annotations, where the id is one."""
    return int(episode_id) if episode_id.isdecimal() and str(int(episode_id)) == episode_id else episode_id


def _make_driver(config: RecordConfig) -> Callable[[Episode], Any] | None:
    """Gives an agent, reset, for each episode; None for the expert."""
    if config.driver == "expert":
        return None
    from streamvln_gym import agents
    from streamvln_gym.rollout import random_agent

    if config.driver == "random":  # drawn anew for every episode, so that their order does not matter
        return lambda episode: random_agent(config.seed, episode.episode_id)
    if config.driver == "forward":
        return lambda episode: agents.ForwardAgent()
    import torch

    device = config.device if config.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    policy = agents.StreamVLNAgent.from_pretrained(config.checkpoint, device=device)

    def fresh(episode: Episode) -> Any:
        policy.reset()
        return policy

    return fresh


@contextmanager
def _one_torch_thread(wanted: bool) -> Iterator[None]:
    """Sums come out the same however many workers there are, and these do not wait for each other."""
    if not wanted:
        yield
        return
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
