"""The embedded simulator: rasteriser and navigation mesh behind the `Simulator` protocol, on the CPU."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamvln_gym.errors import NavigationError, SceneError
from streamvln_gym.scene_graph import SceneGraph
from streamvln_gym.simulators.base import Action, AgentState, CameraConfig, point_ahead, turned
from streamvln_gym.simulators.embedded import detour, navmesh, rasterizer, renderer
from streamvln_gym.simulators.embedded.navmesh import NavigationMesh
from streamvln_gym.simulators.embedded.navmesh_source import scene_navmesh
from streamvln_gym.simulators.embedded.renderer import Renderer
from streamvln_gym.simulators.embedded.scene_cache import load_drawable
from streamvln_gym.simulators.embedded.semantics import class_table
from streamvln_gym.simulators.embedded.stage import Stage

SENSORS = ("rgb", "depth", "semantic")
_compiled = False


@dataclass
class _LoadedScene:
    """A scene with what navigates and draws it.

    Attributes:
        path: its GLB.
        mesh: its navigation mesh.
        renderer: draws it.
        triangles: how many it has.
        graph: its scene graph, None if it has none.
        class_ids: int32 (objects + 1,), class id by instance id, the last entry for "nothing"; None without instances.
        classes: names of the class ids.
    """

    path: Path
    mesh: NavigationMesh
    renderer: Renderer
    triangles: int
    graph: SceneGraph | None
    class_ids: NDArray[np.int32] | None
    classes: dict[int, str]


class EmbeddedSimulator:
    """Renders GLB scenes and moves an agent in them; needs nothing but pip packages. See `simulators.base.Simulator`.

    Beside `<name>.glb` it looks for `<name>.navmesh.npz` or habitat's `<name>.navmesh` (without either it builds the
    mesh, see `navmesh_source`), `<name>.stage_config.json` (see `stage.Stage`), `<name>.instances.npy` (object id per
    triangle) and `<name>.scene_graph.json` (rooms and object names). Large scenes are prepared once and then mapped
    from the cache folder (see `scene_cache`).

    Args:
        camera: of the agent.
        cached_triangles: scenes stay loaded, the last used ones, as long as they have no more triangles than this
            together. The present one always stays, so that a larger scan is loaded alone.
    """

    name = "embedded"

    def __init__(self, camera: CameraConfig | None = None, cached_triangles: int = 200_000) -> None:
        self.cached_triangles = cached_triangles
        self.camera = camera or CameraConfig()
        self._scenes: OrderedDict[Path, _LoadedScene] = OrderedDict()
        self._scene: _LoadedScene | None = None
        self._state: AgentState | None = None

    def load_scene(self, scene: Path) -> None:
        """Loads a scene, or takes it from the last used ones; the agent is nowhere until `set_state`.

        Raises:
            SceneError: a file of the scene is missing or cannot be read.
        """
        scene = scene if isinstance(scene, Path) else Path(scene)  # a copy takes as long as a step
        if self._scene is not None and self._scene.path == scene:
            return
        loaded = self._scenes.get(scene)
        if loaded is None:
            compile_kernels()
            loaded = self._scenes[scene] = _load(scene)
        self._scenes.move_to_end(scene)
        self._scene, self._state = loaded, None
        while len(self._scenes) > 1 and sum(s.triangles for s in self._scenes.values()) > self.cached_triangles:
            self._scenes.popitem(last=False)

    @property
    def state(self) -> AgentState:
        """The agent's present state.

        Raises:
            RuntimeError: `set_state` was not called in this scene.
        """
        if self._state is None:
            raise RuntimeError("the agent is nowhere yet: call load_scene and set_state (or env.reset) first")
        return self._state

    def set_state(self, state: AgentState) -> None:
        """Puts the agent somewhere.

        Raises:
            NavigationError: the position is not on the navigation mesh.
        """
        if not self.is_navigable(state.position):
            nearest = self.snap_point(state.position)
            where = "nothing of it is near" if nearest is None else f"its nearest point is {nearest.round(3).tolist()}"
            raise NavigationError(
                f"{np.round(state.position, 3).tolist()} is not on the navigation mesh of {self._loaded.path.name}; "
                f"{where}. Check that the scene belongs to the episode, or correct the position."
                f"{_rule_of_bare_files(self._loaded.path)}"
            )
        self._state = state

    def step(self, action: int) -> bool:
        """Executes FORWARD, LEFT or RIGHT and returns whether the agent collided (STOP does nothing)."""
        self._state, collided = self.try_step(self.state, action)
        return collided

    def try_step(self, state: AgentState, action: int) -> tuple[AgentState, bool]:
        """The state that `action` would lead to from `state`, and whether it collides; the agent does not move."""
        if action == Action.FORWARD:
            reached, collided = self._loaded.mesh.try_step(state.position, point_ahead(state))
            return AgentState(reached, state.yaw), collided
        return turned(state, action), False

    def observe(self, sensors: Collection[str]) -> dict[str, NDArray]:
        """Renders what the camera sees: "rgb", "depth", "semantic" (see `Simulator.observe`).

        Raises:
            ValueError: a sensor is unknown.
            SceneError: "semantic" of a scene without instances.
        """
        unknown = set(sensors).difference(SENSORS)
        if unknown:
            raise ValueError(f"unknown sensors {sorted(unknown)}: the embedded simulator renders {', '.join(SENSORS)}")
        scene, state = self._loaded, self.state
        if "semantic" not in sensors:
            return scene.renderer.render(state.position, state.yaw, self.camera, sensors)
        if scene.class_ids is None:
            raise SceneError(
                f"the sensor 'semantic' needs {_beside(scene.path, '.instances.npy')} and a scene graph, which this "
                "scene does not have. Leave 'semantic' out of `sensors`."
            )
        drawn = ["instance" if sensor == "semantic" else sensor for sensor in sensors]
        pictures = scene.renderer.render(state.position, state.yaw, self.camera, drawn)
        pictures["semantic"] = scene.class_ids[pictures.pop("instance")]
        return pictures

    @property
    def semantic_classes(self) -> Mapping[int, str]:
        """Names of the class ids of the "semantic" sensor; empty where the scene has none."""
        return self._loaded.classes

    @property
    def class_ids(self) -> NDArray[np.int32] | None:
        """Class id by instance id, the last entry for nothing; None where the scene has no instances."""
        return self._loaded.class_ids

    @property
    def scene_graph(self) -> SceneGraph | None:
        """The scene graph, None if the scene has none."""
        return self._loaded.graph

    @property
    def navmesh(self) -> NavigationMesh:
        """The scene's navigation mesh."""
        return self._loaded.mesh

    @property
    def renderer(self) -> Renderer:
        """What draws the scene (any camera, any pose)."""
        return self._loaded.renderer

    @property
    def floor_polygons(self) -> list[NDArray[np.float64]]:
        """The navigation mesh's polygons, each (N, 3) metres."""
        return self._loaded.mesh.corners

    def geodesic_distance(self, position: ArrayLike, goals: ArrayLike) -> float:
        """Metres of the shortest walkable path from `position` (3,) to the nearest of `goals`; inf if there is none."""
        return self._loaded.mesh.geodesic_distance(position, goals)

    def best_turns(self, state: AgentState, goal: NDArray[np.float64], distance: float) -> int:
        """`heading.best_turns` in this simulator, in one compiled call."""
        return self._loaded.mesh.best_turns(state.position, state.yaw, goal, distance)

    def shortest_path(self, start: ArrayLike, end: ArrayLike) -> NDArray[np.float64] | None:
        """Corner points (N, 3) of the shortest walkable path, or None if there is none."""
        return self._loaded.mesh.find_path(start, end)

    def snap_point(self, point: ArrayLike) -> NDArray[np.float64] | None:
        """The nearest point of the navigation mesh, shape (3,), or None if nothing is near."""
        return self._loaded.mesh.snap_point(point)

    def is_navigable(self, point: ArrayLike) -> bool:
        """Whether `point` (3,) lies on the navigation mesh."""
        return self._loaded.mesh.is_navigable(point)

    def close(self) -> None:
        """Frees the scenes."""
        self._scenes.clear()
        self._scene = self._state = None

    @property
    def _loaded(self) -> _LoadedScene:
        if self._scene is None:
            raise RuntimeError("no scene is loaded: call load_scene (or env.reset) first")
        return self._scene


def compile_kernels() -> None:
    """Compiles the kernels before their first use, and says so on stderr if numba's cache does not have them."""
    global _compiled
    if _compiled:
        return
    _compiled = True
    if not _kernels_are_cached():
        print(
            "streamvln_gym: compiling the simulator's kernels, once, ~20 s (later runs load them from numba's cache)",
            file=sys.stderr,
            flush=True,
        )
    navmesh.compile_kernels()
    renderer.compile_kernels()


def _kernels_are_cached() -> bool:
    """Whether numba's cache folder has an index of the two kernels that every run needs."""
    kernels: list[Any] = [detour.try_step, rasterizer.rasterize]
    for kernel in kernels:
        folder, code = Path(kernel.stats.cache_path), kernel.py_func.__code__
        if not any(folder.glob(f"{Path(code.co_filename).stem}.{code.co_name}-{code.co_firstlineno}.*.nbi")):
            return False
    return True


def _beside(scene: Path, ending: str) -> Path:
    return scene.with_name(scene.stem + ending)


def _load(path: Path) -> _LoadedScene:
    instances = _read_instances(_beside(path, ".instances.npy"))
    renderer = Renderer(load_drawable(path, instances))
    mesh = scene_navmesh(path)
    graph_path = _beside(path, ".scene_graph.json")
    graph = SceneGraph.load(graph_path) if graph_path.exists() else None
    classes: dict[int, str] = {}
    class_ids = None
    if graph is not None and instances is not None:
        classes, class_ids = class_table(graph, int(instances.max(initial=-1)))
    return _LoadedScene(path, mesh, renderer, len(renderer.mesh.triangles), graph, class_ids, classes)


def _rule_of_bare_files(scene: Path) -> str:
    """What is to be known of a scene without a stage configuration whose episodes do not fit; "" of one with it."""
    if Stage.of(scene).config is not None:
        return ""
    return (
        f" Without a file {scene.stem}.stage_config.json a scene counts as a scan whose up is +Z, as in habitat: write "
        "that file for another one (docs/data.md)."
    )


def _read_instances(path: Path) -> NDArray[np.int32] | None:
    if not path.exists():
        return None
    try:
        return np.load(path, allow_pickle=False).astype(np.int32)
    except (OSError, ValueError, EOFError) as error:
        raise SceneError(
            f"cannot read the instance ids {path}: {error}. Delete it, and build the scene again with "
            "`streamvln-gym build-flats`."
        ) from error
