"""Shared fixtures: two tiny flats with episodes, written as real files, and the options of the test run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from filelock import FileLock

from streamvln_gym.env import VLNEnv
from streamvln_gym.episodes import Episode, Goal, Instruction
from streamvln_gym.expert import demonstrate, expert_for
from streamvln_gym.geometry import path_length, yaw_to_quaternion
from streamvln_gym.scene_graph import Door, Room, SceneGraph, SceneObject
from streamvln_gym.simulators.base import AgentState, CameraConfig
from streamvln_gym.simulators.embedded import navmesh, renderer
from streamvln_gym.simulators.embedded.recast.build import build_navmesh
from streamvln_gym.vlnce import VLNCEDataset, write_dataset
from tests.simulators.recast_scenes import two_storeys

SMALL_CAMERA = CameraConfig(width=64, height=48)
HEIGHT = 0.2  # metres, the mesh over the floor


def pytest_configure() -> None:
    """With `-n 2`, each process on two cores would compute with two threads, and they would wait for each other."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the large sweeps too (tests marked long)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--long"):
        return
    for item in items:
        if "long" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="a large sweep: run with --long"))


@pytest.fixture(scope="session", autouse=True)
def compiled_kernels(tmp_path_factory: pytest.TempPathFactory) -> None:
    """With `-n 2`, each process compiles other kernels first and then loads the other's from numba's cache."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is None:
        return  # compiled when they are needed
    kernels = {
        "paths": navmesh.compile_kernels,
        "pictures": renderer.compile_kernels,
        "builder": lambda: build_navmesh(two_storeys()),
    }
    names = list(kernels)
    for name in names if worker == "gw0" else names[::-1]:
        with FileLock(tmp_path_factory.getbasetemp().parent / f"kernels_{name}.lock"):
            kernels[name]()


@pytest.fixture(scope="session", autouse=True)
def logs_of_stable_baselines3(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Every `learn` of stable-baselines3 makes a folder, in the system's temporary one by default."""
    os.environ["SB3_LOGDIR"] = str(tmp_path_factory.mktemp("sb3"))


@dataclass(frozen=True)
class TinyFlats:
    """Two scenes of two rooms, a door and a closed third room each, with seven episodes.

    Attributes:
        root: a data folder (`datasets/`, `scene_datasets/`).
        episodes_path: the episode file.
        scenes_dir: holds "flats/tiny_a/tiny_a.glb" and "flats/tiny_b/tiny_b.glb".
    """

    root: Path
    episodes_path: Path
    scenes_dir: Path

    @property
    def dataset(self) -> VLNCEDataset:
        """A fresh dataset of the episodes."""
        return VLNCEDataset.load(self.episodes_path, self.scenes_dir)

    def make(self, **kwargs: Any) -> VLNEnv:
        """An environment on the episodes, with small pictures unless told otherwise."""
        return VLNEnv(**{"dataset": self.episodes_path, "data_dir": self.root, "camera": SMALL_CAMERA, **kwargs})


ROOMS = (
    Room(0, "living room", (0.0, 0.0, 4.0, 4.0), "cream", "wooden"),
    Room(1, "kitchen", (4.2, 0.0, 8.2, 4.0), "light blue", "tiled"),
    Room(2, "store room", (8.4, 0.0, 10.4, 2.0), "white", "concrete"),  # no door: an island
)
DOORS = (Door(0, (0, 1), (4.1, 2.0), "x", 1.0, "door", "brown"),)


def _objects() -> list[tuple[SceneObject, tuple[int, int, int]]]:
    """Boxes with their colours; what stands on the floor is in the way."""

    def item(number: int, category: str, room: int, rect: tuple[float, ...], top: float, structural: bool = False):
        bottom = 0.0 if category != "ceiling" else top - 0.1
        if category == "floor":
            bottom = -0.1
        x0, z0, x1, z1 = rect
        mount = "ceiling" if category == "ceiling" else "floor"
        return SceneObject(number, category, None, None, room, (x0, z0, x1, z1), (bottom, top), mount, None, structural)

    return [
        (item(0, "floor", 0, (-0.2, -0.2, 10.6, 4.2), 0.0, True), (150, 110, 70)),
        (item(1, "ceiling", 0, (-0.2, -0.2, 10.6, 4.2), 2.7, True), (240, 240, 240)),
        (item(2, "wall", 0, (-0.2, -0.2, 0.0, 4.2), 2.6, True), (230, 220, 190)),
        (item(3, "wall", 0, (0.0, -0.2, 10.6, 0.0), 2.6, True), (220, 210, 180)),
        (item(4, "wall", 0, (0.0, 4.0, 10.6, 4.2), 2.6, True), (210, 200, 170)),
        (item(5, "wall", 0, (4.0, 0.0, 4.2, 1.5), 2.6, True), (180, 200, 220)),
        (item(6, "wall", 0, (4.0, 2.5, 4.2, 4.0), 2.6, True), (170, 190, 210)),
        (item(7, "wall", 1, (8.2, 0.0, 8.4, 4.0), 2.6, True), (160, 180, 200)),
        (item(8, "wall", 2, (10.4, 0.0, 10.6, 4.0), 2.6, True), (200, 200, 200)),
        (item(9, "sofa", 0, (0.2, 0.2, 1.8, 1.0), 0.8), (190, 40, 40)),
        (item(10, "fridge", 1, (7.4, 3.2, 8.1, 3.9), 1.8), (230, 230, 240)),
        (item(11, "table", 1, (5.6, 0.6, 6.6, 1.2), 0.75), (120, 80, 40)),
    ]


def tiny_graph(name: str) -> SceneGraph:
    """A tiny flat's scene graph."""
    return SceneGraph(name, 0, ROOMS, DOORS, tuple(item for item, _ in _objects()))


def write_scene(scenes_dir: Path, name: str, tint: int = 0) -> str:
    """Writes a tiny flat's GLB, navigation mesh, scene graph, instances and stage configuration; its scene id."""
    from streamvln_gym.simulators.embedded.navmesh_builder import build_navigation_mesh, walkable_area

    folder = scenes_dir / "flats" / name
    folder.mkdir(parents=True)
    scene = trimesh.Scene()
    instances: list[int] = []
    for item, colour in _objects():
        (x0, z0, x1, z1), (bottom, top) = item.footprint, item.height
        mesh = trimesh.creation.box(bounds=[[x0, bottom, z0], [x1, top, z1]])
        shade = [max(0, channel - tint) for channel in colour]
        mesh.visual.vertex_colors = np.tile([*shade, 255], (len(mesh.vertices), 1)).astype(np.uint8)
        scene.add_geometry(mesh, geom_name=f"{item.id:03d}", node_name=f"{item.id:03d}")
        instances += [item.id] * len(mesh.faces)
    (folder / f"{name}.glb").write_bytes(trimesh.exchange.gltf.export_glb(scene))
    np.save(folder / f"{name}.instances.npy", np.array(instances, dtype=np.int32))
    obstacles = [item.footprint for item, _ in _objects() if not item.structural]
    walkable = walkable_area([room.rect for room in ROOMS], [(4.0, 1.5, 4.2, 2.5)], obstacles)
    build_navigation_mesh(walkable, HEIGHT).save(folder / f"{name}.navmesh.npz")
    (folder / f"{name}.scene_graph.json").write_text(tiny_graph(name).to_json())
    placed = {"render_asset": f"{name}.glb", "up": [0, 1, 0], "front": [0, 0, -1]}
    (folder / f"{name}.stage_config.json").write_text(json.dumps(placed))
    return f"flats/{name}/{name}.glb"


def tiny_episode(number: int, scene_id: str, path: list[tuple[float, float]], text: str, **info: Any) -> Episode:
    """An episode along (x, z) points, facing -Z at the start, without ground truth."""
    points = tuple((x, HEIGHT, z) for x, z in path)
    x, y, z, w = yaw_to_quaternion(0.0).tolist()
    return Episode(
        episode_id=str(number),
        trajectory_id=str(number // 10),
        scene_id=scene_id,
        start_position=points[0],
        start_rotation=(x, y, z, w),
        instruction=Instruction(text, language="en-US"),
        goals=(Goal(points[-1]),),
        reference_path=points,
        geodesic_distance=path_length(points),
        info=info,
    )


def tiny_episodes(first: str, second: str) -> list[Episode]:
    """The seven episodes, without ground truth."""
    there = [(1.0, 3.0), (4.1, 2.0), (7.0, 2.0)]
    return [
        tiny_episode(10, first, there, "Leave the living room through the door and stop in the kitchen."),
        tiny_episode(11, first, there, "दरवाज़े से निकलकर रसोई में रुकें।"),
        tiny_episode(20, first, [(7.0, 2.8), (4.1, 2.0), (1.0, 2.0)], "Walk out of the kitchen; stop by the red sofa."),
        tiny_episode(
            30,
            first,
            [(1.0, 2.0), (4.1, 2.0), (7.8, 2.0), (4.1, 2.0), (1.0, 2.0)],
            "Go to the kitchen, then go back to the room where you started.",
            needs_memory="return",
            via=[[7.8, HEIGHT, 2.0]],
        ),
        tiny_episode(40, second, [(2.5, 1.0), (4.1, 2.0), (7.5, 1.0)], "Go past the table and wait."),
        tiny_episode(50, second, [(5.0, 3.5), (4.1, 2.0), (0.5, 3.5)], "Enter the living room."),
        tiny_episode(51, second, [(5.0, 3.5), (4.1, 2.0), (0.5, 3.5)], "Go through the door on your left and stop."),
    ]


def with_ground_truth(episode: Episode, scene: Path) -> Episode:
    """The episode with the expert's positions and actions."""
    from dataclasses import replace

    from streamvln_gym.simulators.embedded.simulator import EmbeddedSimulator

    simulator = EmbeddedSimulator(SMALL_CAMERA)
    simulator.load_scene(scene)
    start = AgentState.from_rotation(episode.start_position, episode.start_rotation)
    shown = demonstrate(simulator, start, expert_for(simulator, episode))
    locations = tuple((float(x), float(y), float(z)) for x, y, z in shown.positions)
    return replace(episode, gt_locations=locations, gt_actions=shown.actions)


def copy_of(tiny_flats: TinyFlats, tmp_path: Path, *episodes: Episode) -> TinyFlats:
    """A copy of the first scene that a test may damage, with other episodes."""
    scene = "flats/tiny_a/tiny_a.glb"
    shutil.copytree((tiny_flats.scenes_dir / scene).parent, (tmp_path / "scene_datasets" / scene).parent)
    path = tmp_path / "datasets" / "x" / "x.json.gz"
    write_dataset(path, episodes or [tiny_flats.dataset.episode("10")])
    return TinyFlats(tmp_path, path, tmp_path / "scene_datasets")


@pytest.fixture(scope="session")
def tiny_flats(tmp_path_factory: pytest.TempPathFactory) -> TinyFlats:
    """Two tiny flats on disk with their episodes and ground truth."""
    root = tmp_path_factory.mktemp("tiny")
    scenes_dir = root / "scene_datasets"
    first, second = write_scene(scenes_dir, "tiny_a"), write_scene(scenes_dir, "tiny_b", tint=40)
    path = root / "datasets" / "tiny" / "tiny.json.gz"
    write_dataset(path, [with_ground_truth(e, scenes_dir / e.scene_id) for e in tiny_episodes(first, second)])
    return TinyFlats(root, path, scenes_dir)


@pytest.fixture
def env(tiny_flats: TinyFlats) -> Iterator[VLNEnv]:
    """A fresh environment on the tiny flats."""
    made = tiny_flats.make()
    yield made
    made.close()
