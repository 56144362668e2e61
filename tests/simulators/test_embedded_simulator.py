"""The embedded simulator: what it loads, keeps, refuses and says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from streamvln_gym.errors import SceneError
from streamvln_gym.simulators.embedded import simulator as embedded
from streamvln_gym.simulators.embedded.simulator import EmbeddedSimulator
from tests.conftest import SMALL_CAMERA, TinyFlats, copy_of

FORWARD = 1


@pytest.mark.parametrize(
    ("ending", "content", "words"),
    [
        (".glb", None, "tiny_a.glb"),
        (".glb", b"glTF", "tiny_a.glb"),
        (".navmesh.npz", None, "has no navigation mesh .*navmesh.npz is missing"),
        (".navmesh.npz", b"PK", "cannot be read"),
        (".scene_graph.json", b"{", "cannot read the scene graph"),
        (".instances.npy", b"x", "cannot read the instance ids"),
        (".stage_config.json", b"[", "cannot read the stage configuration"),
    ],
)
def test_damaged_scenes_are_refused(tiny_flats: TinyFlats, tmp_path: Path, ending: str, content, words: str) -> None:
    damaged = copy_of(tiny_flats, tmp_path)
    path = damaged.scenes_dir / "flats" / "tiny_a" / f"tiny_a{ending}"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(SceneError, match=words):
        damaged.make().reset()


def test_truncated_glb_is_refused(tiny_flats: TinyFlats, tmp_path: Path) -> None:
    damaged = copy_of(tiny_flats, tmp_path)
    path = damaged.scenes_dir / "flats/tiny_a/tiny_a.glb"
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(SceneError, match="tiny_a"):
        damaged.make().reset()


def test_semantic_gives_named_classes(tiny_flats: TinyFlats) -> None:
    env = tiny_flats.make(sensors=("semantic", "rgb"))
    observation, _ = env.reset(options={"episode_id": "30"})
    classes = env.simulator.semantic_classes
    assert {classes[int(number)] for number in np.unique(observation["semantic"])} >= {"wall", "sofa"}
    assert observation["semantic"].dtype == np.int32


def test_semantic_needs_instances(tiny_flats: TinyFlats, tmp_path: Path) -> None:
    bare = copy_of(tiny_flats, tmp_path)
    (bare.scenes_dir / "flats/tiny_a/tiny_a.instances.npy").unlink()
    with pytest.raises(SceneError, match="Leave 'semantic' out of `sensors`"):
        bare.make(sensors=("semantic",)).reset()


def test_scenes_stay_loaded_within_a_limit(tiny_flats: TinyFlats, monkeypatch: pytest.MonkeyPatch) -> None:
    env = tiny_flats.make()
    loaded = []
    load = embedded._load
    monkeypatch.setattr(embedded, "_load", lambda path: loaded.append(path.stem) or load(path))
    for scene in ("tiny_a", "tiny_b", "tiny_a", "tiny_b"):
        env.reset(options={"scene_id": scene})
    assert loaded == ["tiny_a", "tiny_b"]
    env.unwrapped.simulator.cached_triangles = 1
    for scene in ("tiny_a", "tiny_b"):
        env.reset(options={"scene_id": scene})
    assert loaded == ["tiny_a", "tiny_b", "tiny_b"]  # tiny_a was there still, and pushed tiny_b out


def test_a_simulator_without_scene_or_state_says_what_is_missing(tiny_flats: TinyFlats) -> None:
    simulator = EmbeddedSimulator(SMALL_CAMERA)
    with pytest.raises(RuntimeError, match="no scene is loaded"):
        simulator.snap_point((0.0, 0.0, 0.0))
    simulator.load_scene(tiny_flats.scenes_dir / "flats/tiny_a/tiny_a.glb")
    with pytest.raises(RuntimeError, match="the agent is nowhere yet"):
        simulator.step(FORWARD)
    with pytest.raises(ValueError, match="unknown sensors"):
        simulator.observe(("thermal",))


@pytest.mark.parametrize("cached", [True, False])
def test_compilation_is_announced_if_the_cache_is_cold(capsys, monkeypatch: pytest.MonkeyPatch, cached: bool) -> None:
    monkeypatch.setattr(embedded, "_compiled", False)
    monkeypatch.setattr(embedded, "_kernels_are_cached", lambda: cached)
    embedded.compile_kernels()
    embedded.compile_kernels()
    said = capsys.readouterr().err
    assert said.count("compiling the simulator's kernels, once") == (0 if cached else 1)


@pytest.mark.long
def test_a_cold_cache_is_noticed(tiny_flats: TinyFlats, tmp_path: Path) -> None:
    code = f"from streamvln_gym.env import VLNEnv\nVLNEnv(dataset={str(tiny_flats.episodes_path)!r}).reset()\n"
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    said = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment).stderr
        for _ in range(2)
    ]
    assert "compiling the simulator's kernels" in said[0] and said[0].count("\n") == 1
    assert said[1] == ""
