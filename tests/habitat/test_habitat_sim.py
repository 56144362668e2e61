"""`HabitatSimulator` on habitat-sim itself, against data recorded from it; skipped where it is not installed."""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from streamvln_gym.errors import SimulatorUnavailableError
from streamvln_gym.simulators.base import Action, AgentState
from streamvln_gym.simulators.habitat import HabitatSimulator
from tests.conftest import SMALL_CAMERA, TinyFlats

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("habitat_sim") is None, reason="habitat-sim is not installed (docs/habitat.md)"
)
GOLDEN = Path(__file__).parents[1] / "data" / "golden_habitat"


def golden_scene(folder: Path, name: str) -> Path:
    placed = {"render_asset": f"{name}.glb", "up": [0, 1, 0], "front": [0, 0, -1], "shader_type": "flat"}
    (folder / f"{name}.stage_config.json").write_text(json.dumps(placed))
    return Path(shutil.copy(GOLDEN / "render" / f"{name}.glb", folder))


def test_steps_and_geodesics_are_the_recorded_ones(tmp_path: Path) -> None:
    recorded = np.load(GOLDEN / "navigation" / "flat0.npz")
    simulator = HabitatSimulator(sensors=())
    simulator.load_scene(golden_scene(tmp_path, "flat0"))
    for k in range(0, 500, 5):
        simulator.set_state(AgentState(recorded["step_start"][k].astype(np.float64), float(recorded["step_yaw"][k])))
        foreseen, blocked = simulator.try_step(simulator.state, Action.FORWARD)
        assert simulator.step(Action.FORWARD) == blocked == recorded["step_collided"][k]
        np.testing.assert_allclose(simulator.state.position, recorded["step_end"][k], atol=1e-4)
        np.testing.assert_allclose(foreseen.position, recorded["step_end"][k], atol=1e-4)
    for start, end, distance in zip(*(recorded[f"geo_{name}"] for name in ("start", "end", "dist")), strict=True):
        assert simulator.geodesic_distance(start, end) == pytest.approx(float(distance), abs=1e-3)
    simulator.close()


def test_depth_is_the_recorded_one(tmp_path: Path) -> None:
    recorded = np.load(GOLDEN / "render" / "flat0.npz")
    simulator = HabitatSimulator()
    simulator.load_scene(golden_scene(tmp_path, "flat0"))
    for position, yaw, depth in zip(recorded["position"], recorded["yaw"], recorded["depth"], strict=True):
        simulator.set_state(AgentState(position.astype(np.float64), float(yaw)))
        seen = simulator.observe(("rgb", "depth"))
        assert seen["rgb"].shape == (480, 640, 3) and seen["rgb"].dtype == np.uint8
        error = np.abs(seen["depth"][::4, ::4, 0] - np.clip(depth.astype(np.float32), 0.0, 10.0))[depth > 0.0]
        assert np.median(error) < 1e-3 and (error > 0.05).mean() < 5e-4
    simulator.close()


def test_scenes_are_changed_without_leaks(tmp_path: Path) -> None:
    scenes = [golden_scene(tmp_path, name) for name in ("flat0", "flat1")]
    simulator = HabitatSimulator(SMALL_CAMERA)

    def visit() -> tuple[int, int]:
        for scene in scenes:
            simulator.load_scene(scene)
        return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

    visit()
    settled = visit()
    for _ in range(8):
        assert visit() == settled  # file descriptors, threads
    simulator.close()


def play(episodes_path: Path, root: Path, context: str) -> list[str]:
    """Plays a step in two environments of their own processes; the simulators' names."""
    envs = gym.make_vec(
        "streamvln_gym:StreamVLN-R2R-v0",
        num_envs=2,
        vectorization_mode="async",
        vector_kwargs={"context": context},
        dataset=str(episodes_path),
        simulator="habitat",
        data_dir=str(root),
        camera=SMALL_CAMERA,
    )
    _, infos = envs.reset()
    envs.step(np.array([1, 2]))
    envs.close()
    return list(infos["simulator"])


@pytest.mark.parametrize("context", ["spawn", "fork"])
def test_vector_environments(tiny_flats: TinyFlats, context: str) -> None:
    # in a process that has had no simulator, which forked workers could not inherit
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
        names = fresh.submit(play, tiny_flats.episodes_path, tiny_flats.root, context).result()
    assert names == ["habitat", "habitat"]


def test_a_worker_forked_from_a_process_with_a_simulator_says_so(tiny_flats: TinyFlats, tmp_path: Path) -> None:
    simulator = HabitatSimulator(SMALL_CAMERA)
    simulator.load_scene(golden_scene(tmp_path, "flat0"))
    with pytest.raises(SimulatorUnavailableError, match="'context': 'spawn'"):
        play(tiny_flats.episodes_path, tiny_flats.root, "fork")
    simulator.close()
