"""A user's own `habitat.Env` as this package's Gymnasium environment. Nothing of habitat is imported here."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamvln_gym.env import VLNEnv
from streamvln_gym.errors import SimulatorUnavailableError
from streamvln_gym.habitat_lab.episodes import HabitatEpisodes
from streamvln_gym.simulators.base import FORWARD_METRES, TURN_DEGREES, Action, AgentState, CameraConfig
from streamvln_gym.simulators.habitat_queries import HabitatQueries
from streamvln_gym.spaces import VISUAL_SENSORS

_ACTION_NAMES = {
    Action.STOP: "stop",
    Action.FORWARD: "move_forward",
    Action.LEFT: "turn_left",
    Action.RIGHT: "turn_right",
}


class HabitatEnvSimulator(HabitatQueries):
    """The simulator inside a `habitat.Env`: it moves by `env.step`, so that habitat's measures see every action.

    Args:
        env: the environment.

    Raises:
        ValueError: its actions or its cameras are not what this package's environments have.
    """

    def __init__(self, env: Any) -> None:
        self.env = env
        self.name = f"habitat.Env ({type(env.sim).__name__})"
        config = env.sim.habitat_config
        if abs(config.forward_step_size - FORWARD_METRES) > 1e-6 or abs(config.turn_angle - TURN_DEGREES) > 1e-6:
            raise ValueError(
                f"this habitat.Env moves {config.forward_step_size} m and turns {config.turn_angle} degrees, VLN-CE's "
                f"actions are {FORWARD_METRES} m and {TURN_DEGREES:g} degrees. Set habitat.simulator.forward_step_size="
                f"{FORWARD_METRES} and habitat.simulator.turn_angle={TURN_DEGREES:g}."
            )
        self._sensors = {uuid: s.config for uuid, s in env.sim.sensor_suite.sensors.items() if uuid in VISUAL_SENSORS}
        self.camera = _common_camera(self._sensors)
        self._drawn: Mapping[str, Any] = {}

    @property
    def sim(self) -> Any:
        """habitat-lab's simulator."""
        return self.env.sim

    @property
    def visual_sensors(self) -> tuple[str, ...]:
        """The cameras that the environment has, out of `spaces.VISUAL_SENSORS`."""
        return tuple(sensor for sensor in VISUAL_SENSORS if sensor in self._sensors)

    def start(self, episode: Any | None) -> Any:
        """Resets the environment, to an episode of its own choice or to a given one; the episode that runs."""
        if episode is not None:
            self.env.current_episode = episode
        self._drawn = self.env.reset()
        return self.env.current_episode

    def load_scene(self, scene: Path) -> None:
        """`start` has done so."""

    def set_state(self, state: AgentState) -> None:
        """`start` has done so: the agent stands where the episode begins, and habitat moves it from there."""

    def step(self, action: int) -> bool:
        """Executes an action, STOP too, and returns whether the agent collided."""
        self._drawn = self.env.step(_ACTION_NAMES[Action(action)])
        return bool(self.sim.previous_step_collided) and action == Action.FORWARD

    def observe(self, sensors: Collection[str]) -> dict[str, NDArray]:
        """The pictures that habitat drew last, in this package's form: depth float32 (H, W, 1) in metres.

        Raises:
            SimulatorUnavailableError: the environment has no such camera.
        """
        missing = [sensor for sensor in sensors if sensor not in self._sensors]
        if missing:
            raise SimulatorUnavailableError(
                f"this habitat.Env has no sensor {missing[0]!r}: add it to habitat.simulator.agents.main_agent."
                "sim_sensors, or leave it out of `sensors`"
            )
        return {sensor: self._picture(sensor) for sensor in sensors}

    @property
    def semantic_classes(self) -> Mapping[int, str]:
        """Nothing: habitat's semantic sensor gives instance ids, which only its dataset can name."""
        return {}

    def close(self) -> None:
        """Closes the environment."""
        self.env.close()

    def _picture(self, sensor: str) -> NDArray:
        picture = np.asarray(self._drawn[sensor])
        if sensor == "rgb":
            return np.ascontiguousarray(picture[:, :, :3], dtype=np.uint8)
        if sensor == "semantic":
            return picture.astype(np.int32)
        config = self._sensors[sensor]
        metres = picture.astype(np.float32)
        if config.normalize_depth:
            metres = metres * (config.max_depth - config.min_depth) + config.min_depth
        return np.clip(metres, self.camera.min_depth, self.camera.max_depth)


class HabitatVLNEnv(VLNEnv):
    """See `VLNEnv.from_habitat_env`."""

    _shuffled = False  # whether the order is ours: a seed has decided it, or episodes are shared

    def __init__(
        self,
        env: Any,
        sensors: Sequence[str] | None = None,
        name: str = "habitat",
        split: str | None = None,
        ground_truth: Mapping[str, Mapping[str, Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        self._habitat = HabitatEnvSimulator(env)
        if sensors is None:
            seen = [sensor for sensor in self._habitat.visual_sensors if sensor != "semantic"]
            sensors = (*seen, "instruction", "gps", "compass", "camera_pose")
        split = split or str(getattr(getattr(_config(env), "dataset", None), "split", "unknown"))
        dataset: Any = HabitatEpisodes(env, name, split, ground_truth)
        super().__init__(dataset, self._habitat, split, sensors=sensors, **{"max_steps": _max_steps(env), **kwargs})

    @property
    def habitat_env(self) -> Any:
        """The wrapped environment; its `get_metrics()` are habitat's own measures of the present episode."""
        return self._habitat.env

    def advance(self, action: int) -> tuple[float, bool, bool, dict[str, Any]]:
        """`step` without an observation (habitat renders at every step all the same)."""
        reward, terminated, truncated, info = super().advance(action)
        if terminated:
            self._habitat.step(Action.STOP)
        elif self.habitat_env.episode_over and not truncated:  # habitat's own limit of steps or seconds
            truncated = self._running.finished = True
        return reward, terminated, truncated, info

    def share_episodes(self, part: int, parts: int, seed: int | None = None) -> int:
        """As `VLNEnv.share_episodes`; the order is then this package's, not that of habitat's iterator."""
        self._shuffled = True
        return super().share_episodes(part, parts, seed)

    def _choose(self, options: Mapping[str, Any]) -> str:
        """Lets habitat choose the episode, unless `options` or the seeded order does; the episode has begun then."""
        dataset: Any = self.dataset
        chosen = dataset.original(super()._choose(options)) if options or self._shuffled else None
        return str(self._habitat.start(chosen).episode_id)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """As `VLNEnv.reset`; unseeded, the order is that of habitat's episode iterator."""
        self._shuffled = self._shuffled or seed is not None
        if seed is not None:
            self.habitat_env.seed(seed)
        return super().reset(seed=seed, options=options)


def _config(env: Any) -> Any:
    """The environment's configuration node (`habitat`), None if it shows none."""
    return getattr(env, "_config", None)


def _max_steps(env: Any) -> int:
    """The environment's own limit of steps; 500 where it has none."""
    limit = getattr(getattr(_config(env), "environment", None), "max_episode_steps", 0)
    return int(limit) or 500


def _common_camera(sensors: Mapping[str, Any]) -> CameraConfig:
    """The camera that all visual sensors of an environment share."""
    cameras = {uuid: _view(uuid, config) for uuid, config in sensors.items()}
    if len(set(cameras.values())) > 1:
        raise ValueError(
            "the cameras of this habitat.Env differ in size, angle or position: "
            + ", ".join(f"{u} {w}x{h}, hfov {hfov:g}, height {y:g} m" for u, (w, h, hfov, y) in cameras.items())
            + ". Give them the same width, height, hfov and position, or keep only one of them."
        )
    if not cameras:
        return CameraConfig()
    width, height, hfov, mount_height = next(iter(cameras.values()))
    depth = sensors.get("depth")
    camera = CameraConfig(width, height, hfov, mount_height=mount_height)
    if depth is None:
        return camera
    return replace(camera, min_depth=float(depth.min_depth), max_depth=float(depth.max_depth))


def _view(uuid: str, config: Any) -> tuple[int, int, float, float]:
    x, y, z = (float(value) for value in config.position)
    if math.hypot(x, z) > 1e-6 or any(abs(float(angle)) > 1e-6 for angle in config.orientation):
        raise ValueError(
            f"the sensor {uuid!r} of this habitat.Env does not look level from above the agent (position "
            f"{[x, y, z]}, orientation {list(config.orientation)}): from_habitat_env needs x = z = 0 and no rotation"
        )
    return int(config.width), int(config.height), float(config.hfov), y
