"""The renderer: against recorded habitat pictures, against embree, and on scenes small enough to know the answer."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from streamvln_gym.geometry import yaw_matrix
from streamvln_gym.simulators.base import CameraConfig
from streamvln_gym.simulators.embedded.renderer import Renderer
from streamvln_gym.simulators.embedded.scene import Scene, load_glb
from streamvln_gym.simulators.embedded.textures import MipMaps

GOLDEN = Path(__file__).parents[1] / "data" / "golden_habitat" / "render"
FLATS = (0, 1, 3, 4)
CAMERA = CameraConfig(width=64, height=48, mount_height=0.0)
ORIGIN = (0.0, 0.0, 0.0)


def make_scene(
    triangles,
    uvs=None,
    colours=None,
    texture=None,
    double_sided: bool = False,
    instances=None,
) -> Scene:
    """A scene of triangles (T, 3, 3) that share one texture."""
    triangles = np.asarray(triangles, np.float32)
    count = len(triangles)
    white = np.full((1, 1, 3), 255, np.uint8)
    return Scene(
        triangles=triangles,
        uvs=np.zeros((count, 3, 2), np.float32) if uvs is None else np.asarray(uvs, np.float32),
        colours=np.full((count, 3, 3), 255, np.float32) if colours is None else np.asarray(colours, np.float32),
        texture_index=np.full(count, int(texture is not None), np.int32),
        textures=(white,) if texture is None else (white, texture),
        double_sided=np.full(count, double_sided),
        instances=None if instances is None else np.asarray(instances, np.int32),
    )


def wall(distance: float, half: float = 100.0, repeats: float = 1.0, **kwargs) -> Scene:
    """A square wall of 2 x `half` metres, `distance` metres ahead of a camera at the origin that faces -Z."""
    a, b, c, d = ([x, y, -distance] for x, y in ((-half, -half), (half, -half), (half, half), (-half, half)))
    low, high = 0.0, repeats
    uvs = [[[low, high], [high, high], [high, low]], [[low, high], [high, low], [low, low]]]
    return make_scene([[a, b, c], [a, c, d]], uvs=uvs, **kwargs)


@pytest.fixture(scope="module")
def flats() -> dict[int, Renderer]:
    return {flat: Renderer(load_glb(GOLDEN / f"flat{flat}.glb")) for flat in FLATS}


def test_pictures_equal_habitats(flats: dict[int, Renderer]) -> None:
    depth_errors, colour_errors = [], []
    for flat, renderer in flats.items():
        golden = np.load(GOLDEN / f"flat{flat}.npz")
        for index, (position, yaw) in enumerate(zip(golden["position"], golden["yaw"], strict=True)):
            pictures = renderer.render(position, float(yaw), CameraConfig(max_depth=1000.0))
            expected = golden["depth"][index].astype(np.float32)
            error = np.abs(pictures["depth"][::4, ::4, 0] - expected)
            depth_errors.append(error[expected > 0])
            if index in golden["rgb_index"]:
                with Image.open(GOLDEN / f"flat{flat}_{index:02d}.png") as image:
                    recorded = np.asarray(image.convert("RGB"), np.int32)
                colour_errors.append(np.abs(pictures["rgb"] - recorded).mean())
    depth_error = np.concatenate(depth_errors)
    assert np.median(depth_error) <= 1e-3
    assert (depth_error > 0.05).mean() <= 5e-4
    assert max(colour_errors) <= 0.5


def test_depth_equals_embree(flats: dict[int, Renderer]) -> None:
    pytest.importorskip("embreex", reason="embreex is not installed")
    from embreex.mesh_construction import TriangleMesh
    from embreex.rtcore_scene import EmbreeScene

    camera = CameraConfig(width=160, height=120, max_depth=1000.0)
    fx, fy = camera.focal_lengths
    columns, rows = np.meshgrid(np.arange(160) + 0.5 - 80, np.arange(120) + 0.5 - 60)
    rays = np.stack([columns / fx, -rows / fy, np.full(rows.shape, -1.0)], axis=-1).reshape(-1, 3)
    errors = []
    for flat, culled in flats.items():
        scene = replace(culled.scene, double_sided=np.ones(len(culled.scene.triangles), bool))
        embree = EmbreeScene()
        TriangleMesh(embree, scene.triangles)
        renderer = Renderer(scene)
        golden = np.load(GOLDEN / f"flat{flat}.npz")
        for position, yaw in zip(golden["walk_position"][::6], golden["walk_yaw"][::6], strict=True):
            directions = (rays @ yaw_matrix(float(yaw)).T).astype(np.float32)
            origins = np.broadcast_to(position + np.array([0, 1.25, 0]), directions.shape).astype(np.float32)
            hits = embree.run(np.ascontiguousarray(origins), directions, output=1)
            expected = np.where(hits["primID"] >= 0, hits["tfar"], 1000.0)
            got = renderer.render(position, float(yaw), camera, ("depth",))["depth"]
            errors.append(np.abs(got.ravel() - expected)[hits["primID"] >= 0])
    error = np.concatenate(errors)
    assert np.median(error) < 1e-5
    assert np.percentile(error[error < 0.05], 99) < 1e-3
    assert (error > 0.05).mean() < 1e-3  # silhouettes


def test_a_wall_fills_the_picture() -> None:
    pictures = Renderer(wall(3.0, colours=np.full((2, 3, 3), [10, 20, 30]), instances=[5, 5])).render(
        ORIGIN, 0.0, CAMERA, ("rgb", "depth", "instance")
    )
    assert {name: (picture.dtype, picture.shape) for name, picture in pictures.items()} == {
        "rgb": (np.uint8, (48, 64, 3)),
        "depth": (np.float32, (48, 64, 1)),
        "instance": (np.int32, (48, 64, 1)),
    }
    np.testing.assert_allclose(pictures["depth"], 3.0, rtol=1e-6)
    np.testing.assert_array_equal(pictures["rgb"], np.broadcast_to([10, 20, 30], (48, 64, 3)))
    np.testing.assert_array_equal(pictures["instance"], 5)


def test_nothing_is_black_far_and_without_instance() -> None:
    pictures = Renderer(wall(3.0, instances=[1, 2])).render(ORIGIN, math.pi, CAMERA, ("rgb", "depth", "instance"))
    assert not pictures["rgb"].any()
    np.testing.assert_array_equal(pictures["depth"], 10.0)
    np.testing.assert_array_equal(pictures["instance"], -1)


def test_a_scene_without_usable_triangles_is_empty() -> None:
    broken = make_scene([np.full((3, 3), np.nan), np.zeros((3, 3)), [[0, 0, -1], [np.inf, 0, -1], [0, 1, -1]]])
    pictures = Renderer(broken).render(ORIGIN, 0.0, CAMERA)
    assert not pictures["rgb"].any()
    np.testing.assert_array_equal(pictures["depth"], 10.0)


def test_triangles_that_are_not_finite_leave_the_others() -> None:
    scene = wall(2.0)
    triangles = np.concatenate([[np.full((3, 3), np.nan)], scene.triangles])
    pictures = Renderer(make_scene(triangles)).render(ORIGIN, 0.0, CAMERA)
    np.testing.assert_allclose(pictures["depth"], 2.0, rtol=1e-6)


def test_depth_is_clipped() -> None:
    camera = replace(CAMERA, min_depth=1.0, max_depth=5.0)
    for distance, expected in ((0.5, 1.0), (2.0, 2.0), (7.0, 5.0)):
        depth = Renderer(wall(distance)).render(ORIGIN, 0.0, camera, ("depth",))["depth"]
        np.testing.assert_allclose(depth, expected, rtol=1e-6)


def test_back_faces_are_culled_unless_double_sided() -> None:
    behind = np.array([0.0, 0.0, -4.0])  # looks at the wall's back
    for double_sided, expected in ((False, 10.0), (True, 1.0)):
        depth = Renderer(wall(3.0, double_sided=double_sided)).render(behind, math.pi, CAMERA, ("depth",))["depth"]
        np.testing.assert_allclose(depth, expected, rtol=1e-6)


def test_near_clipping() -> None:
    for distance, expected in ((0.02, 0.02), (0.005, 10.0)):
        depth = Renderer(wall(distance)).render(ORIGIN, 0.0, CAMERA, ("depth",))["depth"]
        np.testing.assert_allclose(depth, expected, rtol=1e-5)
    # a floor that passes below and behind the camera
    floor = [[[-50, -1, 50], [50, -1, 50], [50, -1, -50]], [[-50, -1, 50], [50, -1, -50], [-50, -1, -50]]]
    depth = Renderer(make_scene(floor)).render(ORIGIN, 0.0, CAMERA, ("depth",))["depth"][:, :, 0]
    fy = CAMERA.focal_lengths[1]
    rows = np.arange(30, 48)
    np.testing.assert_allclose(depth[30:], np.broadcast_to((fy / (rows + 0.5 - 24))[:, None], (18, 64)), rtol=1e-5)
    np.testing.assert_array_equal(depth[:24], 10.0)


def test_shared_edges_leave_no_gaps() -> None:
    rng = np.random.default_rng(3)
    grid = np.stack(np.meshgrid(np.linspace(-6, 6, 25), np.linspace(-5, 5, 21)), axis=-1)
    points = np.concatenate([grid + rng.uniform(-0.15, 0.15, grid.shape), rng.uniform(-4, -3, (21, 25, 1))], axis=-1)
    a, b, c, d = points[:-1, :-1], points[:-1, 1:], points[1:, 1:], points[1:, :-1]
    triangles = np.concatenate([np.stack([a, b, c], axis=2), np.stack([a, c, d], axis=2)]).reshape(-1, 3, 3)
    renderer = Renderer(make_scene(triangles, double_sided=True))
    for _ in range(20):
        position = rng.uniform(-0.5, 0.5, 3)
        depth = renderer.render(position, rng.uniform(-0.2, 0.2), CAMERA, ("depth",))["depth"]
        assert depth.max() < 9.0


def test_texture_repeats_and_is_not_mirrored() -> None:
    texture = np.zeros((2, 2, 3), np.uint8)
    texture[0, 0] = 200  # top left
    # 8 repeats over 8 metres: with this camera one texel is 1 metre / 2 = 8 pixels
    camera = CameraConfig(width=64, height=64, hfov=math.degrees(2 * math.atan(1.0)), mount_height=0.0)
    rgb = Renderer(wall(4.0, half=4.0, repeats=8.0, texture=texture)).render(ORIGIN, 0.0, camera, ("rgb",))["rgb"]
    tile = rgb[:8, :8, 0]
    np.testing.assert_array_equal(rgb[:, :, 0], np.tile(tile, (8, 8)))
    assert tile[2, 2] > 150
    assert tile[2, 6] < 60 and tile[6, 2] < 60 and tile[6, 6] < 20


def test_mip_levels_are_means_down_to_one_pixel() -> None:
    texture = np.arange(2 * 8 * 3, dtype=np.uint8).reshape(2, 8, 3)
    maps = MipMaps.build((np.full((1, 1, 3), 255, np.uint8), texture))
    np.testing.assert_array_equal(maps.size_bits, [[0, 0], [3, 1]])
    np.testing.assert_array_equal(maps.level_start[1, :5], [1, 17, 21, 23, 23])
    last = maps.texels[23]
    mean = texture.reshape(-1, 3).mean(axis=0)
    np.testing.assert_allclose([last & 255, last >> 20, last >> 8 & 255], mean, atol=1.0)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (100, 7)])
def test_textures_of_any_size(shape: tuple[int, int]) -> None:
    texture = np.full((*shape, 3), [40, 80, 120], np.uint8)
    rgb = Renderer(wall(2.0, repeats=300.0, texture=texture)).render(ORIGIN, 0.0, CAMERA, ("rgb",))["rgb"]
    np.testing.assert_allclose(rgb, np.broadcast_to([40, 80, 120], rgb.shape), atol=1)


def test_a_far_checkerboard_is_grey_and_does_not_shimmer() -> None:
    texture = np.kron(np.indices((8, 8)).sum(axis=0) % 2, np.ones((8, 8)))[:, :, None].astype(np.uint8) * 255
    texture = np.repeat(texture, 3, axis=2)
    far = Renderer(wall(9.0, half=10.0, repeats=120.0, texture=texture))
    views = [far.render((shift, 0.0, 0.0), 0.0, CAMERA, ("rgb",))["rgb"].astype(int) for shift in (0.0, 0.03)]
    assert np.abs(views[0] - 127.5).max() < 10
    assert np.abs(views[0] - views[1]).max() < 5
    near = Renderer(wall(9.0, half=10.0, repeats=4.0, texture=texture)).render(ORIGIN, 0.0, CAMERA, ("rgb",))["rgb"]
    assert near.min() == 0 and near.max() == 255


def test_vertex_colours_are_interpolated_and_multiply_the_texture() -> None:
    half = 4.0
    dark, bright = [0, 0, 0], [255, 100, 50]
    colours = [[dark, bright, bright], [dark, bright, dark]]  # from left to right
    camera = CameraConfig(width=64, height=64, hfov=90.0, mount_height=0.0)
    ramp = (np.arange(64) + 0.5) / 64
    for texture, scale in ((None, 1.0), (np.full((4, 4, 3), 128, np.uint8), 128 / 255)):
        rgb = Renderer(wall(half, half=half, colours=colours, texture=texture)).render(ORIGIN, 0.0, camera)["rgb"]
        expected = np.broadcast_to(ramp[None, :, None] * bright * scale, rgb.shape)
        np.testing.assert_allclose(rgb, expected, atol=1.0)


def test_attributes_are_perspective_correct() -> None:
    floor = [[[-50, -1, 0], [50, -1, 0], [50, -1, -20]], [[-50, -1, 0], [50, -1, -20], [-50, -1, -20]]]
    near, far = [0, 0, 0], [200, 200, 200]
    scene = make_scene(floor, colours=[[near, near, far], [near, far, far]])
    pictures = Renderer(scene).render(ORIGIN, 0.0, replace(CAMERA, max_depth=100.0))
    seen = pictures["depth"][:, :, 0] < 20
    np.testing.assert_allclose(pictures["rgb"][seen][:, 0], pictures["depth"][seen][:, 0] * 10, atol=1.0)


def test_instances_belong_to_their_triangles(flats: dict[int, Renderer]) -> None:
    scene = flats[0].scene
    renderer = Renderer(replace(scene, instances=np.arange(len(scene.triangles), dtype=np.int32)))
    golden = np.load(GOLDEN / "flat0.npz")
    position, yaw = golden["walk_position"][7], float(golden["walk_yaw"][7])
    pictures = renderer.render(position, yaw, CameraConfig(width=64, height=48, max_depth=50.0), ("depth", "instance"))
    rows, columns = np.nonzero(pictures["instance"][:, :, 0] >= 0)
    fx = CAMERA.focal_lengths[0]
    depth = pictures["depth"][rows, columns, 0]
    rays = np.stack([(columns + 0.5 - 32) / fx, (24 - rows - 0.5) / fx, -np.ones(len(rows))], axis=1)
    points = position + [0, 1.25, 0] + (rays * depth[:, None]) @ yaw_matrix(yaw).T
    corners = scene.triangles[pictures["instance"][rows, columns, 0]].astype(np.float64)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    assert np.abs(((points - corners[:, 0]) * normals).sum(axis=1)).max() < 1e-4
    assert len(np.unique(pictures["instance"])) > 20


def test_vertical_field_of_view() -> None:
    # a wall of 2 x 2 metres at 1 metre fills 90 x 90 degrees whatever the pixels' shape
    camera = CameraConfig(width=64, height=16, hfov=92.0, vfov=92.0, mount_height=0.0)
    depth = Renderer(wall(1.0, half=1.0)).render(ORIGIN, 0.0, camera, ("depth",))["depth"][:, :, 0]
    seen = depth < 10.0
    assert seen.any(axis=0).mean() == pytest.approx(1.0 / math.tan(math.radians(46)), abs=0.03)
    assert seen.any(axis=1).mean() == pytest.approx(1.0 / math.tan(math.radians(46)), abs=0.07)


@pytest.mark.parametrize("factor", [2, 3])
def test_supersampling_averages_colour_only(factor: int) -> None:
    left = [[[-9, -9, -2], [0.02, -9, -2], [0.02, 9, -2]], [[-9, -9, -2], [0.02, 9, -2], [-9, 9, -2]]]
    right = [[[-9, -9, -6], [20, -9, -6], [20, 9, -6]], [[-9, -9, -6], [20, 9, -6], [-9, 9, -6]]]
    colours = np.repeat([200.0, 100.0], 2)[:, None, None] * np.ones((4, 3, 3))
    renderer = Renderer(make_scene(np.array(left + right), colours=colours, instances=[1, 1, 2, 2]))
    camera = replace(CAMERA, supersampling=factor)
    pictures = renderer.render(ORIGIN, 0.0, camera, ("rgb", "depth", "instance"))
    assert pictures["rgb"].shape == (48, 64, 3)
    assert set(np.unique(pictures["rgb"])) - {100, 200}, "the edge is blended"
    assert np.isclose(pictures["depth"], 2.0).sum() + np.isclose(pictures["depth"], 6.0).sum() == 48 * 64
    assert set(np.unique(pictures["instance"])) == {1, 2}


def test_the_trained_agents_view_is_the_resized_picture(flats: dict[int, Renderer]) -> None:
    vfov = math.degrees(2 * math.atan(math.tan(math.radians(39.5)) * 0.75))
    direct = CameraConfig(width=112, height=112, vfov=vfov, supersampling=2)
    differences = []
    for flat, renderer in flats.items():
        golden = np.load(GOLDEN / f"flat{flat}.npz")
        for position, yaw in zip(golden["walk_position"][::20], golden["walk_yaw"][::20], strict=True):
            large = renderer.render(position, float(yaw), CameraConfig(), ("rgb",))["rgb"]
            resized = np.asarray(Image.fromarray(large).resize((112, 112), Image.Resampling.BICUBIC), np.int32)
            small = renderer.render(position, float(yaw), direct, ("rgb",))["rgb"]
            differences.append(np.abs(small - resized).mean())
    assert np.mean(differences) <= 2.0
    assert np.max(differences) <= 4.0


def test_pictures_are_fresh_and_repeatable(flats: dict[int, Renderer]) -> None:
    golden = np.load(GOLDEN / "flat1.npz")
    poses = list(zip(golden["walk_position"][:5], golden["walk_yaw"][:5], strict=True))
    camera = CameraConfig(width=128, height=96)
    first = [flats[1].render(position, float(yaw), camera) for position, yaw in poses]
    again = [Renderer(flats[1].scene).render(position, float(yaw), camera) for position, yaw in poses]
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one["rgb"], other["rgb"])
        np.testing.assert_array_equal(one["depth"], other["depth"])


def test_free_pose_looks_down() -> None:
    floor = [[[-9, 0, 9], [9, 0, 9], [9, 0, -9]], [[-9, 0, 9], [9, 0, -9], [-9, 0, -9]]]
    down = np.array([[1, 0, 0, 0.5], [0, 0, 1, 2.5], [0, -1, 0, 0.5], [0, 0, 0, 1.0]])
    depth = Renderer(make_scene(floor)).render_view(down, CAMERA, ("depth",))["depth"]
    np.testing.assert_allclose(depth, 2.5, rtol=1e-6)


def test_bad_requests_are_refused() -> None:
    renderer = Renderer(wall(2.0))
    with pytest.raises(ValueError, match="unknown sensors"):
        renderer.render(ORIGIN, 0.0, CAMERA, ("rgb", "lidar"))
    with pytest.raises(ValueError, match="no instance ids"):
        renderer.render(ORIGIN, 0.0, CAMERA, ("instance",))
    with pytest.raises(ValueError, match="not finite"):
        renderer.render((0.0, np.nan, 0.0), 0.0, CAMERA)
    with pytest.raises(ValueError, match="must be finite"):
        renderer.render(ORIGIN, np.inf, CAMERA)
    with pytest.raises(ValueError, match="shape"):
        renderer.render((0.0, 0.0), 0.0, CAMERA)
    with pytest.raises(ValueError, match="shape"):
        renderer.render_view(np.eye(3), CAMERA)


def test_any_pose_gives_a_picture(flats: dict[int, Renderer]) -> None:
    rng = np.random.default_rng(0)
    scene = flats[3].scene
    low, high = scene.bounds
    renderer = Renderer(replace(scene, double_sided=rng.random(len(scene.triangles)) < 0.5))
    camera = CameraConfig(width=40, height=30, mount_height=0.0)
    corners = scene.triangles.reshape(-1, 3)
    for trial in range(400):
        if trial % 4 == 0:  # exactly at a corner, in the planes of its triangles
            position, yaw = corners[rng.integers(len(corners))], rng.integers(-12, 12) * math.radians(15)
        elif trial % 4 == 1:
            position, yaw = rng.uniform(-1e4, 1e4, 3), rng.uniform(-7, 7)
        else:
            position, yaw = rng.uniform(low - 0.5, high + 0.5), rng.uniform(-7, 7)
        pictures = renderer.render(position, float(yaw), camera)
        assert np.isfinite(pictures["depth"]).all()
        assert pictures["depth"].min() >= 0.0 and pictures["depth"].max() <= 10.0
    for scale in (1e-5, 1e5):  # slivers and giants with wild texture coordinates
        triangles = rng.normal(size=(200, 3, 3)) * scale
        uvs = rng.normal(size=(200, 3, 2)) * 1e9
        wild = make_scene(triangles, uvs=uvs, texture=rng.integers(0, 255, (16, 8, 3), np.uint8), double_sided=True)
        pictures = Renderer(wild).render(ORIGIN, 0.3, camera)
        assert np.isfinite(pictures["depth"]).all()
