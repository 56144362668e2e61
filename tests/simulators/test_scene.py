"""Reading GLB files."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh

from streamvln_gym.errors import SceneError
from streamvln_gym.simulators.embedded.scene import Scene, load_glb
from streamvln_gym.simulators.embedded.textures import Sampling, Wrap
from tests.simulators.glb_writer import TRIANGLE, write_glb

GOLDEN = Path(__file__).parents[1] / "data" / "golden_habitat" / "render"


def test_golden_flat_loads_in_order() -> None:
    scene = load_glb(GOLDEN / "flat0.glb")
    assert scene.triangles.shape == (3846, 3, 3)
    assert scene.triangles.dtype == scene.uvs.dtype == scene.colours.dtype == np.float32
    assert len(scene.textures) > 3
    assert not scene.double_sided.any()
    np.testing.assert_allclose(scene.bounds[:, 1], [0.0, 2.6], atol=1e-5)
    first = trimesh.load_scene(GOLDEN / "flat0.glb", process=False).geometry["m0"]
    np.testing.assert_allclose(scene.triangles[: len(first.faces)], first.triangles, atol=1e-6)


def test_primitives_keep_the_files_order_and_instances_follow(tmp_path: Path) -> None:
    primitives = [{"position": np.add(TRIANGLE, [k, 0, 0])} for k in range(5)]
    scene = load_glb(write_glb(tmp_path / "a.glb", primitives), instances=np.arange(5))
    np.testing.assert_array_equal(scene.triangles[:, 0, 0], np.arange(5))
    np.testing.assert_array_equal(scene.instances, np.arange(5))
    with pytest.raises(SceneError, match="7 instance ids"):
        load_glb(tmp_path / "a.glb", instances=np.zeros(7))


@pytest.mark.parametrize(
    "colour",
    [
        np.array([[255, 0, 51, 255]] * 3, np.uint8),
        np.array([[65535, 0, 13107, 65535]] * 3, np.uint16),
        np.array([[1.0, 0.0, 0.2]] * 3, np.float32),
    ],
    ids=["uint8", "uint16", "float"],
)
@pytest.mark.parametrize("textured", [True, False])
def test_vertex_colour_times_factor_with_and_without_texture(
    tmp_path: Path, colour: np.ndarray, textured: bool
) -> None:
    item = {"position": TRIANGLE, "uv": [[0, 0], [1, 0], [0, 1]], "colour": colour, "factor": [0.4, 1, 1, 1]}
    if textured:
        item["texture"] = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    scene = load_glb(write_glb(tmp_path / "a.glb", [item]))
    np.testing.assert_allclose(scene.colours[0, 0], [102, 0, 51], atol=0.01)
    np.testing.assert_allclose(scene.uvs[0], item["uv"], atol=1e-6)
    assert scene.texture_index[0] == int(textured)
    if textured:
        np.testing.assert_array_equal(scene.textures[1], item["texture"])


def test_vertex_colour_without_material(tmp_path: Path) -> None:
    item = {"position": TRIANGLE, "colour": np.array([[10, 20, 30, 255]] * 3, np.uint8)}
    scene = load_glb(write_glb(tmp_path / "a.glb", [item]))
    np.testing.assert_allclose(scene.colours[0], [[10, 20, 30]] * 3)


def test_texture_without_uv_is_left_out(tmp_path: Path) -> None:
    item = {"position": TRIANGLE, "texture": np.zeros((2, 2, 3), np.uint8), "factor": [1, 1, 0, 1]}
    scene = load_glb(write_glb(tmp_path / "a.glb", [item]))
    assert scene.texture_index[0] == 0
    np.testing.assert_allclose(scene.colours[0, 0], [255, 255, 0])


def test_a_texture_larger_than_pillow_reads(tmp_path: Path, monkeypatch) -> None:
    item = {"position": TRIANGLE, "uv": [[0, 0]] * 3, "texture": np.zeros((8, 8, 3), np.uint8)}
    path = write_glb(tmp_path / "a.glb", [item])
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 31)
    with pytest.raises(SceneError, match=r"picture 0 of .*a.glb is larger than Pillow reads.*at most 8192x8192"):
        load_glb(path)


def test_equal_textures_are_shared(tmp_path: Path) -> None:
    item = {"position": TRIANGLE, "uv": [[0, 0]] * 3, "texture": np.full((2, 2, 3), 7, np.uint8)}
    scene = load_glb(write_glb(tmp_path / "a.glb", [item, item]))
    np.testing.assert_array_equal(scene.texture_index, [1, 1])
    assert len(scene.textures) == 2


def test_node_transforms_and_mirroring(tmp_path: Path) -> None:
    nodes = [{"mesh": 0, "translation": [0, 0, 5]}, {"mesh": 1, "scale": [-1, 1, 1]}]
    scene = load_glb(write_glb(tmp_path / "a.glb", [{"position": TRIANGLE}] * 2, nodes))
    np.testing.assert_allclose(scene.triangles[0, :, 2], 5)
    normal = np.cross(*(scene.triangles[1, 1:] - scene.triangles[1, 0]))
    assert normal[2] > 0, "a mirrored triangle still faces +Z"


def test_matrices_and_translations_rotations_scales_agree_down_the_hierarchy(tmp_path: Path) -> None:
    half = np.sqrt(0.5)
    moved = {"translation": [1, 2, 3], "rotation": [0, half, 0, half], "scale": [2, 3, 4]}  # a quarter turn around y
    matrix = np.array([[0, 0, 4, 1], [0, 3, 0, 2], [-2, 0, 0, 3], [0, 0, 0, 1]], float)
    parent = {"translation": [10, 0, 0]}
    nodes = [{**parent, "children": [2]}, {**parent, "children": [3]}]
    nodes += [{"mesh": 0, **moved}, {"mesh": 1, "matrix": matrix.T.ravel().tolist()}]

    def two_roots(tree: dict) -> None:
        tree["scenes"][0]["nodes"] = [0, 1]

    scene = load_glb(write_glb(tmp_path / "a.glb", [{"position": TRIANGLE}] * 2, nodes, two_roots))
    expected = np.array([[11, 2, 3], [11, 2, 1], [11, 5, 3]])
    np.testing.assert_allclose(scene.triangles, [expected, expected], atol=1e-6)


def test_one_mesh_can_be_placed_many_times(tmp_path: Path) -> None:
    nodes = [{"mesh": 1}, {"mesh": 0}, {"mesh": 1, "translation": [5, 0, 0]}]
    primitives = [{"position": np.add(TRIANGLE, [k, 0, 0])} for k in range(2)]
    scene = load_glb(write_glb(tmp_path / "a.glb", primitives, nodes))
    np.testing.assert_array_equal(scene.triangles[:, 0, 0], [0, 1, 6])


def test_interleaved_vertices_and_all_index_types(tmp_path: Path) -> None:
    uv = np.array([[0.25, 0.5], [0.5, 0.75], [1, 0]])
    for kind in (np.uint8, np.uint16, np.uint32):
        item = {"position": np.array(TRIANGLE), "uv": uv, "indices": np.array([2, 0, 1], kind), "interleaved": True}
        scene = load_glb(write_glb(tmp_path / "a.glb", [item]))
        np.testing.assert_array_equal(scene.triangles[0], np.array(TRIANGLE)[[2, 0, 1]])
        np.testing.assert_array_equal(scene.uvs[0], uv[[2, 0, 1]])


def test_normalised_texture_coordinates_and_texture_transform(tmp_path: Path) -> None:
    item = {"position": TRIANGLE, "uv": np.array([[0, 0], [255, 0], [0, 51]], np.uint8)}
    item["texture"] = np.zeros((2, 2, 3), np.uint8)

    def transform(tree: dict) -> None:
        change = {"offset": [0.5, 0], "rotation": np.pi / 2, "scale": [2, 1]}
        texture = tree["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"]
        texture["extensions"] = {"KHR_texture_transform": change}

    plain = load_glb(write_glb(tmp_path / "a.glb", [item]))
    np.testing.assert_allclose(plain.uvs[0], [[0, 0], [1, 0], [0, 0.2]], atol=1e-6)
    moved = load_glb(write_glb(tmp_path / "b.glb", [item], edit=transform))
    np.testing.assert_allclose(moved.uvs[0], [[0.5, 0], [0.5, -2], [0.7, 0]], atol=1e-6)


def test_samplers_are_read_and_keep_equal_pictures_apart(tmp_path: Path) -> None:
    item = {"position": TRIANGLE, "uv": [[0, 0]] * 3, "texture": np.full((2, 2, 3), 7, np.uint8)}
    clamped = {**item, "sampler": {"wrapS": 33071, "wrapT": 33648, "minFilter": 9729}}
    scene = load_glb(write_glb(tmp_path / "a.glb", [item, clamped]))
    np.testing.assert_array_equal(scene.texture_index, [1, 2])
    assert scene.samplings == (Sampling(), Sampling(), Sampling(Wrap.CLAMP, Wrap.MIRROR, mip_mapped=False))


def test_alpha_and_double_sidedness_do_not_matter_as_in_habitat(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (2, 2, 4), np.uint8)
    item = {"position": TRIANGLE, "uv": [[0, 0]] * 3, "texture": pixels, "double_sided": True}

    def blend(tree: dict) -> None:
        tree["materials"][0]["alphaMode"] = "BLEND"

    scene = load_glb(write_glb(tmp_path / "a.glb", [item], edit=blend))
    np.testing.assert_array_equal(scene.textures[1], pixels[:, :, :3])
    assert not scene.double_sided.any()


def test_z_up_is_turned(tmp_path: Path) -> None:
    path = write_glb(tmp_path / "a.glb", [{"position": [[1, 2, 3], [2, 2, 3], [1, 2, 4]]}])
    np.testing.assert_allclose(load_glb(path, up="z").triangles[0, 0], [1, 3, -2])
    with pytest.raises(ValueError, match="up must be"):
        load_glb(path, up="x")


def test_points_are_ignored_and_strips_are_read(tmp_path: Path) -> None:
    quad = [[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]]
    strip = {"position": quad, "indices": [0, 1, 2, 3], "mode": 5}
    scene = load_glb(write_glb(tmp_path / "a.glb", [{"position": quad, "mode": 0}, strip]))
    assert len(scene.triangles) == 2


def test_triangles_that_are_not_finite_are_dropped(tmp_path: Path) -> None:
    bad = [np.array(TRIANGLE, np.float32) for _ in range(3)]
    bad[0][1, 1], bad[1][2, 0], bad[2][0, 2] = np.nan, np.inf, 3e38
    primitives = [{"position": p} for p in [*bad, TRIANGLE]]
    scene = load_glb(write_glb(tmp_path / "a.glb", primitives), instances=np.arange(4))
    np.testing.assert_array_equal(scene.triangles, [TRIANGLE])
    np.testing.assert_array_equal(scene.instances, [3])


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match=r"nowhere\.glb.*No such file.*again"):
        load_glb(tmp_path / "nowhere.glb")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: b"", "is empty"),
        (lambda data: data[:10], "truncated"),
        (lambda data: data[: len(data) // 2], "truncated"),
        (lambda data: b"solid cube\n" + data, "not a GLB"),
        (lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:12", "a Git LFS pointer or a web page"),
        (lambda data: b"\n<!DOCTYPE html><html>", "a Git LFS pointer or a web page"),
        (lambda data: data[:20] + b"\xff" * 40 + data[60:], "cannot read"),
        (lambda data: data[:4] + b"\x07" + data[5:], "cannot read.*version 7"),
        (lambda data: data[:12] + b"\xff\xff" + data[14:], "cannot read.*a chunk ends"),
        (lambda data: data.replace(b'"count": 3', b'"count": 9'), "cannot read.*needs 108 bytes"),
        (lambda data: data.replace(b'"count": 3', b'"count":-3'), "cannot read.*count -3"),
        (lambda data: data.replace(b'"byteLength": 36', b'"byteLength": 99'), "cannot read.*bufferView 0 ends"),
        (lambda data: data.replace(b'"componentType": 5126', b'"componentType": 5999'), "cannot read.*5999"),
        (lambda data: data.replace(b'"POSITION": 0', b'"POSITION": 7'), "cannot read.*accessor 7 of 2"),
        (lambda data: data.replace(b'"mesh": 0', b'"mesh":77'), "cannot read"),
        (lambda data: data.replace(b'"VEC3"', b'"VEC2"'), "cannot read.*3 columns"),
    ],
    ids=lambda value: "" if isinstance(value, str) else None,
)
def test_bad_files(tmp_path: Path, damage, message: str) -> None:
    path = write_glb(tmp_path / "a.glb", [{"position": TRIANGLE, "indices": [0, 1, 2]}])
    damaged = damage(path.read_bytes())
    assert damaged != path.read_bytes()
    path.write_bytes(damaged)
    with pytest.raises(SceneError, match=message) as caught:
        load_glb(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda tree: tree["images"][0].update(mimeType="image/ktx2"), "Basis.*hm3d-<split>-glb"),
        (lambda tree: tree.update(extensionsRequired=["KHR_texture_basisu"]), "Basis.*hm3d-<split>-glb"),
        (
            lambda tree: tree.update(extensionsRequired=["KHR_draco_mesh_compression"]),
            "draco.*without mesh compression",
        ),
        (lambda tree: tree.update(extensionsRequired=["EXT_meshopt_compression"]), "meshopt.*without mesh compression"),
        (lambda tree: tree.update(extensionsRequired=["ACME_teapots"]), "needs the glTF extension ACME_teapots"),
        (lambda tree: tree["accessors"][0].update(sparse={"count": 1}), "sparse accessors"),
        (lambda tree: tree["buffers"][0].update(uri="scan.bin"), r"refers to the file 'scan\.bin'"),
        (lambda tree: tree["nodes"][0].update(children=[0]), "cannot read.*node 0 is reached twice"),
        (lambda tree: tree["textures"][0].pop("source"), "cannot read.*a texture has no picture"),
        (lambda tree: tree["images"][0].update(bufferView=0), "cannot read.*UnidentifiedImageError"),
    ],
)
def test_what_is_not_read_is_refused_by_name(tmp_path: Path, edit, message: str) -> None:
    item = {"position": TRIANGLE, "uv": [[0, 0]] * 3, "texture": np.zeros((2, 2, 3), np.uint8)}
    with pytest.raises(SceneError, match=message) as caught:
        load_glb(write_glb(tmp_path / "a.glb", [item], edit=edit))
    assert "a.glb" in str(caught.value)


def test_draco_primitives_are_refused(tmp_path: Path) -> None:
    def compress(tree: dict) -> None:
        tree["meshes"][0]["primitives"][0]["extensions"] = {"KHR_draco_mesh_compression": {}}

    with pytest.raises(SceneError, match="KHR_draco_mesh_compression"):
        load_glb(write_glb(tmp_path / "a.glb", [{"position": TRIANGLE}], edit=compress))


def test_a_truncated_picture_is_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)
    item = {"position": TRIANGLE, "uv": [[0, 0]] * 3, "texture": noise}

    def cut(tree: dict) -> None:
        tree["bufferViews"][tree["images"][0]["bufferView"]]["byteLength"] //= 2

    with pytest.raises(SceneError, match="cannot read"):
        load_glb(write_glb(tmp_path / "a.glb", [item], edit=cut))


def test_bad_face_indices_and_no_triangles(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match="cannot read"):
        load_glb(write_glb(tmp_path / "a.glb", [{"position": TRIANGLE, "indices": [0, 1, 99]}]))
    with pytest.raises(SceneError, match="no triangles"):
        load_glb(write_glb(tmp_path / "b.glb", [{"position": TRIANGLE, "mode": 0}]))


def test_scene_checks_its_arrays() -> None:
    scene = Scene(
        triangles=np.zeros((2, 3, 3), np.float32),
        uvs=np.zeros((2, 3, 2), np.float32),
        colours=np.zeros((2, 3, 3), np.float32),
        texture_index=np.zeros(2, np.int32),
        textures=(np.full((1, 1, 3), 255, np.uint8),),
        double_sided=np.zeros(2, bool),
    )
    with pytest.raises(ValueError, match=r"Scene\.uvs"):
        replace(scene, uvs=scene.uvs[:1])
    with pytest.raises(ValueError, match="texture_index"):
        replace(scene, texture_index=np.array([0, 1], np.int32))
    with pytest.raises(ValueError, match=r"Scene\.instances"):
        replace(scene, instances=np.zeros(3, np.int32))
    with pytest.raises(ValueError, match=r"Scene\.samplings"):
        replace(scene, samplings=(Sampling(), Sampling()))


def test_any_damage_is_a_scene_error_or_a_scene(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (8, 8, 3), np.uint8)
    quad = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]])
    item = {
        "position": quad,
        "uv": quad[:, :2],
        "indices": [0, 1, 2, 2, 1, 3],
        "texture": noise,
        "factor": [1, 1, 1, 1],
    }
    nodes = [{"mesh": 0, "rotation": [0, 0, 0, 1], "scale": [1, 2, 3]}, {"mesh": 1, "translation": [1, 2, 3]}]
    whole = write_glb(tmp_path / "whole.glb", [item, {**item, "interleaved": True}], nodes).read_bytes()
    refused = 0
    for trial in range(400):
        data = bytearray(whole)
        for place in rng.integers(12 if trial % 2 else 20, len(data), 1 + trial % 5):
            data[place] = rng.integers(256) if trial % 3 else ord(rng.choice(list('0123456789-.{}[],":')))
        path = tmp_path / "damaged.glb"
        path.write_bytes(data)
        try:
            scene = load_glb(path)
        except SceneError as error:
            assert str(path) in str(error)
            refused += 1
        else:
            assert np.isfinite(scene.triangles).all()
    assert 50 < refused < 400
