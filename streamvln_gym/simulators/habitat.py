"""habitat-sim behind the `Simulator` protocol, through habitat-lab's simulator class, with VLN-CE's settings.

Nothing of habitat is imported before the first scene is loaded, so that an environment can be made in one process and
run in another. The settings are those of the published R2R-CE and RxR-CE evaluations: see `simulator_config`.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamvln_gym.errors import SceneError, SimulatorUnavailableError
from streamvln_gym.simulators.base import FORWARD_METRES, TURN_DEGREES, Action, AgentState, CameraConfig
from streamvln_gym.simulators.egl_devices import egl_devices
from streamvln_gym.simulators.habitat_install import habitat_problem
from streamvln_gym.simulators.habitat_queries import HabitatQueries

SENSORS = ("rgb", "depth", "semantic")
AGENT_RADIUS = 0.1
AGENT_HEIGHT = 1.5
"""Metres, VLN-CE's agent."""

_NO_IMAGE_LIGHT = {"enable_ibl": False, "ibl_blut_filename": "none", "ibl_envmap_filename": "none"}
_made_in: int | None = None  # id of the process that made the first simulator


class HabitatSimulator(HabitatQueries):
    """Renders and moves with habitat-sim 0.3.3 or 0.3.4. See `simulators.base.Simulator`.

    A scene is a `.glb`: bare, it is taken as Z-up (Matterport3D); `<name>.stage_config.json` beside it can say
    otherwise. `<name>.navmesh` beside it is used if it was built with habitat's default settings for an agent of
    radius 0.1 m and height 1.5 m, and if a stage configuration, where there is one, names it as its "nav_asset";
    otherwise habitat builds the mesh anew when the scene is loaded.

    Depth where nothing is hit is `camera.max_depth`, as in the embedded simulator (habitat's own pictures hold 0).

    Args:
        camera: of the agent; its pixels must be square.
        sensors: what it renders, out of "rgb", "depth" and "semantic"; others are added when they are asked for.
            Nothing at all means that no graphics are needed.
        gpu_device_id: the CUDA device that renders, -1 for EGL's first device; None takes the first CUDA device that
            EGL knows, else -1.
        image_based_lighting: whether habitat-sim prepares image-based lighting. Scans and flats are unlit and do not
            show it, and it costs seconds per scene.

    Raises:
        SimulatorUnavailableError: habitat cannot be had here, or has no such GPU.
        ValueError: the camera's pixels are not square, or a sensor is unknown.
    """

    name = "habitat"

    def __init__(
        self,
        camera: CameraConfig | None = None,
        sensors: Collection[str] = ("rgb", "depth"),
        gpu_device_id: int | None = None,
        image_based_lighting: bool = False,
    ) -> None:
        self.camera = camera or CameraConfig()
        if not has_square_pixels(self.camera):
            raise ValueError(
                f"habitat-sim renders square pixels only, and hfov={self.camera.hfov}, vfov={self.camera.vfov} at "
                f"{self.camera.width}x{self.camera.height} are not. Leave vfov out, render 640x480 and resize the "
                "picture (the agents' preprocessing does that), or use simulator='embedded'."
            )
        self._sensors = _checked_sensors(sensors)
        self._gpu_device_id = gpu_device_id
        self._image_based_lighting = image_based_lighting
        problem = habitat_problem()
        if problem:
            raise SimulatorUnavailableError(problem)
        self._sim: Any = None
        self._scene: Path | None = None
        self._placed = False
        self._semantics: tuple[NDArray[np.int32], dict[int, str]] | None = None

    @property
    def sim(self) -> Any:
        """habitat-lab's `HabitatSim`, for everything that this class does not offer.

        Raises:
            RuntimeError: no scene is loaded.
        """
        if self._sim is None:
            raise RuntimeError("no scene is loaded: call load_scene (or env.reset) first")
        return self._sim

    def load_scene(self, scene: Path) -> None:
        """Loads a scene in place of the one before; the agent is nowhere until `set_state`.

        Raises:
            SceneError: the file is missing or no GLB, or habitat cannot load it or build a navigation mesh.
            SimulatorUnavailableError: this process was forked from one that had a habitat simulator.
        """
        scene = Path(scene).absolute()
        if scene == self._scene:
            return
        _check_glb(scene)
        if not self._sensors:
            self.close()  # without a renderer, habitat-sim 0.3.4's way to change the scene dereferences a null pointer
        config = simulator_config(scene, self._rendering_camera, self._sensors, self._gpu())
        try:
            if self._sim is None:
                self._sim = _make(config, self._image_based_lighting)
            else:
                self._sim.reconfigure(config)
        except (RuntimeError, ValueError, AssertionError) as error:
            self.close()
            raise SceneError(
                f"habitat cannot load the scene {scene}: {error}. Set the environment variables HABITAT_SIM_LOG=debug "
                "and MAGNUM_LOG=verbose to see why."
            ) from error
        self._scene, self._placed, self._semantics = scene, False, None
        if not self._sim.pathfinder.is_loaded:
            self.close()
            raise SceneError(
                f"habitat found nothing walkable in {scene}, so there is no navigation mesh. A Y-up scene needs "
                f"{scene.stem}.stage_config.json beside it (docs/habitat.md)."
            )

    @property
    def state(self) -> AgentState:
        """The agent's present state.

        Raises:
            RuntimeError: `set_state` was not called in this scene.
        """
        self._check_placed()
        return super().state

    def set_state(self, state: AgentState) -> None:
        """Puts the agent somewhere.

        Raises:
            NavigationError: the position is not on the navigation mesh.
        """
        super().set_state(state)
        self._placed = True

    def step(self, action: int) -> bool:
        """Executes FORWARD, LEFT or RIGHT with habitat-sim's own control; returns whether the agent collided."""
        self._check_placed()
        return False if action == Action.STOP else bool(self.sim.get_agent(0).act(int(action)))

    def observe(self, sensors: Collection[str]) -> dict[str, NDArray]:
        """Renders what the camera sees: "rgb", "depth", "semantic" (see `Simulator.observe`).

        Raises:
            ValueError: a sensor is unknown.
            SceneError: "semantic" of a scene without semantic annotations.
        """
        wanted = _checked_sensors(sensors)
        if not set(wanted) <= set(self._sensors):
            self._add_sensors(wanted)
        if "semantic" in wanted and not self.semantic_classes:
            raise SceneError(
                f"the sensor 'semantic' needs habitat's semantic annotations beside {self._scene} (Matterport3D: the "
                ".house and _semantic.ply files), and there are none. Leave 'semantic' out of `sensors`."
            )
        drawn = self.sim.get_observations_at(keep_agent_at_new_pose=True) if wanted else {}
        return {sensor: self._picture(sensor, np.asarray(drawn[sensor])) for sensor in wanted}

    @property
    def semantic_classes(self) -> Mapping[int, str]:
        """Names of the class ids of the "semantic" sensor (those of the scene's annotations); empty without any."""
        return self._semantic_table()[1]

    def close(self) -> None:
        """Frees the scene and the graphics context."""
        if self._sim is not None:
            self._sim.close()
        self._sim = self._scene = self._semantics = None
        self._placed = False

    def _check_placed(self) -> None:
        if not self._placed:
            raise RuntimeError("the agent is nowhere yet: call load_scene and set_state (or env.reset) first")

    @property
    def _rendering_camera(self) -> CameraConfig:
        """The camera that habitat renders: supersampling means more pixels."""
        scale = self.camera.supersampling
        return replace(
            self.camera, width=self.camera.width * scale, height=self.camera.height * scale, vfov=None, supersampling=1
        )

    def _gpu(self) -> int:
        return checked_gpu(self._gpu_device_id) if self._sensors else -1

    def _add_sensors(self, sensors: tuple[str, ...]) -> None:
        """Makes the simulator anew with more sensors; scene and agent stay."""
        scene, state = self._scene, self.state
        self.close()
        self._sensors = tuple(sensor for sensor in SENSORS if sensor in {*self._sensors, *sensors})
        if scene is not None:
            self.load_scene(scene)
            self.set_state(state)

    def _picture(self, sensor: str, picture: NDArray) -> NDArray:
        """A picture as the protocol wants it."""
        scale = self.camera.supersampling
        if sensor == "rgb" and scale > 1:
            height, width = self.camera.height, self.camera.width
            samples = picture.reshape(height, scale, width, scale, 3)
            return np.rint(samples.mean(axis=(1, 3), dtype=np.float32)).astype(np.uint8)
        picture = picture[scale // 2 :: scale, scale // 2 :: scale]
        if sensor == "depth":
            picture = np.where(picture > 0.0, picture, np.float32(self.camera.max_depth)).astype(np.float32)
            return np.clip(picture, self.camera.min_depth, self.camera.max_depth)
        if sensor == "semantic":
            class_ids = self._semantic_table()[0]
            return class_ids[np.clip(picture, 0, len(class_ids) - 1)]
        return np.ascontiguousarray(picture)

    def _semantic_table(self) -> tuple[NDArray[np.int32], dict[int, str]]:
        """The class id of every instance id of the scene, int32 (highest + 2,), and the classes' names."""
        if self._semantics is None:
            objects = [item for item in self.sim.semantic_annotations().objects if item is not None and item.category]
            class_ids: NDArray[np.int32] = np.zeros(
                max((item.semantic_id for item in objects), default=-1) + 2, dtype=np.int32
            )
            names = {0: "nothing"} if objects else {}
            for item in objects:
                class_ids[item.semantic_id] = max(item.category.index(), 0)
                names[max(item.category.index(), 0)] = item.category.name()
            self._semantics = class_ids, names
        return self._semantics


def has_square_pixels(camera: CameraConfig) -> bool:
    """Whether habitat-sim can render this camera: it takes one angle, and square pixels."""
    fx, fy = camera.focal_lengths
    return abs(fx - fy) <= 1e-3 * fx


def checked_gpu(wanted: int | None) -> int:
    """The `gpu_device_id` to give to habitat-sim, which would end the process over one that EGL does not have.

    Raises:
        SimulatorUnavailableError: EGL does not have the device, or there is no EGL at all.
    """
    devices = egl_devices()
    if devices.problem:
        raise SimulatorUnavailableError(
            f"habitat-sim cannot render here: {devices.problem}. Install EGL (apt-get install libegl1 "
            "libgl1-mesa-dri, or the NVIDIA driver's own), see docs/habitat.md; simulator='embedded' needs none."
        )
    if wanted is None:
        return devices.default_gpu
    if wanted != -1 and wanted not in devices.cuda_ids:
        raise SimulatorUnavailableError(
            f"gpu_device_id={wanted} is not there: EGL has {devices}. Use gpu_device_id=-1 to render without CUDA, or "
            "None to let the simulator choose; in a container, pass the GPU with its graphics capability "
            "(NVIDIA_DRIVER_CAPABILITIES=all)."
        )
    return wanted


def simulator_config(scene: Path, camera: CameraConfig, sensors: Collection[str], gpu_device_id: int) -> Any:
    """habitat-lab's configuration node of the simulator, with VLN-CE's settings.

    Forward 0.25 m with sliding, turns 15 degrees, an agent of radius 0.1 m and height 1.5 m, depth in metres (not
    normalised), no physics.
    """
    from habitat.config.default_structured_configs import (
        AgentConfig,
        HabitatSimDepthSensorConfig,
        HabitatSimRGBSensorConfig,
        HabitatSimSemanticSensorConfig,
        HabitatSimV0Config,
        SimulatorConfig,
    )
    from omegaconf import OmegaConf

    def settings(node: Any, **changed: Any) -> dict[str, Any]:
        # a plain node: habitat-lab declares angles as int, though habitat-sim takes any
        return {**OmegaConf.to_container(OmegaConf.structured(node)), **changed}

    kinds = {
        "rgb": HabitatSimRGBSensorConfig,
        "depth": HabitatSimDepthSensorConfig,
        "semantic": HabitatSimSemanticSensorConfig,
    }
    view = {
        "width": camera.width,
        "height": camera.height,
        "hfov": camera.hfov,
        "position": [0.0, camera.mount_height, 0.0],
    }
    depth = {"min_depth": camera.min_depth, "max_depth": camera.max_depth, "normalize_depth": False}
    sim_sensors = {
        f"{sensor}_sensor": settings(kinds[sensor], **view, **(depth if sensor == "depth" else {}))
        for sensor in sensors
    }
    return OmegaConf.create(
        settings(
            SimulatorConfig,
            scene=str(scene),
            forward_step_size=FORWARD_METRES,
            turn_angle=TURN_DEGREES,
            seed=0,
            agents={
                "main_agent": settings(AgentConfig, radius=AGENT_RADIUS, height=AGENT_HEIGHT, sim_sensors=sim_sensors)
            },
            agents_order=["main_agent"],
            habitat_sim_v0=settings(HabitatSimV0Config, gpu_device_id=gpu_device_id, allow_sliding=True),
        )
    )


def _make(config: Any, image_based_lighting: bool) -> Any:
    """A new simulator of habitat-lab's registry.

    Raises:
        SimulatorUnavailableError: this process was forked from one that had made a simulator.
    """
    global _made_in
    if _made_in not in (None, os.getpid()):
        raise SimulatorUnavailableError(
            "this process was forked from one that had made a habitat simulator, whose graphics context cannot be "
            "inherited. Make vector environments with spawned workers (gymnasium.make_vec(..., vectorization_mode="
            "'async', vector_kwargs={'context': 'spawn'})), or before the first simulator of the parent process."
        )
    _made_in = os.getpid()
    # habitat-sim is talkative; both variables can be set to see more
    os.environ.setdefault("HABITAT_SIM_LOG", "quiet")
    os.environ.setdefault("MAGNUM_LOG", "quiet")
    import habitat.sims  # noqa: F401 (registers the simulators)
    from habitat.core.registry import registry

    simulator_class: Any = registry.get_simulator("Sim-v0")
    if image_based_lighting:
        return simulator_class(config)
    return _without_image_light(simulator_class)(config)


def _without_image_light(simulator_class: Any) -> Any:
    """The class, without habitat-sim's preparation of image-based lighting.

    habitat-sim 0.3 prepares it for every scene (9 to 17 s without a GPU) even where every material is unlit, and takes
    its settings only from `data/default.pbr_config.json` under the working directory, at the time when the metadata
    mediator is made.
    """

    class UnlitSimulator(simulator_class):
        _mediator: Any = None

        def create_sim_config(self, sensor_suite: Any) -> Any:
            from habitat_sim.metadata import MetadataMediator

            config = super().create_sim_config(sensor_suite)
            if self._mediator is None:
                with _working_directory_without_image_light():
                    self._mediator = MetadataMediator()
            config.metadata_mediator = self._mediator
            return config

    return UnlitSimulator


@contextmanager
def _working_directory_without_image_light() -> Iterator[None]:
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "data" / "default.pbr_config.json"
        settings.parent.mkdir()
        settings.write_text(json.dumps(_NO_IMAGE_LIGHT), encoding="utf-8")
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


def _checked_sensors(sensors: Collection[str]) -> tuple[str, ...]:
    unknown = set(sensors).difference(SENSORS)
    if unknown:
        raise ValueError(f"unknown sensors {sorted(unknown)}: habitat renders {', '.join(SENSORS)}")
    return tuple(sensor for sensor in SENSORS if sensor in sensors)


def _check_glb(scene: Path) -> None:
    """Refuses what habitat-sim might end the process over."""
    try:
        with scene.open("rb") as file:
            head = file.read(12)
    except OSError as error:
        raise SceneError(
            f"cannot open the scene {scene}: {error.strerror or error}. Copy it there, or correct the path."
        ) from error
    size = scene.stat().st_size
    stated = int.from_bytes(head[8:12], "little")
    if len(head) < 12 or head[:4] != b"glTF" or size < stated:
        what = f"truncated: {size} bytes of {stated}" if head[:4] == b"glTF" else "not a GLB file"
        raise SceneError(f"the scene {scene} is {what}. Copy or download it again.")
