"""Prepared scenes in the cache folder: same pictures, shared, rebuilt when they do not fit."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest

from streamvln_gym.cache import CACHE_VARIABLE
from streamvln_gym.simulators.base import CameraConfig
from streamvln_gym.simulators.embedded import scene_cache
from streamvln_gym.simulators.embedded.render_mesh import RenderMesh
from streamvln_gym.simulators.embedded.renderer import Renderer
from streamvln_gym.simulators.embedded.scene import Scene, load_scene
from streamvln_gym.simulators.embedded.scene_cache import load_drawable
from tests.conftest import TinyFlats
from tests.simulators.glb_writer import write_glb

CAMERA = CameraConfig(width=64, height=48, mount_height=0.0)


def write_wall(path: Path, seed: int = 0) -> Path:
    """A textured wall that faces a camera at the origin which looks along -Z, Y up."""
    texture = np.random.default_rng(seed).integers(0, 255, (16, 16, 3), np.uint8)
    corners = [[-9, -9, -3], [9, -9, -3], [9, 9, -3], [-9, 9, -3]]
    uv = [[0, 1], [1, 1], [1, 0], [0, 0]]
    write_glb(path, [{"position": corners, "uv": uv, "texture": texture, "indices": [0, 1, 2, 0, 2, 3]}])
    path.with_name(f"{path.stem}.stage_config.json").write_text('{"up": [0, 1, 0], "front": [0, 0, -1]}')
    return path


def picture(drawable: Scene | RenderMesh) -> np.ndarray:
    return Renderer(drawable).render((0, 0, 0), 0.0, CAMERA, ("rgb",))["rgb"]


@pytest.fixture
def scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A scene that counts as large, and an empty cache folder."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(scene_cache, "CACHED_BYTES", 1)
    return write_wall(tmp_path / "wall.glb")


def built_anew(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Receives the path of every scene that is read from its GLB from now on."""
    read: list[Path] = []
    monkeypatch.setattr(scene_cache, "load_scene", lambda path, ids=None: read.append(path) or load_scene(path, ids))
    return read


def mesh_files() -> list[Path]:
    return sorted(scene_cache.scans_folder().glob("*.mesh"))


def test_the_second_load_is_mapped_and_shows_the_same(scan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = built_anew(monkeypatch)
    ids = np.array([4, 7], np.int32)
    first, second = load_drawable(scan, ids), load_drawable(scan, ids)
    assert read == [scan] and isinstance(first, RenderMesh) and isinstance(second, RenderMesh)
    direct = RenderMesh.build(load_scene(scan, ids))
    for name, array in scene_cache._arrays(direct).items():
        for mesh in (first, second):
            np.testing.assert_array_equal(scene_cache._arrays(mesh)[name], array)
            assert scene_cache._arrays(mesh)[name].dtype == array.dtype
    np.testing.assert_array_equal(picture(second), picture(load_scene(scan)))
    assert [file.suffix for file in scene_cache.scans_folder().iterdir()].count(".mesh") == 1
    assert not list(scene_cache.scans_folder().glob("*.partial"))


def test_small_scenes_are_not_cached(scan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene_cache, "CACHED_BYTES", scan.stat().st_size + 1)
    assert isinstance(load_drawable(scan), Scene)
    assert not scene_cache.scans_folder().exists()


def test_a_changed_source_is_built_again_and_replaces_the_old(scan: Path) -> None:
    before = picture(load_drawable(scan))
    old = mesh_files()
    write_wall(scan, seed=1)
    os.utime(scan, ns=(0, scan.stat().st_mtime_ns + 10**9))
    after = picture(load_drawable(scan))
    assert np.abs(after.astype(int) - before).max() > 50
    np.testing.assert_array_equal(after, picture(load_scene(scan)))
    assert len(mesh_files()) == 1 and mesh_files() != old


def test_another_frame_or_other_instances_are_another_scene(scan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_drawable(scan)
    read = built_anew(monkeypatch)
    load_drawable(scan, np.array([1, 2], np.int32))
    scan.with_name("wall.stage_config.json").unlink()
    mesh = load_drawable(scan)
    assert len(read) == 2 and isinstance(mesh, RenderMesh) and mesh.instances is None
    np.testing.assert_allclose(mesh.triangles.reshape(-1, 3)[:, 1], -3)  # the wall has become a floor


def damage_head(data: bytes) -> bytes:
    return data[:40] + bytes([data[40] ^ 0xFF]) + data[41:]


def damage_index(data: bytes) -> bytes:
    """Another texture number for the first triangle."""
    mesh_ids = np.array([1, 1], np.int32).tobytes()  # texture_index of the wall
    at = data.index(mesh_ids, 24 + int.from_bytes(data[8:16], "little"))
    return data[:at] + np.array([99, 1], np.int32).tobytes() + data[at + 8 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:11],
        lambda data: data[:100],
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: b"x" + data[1:],
        damage_head,
        damage_index,
    ],
    ids=["empty", "prefix", "head", "cut", "longer", "other format", "head's bytes", "an index"],
)
def test_a_damaged_entry_is_built_again(scan: Path, monkeypatch: pytest.MonkeyPatch, damage) -> None:
    before = picture(load_drawable(scan))
    (file,) = mesh_files()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    read = built_anew(monkeypatch)
    with pytest.warns(UserWarning, match="is damaged .* built again"):
        mesh = load_drawable(scan)
    assert read == [scan]
    np.testing.assert_array_equal(picture(mesh), before)
    assert file.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_done_without(scan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan.with_name("cache").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="cannot be kept prepared"):
        mesh = load_drawable(scan)
    np.testing.assert_array_equal(picture(mesh), picture(load_scene(scan)))


def test_a_full_disk_is_survived(scan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(scene_cache.os, "replace", fail)
    with pytest.warns(UserWarning, match="No space left"):
        mesh = load_drawable(scan)
    np.testing.assert_array_equal(picture(mesh), picture(load_scene(scan)))
    assert not mesh_files() and not list(scene_cache.scans_folder().glob("*.partial"))


def _load_in_process(scan: Path, cache: Path, begin, results) -> None:
    os.environ[CACHE_VARIABLE] = str(cache)
    scene_cache.CACHED_BYTES = 1
    read: list[Path] = []
    scene_cache.load_scene = lambda path, ids=None: read.append(path) or load_scene(path, ids)
    begin.wait()
    mesh = load_drawable(scan)
    assert isinstance(mesh, RenderMesh)
    results.put((len(read), mesh.triangles.tobytes()))


def test_two_processes_at_once_build_it_once(scan: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    begin, results = context.Barrier(2), context.Queue()
    workers = [context.Process(target=_load_in_process, args=(scan, tmp_path / "cache", begin, results)) for _ in "ab"]
    for worker in workers:
        worker.start()
    answers = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert sum(count for count, _ in answers) == 1
    assert answers[0][1] == answers[1][1]
    assert len(mesh_files()) == 1


def test_a_renderer_of_a_cached_scene_has_no_scene(scan: Path) -> None:
    with pytest.raises(RuntimeError, match="read the file with load_scene"):
        _ = Renderer(load_drawable(scan)).scene


def test_environments_see_the_same_from_the_cache(
    tiny_flats: TinyFlats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sensors = ("rgb", "depth", "semantic")
    plain, _ = tiny_flats.make(sensors=sensors).reset(options={"episode_id": "10"})
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr(scene_cache, "CACHED_BYTES", 1)
    for _ in range(2):
        env = tiny_flats.make(sensors=sensors)
        env.unwrapped.simulator.cached_triangles = 1  # as for a scan: one scene at a time
        for scene in ("tiny_b", "tiny_a"):
            observation, _ = env.reset(options={"scene_id": scene})
        observation, _ = env.reset(options={"episode_id": "10"})
        for sensor in sensors:
            np.testing.assert_array_equal(observation[sensor], plain[sensor])
    assert len(mesh_files()) == 2
