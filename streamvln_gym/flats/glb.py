"""Writes a flat as a binary glTF: one unlit primitive per texture, shaded vertex colours, the same bytes every time."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from streamvln_gym.flats.generator import Flat

_FLOAT, _UBYTE, _USHORT, _UINT = 5126, 5121, 5123, 5125
_ARRAY_BUFFER, _ELEMENT_BUFFER = 34962, 34963
_LINEAR, _LINEAR_MIPMAP_LINEAR, _REPEAT = 9729, 9987, 10497


class _Document:
    """The JSON tree of a glTF file and its binary chunk."""

    def __init__(self) -> None:
        self.binary = bytearray()
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []

    def add_view(self, data: bytes, target: int | None = None) -> int:
        self.binary.extend(b"\0" * (-len(self.binary) % 4))
        view: dict[str, Any] = {"buffer": 0, "byteOffset": len(self.binary), "byteLength": len(data)}
        if target is not None:
            view["target"] = target
        self.binary.extend(data)
        self.views.append(view)
        return len(self.views) - 1

    def add_accessor(self, array: np.ndarray, kind: str, component: int, target: int, **extra: Any) -> int:
        view = self.add_view(array.tobytes(), target)
        self.accessors.append(
            {"bufferView": view, "componentType": component, "count": len(array), "type": kind, **extra}
        )
        return len(self.accessors) - 1


def _primitive(document: _Document, flat: Flat, texture: int, material: int) -> dict[str, Any]:
    mesh = flat.mesh
    faces = mesh.triangles[mesh.texture_ids == texture]
    used, local = np.unique(faces, return_inverse=True)
    positions = mesh.vertices[used].astype("<f4")
    colours = np.concatenate([mesh.colours[used], np.full((len(used), 1), 255, np.uint8)], axis=1)
    low, high = positions.min(0).tolist(), positions.max(0).tolist()
    small = len(used) < 65536
    return {
        "attributes": {
            "POSITION": document.add_accessor(positions, "VEC3", _FLOAT, _ARRAY_BUFFER, min=low, max=high),
            "TEXCOORD_0": document.add_accessor(mesh.uv[used].astype("<f4"), "VEC2", _FLOAT, _ARRAY_BUFFER),
            "COLOR_0": document.add_accessor(colours, "VEC4", _UBYTE, _ARRAY_BUFFER, normalized=True),
        },
        "indices": document.add_accessor(
            local.reshape(-1).astype("<u2" if small else "<u4"),
            "SCALAR",
            _USHORT if small else _UINT,
            _ELEMENT_BUFFER,
        ),
        "material": material,
    }


def _png(image: np.ndarray) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format="PNG", optimize=False, compress_level=7)
    return stream.getvalue()


def glb_bytes(flat: Flat) -> bytes:
    """The flat as binary glTF 2.0, Y up, metres; triangles in the order of `flat.mesh.triangles`."""
    document = _Document()
    textures = [int(t) for t in np.unique(flat.mesh.texture_ids)]
    primitives = [_primitive(document, flat, texture, material) for material, texture in enumerate(textures)]
    images = [
        {"bufferView": document.add_view(_png(flat.textures[texture])), "mimeType": "image/png"} for texture in textures
    ]
    materials = [
        {
            "pbrMetallicRoughness": {
                "baseColorTexture": {"index": index},
                "metallicFactor": 0.0,
                "roughnessFactor": 1.0,
            },
            "extensions": {"KHR_materials_unlit": {}},
        }
        for index in range(len(textures))
    ]
    document.binary.extend(b"\0" * (-len(document.binary) % 4))
    tree = {
        "asset": {"version": "2.0", "generator": "streamvln-gym"},
        "extensionsUsed": ["KHR_materials_unlit"],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": flat.graph.name}],
        "meshes": [{"primitives": primitives}],
        "materials": materials,
        "textures": [{"sampler": 0, "source": index} for index in range(len(textures))],
        "images": images,
        "samplers": [{"magFilter": _LINEAR, "minFilter": _LINEAR_MIPMAP_LINEAR, "wrapS": _REPEAT, "wrapT": _REPEAT}],
        "accessors": document.accessors,
        "bufferViews": document.views,
        "buffers": [{"byteLength": len(document.binary)}],
    }
    text = json.dumps(tree, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 4)
    length = 12 + 8 + len(text) + 8 + len(document.binary)
    header = struct.pack("<4sII", b"glTF", 2, length) + struct.pack("<I4s", len(text), b"JSON")
    return header + text + struct.pack("<I4s", len(document.binary), b"BIN\0") + bytes(document.binary)


def write_glb(flat: Flat, path: Path) -> None:
    """Writes the flat's GLB."""
    path.write_bytes(glb_bytes(flat))


def write_stage_config(path: Path) -> None:
    """Writes the `<name>.stage_config.json` beside a GLB that tells habitat that Y is up and to draw without lights.

    Args:
        path: the GLB's path.
    """
    config = {"render_asset": path.name, "up": [0, 1, 0], "front": [0, 0, -1], "shader_type": "flat"}
    path.with_name(f"{path.stem}.stage_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
