"""One episode while it is played and recorded: the expert's action at every state, and the frame that is written."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from streamvln_gym.env import VLNEnv
from streamvln_gym.episodes import Episode, EpisodeDataset, scene_name
from streamvln_gym.errors import DatasetError
from streamvln_gym.expert import expert_for
from streamvln_gym.simulators.base import AgentState
from streamvln_gym.training.privileged import Privileged, patch_targets, pose_targets, room_targets
from streamvln_gym.training.recorder import RecordConfig
from streamvln_gym.training.trajectory_writer import TrajectoryWriter


class EpisodeRecording:
    """`look`, then `execute` what somebody chose, until `finished`.

    Args:
        config: of the recording.
        env: made by `recording_env`; it is reset.
        episode: of the environment's dataset.
        writer: gets the frames.

    Attributes:
        expert: follows the episode.
        labels: the expert's actions at the states that were looked at.
        executed: what was executed there.
        info: the environment's, of the last step.
        finished: whether the episode is over.
        shortest: geodesic metres of the whole way, from the start.

    Raises:
        NavigationError: the episode starts off the navigation mesh.
    """

    def __init__(self, config: RecordConfig, env: VLNEnv, episode: Episode, writer: TrajectoryWriter) -> None:
        self._config = config
        self._env = env
        self._writer = writer
        _, self.info = env.reset(options={"episode_id": episode.episode_id})
        self._intrinsics = self.info["intrinsics"]
        lenient = config.driver != "expert"
        self.expert = expert_for(env.simulator, episode, config.along_reference, config.waypoint_radius, lenient)
        self.shortest = self.remaining
        self.labels: list[int] = []
        self.executed: list[int] = []
        self.finished = False

    @property
    def state(self) -> AgentState:
        """Where the agent stands."""
        return self._env.trajectory[-1]

    @property
    def remaining(self) -> float:
        """Geodesic metres left to go, by the metrics' rules."""
        assert self._env.remaining is not None, "an episode that is recorded has a goal"
        return self._env.remaining

    def look(self) -> dict[str, Any]:
        """The observation (with `intrinsics`) of a new state; notes the expert's action there and writes the frame.

        Raises:
            NavigationError: the expert cannot reach the goal from here.
            DatasetError: a file cannot be written.
        """
        config, observation = self._config, self._env.observe()
        self.labels.append(self.expert.next_action(self.state))
        self._writer.add(
            observation["rgb"],
            observation["depth"] if config.depth else None,
            observation["camera_pose"] if config.depth else None,
            self._privileged(observation) if config.privileged else None,
        )
        return {**observation, "intrinsics": self._intrinsics}

    def execute(self, action: int) -> None:
        """Executes an action."""
        self.executed.append(int(action))
        _, terminated, truncated, self.info = self._env.advance(action)
        self.finished = terminated or truncated

    def _privileged(self, observation: dict[str, Any]) -> Privileged:
        classes, depth = patch_targets(observation, self._config.patches)
        graph = getattr(self._env.simulator, "scene_graph", None)
        pose = pose_targets(self.expert, self.state, self._env.trajectory[0])
        return Privileged(classes, depth, pose, room_targets(graph, self.expert, self.state))


def recording_env(config: RecordConfig, dataset: EpisodeDataset | None = None) -> VLNEnv:
    """An environment with all sensors that the recording and its driver need.

    Args:
        config: of the recording.
        dataset: the one that `config` names, where it is open already.
    """
    sensors = ["rgb", "instruction", "camera_pose"]
    if config.depth or config.privileged or config.driver == "streamvln":
        sensors.append("depth")
    if config.privileged:
        sensors.append("semantic")
    return VLNEnv(
        dataset=config.data if dataset is None else dataset,
        simulator=config.simulator,
        split=config.split,
        data_dir=config.data_dir,
        camera=config.camera,
        sensors=sensors,
        max_steps=config.max_steps,
        scenes=config.scenes if dataset is None else None,
        languages=(config.languages or None) if dataset is None else None,
    )


def check_has_goal(dataset: EpisodeDataset, episode: Episode) -> None:
    """Refuses splits without ground truth.

    Raises:
        DatasetError: the episode has no goal.
    """
    if not episode.goals:
        raise DatasetError(
            f"episode {episode.episode_id} of {dataset.name}/{dataset.split} has no goal, so there is nothing an "
            "expert could show: record a split that is not a test split"
        )


def trajectory_name(dataset: EpisodeDataset, episode: Episode) -> str:
    """Of an episode's files."""
    number = plain_id(episode.episode_id)
    last = f"{number:06d}" if isinstance(number, int) else quote(number, safe="")
    return f"{quote(scene_name(episode.scene_id), safe='')}_{quote(dataset.name, safe='')}_{last}"


def plain_id(episode_id: str) -> int | str:
    """A number as in published annotations, where the id is one."""
    return int(episode_id) if episode_id.isdecimal() and str(int(episode_id)) == episode_id else episode_id
