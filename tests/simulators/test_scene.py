"""Reading GLB files."""

import io
import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from streamvln_gym.errors import SceneError
from streamvln_gym.simulators.embedded.scene import Scene, load_glb, scene_up_axis

GOLDEN = Path(__file__).parents[1] / "data" / "golden_habitat" / "render"


def write_glb(path: Path, primitives: list[dict], nodes: list[dict] | None = None) -> Path:
    """Writes a GLB with one mesh per primitive.

    Args:
        path: the file.
        primitives: each with "position" (V, 3) and optionally "indices", "uv", "colour" (uint8, uint16 or float (V,
            3 or 4)), "texture" (uint8 (h, w, 3)), "factor" (4 floats), "double_sided", "mode".
        nodes: glTF nodes; by default one for each mesh.
    """
    blob, views, accessors, images, materials, meshes = bytearray(), [], [], [], [], []

    def add_view(data: bytes) -> int:
        blob.extend(b"\0" * (-len(blob) % 4))
        views.append({"buffer": 0, "byteOffset": len(blob), "byteLength": len(data)})
        blob.extend(data)
        return len(views) - 1

    def add_accessor(array: np.ndarray) -> int:
        component = {"float32": 5126, "uint8": 5121, "uint16": 5123, "uint32": 5125}[str(array.dtype)]
        kind = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4"}[1 if array.ndim == 1 else array.shape[1]]
        accessor = {"bufferView": add_view(array.tobytes()), "componentType": component, "count": len(array)}
        accessors.append({**accessor, "type": kind, "normalized": array.dtype.kind == "u" and array.ndim > 1})
        return len(accessors) - 1

    for item in primitives:
        attributes = {"POSITION": add_accessor(np.asarray(item["position"], np.float32))}
        if "uv" in item:
            attributes["TEXCOORD_0"] = add_accessor(np.asarray(item["uv"], np.float32))
        if "colour" in item:
            attributes["COLOR_0"] = add_accessor(np.asarray(item["colour"]))
        primitive = {"attributes": attributes, "mode": item.get("mode", 4)}
        if "indices" in item:
            primitive["indices"] = add_accessor(np.asarray(item["indices"], np.uint32).ravel())
        if {"texture", "factor", "double_sided"} & item.keys():
            pbr = {"baseColorFactor": item.get("factor", [1, 1, 1, 1])}
            if "texture" in item:
                png = io.BytesIO()
                Image.fromarray(item["texture"]).save(png, "PNG")
                images.append({"bufferView": add_view(png.getvalue()), "mimeType": "image/png"})
                pbr["baseColorTexture"] = {"index": len(images) - 1}
            materials.append({"pbrMetallicRoughness": pbr, "doubleSided": item.get("double_sided", False)})
            primitive["material"] = len(materials) - 1
        meshes.append({"primitives": [primitive]})
    if nodes is None:
        nodes = [{"mesh": index} for index in range(len(meshes))]
    blob.extend(b"\0" * (-len(blob) % 4))
    header = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": list(range(len(nodes)))}],
        "nodes": nodes,
        "meshes": meshes,
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": len(blob)}],
    }
    if materials:
        header["materials"] = materials
    if images:
        header |= {"images": images, "textures": [{"source": index} for index in range(len(images))]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 4)
    body = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(blob), 0x004E4942) + bytes(blob)
    path.write_bytes(struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body)
    return path


TRIANGLE = [[0, 0, 0], [1, 0, 0], [0, 1, 0]]


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
        (lambda data: data[:20] + b"\xff" * 40 + data[60:], "cannot read"),
        (lambda data: data[:4] + b"\x07" + data[5:], "cannot read"),
        (lambda data: data.replace(b'"count": 3', b'"count": 9'), "cannot read"),
    ],
    ids=["empty", "header only", "half", "other format", "garbled JSON", "other version", "bad accessor"],
)
def test_bad_files(tmp_path: Path, damage, message: str) -> None:
    path = write_glb(tmp_path / "a.glb", [{"position": TRIANGLE, "indices": [0, 1, 2]}])
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(SceneError, match=message) as caught:
        load_glb(path)
    assert str(path) in str(caught.value)


def test_bad_face_indices_and_no_triangles(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match="cannot read"):
        load_glb(write_glb(tmp_path / "a.glb", [{"position": TRIANGLE, "indices": [0, 1, 99]}]))
    with pytest.raises(SceneError, match="no triangles"):
        load_glb(write_glb(tmp_path / "b.glb", [{"position": TRIANGLE, "mode": 0}]))


def test_up_axis_follows_the_stage_configuration(tmp_path: Path) -> None:
    glb = tmp_path / "a.glb"
    assert scene_up_axis(glb) == "z"
    config = tmp_path / "a.stage_config.json"
    config.write_text('{"up": [0, 1, 0]}')
    assert scene_up_axis(glb) == "y"
    config.write_text('{"up": [0.0, 0.0, 1.0]}')
    assert scene_up_axis(glb) == "z"
    config.write_text('{"up": [1, 0, 0]}')
    with pytest.raises(SceneError, match="only"):
        scene_up_axis(glb)
    config.write_text("{")
    with pytest.raises(SceneError, match="stage configuration"):
        scene_up_axis(glb)


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
