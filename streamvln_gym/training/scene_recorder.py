"""Records the episodes of one scene after the other: what each process of `recorder` does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from streamvln_gym.devices import choose_device, one_torch_thread
from streamvln_gym.digests import episodes_digest
from streamvln_gym.episodes import Episode
from streamvln_gym.errors import NavigationError
from streamvln_gym.simulators.base import Action
from streamvln_gym.training.episode_recording import (
    EpisodeRecording,
    check_has_goal,
    plain_id,
    recording_env,
    trajectory_name,
)
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

    @cached_property
    def origin(self) -> str:
        """Digest of the episodes."""
        return episodes_digest(self.episodes)


class SceneRecorder:
    """Plays episodes with the driver and writes them; one environment and one driver for all scenes.

    Args:
        config: of the recording.
    """

    def __init__(self, config: RecordConfig) -> None:
        self.config = config
        self._env = recording_env(config)
        self._driver = _make_driver(config)
        self._episodes_of: dict[str, list[str]] = {}
        for episode_id in self._env.dataset.episode_ids:
            self._episodes_of.setdefault(self._env.dataset.scene_of(episode_id), []).append(episode_id)

    def close(self) -> None:
        """Frees the scenes."""
        self._env.close()

    def process(self, scene_id: str, count: Callable[[int], object]) -> None:
        """Records what is missing of a scene.

        Args:
            scene_id: the scene.
            count: is told the number of episodes after each trajectory.

        Raises:
            DatasetError: the episodes have no goals, or a file cannot be written.
            StreamVLNGymError: the scene cannot be loaded.
        """
        units = self.units(scene_id)
        with one_torch_thread(self.config.driver == "streamvln"):
            for unit in units[: self.config.per_scene or None]:
                if not is_recorded(self.config.out, unit.name, unit.origin):
                    self._record(unit)
                count(len(unit.episodes))

    def units(self, scene_id: str) -> list[Unit]:
        """A scene's trajectories in the order of the dataset."""
        groups: dict[Any, list[Episode]] = {}
        for episode_id in self._episodes_of[scene_id]:
            episode = self._env.dataset.episode(episode_id)
            groups.setdefault(_path_of(episode) if self.config.driver == "expert" else episode_id, []).append(episode)
        return [Unit(trajectory_name(self._env.dataset, group[0]), tuple(group)) for group in groups.values()]

    def _record(self, unit: Unit) -> None:
        episode = unit.episodes[0]
        check_has_goal(self._env.dataset, episode)
        texts = [member.instruction.text for member in unit.episodes if member.instruction.text.strip()]
        if not texts:
            mark_skipped(self.config.out, unit.name, "its instruction is empty", origin=unit.origin)
            return
        with TrajectoryWriter(self.config.out, unit.name, self.config.quality) as writer:
            try:
                labels, executed = self._play(episode, writer)
            except NavigationError as error:
                mark_skipped(self.config.out, unit.name, str(error), origin=unit.origin)
                return
            writer.publish(
                plain_id(episode.episode_id),
                texts,
                labels,
                None if self._driver is None else executed,
                self.config.camera.intrinsics if self.config.depth else None,
                origin=unit.origin,
            )

    def _play(self, episode: Episode, writer: TrajectoryWriter) -> tuple[list[int], list[int]]:
        """Plays to the end; returns the expert's and the driver's actions.

        Raises:
            NavigationError: the expert cannot reach the goal, or does not within `max_steps`.
        """
        recording = EpisodeRecording(self.config, self._env, episode, writer)
        driver = self._driver(episode) if self._driver else None
        while not recording.finished:
            observation = recording.look()
            recording.execute(recording.labels[-1] if driver is None else driver.act(observation))
        if driver is None and recording.executed[-1] != Action.STOP:
            raise NavigationError(f"the expert did not stop within {self.config.max_steps} steps")
        return recording.labels, recording.executed


# ------------------------------------------------------------------------------------------------------------ helpers


def _path_of(episode: Episode) -> tuple[Any, ...]:
    """What episodes with the same pictures agree in."""
    goals = tuple(goal.position for goal in episode.goals)
    start = (episode.start_position, episode.start_rotation)
    return (episode.trajectory_id, *start, goals, episode.reference_path, episode.via)


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
    policy = load_policy(config.checkpoint, config.device)

    def fresh(episode: Episode) -> Any:
        policy.reset()
        return policy

    return fresh


def load_policy(checkpoint: str | None, device: str) -> Any:
    """The StreamVLN agent; the device "auto" is the GPU, where there is one."""
    from streamvln_gym.agents import StreamVLNAgent

    return StreamVLNAgent.from_pretrained(checkpoint, device=choose_device(device))
