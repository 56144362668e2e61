"""Vision-and-language navigation in continuous environments (VLN-CE) as a Gymnasium environment."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from streamvln_gym.arguments import is_finite, is_whole
from streamvln_gym.episodes import Episode, EpisodeDataset, not_found, scene_name
from streamvln_gym.errors import EpisodeNotFoundError, NavigationError
from streamvln_gym.geometry import wrap_angle, yaw_matrix
from streamvln_gym.metrics import SUCCESS_DISTANCE, EpisodeMetrics
from streamvln_gym.rewards import RewardConfig
from streamvln_gym.sampler import EpisodeSampler
from streamvln_gym.selection import open_dataset, source_of
from streamvln_gym.simulators.base import Action, AgentState, CameraConfig, Simulator
from streamvln_gym.simulators.choice import make_simulator, resolve_simulator
from streamvln_gym.spaces import DEFAULT_SENSORS, VISUAL_SENSORS, check_sensors, observation_space

if TYPE_CHECKING:
    from streamvln_gym.visualization import EpisodeFrame

_PLAYING: WeakValueDictionary[int, VLNEnv] = WeakValueDictionary()
"""Which environment began an episode last, by its simulator's id: objects can be passed in, and shared by mistake."""

_RESET_OPTIONS = ("episode_id", "scene_id")
_CAMERA_AXES = np.array([1.0, -1.0, -1.0])  # signs of the columns: the camera's x right, y down, z forward


@dataclass
class _Run:
    """An episode as it is played.

    Attributes:
        episode: what is played.
        goals: (N, 3) metres, N = 0 without goals.
        metrics: so far.
        distance: geodesic metres to the nearest goal, None without goals.
        trajectory: the start, and the state after every action.
        pictures: rendered from the present state, None if that was not rendered yet.
        last_pictures: those rendered last.
        frame: draws the episode for `render`.
        finished: whether it is over.
    """

    episode: Episode
    goals: NDArray[np.float64]
    metrics: EpisodeMetrics
    distance: float | None
    trajectory: list[AgentState]
    pictures: dict[str, NDArray] | None = None
    last_pictures: dict[str, NDArray] | None = None
    frame: EpisodeFrame | None = None
    finished: bool = False
    to_start_frame: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self.to_start_frame = yaw_matrix(-self.start.yaw)

    @property
    def start(self) -> AgentState:
        """Where the episode began."""
        return self.trajectory[0]


class VLNEnv(gym.Env[dict[str, Any], int]):
    """Follow an instruction through a furnished 3D scene.

    ## Observation
    A `Dict` of the chosen `sensors`:

    | key | space | meaning |
    | --- | --- | --- |
    | `rgb` | uint8 (H, W, 3) | what the camera sees |
    | `depth` | float32 (H, W, 1) | metres along the optical axis, in [0, `camera.max_depth`] |
    | `semantic` | int32 (H, W, 1) | class ids (`env.unwrapped.simulator.semantic_classes`); off by default |
    | `instruction` | Text | what to do |
    | `gps` | float32 (2,) | metres (forward, right) from the start, in the start's frame, as habitat's sensor |
    | `compass` | float32 (1,) | radians turned since the start, left positive, as habitat's sensor |
    | `camera_pose` | float32 (4, 4) | T of p_episode = T p_camera |

    The camera's axes are x right, y down, z forward; the episode's frame is x right, y up, -z forward, with its origin
    at the agent's base at reset and the start's yaw removed.

    ## Action
    `Discrete(4)`: 0 STOP, 1 FORWARD 0.25 m (sliding along walls), 2 LEFT 15 degrees, 3 RIGHT 15 degrees.

    ## Reward
    See `RewardConfig`.

    ## End
    `terminated` on STOP, `truncated` after `max_steps` actions without one.

    ## Info
    At every step: `dataset`, `split`, `simulator`, `scene_id`, `episode_id`, `trajectory_id`, `needs_memory` (kind of
    memory needed, "" if none), `collided`, and the running metrics of `metrics.EpisodeMetrics`; with a goal also
    `distance_to_goal` (geodesic metres). At reset also `intrinsics` (3, 3) and `source`, the data on disk that the
    dataset's name stands for.

    ## Reset
    Unseeded, episodes come in file order; a seed shuffles them; of several environments, `share_episodes` gives each
    its own. Options: `episode_id` plays that episode, `scene_id` (id or short name) the next one of that scene.

    Args:
        dataset: "r2r", "rxr", "envdrop", "scalevln" (found below `data_dir`, see `vlnce.layouts`), "flats", the path of
            a VLN-CE episode file, a folder of built flats, an `EpisodeDataset`, or "auto": r2r (or rxr, see
            `auto_dataset`) if its episodes and scans are on disk, otherwise the flats, with a warning.
        simulator: "embedded", "habitat", a `Simulator`, or "auto".
        split: of the dataset.
        data_dir: the folder that holds `datasets/` and `scene_datasets/` (for an episode file only if it does not lie
            in a folder of that form itself).
        camera: the camera, or a dict of its fields; default: 640x480, or that of the `Simulator` passed in.
        sensors: names out of `spaces.SENSORS`.
        max_steps: actions after which an episode is truncated.
        reward: the reward's terms, or a dict of them.
        success_distance: metres.
        render_mode: "rgb_array" or None.
        scenes: only the episodes of these scenes (ids or short names), or of so many.
        auto_dataset: what `dataset="auto"` looks for, "r2r" or "rxr".
        languages: only the episodes in these, such as "hi-IN", or "en" for every kind of English.
        episode_ids: only these episodes.
        role: of RxR's paths, "guide", "follower", or "all" (ids then end in "_guide" or "_follower").

    Raises:
        DatasetError: the dataset cannot be had or read, or no episode is left; the message says what to do.
        SimulatorUnavailableError: the simulator asked for by name cannot be had.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012 (Gymnasium's own form)

    def __init__(
        self,
        dataset: str | os.PathLike[str] | EpisodeDataset = "auto",
        simulator: str | Simulator = "auto",
        split: str = "val_unseen",
        data_dir: str | os.PathLike[str] = "data",
        camera: CameraConfig | Mapping[str, Any] | None = None,
        sensors: Sequence[str] = DEFAULT_SENSORS,
        max_steps: int = 500,
        reward: RewardConfig | Mapping[str, Any] | None = None,
        success_distance: float = SUCCESS_DISTANCE,
        render_mode: str | None = None,
        scenes: int | Collection[str] | None = None,
        auto_dataset: str = "r2r",
        languages: Collection[str] | None = None,
        episode_ids: Collection[str | int] | None = None,
        role: str = "guide",
    ) -> None:
        given = None if isinstance(simulator, str) else getattr(simulator, "camera", None)
        self.camera = _instance(camera or given, CameraConfig, "camera")
        if given is not None and given != self.camera:
            raise ValueError(f"the simulator has another camera ({given}) than was asked for ({self.camera})")
        self.reward = _instance(reward, RewardConfig, "reward")
        self.sensors = check_sensors(sensors)
        if not is_whole(max_steps, 1):
            raise ValueError(f"max_steps must be a positive integer, got {max_steps!r}")
        if not is_finite(success_distance) or not success_distance > 0.0:
            raise ValueError(f"success_distance must be a positive number of metres, got {success_distance!r}")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode must be 'rgb_array' or None, got {render_mode!r}")
        self.max_steps = int(max_steps)
        self.success_distance = float(success_distance)
        self.render_mode = render_mode
        if not isinstance(data_dir, (str, os.PathLike)):
            raise TypeError(f"data_dir must be a folder's path, got {data_dir!r}")
        self.dataset = open_dataset(dataset, split, Path(data_dir), scenes, auto_dataset, languages, episode_ids, role)
        self._simulator_name = resolve_simulator(simulator, self.dataset.name, self.camera)
        self._simulator = None if isinstance(simulator, str) else simulator
        self._sampler = EpisodeSampler(self.dataset.episode_ids, self.dataset.scene_of)
        self.action_space: gym.spaces.Discrete = gym.spaces.Discrete(len(Action))  # type: ignore[assignment]
        self.observation_space = observation_space(
            self.sensors, self.camera, self.dataset.instruction_charset, self.dataset.instruction_max_length
        )
        self._visuals = tuple(sensor for sensor in self.sensors if sensor in VISUAL_SENSORS)
        self._rendering = True
        self._run: _Run | None = None
        self._displaced = False  # another environment has begun an episode in this one's simulator since

    @classmethod
    def from_habitat_env(cls, env: Any, **kwargs: Any) -> VLNEnv:
        """Shows a `habitat.Env` with a VLN-CE-like task as this environment: same spaces, info and metrics.

        The episodes are the `habitat.Env`'s, and unseeded it chooses them (`env.current_episode`); every action goes
        through its `step`, so that its own measures stay right. See docs/habitat.md for what it has to offer.

        Args:
            env: a `habitat.Env` of habitat-lab 0.3 whose episodes have instructions.
            **kwargs: `sensors` (default: the cameras that it has, and all other sensors); `name` and `split` of the
                dataset; `ground_truth` (a `_gt` file's content: without it nDTW and CLS compare with the reference
                path, which is all that habitat's episodes have); `max_steps` (default: its own), `reward`,
                `success_distance`, `render_mode` as above.

        Raises:
            ValueError: its step size, turning angle or cameras are not such as these spaces can show.
            DatasetError: its episodes have no instructions.
        """
        from streamvln_gym.habitat_lab.env import HabitatVLNEnv

        return HabitatVLNEnv(env, **kwargs)

    @property
    def simulator(self) -> Simulator:
        """The simulator; it is made when it is first needed, in the process that needs it."""
        if self._simulator is None:
            self._simulator = make_simulator(self._simulator_name, self.camera, self._visuals)
        return self._simulator

    @property
    def episode(self) -> Episode:
        """The present episode.

        Raises:
            ResetNeeded: there is none yet.
        """
        return self._running.episode

    @property
    def steps_left(self) -> int:
        """Actions until the present episode is truncated.

        Raises:
            ResetNeeded: there is no episode yet.
        """
        return self.max_steps + 1 - len(self._running.trajectory)

    @property
    def trajectory(self) -> Sequence[AgentState]:
        """The states of the present episode: the start, and the state after every action.

        Raises:
            ResetNeeded: there is no episode yet.
        """
        return self._running.trajectory

    @property
    def remaining(self) -> float | None:
        """Geodesic metres left to go: over the via positions not yet visited to the goal; None without a goal.

        Raises:
            ResetNeeded: there is no episode yet.
        """
        return self._running.metrics.remaining

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Starts an episode.

        Args:
            seed: shuffles the order of the episodes.
            options: `episode_id` or `scene_id`.

        Raises:
            EpisodeNotFoundError: the dataset has no such episode or scene.
            ValueError: an option is unknown.
            SceneError: the episode's scene cannot be loaded.
            NavigationError: the episode starts off the navigation mesh.
        """
        super().reset(seed=seed)
        if seed is not None:
            self._sampler.shuffle(self.np_random)
        self._run = None
        self._run = self._start(self.dataset.episode(self._choose({} if options is None else options)))
        first = {"intrinsics": self.camera.intrinsics, "source": source_of(self.dataset)}
        return self._observation(), {**self._info(collided=False), **first}

    def step(self, action: int) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Executes an action.

        Raises:
            ResetNeeded: no episode runs.
            TypeError: the action is not an integer.
            ValueError: the action is not in 0..3.
        """
        reward, terminated, truncated, info = self.advance(action)
        return self._observation(), reward, terminated, truncated, info

    def share_episodes(self, part: int, parts: int, seed: int | None = None) -> int:
        """Divides the episodes among several environments: this one plays every `parts`-th, from number `part` on.

        Unseeded, all environments begin with the first episode; seeded each for itself, they play some twice before
        others come. With the same `seed` and a part each, they play every episode once before one comes again. Takes
        effect at the next `reset`. A seed given there shuffles anew: with another in each environment, as vector
        environments give, their parts are no longer apart.

        Args:
            part: 0 to `parts` - 1.
            parts: how many environments there are.
            seed: shuffles; None keeps the present order (at first, that of the file).

        Returns:
            How many episodes the part has; the first parts have one more where it does not come out even.

        Raises:
            ValueError: there are fewer episodes than parts, or there is no such part.
        """
        if not is_whole(parts, 1) or not is_whole(part, 0) or part >= parts:
            raise ValueError(f"part must lie in 0..parts - 1, got part {part!r} of {parts!r}")
        if parts > len(self.dataset.episode_ids):
            raise ValueError(f"{len(self.dataset.episode_ids)} episodes cannot be divided among {parts} environments")
        if seed is not None:
            self._sampler.shuffle(np.random.default_rng(seed))
        self._sampler.share(int(part), int(parts))
        return len(self.dataset.episode_ids[part::parts])

    def advance(self, action: int) -> tuple[float, bool, bool, dict[str, Any]]:
        """`step` without an observation, for callers that execute several actions and look once, with `observe`."""
        run = self._running
        if run.finished:
            raise ResetNeeded("the episode is over: call env.reset() before the next env.step()")
        action = _checked(action)
        stopped = action == Action.STOP
        collided = False if stopped else self.simulator.step(action)
        state = self.simulator.state
        run.trajectory.append(state)
        run.pictures = None
        before = run.metrics.remaining
        if action == Action.FORWARD:
            run.distance = self._distance_to_goal(run.goals, state)
        run.metrics.update(state.position, run.distance, collided, stopped)
        truncated = not stopped and len(run.trajectory) > self.max_steps
        run.finished = stopped or truncated
        reward = self.reward(before, run.metrics.remaining, run.metrics.succeeded)
        return reward, stopped, truncated, self._info(collided)

    def observe(self) -> dict[str, Any]:
        """The observation of the present state, with pictures rendered now (once for each state)."""
        run = self._running
        if run.pictures is None:
            run.pictures = run.last_pictures = self.simulator.observe(self._visuals) if self._visuals else {}
        return {**{name: picture.copy() for name, picture in run.pictures.items()}, **self._pose_sensors(run)}

    @contextmanager
    def without_rendering(self) -> Iterator[None]:
        """While this lasts, `step` returns the pictures that were rendered last; the other sensors are up to date."""
        self._rendering = False
        try:
            yield
        finally:
            self._rendering = True

    def render(self) -> NDArray[np.uint8] | None:  # type: ignore[override]
        """A picture for people, uint8 (H, W, 3): view, depth, map, instruction and metrics; None without a render mode.

        Raises:
            ResetNeeded: there is no episode yet.
        """
        if self.render_mode is None:
            gym.logger.warn(
                "env.render() was called without a render mode; make the environment with render_mode='rgb_array'"
            )
            return None
        run = self._running
        if run.frame is None:
            from streamvln_gym.visualization import EpisodeFrame

            run.frame = EpisodeFrame(self.simulator, run.episode)
        pictures = run.pictures or {}
        if not {"rgb", "depth"} <= set(pictures):
            pictures = self.simulator.observe(("rgb", "depth"))
        return run.frame.draw(pictures["rgb"], pictures["depth"], run.trajectory, run.metrics.result)

    def close(self) -> None:
        """Frees the simulator's scenes."""
        if self._simulator is not None and not self._displaced:
            self._simulator.close()
        self._run = None

    @property
    def _running(self) -> _Run:
        if self._run is None:
            raise ResetNeeded("there is no episode yet: call env.reset() first")
        if self._displaced:
            raise ResetNeeded(
                "another environment has been reset with this environment's simulator object, so the agent is no "
                "longer where this episode left it: give each environment a simulator of its own "
                "(simulator='embedded', camera=...), or call env.reset()"
            )
        return self._run

    def _choose(self, options: Mapping[str, Any]) -> str:
        """The id of the episode to play."""
        if not isinstance(options, Mapping):
            raise TypeError(f"the reset options must be a dict such as {{'episode_id': '7'}}, got {options!r}")
        unknown = [key for key in options if key not in _RESET_OPTIONS]
        if unknown:
            raise ValueError(f"unknown reset option {unknown[0]!r}: the options are {', '.join(_RESET_OPTIONS)}")
        scene = options.get("scene_id")
        if "episode_id" in options:
            wanted = options["episode_id"]
            if not isinstance(wanted, str) and not is_whole(wanted):
                raise TypeError(f"the reset option 'episode_id' must be a str or an int, got {wanted!r}")
            episode_id = str(wanted)
            played = self.dataset.scene_of(episode_id)
            if scene is not None and scene not in (played, scene_name(played)):
                raise EpisodeNotFoundError(
                    f"episode {episode_id!r} is in scene {played!r}, not in {scene!r}: leave one of the two options out"
                )
            return episode_id
        if scene is None:
            return self._sampler.next()
        episode_in_scene = self._sampler.next_in_scene(lambda scene_id: scene in (scene_id, scene_name(scene_id)))
        if episode_in_scene is None:
            scenes = dict.fromkeys(self.dataset.scene_of(e) for e in self.dataset.episode_ids)
            if any(scene in (scene_id, scene_name(scene_id)) for scene_id in scenes):
                raise EpisodeNotFoundError(
                    f"no episode of scene {scene!r} is in this environment's share of the episodes: ask another one"
                )
            raise not_found("scene", scene, self.dataset, list(map(scene_name, scenes)))
        return episode_in_scene

    def _start(self, episode: Episode) -> _Run:
        last = _PLAYING.get(id(self.simulator), self)
        last._displaced, self._displaced = True, False
        _PLAYING[id(self.simulator)] = self
        self.simulator.load_scene(self.dataset.scene_path(episode.scene_id))
        state = AgentState.from_rotation(episode.start_position, episode.start_rotation)
        try:
            self.simulator.set_state(state)
        except NavigationError as error:
            raise NavigationError(
                f"episode {episode.episode_id!r} of {self.dataset.name}/{self.dataset.split} cannot start: {error}"
            ) from error
        goals = np.array([goal.position for goal in episode.goals], dtype=np.float64).reshape(-1, 3)
        distance = self._distance_to_goal(goals, state)
        metrics = EpisodeMetrics(
            episode, state.position, distance, self.simulator.geodesic_distance, self.success_distance
        )
        return _Run(episode, goals, metrics, distance, [state])

    def _distance_to_goal(self, goals: NDArray[np.float64], state: AgentState) -> float | None:
        return self.simulator.geodesic_distance(state.position, goals) if len(goals) else None

    def _observation(self) -> dict[str, Any]:
        run = self._running
        if self._rendering or run.last_pictures is None:
            return self.observe()
        return {**{name: picture.copy() for name, picture in run.last_pictures.items()}, **self._pose_sensors(run)}

    def _pose_sensors(self, run: _Run) -> dict[str, Any]:
        """The sensors that need no rendering."""
        state = run.trajectory[-1]
        moved = run.to_start_frame @ (state.position - run.start.position)
        turned = wrap_angle(state.yaw - run.start.yaw)
        values: dict[str, Any] = {}
        if "instruction" in self.sensors:
            values["instruction"] = run.episode.instruction.text
        if "gps" in self.sensors:
            values["gps"] = np.array([-moved[2], moved[0]], dtype=np.float32)
        if "compass" in self.sensors:
            values["compass"] = np.array([turned], dtype=np.float32)
        if "camera_pose" in self.sensors:
            pose = np.eye(4, dtype=np.float32)
            pose[:3, :3] = yaw_matrix(turned) * _CAMERA_AXES
            pose[:3, 3] = moved
            pose[1, 3] += self.camera.mount_height
            values["camera_pose"] = pose
        return values

    def _info(self, collided: bool) -> dict[str, Any]:
        run = self._running
        info = {
            "dataset": self.dataset.name,
            "split": self.dataset.split,
            "simulator": self.simulator.name,
            "scene_id": run.episode.scene_id,
            "episode_id": run.episode.episode_id,
            "trajectory_id": run.episode.trajectory_id,
            "needs_memory": run.episode.needs_memory,
            "collided": bool(collided),
            **run.metrics.result,
        }
        if run.distance is not None:
            info["distance_to_goal"] = run.distance
        return info


def _instance(value: Any, kind: type, name: str) -> Any:
    """`value`, or the default of its class."""
    if value is None:
        return kind()
    if isinstance(value, Mapping):  # as in an environment's specification that was read from JSON
        return kind(**value)
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be a {kind.__name__}, e.g. {name}={kind()!r}, got {value!r}")
    return value


def _checked(action: Any) -> int:
    """An action as int; numpy integers (0-d arrays too) are integers, bools and floats are not."""
    number = action[()] if isinstance(action, np.ndarray) and action.shape == () else action
    if isinstance(number, (bool, np.bool_)) or not isinstance(number, (int, np.integer)):
        raise TypeError(
            f"an action must be an integer (0 STOP, 1 FORWARD, 2 LEFT, 3 RIGHT), got {action!r} of type "
            f"{type(action).__name__}; convert it with int(...)"
        )
    if not 0 <= number < len(Action):
        raise ValueError(f"unknown action {int(number)}: the actions are 0 STOP, 1 FORWARD, 2 LEFT, 3 RIGHT")
    return int(number)
