"""Where a scene's navigation mesh comes from: files beside it, the cache, or its triangles."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import trimesh
from numpy.typing import NDArray

from streamvln_gym.cli import main
from streamvln_gym.errors import SceneError
from streamvln_gym.simulators.base import AgentState
from streamvln_gym.simulators.embedded.detour_file import TileSet, read_navmesh
from streamvln_gym.simulators.embedded.navmesh import NavigationMesh
from streamvln_gym.simulators.embedded.navmesh_source import CACHE_FOLDER, scene_navmesh, stored_navmesh
from streamvln_gym.simulators.embedded.recast import build
from streamvln_gym.simulators.embedded.simulator import EmbeddedSimulator
from tests.simulators.recast_scenes import box, floor

ROOM = np.concatenate([floor(0, 0, 5, 4), box((2, 0, 1), (3, 1, 2))])


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A room as a bare, Z-up GLB, and an empty cache."""
    monkeypatch.setenv("STREAMVLN_GYM_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "scan"
    folder.mkdir()
    export(folder / "scan.glb", ROOM)
    return folder / "scan.glb"


def export(path: Path, triangles: NDArray) -> None:
    corners = triangles.reshape(-1, 3)[:, [0, 2, 1]] * np.array([1.0, -1.0, 1.0])  # y up -> z up
    mesh = trimesh.Trimesh(corners, np.arange(len(corners)).reshape(-1, 3), process=False)
    mesh.export(path)


def forbid_building(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_):
        raise AssertionError("the mesh was built again")

    monkeypatch.setattr(build, "build_navmesh", fail)


def test_the_simulator_builds_it_once(scene, monkeypatch, capsys):
    simulator = EmbeddedSimulator()
    simulator.load_scene(scene)
    simulator.set_state(AgentState(np.array([1.0, 0.2, 1.0]), 0.0))
    said = capsys.readouterr().err
    assert said.count("building the navigation mesh of scan.glb from 14 triangles") == 1
    assert str(scene.with_name("scan.navmesh.npz")) in said
    forbid_building(monkeypatch)
    EmbeddedSimulator().load_scene(scene)
    assert "building" not in capsys.readouterr().err
    assert sorted(path.name for path in scene.parent.iterdir()) == ["scan.glb", "scan.navmesh.npz"]


def spans(scene: Path) -> NDArray:
    """Metres that the scene's mesh covers along x, y and z, in a simulator that knows nothing yet."""
    simulator = EmbeddedSimulator()
    simulator.load_scene(scene)
    return np.ptp(simulator.navmesh.vertices.astype(float), axis=0)


def test_a_scene_that_changed_gets_another_mesh(scene, capsys, monkeypatch):
    before = spans(scene)
    export(scene, ROOM * np.float32(2.0))
    assert (spans(scene)[[0, 2]] > 1.8 * before[[0, 2]]).all()
    placed = {"up": [0, 0, 1], "front": [0, 1, 0], "scale": [0.5, 0.5, 0.5]}
    scene.with_name("scan.stage_config.json").write_text(json.dumps(placed))
    assert np.allclose(spans(scene), before, atol=0.2)
    assert capsys.readouterr().err.count("building the navigation mesh") == 3
    forbid_building(monkeypatch)
    copied = scene.parent.with_name("elsewhere")
    shutil.copytree(scene.parent, copied, copy_function=shutil.copyfile)  # other times
    spans(copied / "scan.glb")


def test_a_wall_that_was_moved_gets_another_mesh(scene, capsys):
    spans(scene)
    export(scene, np.concatenate([floor(0, 0, 5, 4), box((1, 0, 1), (2, 1, 2))]))
    spans(scene)
    assert capsys.readouterr().err.count("building the navigation mesh") == 2


def test_a_mesh_outlives_its_scene(scene, monkeypatch):
    spans(scene)
    kept = scene.with_name("scan.basis.glb")
    scene.with_name("scan.navmesh.npz").rename(scene.with_name("scan.basis.navmesh.npz"))
    scene.unlink()
    forbid_building(monkeypatch)
    assert stored_navmesh(kept) is not None


def test_a_mesh_that_says_nothing_of_its_scene_is_kept(scene, monkeypatch):
    spans(scene)
    NavigationMesh.load(scene.with_name("scan.navmesh.npz")).save(scene.with_name("scan.navmesh.npz"))
    export(scene, ROOM * np.float32(2.0))
    forbid_building(monkeypatch)
    spans(scene)


def test_habitats_file_is_taken(scene, monkeypatch):
    main(["build-navmesh", str(scene)])
    forbid_building(monkeypatch)
    mesh = scene_navmesh(scene)
    np.testing.assert_array_equal(mesh.vertices, read_navmesh(scene.with_name("scan.navmesh")).vertices)
    assert not scene.with_name("scan.navmesh.npz").exists()


def test_our_file_comes_before_habitats(scene):
    main(["build-navmesh", str(scene)])
    small = NavigationMesh.from_polygons([[0, 0, 0], [0, 0, 1], [1, 0, 1], [1, 0, 0]], [[0, 1, 2, 3]])
    small.save(scene.with_name("scan.navmesh.npz"))
    assert len(scene_navmesh(scene).vertices) == 4


def test_a_folder_that_cannot_be_written_leaves_it_to_the_cache(scene, monkeypatch, tmp_path):
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != scene.parent and access(path, mode))
    built = scene_navmesh(scene)
    assert [path.name for path in scene.parent.iterdir()] == ["scan.glb"]
    kept = list((tmp_path / "cache" / CACHE_FOLDER).iterdir())
    assert len(kept) == 1 and kept[0].name.startswith("scan.")
    forbid_building(monkeypatch)
    np.testing.assert_array_equal(scene_navmesh(scene).polygons, built.polygons)
    export(scene, ROOM * 1.01)
    with pytest.raises(AssertionError, match="built again"):  # other triangles, another mesh
        scene_navmesh(scene)


def test_a_full_disk_does_not_stop_the_scene(scene, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(NavigationMesh, "save", full)
    assert scene_navmesh(scene).is_navigable([1.0, 0.2, 1.0])
    assert "could not be kept" in capsys.readouterr().err


def test_generated_flats_keep_their_polygons(scene):
    scene.with_name("scan.scene_graph.json").write_text("{}")
    with pytest.raises(SceneError, match="build-flats"):
        scene_navmesh(scene)


def test_scenes_without_a_floor_are_named(scene):
    export(scene, floor(0, 0, 4, 4)[:, ::-1])
    with pytest.raises(SceneError, match=r"scan.glb: nothing of"):
        scene_navmesh(scene)


def test_a_damaged_file_of_habitats_is_not_passed_over(scene):
    scene.with_name("scan.navmesh").write_bytes(b"TESM")
    with pytest.raises(SceneError, match=r"scan.navmesh cannot be read"):
        scene_navmesh(scene)


class TestCommand:
    def test_writes_both_formats_elsewhere(self, scene, tmp_path, capsys):
        for kind in ("navmesh", "npz"):
            main(["build-navmesh", str(scene), "--out", str(tmp_path / "out"), "--format", kind])
        written = [Path(line) for line in capsys.readouterr().out.splitlines()]
        assert [path.name for path in written] == ["scan.navmesh", "scan.navmesh.npz"]
        tiles, own = TileSet.read(written[0]), NavigationMesh.load(written[1])
        np.testing.assert_array_equal(tiles.mesh().polygons, own.polygons)
        np.testing.assert_allclose(tiles.bounds, [[0, 0, 0], [5, 2.6, 4]], atol=1e-6)  # 1 m and an agent of 8 voxels

    def test_a_scene_with_a_mesh_keeps_it(self, scene):
        small = NavigationMesh.from_polygons([[0, 0, 0], [0, 0, 1], [1, 0, 1], [1, 0, 0]], [[0, 1, 2, 3]])
        small.save(scene.with_name("scan.navmesh.npz"))
        main(["build-navmesh", str(scene)])
        np.testing.assert_array_equal(read_navmesh(scene.with_name("scan.navmesh")).vertices, small.vertices)

    def test_does_not_overwrite(self, scene):
        scene.with_name("scan.navmesh").write_bytes(b"precious")
        with pytest.raises(SystemExit, match="exists already"):
            main(["build-navmesh", str(scene)])
        assert scene.with_name("scan.navmesh").read_bytes() == b"precious"

    def test_names_a_missing_scene(self, tmp_path):
        with pytest.raises(SystemExit, match=r"none\.glb"):
            main(["build-navmesh", str(tmp_path / "none.glb")])
