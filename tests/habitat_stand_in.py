"""A `habitat.Env` of documented attributes only, on the embedded simulator, for where habitat-lab is not installed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from streamvln_gym.episodes import Episode, EpisodeDataset
from streamvln_gym.habitat_lab.pathfinder import EmbeddedPathFinder
from streamvln_gym.simulators.base import AgentState, CameraConfig
from streamvln_gym.simulators.embedded.simulator import EmbeddedSimulator

ACTIONS = {"stop": 0, "move_forward": 1, "turn_left": 2, "turn_right": 3}


def ground_truth(dataset: EpisodeDataset) -> dict[str, dict[str, Any]]:
    """A dataset's ground truth, as a `_gt` file holds it."""
    episodes = [dataset.episode(number) for number in dataset.episode_ids]
    return {e.episode_id: {"locations": e.gt_locations, "actions": e.gt_actions} for e in episodes}


class StandInSim:
    """habitat-lab's simulator, as far as `HabitatQueries` asks of it."""

    def __init__(self, camera: CameraConfig, turn_angle: float, normalize_depth: bool) -> None:
        self.embedded = EmbeddedSimulator(camera)
        self.previous_step_collided = False
        self.habitat_config = SimpleNamespace(forward_step_size=0.25, turn_angle=turn_angle)
        view = {
            "width": camera.width,
            "height": camera.height,
            "hfov": camera.hfov,
            "position": [0.0, camera.mount_height, 0.0],
            "orientation": [0.0, 0.0, 0.0],
        }
        depth = {"min_depth": 0.0, "max_depth": camera.max_depth, "normalize_depth": normalize_depth}
        self.sensor_suite = SimpleNamespace(
            sensors={
                "rgb": SimpleNamespace(config=SimpleNamespace(**view)),
                "depth": SimpleNamespace(config=SimpleNamespace(**view, **depth)),
            }
        )

    @property
    def pathfinder(self) -> EmbeddedPathFinder:
        return EmbeddedPathFinder(self.embedded.navmesh)

    def get_agent_state(self) -> Any:
        x, y, z, w = self.embedded.state.rotation
        return SimpleNamespace(position=self.embedded.state.position, rotation=SimpleNamespace(x=x, y=y, z=z, w=w))

    def geodesic_distance(self, start: Any, ends: Any) -> float:
        return self.embedded.geodesic_distance(start, ends)

    def get_straight_shortest_path_points(self, start: Any, end: Any) -> list:
        path = self.embedded.shortest_path(start, end)
        return [] if path is None else list(path)


class StandInEnv:
    """`habitat.Env`: `reset`, `step`, `current_episode`, `episodes`, `episode_over`, `sim`, `close`."""

    def __init__(
        self,
        dataset: EpisodeDataset,
        camera: CameraConfig,
        turn_angle: float = 15,
        normalize_depth: bool = True,
        step_limit: int = 500,
    ) -> None:
        self.sim = StandInSim(camera, turn_angle, normalize_depth)
        self.episodes = [self._converted(dataset, dataset.episode(number)) for number in dataset.episode_ids]
        self.actions: list[str] = []
        self.closed = False
        self._normalize, self._max_depth, self._limit = normalize_depth, camera.max_depth, step_limit
        self._next, self._current, self._forced = 0, self.episodes[0], False
        self.episode_over = True

    @property
    def current_episode(self) -> Any:
        return self._current

    @current_episode.setter
    def current_episode(self, episode: Any) -> None:
        self._current, self._forced = episode, True

    def reset(self) -> dict[str, Any]:
        if not self._forced:
            self._current = self.episodes[self._next % len(self.episodes)]
            self._next += 1
        self._forced, self.episode_over, self.actions = False, False, []
        self.sim.embedded.load_scene(self._current.scene_id)
        self.sim.embedded.set_state(
            AgentState.from_rotation(self._current.start_position, self._current.start_rotation)
        )
        return self._observations()

    def step(self, action: str) -> dict[str, Any]:
        assert not self.episode_over, "Episode over, call reset before calling step"
        self.actions.append(action)
        if action != "stop":
            self.sim.previous_step_collided = self.sim.embedded.step(ACTIONS[action])
        self.episode_over = action == "stop" or len(self.actions) >= self._limit
        return self._observations()

    def seed(self, seed: int) -> None:
        self.seeded = seed

    def close(self) -> None:
        self.closed = True

    def _observations(self) -> dict[str, Any]:
        seen = self.sim.embedded.observe(("rgb", "depth"))
        depth = seen["depth"] / self._max_depth if self._normalize else seen["depth"]
        return {"rgb": np.concatenate([seen["rgb"], seen["rgb"][:, :, :1]], axis=2), "depth": depth}

    @staticmethod
    def _converted(dataset: EpisodeDataset, episode: Episode) -> Any:
        return SimpleNamespace(
            episode_id=episode.episode_id,
            trajectory_id=episode.trajectory_id,
            scene_id=str(dataset.scene_path(episode.scene_id)),
            start_position=list(episode.start_position),
            start_rotation=list(episode.start_rotation),
            goals=[SimpleNamespace(position=list(goal.position), radius=goal.radius) for goal in episode.goals],
            reference_path=[list(point) for point in episode.reference_path],
            instruction=SimpleNamespace(instruction_text=episode.instruction.text, instruction_tokens=None),
            info={"geodesic_distance": episode.geodesic_distance, **episode.info},
        )
