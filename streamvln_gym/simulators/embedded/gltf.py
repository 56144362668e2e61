"""Reads binary glTF 2.0 (.glb): placed triangle primitives, materials, pictures, as numpy arrays.

Only what an unlit picture of a static scene needs: no skins, animations, morph targets, lights or cameras. What it
cannot read it refuses by name. Written after the glTF 2.0 specification (Khronos).
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from streamvln_gym.errors import SceneError
from streamvln_gym.simulators.embedded.textures import Sampling, Wrap

REMEDY = (
    "Export, copy or download the file again (a generated flat: delete it, then build it again with `streamvln-gym "
    "build-flats`)."
)
PLAIN_DOWNLOAD = (
    "The embedded simulator reads PNG, JPEG and WebP textures. Of HM3D download the plain scans, `<scan>.glb`: the "
    "archives `hm3d-<split>-glb` (in habitat's downloader `--uids hm3d_<split>_glb_v0.2`), and put them beside the "
    "`.basis.glb` files."
)
_UNPACK = (
    "Export the scene again without mesh compression (in Blender: import it, export glTF binary, Compression off)."
)
_COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
_WRAPS = {33071: Wrap.CLAMP, 33648: Wrap.MIRROR, 10497: Wrap.REPEAT}
_WITHOUT_MIP_MAPS = (9728, 9729)  # minification filters NEAREST, LINEAR
_TRIANGLES, _STRIP, _FAN = 4, 5, 6
# extensions of materials change only the lighting, which nothing here has
_READ_EXTENSIONS = {"KHR_texture_transform", "KHR_mesh_quantization", "EXT_texture_webp", "KHR_lights_punctual"}


@dataclass(frozen=True)
class Material:
    """What of a material an unlit picture shows.

    Attributes:
        factor: float64 (3,), multiplies the colours, 0..1.
        image: number of the picture, or None.
        sampling: how the picture is sampled.
        uv_matrix: float64 (2, 3), moves texture coordinates (KHR_texture_transform), or None.
    """

    factor: NDArray[np.float64]
    image: int | None = None
    sampling: Sampling = field(default_factory=Sampling)
    uv_matrix: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Primitive:
    """Indexed triangles in the coordinates of their node.

    Attributes:
        positions: float64 (V, 3).
        faces: uint32 or int64 (F, 3).
        uvs: float32 (V, 2), or None.
        colours: float64 (V, 3), 0..1, or None.
        material: of the whole primitive.
    """

    positions: NDArray[np.float64]
    faces: NDArray[Any]
    uvs: NDArray[np.float32] | None
    colours: NDArray[np.float64] | None
    material: Material


class GlbFile:
    """A GLB file, opened.

    Malformed content raises whatever it leads to (KeyError, ValueError and so on) while it is read.

    Args:
        path: the file.

    Raises:
        SceneError: the file is missing, truncated, not a GLB, or needs an extension that is not read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tree, self._binary = _read_chunks(path)
        self._check_extensions()
        self._buffers: dict[int, NDArray[np.uint8]] = {}

    def placed_primitives(self) -> Iterator[tuple[NDArray[np.float64], Primitive]]:
        """The triangle primitives with the matrices (4, 4) of their nodes: by mesh, then primitive, then node."""
        places: dict[int, list[NDArray[np.float64]]] = {}
        for mesh, matrix in self._placed_meshes():
            places.setdefault(mesh, []).append(matrix)
        for mesh in sorted(places):
            for primitive in self._tree["meshes"][mesh]["primitives"]:
                read = self._primitive(primitive)
                if read is not None:
                    yield from ((matrix, read) for matrix in places[mesh])

    def image(self, number: int) -> NDArray[np.uint8]:
        """Picture `number` as its stored levels, uint8 (h, w, 3); alpha is left out, as habitat draws it opaque."""
        item = self._tree["images"][number]
        data = self._view(item["bufferView"])[0].tobytes() if "bufferView" in item else self._decode_uri(item["uri"])
        try:
            picture = Image.open(io.BytesIO(data))
        except Image.DecompressionBombError as error:
            raise SceneError(
                f"picture {number} of {self.path} is larger than Pillow reads ({error}). Export the file with textures "
                "of at most 8192x8192 pixels, more is not drawn."
            ) from error
        with picture:
            if picture.mode.startswith("I"):  # 16 bits a pixel
                return np.repeat((np.asarray(picture) >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
            return np.asarray(picture.convert("RGB"))

    def _check_extensions(self) -> None:
        for name in self._tree.get("extensionsRequired", ()):
            if name == "KHR_texture_basisu":
                raise SceneError(f"{self.path} has Basis (KTX2) textures. {PLAIN_DOWNLOAD}")
            if name in ("KHR_draco_mesh_compression", "EXT_meshopt_compression", "KHR_meshopt_compression"):
                raise SceneError(f"{self.path} is compressed with {name}, which is not read. {_UNPACK}")
            if name not in _READ_EXTENSIONS and not name.startswith("KHR_materials_"):
                raise SceneError(
                    f"{self.path} needs the glTF extension {name}, which is not read. Export it without {name}."
                )

    def _placed_meshes(self) -> Iterator[tuple[int, NDArray[np.float64]]]:
        """Meshes with their matrices (4, 4) to the scene, depth first in the nodes' order."""
        nodes = self._tree.get("nodes", [])
        scenes = self._tree.get("scenes")
        if scenes:
            roots = scenes[self._tree.get("scene", 0)].get("nodes", [])
        else:
            children = {child for node in nodes for child in node.get("children", ())}
            roots = [number for number in range(len(nodes)) if number not in children]
        waiting = [(number, np.eye(4)) for number in reversed(roots)]
        seen: set[int] = set()
        while waiting:
            number, parent = waiting.pop()
            if number in seen:
                raise ValueError(f"node {number} is reached twice; nodes must form trees")
            seen.add(number)
            node = _at(nodes, number, "node")
            matrix = parent @ _node_matrix(node)
            if "mesh" in node:
                yield node["mesh"], matrix
            waiting += [(child, matrix) for child in reversed(node.get("children", ()))]

    def _primitive(self, item: dict[str, Any]) -> Primitive | None:
        mode = item.get("mode", _TRIANGLES)
        if mode not in (_TRIANGLES, _STRIP, _FAN):
            return None  # points and lines
        if "KHR_draco_mesh_compression" in item.get("extensions", {}):
            raise SceneError(f"{self.path} is compressed with KHR_draco_mesh_compression, which is not read. {_UNPACK}")
        attributes = item["attributes"]
        positions = self._numbers(attributes["POSITION"], 3).astype(np.float64)
        if "indices" in item:
            order = self._accessor(item["indices"])[0]
            if order.shape[1] != 1 or order.dtype.kind != "u":
                raise ValueError("indices must be unsigned scalars")
            order = order[:, 0]
        else:
            order = np.arange(len(positions), dtype=np.uint32)
        if len(order) and int(order.max()) >= len(positions):
            raise ValueError(f"an index {int(order.max())} of {len(positions)} vertices")
        uvs = self._numbers(attributes["TEXCOORD_0"], 2) if "TEXCOORD_0" in attributes else None
        colours = self._numbers(attributes["COLOR_0"], 3) if "COLOR_0" in attributes else None
        for name, values in (("TEXCOORD_0", uvs), ("COLOR_0", colours)):
            if values is not None and len(values) != len(positions):
                raise ValueError(f"{len(values)} {name} for {len(positions)} vertices")
        return Primitive(
            positions=positions,
            faces=_assemble(order, mode),
            uvs=None if uvs is None else uvs.astype(np.float32),
            colours=None if colours is None else colours.astype(np.float64),
            material=self._material(item.get("material")),
        )

    def _material(self, number: int | None) -> Material:
        if number is None:
            return Material(np.ones(3))
        item = _at(self._tree["materials"], number, "material")
        names = ("baseColorFactor", "baseColorTexture")
        surface = item.get("pbrMetallicRoughness")
        old = item.get("extensions", {}).get("KHR_materials_pbrSpecularGlossiness")
        if old is not None and (surface is None or "baseColorTexture" not in surface):
            surface, names = old, ("diffuseFactor", "diffuseTexture")
        surface = surface or {}
        factor = np.asarray(surface.get(names[0], (1.0, 1.0, 1.0, 1.0)), np.float64)[:3]
        if factor.shape != (3,):
            raise ValueError(f"{names[0]} of material {number} must have 4 numbers")
        if names[1] not in surface:
            return Material(factor)
        reference = surface[names[1]]
        texture = _at(self._tree["textures"], reference["index"], "texture")
        transform = reference.get("extensions", {}).get("KHR_texture_transform")
        return Material(
            factor=factor,
            image=self._image_number(texture),
            sampling=self._sampling(texture),
            uv_matrix=None if transform is None else _uv_matrix(transform),
        )

    def _image_number(self, texture: dict[str, Any]) -> int:
        extensions = texture.get("extensions", {})
        number = extensions.get("EXT_texture_webp", texture).get("source", texture.get("source"))
        if number is None and "KHR_texture_basisu" not in extensions:
            raise ValueError("a texture has no picture")
        mime = "" if number is None else _at(self._tree["images"], number, "image").get("mimeType", "")
        if number is None or mime == "image/ktx2":
            raise SceneError(f"{self.path} has Basis (KTX2) textures. {PLAIN_DOWNLOAD}")
        return number

    def _sampling(self, texture: dict[str, Any]) -> Sampling:
        if "sampler" not in texture:
            return Sampling()
        item = _at(self._tree["samplers"], texture["sampler"], "sampler")
        return Sampling(
            wrap_u=_WRAPS[item.get("wrapS", 10497)],
            wrap_v=_WRAPS[item.get("wrapT", 10497)],
            mip_mapped=item.get("minFilter") not in _WITHOUT_MIP_MAPS,
        )

    def _numbers(self, number: int, least: int) -> NDArray[Any]:
        """The first `least` columns of an accessor, integers that are marked so normalised to 0..1 (or -1..1)."""
        values, item = self._accessor(number)
        if values.shape[1] < least:
            raise ValueError(f"accessor {number} is {item['type']}; {least} columns are needed")
        values = values[:, :least]
        if item.get("normalized", False) and values.dtype.kind in "iu":
            return np.maximum(values.astype(np.float64) / np.iinfo(values.dtype).max, -1.0)
        return values

    def _accessor(self, number: int) -> tuple[NDArray[Any], dict[str, Any]]:
        """An accessor's numbers, (count, width), and its description; a view of the file where that can be."""
        item = _at(self._tree["accessors"], number, "accessor")
        if "sparse" in item:
            raise SceneError(
                f"{self.path} has sparse accessors, which are not read. Export the scene again without them."
            )
        dtype, width, count = np.dtype(_COMPONENTS[item["componentType"]]), _WIDTHS[item["type"]], item["count"]
        if not isinstance(count, int) or count < 0:
            raise ValueError(f"accessor {number} has the count {count!r}")
        if "bufferView" not in item:
            raise ValueError(f"accessor {number} has no bufferView")
        data, stride = self._view(item["bufferView"])
        stride = stride or dtype.itemsize * width
        offset = item.get("byteOffset", 0)
        end = offset + (count - 1) * stride + dtype.itemsize * width if count else offset
        if offset < 0 or stride < dtype.itemsize * width or end > len(data):
            raise ValueError(f"accessor {number} needs {end} bytes, its bufferView has {len(data)}")
        values = np.ndarray((count, width), dtype, data.data, offset, (stride, dtype.itemsize))
        return values, item

    def _view(self, number: int) -> tuple[NDArray[np.uint8], int]:
        """A bufferView's bytes, and the stride of its items or 0."""
        item = _at(self._tree["bufferViews"], number, "bufferView")
        if "EXT_meshopt_compression" in item.get("extensions", {}):
            raise SceneError(f"{self.path} is compressed with EXT_meshopt_compression, which is not read. {_UNPACK}")
        buffer = self._buffer(item["buffer"])
        start, length = item.get("byteOffset", 0), item["byteLength"]
        if start < 0 or length < 0 or start + length > len(buffer):
            raise ValueError(f"bufferView {number} ends at byte {start + length} of {len(buffer)}")
        return buffer[start : start + length], item.get("byteStride", 0)

    def _buffer(self, number: int) -> NDArray[np.uint8]:
        item = _at(self._tree["buffers"], number, "buffer")
        if "uri" not in item:
            return self._binary
        if number not in self._buffers:
            self._buffers[number] = np.frombuffer(self._decode_uri(item["uri"]), np.uint8)
        return self._buffers[number]

    def _decode_uri(self, uri: str) -> bytes:
        head, _, body = uri.partition(",")
        if not head.startswith("data:"):
            raise SceneError(f"{self.path} refers to the file {uri!r}. Pack the scene into one self-contained GLB.")
        return base64.b64decode(body)


def _read_chunks(path: Path) -> tuple[dict[str, Any], NDArray[np.uint8]]:
    """The JSON tree and the binary chunk of a GLB."""
    try:
        size = path.stat().st_size
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise SceneError(f"cannot open the scene {path}: {error.strerror or error}. {REMEDY}") from error
    if size == 0:
        raise SceneError(f"the scene {path} is empty. {REMEDY}")
    head = data[:12].tobytes()
    if head[:4] != b"glTF":
        if head[:12] == b"version http" or head.lstrip()[:1] == b"<":
            raise SceneError(f"{path} is a Git LFS pointer or a web page, not the scene itself. {REMEDY}")
        raise SceneError(f"{path} is not a GLB file (it does not begin with 'glTF'). Convert it to binary glTF 2.0.")
    stated = int.from_bytes(head[8:12], "little")
    if len(head) < 12 or size < stated:
        raise SceneError(f"the scene {path} is truncated: {size} bytes of {stated}. {REMEDY}")
    version = int.from_bytes(head[4:8], "little")
    if version != 2:
        raise ValueError(f"glTF version {version}; only 2 is read")
    chunks: dict[bytes, NDArray[np.uint8]] = {}
    start = 12
    while start + 8 <= stated:
        length = int.from_bytes(data[start : start + 4].tobytes(), "little")
        if start + 8 + length > stated:
            raise ValueError(f"a chunk ends at byte {start + 8 + length} of {stated}")
        chunks.setdefault(data[start + 4 : start + 8].tobytes(), data[start + 8 : start + 8 + length])
        start += 8 + length
    tree = json.loads(chunks[b"JSON"].tobytes())
    if not isinstance(tree, dict):
        raise ValueError("the JSON chunk is not an object")
    return tree, chunks.get(b"BIN\0", np.empty(0, np.uint8))


def _at(items: list[Any], number: int, kind: str) -> Any:
    """items[number], which must exist (a negative number must not count from the end)."""
    if not isinstance(number, int) or not 0 <= number < len(items):
        raise ValueError(f"{kind} {number!r} of {len(items)}")
    return items[number]


def _node_matrix(node: dict[str, Any]) -> NDArray[np.float64]:
    """A node's own transform, (4, 4)."""
    if "matrix" in node:
        return np.array(node["matrix"], np.float64).reshape(4, 4).T
    matrix = np.eye(4)
    x, y, z, w = np.asarray(node.get("rotation", (0.0, 0.0, 0.0, 1.0)), np.float64)
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, :3] *= np.asarray(node.get("scale", (1.0, 1.0, 1.0)), np.float64)
    matrix[:3, 3] = node.get("translation", (0.0, 0.0, 0.0))
    return matrix


def _assemble(order: NDArray[Any], mode: int) -> NDArray[Any]:
    """Faces (F, 3) of a list, strip or fan of vertices; what is left over at the end is ignored, as GL does."""
    if mode == _TRIANGLES:
        return order[: len(order) // 3 * 3].reshape(-1, 3)
    first = np.arange(max(len(order) - 2, 0))
    if mode == _FAN:
        return np.stack([order[first + 1], order[first + 2], np.broadcast_to(order[:1], first.shape)], axis=1)
    odd = first % 2
    return np.stack([order[first], order[first + 1 + odd], order[first + 2 - odd]], axis=1)


def _uv_matrix(transform: dict[str, Any]) -> NDArray[np.float64]:
    """The matrix (2, 3) of KHR_texture_transform: scale, then rotate, then move."""
    angle = float(transform.get("rotation", 0.0))
    scale_u, scale_v = (float(value) for value in transform.get("scale", (1.0, 1.0)))
    offset_u, offset_v = (float(value) for value in transform.get("offset", (0.0, 0.0)))
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([[cosine * scale_u, sine * scale_v, offset_u], [-sine * scale_u, cosine * scale_v, offset_v]])
