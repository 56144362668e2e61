"""Writes small GLB files for the tests."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

TRIANGLE = [[0, 0, 0], [1, 0, 0], [0, 1, 0]]


def write_glb(
    path: Path,
    primitives: list[dict],
    nodes: list[dict] | None = None,
    edit: Callable[[dict[str, Any]], None] | None = None,
) -> Path:
    """Writes a GLB with one mesh per primitive.

    Args:
        path: the file.
        primitives: each with "position" (V, 3) and optionally "indices", "uv", "colour" (uint8, uint16 or float (V,
            3 or 4)), "texture" (uint8 (h, w, 3)), "factor" (4 floats), "double_sided", "mode", "sampler", "interleaved"
            (position and uv in one strided view).
        nodes: glTF nodes; by default one for each mesh.
        edit: changes the JSON tree before it is written.
    """
    blob, views, accessors, images, materials, meshes = bytearray(), [], [], [], [], []
    samplers, textures = [], []

    def add_view(data: bytes) -> int:
        blob.extend(b"\0" * (-len(blob) % 4))
        views.append({"buffer": 0, "byteOffset": len(blob), "byteLength": len(data)})
        blob.extend(data)
        return len(views) - 1

    def add_accessor(array: np.ndarray) -> int:
        component = {"int8": 5120, "int16": 5122, "float32": 5126, "uint8": 5121, "uint16": 5123, "uint32": 5125}[
            str(array.dtype)
        ]
        kind = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4"}[1 if array.ndim == 1 else array.shape[1]]
        accessor = {"bufferView": add_view(array.tobytes()), "componentType": component, "count": len(array)}
        accessors.append({**accessor, "type": kind, "normalized": array.dtype.kind == "u" and array.ndim > 1})
        return len(accessors) - 1

    def add_interleaved(position: np.ndarray, uv: np.ndarray) -> dict[str, int]:
        rows = np.concatenate([position, uv], axis=1).astype(np.float32)
        view = add_view(rows.tobytes())
        views[view]["byteStride"] = 20
        common = {"bufferView": view, "componentType": 5126, "count": len(rows)}
        accessors.extend([{**common, "type": "VEC3"}, {**common, "type": "VEC2", "byteOffset": 12}])
        return {"POSITION": len(accessors) - 2, "TEXCOORD_0": len(accessors) - 1}

    for item in primitives:
        if item.get("interleaved"):
            attributes = add_interleaved(item["position"], item["uv"])
        else:
            attributes = {"POSITION": add_accessor(np.asarray(item["position"], np.float32))}
            if "uv" in item:
                uv = np.asarray(item["uv"])
                attributes["TEXCOORD_0"] = add_accessor(uv if uv.dtype.kind == "u" else uv.astype(np.float32))
        if "colour" in item:
            attributes["COLOR_0"] = add_accessor(np.asarray(item["colour"]))
        primitive = {"attributes": attributes, "mode": item.get("mode", 4)}
        if "indices" in item:
            indices = np.asarray(item["indices"])
            primitive["indices"] = add_accessor(
                (indices if indices.dtype.kind == "u" else indices.astype("u4")).ravel()
            )
        if {"texture", "factor", "double_sided"} & item.keys():
            pbr = {"baseColorFactor": item.get("factor", [1, 1, 1, 1])}
            if "texture" in item:
                png = io.BytesIO()
                Image.fromarray(item["texture"]).save(png, "PNG")
                images.append({"bufferView": add_view(png.getvalue()), "mimeType": "image/png"})
                textures.append({"source": len(images) - 1})
                if "sampler" in item:
                    samplers.append(item["sampler"])
                    textures[-1]["sampler"] = len(samplers) - 1
                pbr["baseColorTexture"] = {"index": len(textures) - 1}
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
        header |= {"images": images, "textures": textures, "samplers": samplers}
    if edit is not None:
        edit(header)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 4)
    body = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(blob), 0x004E4942) + bytes(blob)
    path.write_bytes(struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body)
    return path
