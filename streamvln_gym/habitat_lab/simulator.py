"""The embedded simulator as one of habitat-lab's: its abstract class `habitat.core.simulator.Simulator`.

This module imports habitat-lab; `streamvln_gym.habitat_lab.register_embedded_simulator` makes that possible first.
"""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import quaternion
from gym import spaces
from habitat.config.default import get_agent_config
from habitat.core.registry import registry
from habitat.core.simulator import (
    AgentState,
    DepthSensor,
    Observations,
    RGBSensor,
    SensorSuite,
    Simulator,
)
from habitat.sims.habitat_simulator.actions import HabitatSimActions
from numpy.typing import ArrayLike, NDArray

from streamvln_gym.geometry import forward_vector, wrap_angle
from streamvln_gym.habitat_lab.pathfinder import EmbeddedPathFinder
from streamvln_gym.simulators import base
from streamvln_gym.simulators.base import CameraConfig
from streamvln_gym.simulators.embedded.recast.settings import NavMeshSettings
from streamvln_gym.simulators.embedded.simulator import EmbeddedSimulator

_FAR = 1000.0  # metres: habitat-sim's far plane, behind which its depth is 0


class _EmbeddedRGB(RGBSensor):
    """Colour, uint8 (H, W, 3)."""

    def __init__(self, config: Any) -> None:
        super().__init__(config=config)

    def _get_observation_space(self, *args: Any, **kwargs: Any) -> spaces.Box:
        return spaces.Box(0, 255, (self.config.height, self.config.width, 3), np.uint8)

    def get_observation(self, sim_obs: dict[str, NDArray]) -> NDArray[np.uint8]:
        return sim_obs[self.uuid]


class _EmbeddedDepth(DepthSensor):
    """Depth, float32 (H, W, 1): metres from `min_depth` to `max_depth`, or 0 to 1 between them if normalised."""

    def __init__(self, config: Any) -> None:
        super().__init__(config=config)

    def _get_observation_space(self, *args: Any, **kwargs: Any) -> spaces.Box:
        low, high = (0.0, 1.0) if self.config.normalize_depth else (self.config.min_depth, self.config.max_depth)
        return spaces.Box(low, high, (self.config.height, self.config.width, 1), np.float32)

    def get_observation(self, sim_obs: dict[str, NDArray]) -> NDArray[np.float32]:
        low, high = self.config.min_depth, self.config.max_depth
        depth = np.clip(sim_obs[self.uuid], low, high)[:, :, np.newaxis]
        return ((depth - low) / (high - low) if self.config.normalize_depth else depth).astype(np.float32)


class EmbeddedHabitatSim(Simulator):
    """habitat-lab's simulator interface over `EmbeddedSimulator`: colour and depth cameras, one agent, a level view.

    Args:
        config: the configuration node `habitat.simulator`; `scene` is the path of a GLB.

    Raises:
        ValueError: the configuration wants what this simulator has not (a tilted or noisy camera, another sensor, an
            agent of another size, movement without sliding).
    """

    def __init__(self, config: Any) -> None:
        _check_movement(config)
        self.habitat_config = config
        suite = []
        for node in get_agent_config(config).sim_sensors.values():
            sensor = registry.get_sensor(node.type)
            if sensor is None or not issubclass(sensor, (RGBSensor, DepthSensor)):
                raise ValueError(
                    f"the embedded simulator has no sensor of type {node.type!r}: use HabitatSimRGBSensor and "
                    "HabitatSimDepthSensor"
                )
            suite.append(sensor(node))
        self._suite = SensorSuite(suite)
        self._cameras = {uuid: _camera(sensor.config) for uuid, sensor in self._suite.sensors.items()}
        self._simulator = EmbeddedSimulator()
        self._rng = np.random.default_rng(0)  # of the random points, which go on when the scene changes
        self._collided = False
        self._load(config.scene)

    @property
    def sensor_suite(self) -> SensorSuite:
        """The cameras."""
        return self._suite

    @property
    def action_space(self) -> spaces.Discrete:
        """stop, move_forward, turn_left, turn_right."""
        return spaces.Discrete(4)

    @property
    def pathfinder(self) -> EmbeddedPathFinder:
        """The navigation mesh, with habitat-sim's method names."""
        return self._pathfinder

    def seed(self, seed: int) -> None:
        """Seeds the random points."""
        self._pathfinder.seed(seed)

    def reconfigure(self, config: Any, episode: Any = None) -> None:
        """Loads the configuration's scene and puts the agent where it says.

        Raises:
            ValueError: the configuration wants another agent, or movement without sliding.
        """
        _check_movement(config)
        self.habitat_config = config
        self._load(config.scene)
        self._collided = False
        agent = get_agent_config(config)
        if agent.is_set_start_state:
            self.set_agent_state(list(agent.start_position), list(agent.start_rotation))

    def reset(self) -> Observations:
        """Puts the agent where the configuration says and looks."""
        self.reconfigure(self.habitat_config)
        return self._observe()

    def step(self, action: int | None, *args: Any, **kwargs: Any) -> Observations:
        """Executes an action (None: none) and looks.

        Raises:
            ValueError: the action is not one of `action_space`.
        """
        self._collided = False
        state = self._simulator.state
        turn = math.radians(self.habitat_config.turn_angle)
        if action == HabitatSimActions.move_forward:
            end = state.position + self.habitat_config.forward_step_size * forward_vector(state.yaw)
            reached, self._collided = self._simulator.navmesh.try_step(state.position, end)
            self._simulator.set_state(base.AgentState(reached, state.yaw))
        elif action == HabitatSimActions.turn_left:
            self._simulator.set_state(base.AgentState(state.position, wrap_angle(state.yaw + turn)))
        elif action == HabitatSimActions.turn_right:
            self._simulator.set_state(base.AgentState(state.position, wrap_angle(state.yaw - turn)))
        elif action not in (None, HabitatSimActions.stop):
            raise ValueError(
                f"unknown action {action!r}: the embedded simulator has 0 to 3 (it cannot look up or down)"
            )
        return self._observe()

    def step_physics(self, delta: float) -> None:
        """Nothing moves but the agent."""

    def get_agent_state(self, agent_id: int = 0) -> AgentState:
        """Position (3,), metres, and rotation (numpy-quaternion)."""
        state = self._simulator.state
        return AgentState(state.position.copy(), quaternion.from_rotation_vector([0.0, state.yaw, 0.0]))

    def get_agent(self, agent_id: int) -> SimpleNamespace:
        """The agent, of which habitat-lab's maps ask the `state`."""
        return SimpleNamespace(state=self.get_agent_state(agent_id))

    def set_agent_state(
        self, position: ArrayLike, rotation: Any, agent_id: int = 0, reset_sensors: bool = True
    ) -> bool:
        """Puts the agent somewhere; the rotation is a numpy-quaternion or (x, y, z, w).

        Raises:
            NavigationError: the position is not on the navigation mesh.
        """
        if isinstance(rotation, quaternion.quaternion):
            rotation = (rotation.x, rotation.y, rotation.z, rotation.w)
        self._simulator.set_state(base.AgentState.from_rotation(position, rotation))
        return True

    def get_observations_at(
        self, position: ArrayLike | None = None, rotation: Any = None, keep_agent_at_new_pose: bool = False
    ) -> Observations:
        """What the cameras see from there (default: from where the agent stands)."""
        before = self._simulator.state
        if position is not None and rotation is not None:
            self.set_agent_state(position, rotation)
        observations = self._observe()
        if not keep_agent_at_new_pose:
            self._simulator.set_state(before)
        return observations

    def render(self, mode: str = "rgb") -> NDArray:
        """The picture of one sensor."""
        return self._observe()[mode]

    def geodesic_distance(self, position_a: ArrayLike, position_b: ArrayLike, episode: Any = None) -> float:
        """Metres to the nearest of one or more points, inf if none can be reached."""
        return self._simulator.geodesic_distance(position_a, position_b)

    def get_straight_shortest_path_points(self, position_a: ArrayLike, position_b: ArrayLike) -> list[NDArray]:
        """Corner points of the shortest path, none if there is no path."""
        path = self._simulator.shortest_path(position_a, position_b)
        return [] if path is None else list(path)

    def sample_navigable_point(self) -> list[float]:
        """A random point of the navigation mesh."""
        return self._pathfinder.get_random_navigable_point().tolist()

    def is_navigable(self, point: ArrayLike) -> bool:
        """Whether the agent can stand there."""
        return self._pathfinder.is_navigable(point)

    def distance_to_closest_obstacle(self, position: ArrayLike, max_search_radius: float = 2.0) -> float:
        """Horizontal metres to the nearest wall, at most `max_search_radius`."""
        return self._pathfinder.distance_to_closest_obstacle(position, max_search_radius)

    def island_radius(self, position: ArrayLike) -> float:
        """How far the connected part of the navigation mesh reaches, metres, see `EmbeddedPathFinder`."""
        return self._pathfinder.island_radius(position)

    @property
    def previous_step_collided(self) -> bool:
        """Whether the last step was blocked."""
        return self._collided

    @property
    def up_vector(self) -> NDArray[np.float64]:
        """+Y."""
        return np.array([0.0, 1.0, 0.0])

    @property
    def forward_vector(self) -> NDArray[np.float64]:
        """-Z."""
        return np.array([0.0, 0.0, -1.0])

    def close(self, destroy: bool = True) -> None:
        """Frees the scenes."""
        self._simulator.close()

    def _load(self, scene: str) -> None:
        self._simulator.load_scene(Path(scene))
        self._pathfinder = EmbeddedPathFinder(self._simulator.navmesh, self._rng)

    def _observe(self) -> Observations:
        state, renderer = self._simulator.state, self._simulator.renderer
        drawn: dict[CameraConfig, dict[str, NDArray]] = {}
        pictures = {}
        for uuid, sensor in self._suite.sensors.items():
            camera = self._cameras[uuid]
            if camera not in drawn:  # colour and depth of one camera are drawn together
                drawn[camera] = renderer.render(state.position, state.yaw, camera, ("rgb", "depth"))
            if isinstance(sensor, DepthSensor):
                depth = drawn[camera]["depth"][:, :, 0]
                pictures[uuid] = np.where(depth < _FAR, depth, np.float32(0.0))
            else:
                pictures[uuid] = drawn[camera]["rgb"]
        return self._suite.get_observations(pictures)


def register(name: str) -> None:
    """Registers the simulator, and its sensors under habitat-sim's names where habitat-sim has not done so."""
    registry.register_simulator(EmbeddedHabitatSim, name=name)
    for sensor_name, sensor in (("HabitatSimRGBSensor", _EmbeddedRGB), ("HabitatSimDepthSensor", _EmbeddedDepth)):
        if registry.get_sensor(sensor_name) is None:
            registry.register_sensor(sensor, name=sensor_name)


def _check_movement(config: Any) -> None:
    """Raises ValueError unless the agent is the one that the navigation meshes are built for, and slides."""
    if not config.habitat_sim_v0.allow_sliding:
        raise ValueError(
            "the embedded simulator's agent slides along walls, allow_sliding is False: set "
            "habitat.simulator.habitat_sim_v0.allow_sliding=True, or use habitat-sim"
        )
    agent, built = get_agent_config(config), NavMeshSettings()
    for name in ("radius", "height", "max_climb", "max_slope"):
        wanted, has = getattr(agent, name), getattr(built, f"agent_{name}")
        if not math.isclose(wanted, has, abs_tol=1e-5):
            raise ValueError(
                f"the embedded simulator's navigation meshes are built for an agent with {name} {has}, not {wanted}: "
                f"set habitat.simulator.agents.<agent>.{name}={has}, or use habitat-sim"
            )


def _camera(config: Any) -> CameraConfig:
    """The camera of a sensor's configuration node."""
    x, y, z = config.position
    if x or z or any(config.orientation):
        raise ValueError(
            f"the embedded simulator's camera looks level from above the agent: the sensor's position {[x, y, z]} must "
            f"have x = z = 0 and its orientation {list(config.orientation)} must be 0"
        )
    if config.noise_model != "None":
        raise ValueError(f"the embedded simulator's sensors have no noise: noise_model is {config.noise_model!r}")
    return CameraConfig(config.width, config.height, float(config.hfov), mount_height=float(y), max_depth=_FAR)
