"""Scans: Z-up copies of the recorded flats, and a generated building of several storeys."""

from __future__ import annotations

import importlib
import json
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from streamvln_gym.simulators.base import CameraConfig
from streamvln_gym.simulators.embedded import scene_cache
from streamvln_gym.simulators.embedded.renderer import Renderer
from streamvln_gym.simulators.embedded.scene import Scene, load_glb, load_scene
from streamvln_gym.simulators.embedded.scene_cache import load_drawable
from streamvln_gym.simulators.embedded.textures import Sampling, Wrap

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "data" / "golden_habitat" / "render"
TO_Z_UP = [1, 0, 0, 0, 0, 0, 1, 0, 0, -1, 0, 0, 0, 0, 0, 1]  # column by column: (x, y, z) to (x, -z, y)


@pytest.fixture(scope="module")
def generator():
    """The benchmarks' module `scan_scene`."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield importlib.import_module("scan_scene")
    sys.path.remove(str(ROOT / "benchmarks"))


def copy_z_up(source: Path, target: Path, bake: bool) -> Path:
    """A Z-up copy of a GLB without other nodes' transforms: by its vertices (`bake`), or by a matrix over its nodes."""
    data = bytearray(source.read_bytes())
    length = struct.unpack_from("<I", data, 12)[0]
    tree = json.loads(data[20 : 20 + length])
    binary = data[28 + length :]
    if bake:
        for number in {p["attributes"]["POSITION"] for mesh in tree["meshes"] for p in mesh["primitives"]}:
            accessor = tree["accessors"][number]
            start = tree["bufferViews"][accessor["bufferView"]].get("byteOffset", 0) + accessor.get("byteOffset", 0)
            points = np.frombuffer(binary, "<f4", accessor["count"] * 3, start).reshape(-1, 3)
            turned = np.stack([points[:, 0], -points[:, 2], points[:, 1]], axis=1)
            binary[start : start + turned.nbytes] = turned.tobytes()
    else:
        roots = tree["scenes"][tree.get("scene", 0)]
        tree["nodes"].append({"matrix": TO_Z_UP, "children": roots["nodes"]})
        roots["nodes"] = [len(tree["nodes"]) - 1]
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    head = struct.pack("<4sIII4s", b"glTF", 2, 28 + len(text) + len(binary), len(text), b"JSON")
    target.write_bytes(head + text + struct.pack("<I4s", len(binary), b"BIN\0") + binary)
    return target


@pytest.mark.parametrize(("flat", "bake"), [(0, True), (1, False), (3, True), (4, False)])
def test_z_up_copies_give_habitats_pictures(tmp_path: Path, flat: int, bake: bool) -> None:
    renderer = Renderer(load_scene(copy_z_up(GOLDEN / f"flat{flat}.glb", tmp_path / "scan.glb", bake)))
    golden = np.load(GOLDEN / f"flat{flat}.npz")
    depth_errors = []
    for index, (position, yaw) in enumerate(zip(golden["position"], golden["yaw"], strict=True)):
        pictures = renderer.render(position, float(yaw), CameraConfig(max_depth=1000.0))
        expected = golden["depth"][index].astype(np.float32)
        depth_errors.append(np.abs(pictures["depth"][::4, ::4, 0] - expected)[expected > 0])
        if index in golden["rgb_index"]:
            with Image.open(GOLDEN / f"flat{flat}_{index:02d}.png") as image:
                recorded = np.asarray(image.convert("RGB"), np.int32)
            assert np.abs(pictures["rgb"] - recorded).mean() <= 0.5
    depth_error = np.concatenate(depth_errors)
    assert np.median(depth_error) <= 1e-3
    assert (depth_error > 0.05).mean() <= 5e-4


def test_a_building_of_two_storeys_looks_the_same_from_the_cache(
    generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMVLN_GYM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(scene_cache, "CACHED_BYTES", 1)
    building = generator.Building(triangles=40_000, rooms=(2, 2, 2), texture_sizes=(128, 100, 64))
    count = generator.write_scan(tmp_path / "scan.glb", building)
    scene = load_scene(tmp_path / "scan.glb")
    assert len(scene.triangles) == count == pytest.approx(40_000, rel=0.15)
    np.testing.assert_allclose(scene.bounds[:, 1], [0.0, 2 * generator.STOREY - 0.3], atol=0.1)
    load_drawable(tmp_path / "scan.glb")
    read, mapped = Renderer(scene), Renderer(load_drawable(tmp_path / "scan.glb"))
    camera = CameraConfig(width=160, height=120)
    for position, yaw in generator.walk_poses(building, 8):
        pictures = [renderer.render(position, yaw, camera) for renderer in (read, mapped)]
        for sensor in ("rgb", "depth"):
            np.testing.assert_array_equal(pictures[0][sensor], pictures[1][sensor])
        assert (pictures[0]["depth"] == 10.0).mean() < 0.05 and pictures[0]["rgb"].std() > 10  # rooms, textured
        assert (pictures[0]["rgb"] == 0).all(axis=2).mean() < 0.05  # gaps under the doors


def test_small_plane_tables_change_no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    from streamvln_gym.simulators.embedded import shading

    scene = load_glb(GOLDEN / "flat0.glb")
    golden = np.load(GOLDEN / "flat0.npz")
    pose, camera = (golden["walk_position"][3], float(golden["walk_yaw"][3])), CameraConfig(width=160, height=120)
    whole = Renderer(scene).render(*pose, camera, ("rgb",))["rgb"]
    monkeypatch.setattr(shading, "plane_slots", lambda triangles: 8)
    np.testing.assert_array_equal(Renderer(scene).render(*pose, camera, ("rgb",))["rgb"], whole)


def wall_of(wrap_u: Wrap, wrap_v: Wrap, mip_mapped: bool, texture: np.ndarray, low: float, high: float) -> Scene:
    """A wall that fills a 64 x 64 picture of 90 degrees, with texture coordinates from low to high."""
    a, b, c, d = ([x, y, -4.0] for x, y in ((-4, -4), (4, -4), (4, 4), (-4, 4)))
    uvs = [[[low, high], [high, high], [high, low]], [[low, high], [high, low], [low, low]]]
    return Scene(
        triangles=np.array([[a, b, c], [a, c, d]], np.float32),
        uvs=np.array(uvs, np.float32),
        colours=np.full((2, 3, 3), 255, np.float32),
        texture_index=np.ones(2, np.int32),
        textures=(np.full((1, 1, 3), 255, np.uint8), texture),
        double_sided=np.zeros(2, bool),
        samplings=(Sampling(), Sampling(wrap_u, wrap_v, mip_mapped)),
    )


def draw(scene: Scene) -> np.ndarray:
    camera = CameraConfig(width=64, height=64, hfov=90.0, mount_height=0.0)
    return Renderer(scene).render((0, 0, 0), 0.0, camera, ("rgb",))["rgb"]


@pytest.mark.parametrize("wrap_u", list(Wrap))
@pytest.mark.parametrize("wrap_v", list(Wrap))
def test_wrap_modes_equal_a_picture_that_was_wrapped_beforehand(wrap_u: Wrap, wrap_v: Wrap) -> None:
    texture = np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)
    modes = {Wrap.REPEAT: "wrap", Wrap.CLAMP: "edge", Wrap.MIRROR: "symmetric"}
    wide = texture
    for axis, wrap in ((1, wrap_u), (0, wrap_v)):
        pad = [(0, 0)] * 3
        pad[axis] = (24, 24)  # 1.5 pictures to each side
        wide = np.pad(wide, pad, modes[wrap])
    # 64 x 64 texels on 64 x 64 pixels: each pixel shows one texel, in both ways
    shown = draw(wall_of(wrap_u, wrap_v, True, texture, -1.5, 2.5))
    np.testing.assert_allclose(shown.astype(int), wide, atol=1)


def test_a_texture_without_mip_maps_keeps_its_contrast_far_away() -> None:
    checks = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    texture = np.repeat(checks[:, :, None], 3, axis=2)
    with_maps = draw(wall_of(Wrap.REPEAT, Wrap.REPEAT, True, texture, 0.0, 7.3))
    without = draw(wall_of(Wrap.REPEAT, Wrap.REPEAT, False, texture, 0.0, 7.3))
    assert with_maps.std() < 3 and without.std() > 40
