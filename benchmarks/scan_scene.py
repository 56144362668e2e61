"""A generated building that is meshed as scans are: small irregular triangles, one side each, large textures.

Storeys of furnished rooms with doors between them, Z up, one primitive and one texture per room. It has the size of a
scan with none of its licence: 3 million triangles for the benchmark, a few thousand for the tests.
"""

from __future__ import annotations

import io
import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

STOREY, CEILING = 3.0, 2.7  # metres
ROOM = (5.0, 4.0)
WALL = 0.15
DOOR = (0.9, 2.0)
SQUARE_METRES = 94.0  # of a furnished room's surfaces, about
METRES_PER_TEXTURE = 8.0


@dataclass(frozen=True)
class Building:
    """Its plan.

    Attributes:
        triangles: about how many the mesh has.
        rooms: along x, along z, storeys.
        texture_sizes: pixels, used in turn by the rooms.
        seed: of all that is random.
    """

    triangles: int = 3_000_000
    rooms: tuple[int, int, int] = (4, 3, 2)
    texture_sizes: tuple[int, ...] = (2048, 1024, 4096, 1024, 2048, 1024)
    seed: int = 0


class _Mesh:
    """Grows by sheets; Y up."""

    def __init__(self, spacing: float, rng: np.random.Generator) -> None:
        self.spacing, self.rng, self.count = spacing, rng, 0
        self.vertices: list[NDArray[np.float32]] = []
        self.uvs: list[NDArray[np.float32]] = []
        self.faces: list[NDArray[np.uint32]] = []

    def add_sheet(self, corner, along, across, door: bool = False, bulge: float = 0.0) -> None:
        """A noisy rectangle seen from `along` x `across`, with a door in the middle of its lower edge, or bulging."""
        corner, along, across = (np.asarray(v, np.float64) for v in (corner, along, across))
        width, height = np.linalg.norm(along), np.linalg.norm(across)
        columns, rows = (max(round(float(length) / self.spacing), 2) for length in (width, height))
        u, v = np.meshgrid(np.arange(columns + 1) / columns, np.arange(rows + 1) / rows)
        inside = (u > 0) & (u < 1) & (v > 0) & (v < 1)
        u = u + inside * self.rng.uniform(-0.3, 0.3, u.shape) / columns
        v = v + inside * self.rng.uniform(-0.3, 0.3, v.shape) / rows
        phase = self.rng.uniform(0, 6, 2)
        wave = 0.006 * np.sin(3 * u * width + phase[0]) * np.sin(2 * v * height + phase[1])
        lift = inside * (wave + self.rng.normal(0, 0.0015, u.shape)) + bulge * np.sqrt(
            np.clip(np.sin(math.pi * u) * np.sin(math.pi * v), 0, 1)
        )
        normal = np.cross(along, across) / (width * height)
        points = corner + u[..., None] * along + v[..., None] * across + lift[..., None] * normal
        uv = np.stack([u * width, v * height], axis=-1) / METRES_PER_TEXTURE + self.rng.uniform(0, 1, 2)
        lower = (np.arange(rows)[:, None] * (columns + 1) + np.arange(columns)[None]).ravel()
        if door:
            middle = (np.arange(columns) + 0.5) / columns * width - width / 2
            low = (np.arange(rows) + 0.5) / rows * height
            lower = lower[~((np.abs(middle)[None] < DOOR[0] / 2) & (low[:, None] < DOOR[1])).ravel()]
        upper = lower + columns + 1
        faces = np.concatenate(
            [np.stack([lower, lower + 1, upper + 1], axis=1), np.stack([lower, upper + 1, upper], axis=1)], axis=1
        ).reshape(-1, 3)
        self.faces.append((faces + self.count).astype(np.uint32))
        self.vertices.append(points.reshape(-1, 3).astype(np.float32))
        self.uvs.append(uv.reshape(-1, 2).astype(np.float32))
        self.count += points.shape[0] * points.shape[1]

    def add_box(self, low, size) -> None:
        """Furniture: five bulging sides of a box that stands on the floor."""
        (x, y, z), (dx, dy, dz) = low, size
        bulge = 0.15 * min(size)
        self.add_sheet((x, y, z + dz), (dx, 0, 0), (0, dy, 0), bulge=bulge)
        self.add_sheet((x + dx, y, z), (-dx, 0, 0), (0, dy, 0), bulge=bulge)
        self.add_sheet((x + dx, y, z + dz), (0, 0, -dz), (0, dy, 0), bulge=bulge)
        self.add_sheet((x, y, z), (0, 0, dz), (0, dy, 0), bulge=bulge)
        self.add_sheet((x, y + dy, z + dz), (dx, 0, 0), (0, 0, -dz), bulge=bulge)


def _add_room(mesh: _Mesh, corner: tuple[float, float, float], doors: tuple[bool, bool, bool, bool]) -> None:
    """Floor, ceiling, four walls seen from inside (doors: at -x, +x, -z, +z) and four pieces of furniture."""
    x, y, z = corner
    w, d = ROOM[0] - WALL, ROOM[1] - WALL
    mesh.add_sheet((x, y, z + d), (w, 0, 0), (0, 0, -d))
    mesh.add_sheet((x, y + CEILING, z), (w, 0, 0), (0, 0, d))
    mesh.add_sheet((x, y, z + d), (0, 0, -d), (0, CEILING, 0), door=doors[0])
    mesh.add_sheet((x + w, y, z), (0, 0, d), (0, CEILING, 0), door=doors[1])
    mesh.add_sheet((x, y, z), (w, 0, 0), (0, CEILING, 0), door=doors[2])
    mesh.add_sheet((x + w, y, z + d), (-w, 0, 0), (0, CEILING, 0), door=doors[3])
    for low_x, low_z in ((0.3, 0.3), (w - 1.4, 0.3), (0.3, d - 1.2), (w - 1.4, d - 1.2)):
        size = mesh.rng.uniform((0.6, 0.5, 0.5), (1.1, 1.8, 0.9))
        mesh.add_box((x + low_x, y, z + low_z), tuple(size))


def _room_corners(rooms: tuple[int, int, int]) -> list[tuple[int, int, int]]:
    return [(i, level, k) for level in range(rooms[2]) for k in range(rooms[1]) for i in range(rooms[0])]


def make_rooms(building: Building) -> list[tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint32]]]:
    """Vertices (V, 3) in metres, Y up, uvs (V, 2) and faces (F, 3) of each room."""
    rng = np.random.default_rng(building.seed)
    spacing = math.sqrt(2 * SQUARE_METRES * math.prod(building.rooms) / building.triangles)
    made = []
    for i, level, k in _room_corners(building.rooms):
        mesh = _Mesh(spacing, rng)
        doors = (i > 0, i < building.rooms[0] - 1, k > 0, k < building.rooms[1] - 1)
        _add_room(mesh, (i * ROOM[0], level * STOREY, k * ROOM[1]), doors)
        made.append((np.concatenate(mesh.vertices), np.concatenate(mesh.uvs), np.concatenate(mesh.faces)))
    return made


def make_texture(size: int, rng: np.random.Generator) -> Image.Image:
    """Blotches of several sizes with grain, as photographs have them."""
    total = np.full((size, size, 3), 128.0, np.float32)
    for cells, strength in ((4, 90), (32, 45), (256, 25)):
        noise = rng.uniform(-strength, strength, (cells, cells, 3)).astype(np.float32)
        for channel in range(3):
            layer = Image.fromarray(noise[:, :, channel]).resize((size, size), Image.Resampling.BICUBIC)
            total[:, :, channel] += np.asarray(layer)
    total += rng.normal(0, 4, (size, size, 1)).astype(np.float32)
    return Image.fromarray(np.clip(total, 0, 255).astype(np.uint8))


def walk_poses(building: Building, count: int) -> list[tuple[NDArray[np.float64], float]]:
    """Agents' positions (the camera is above them) and yaws inside the rooms."""
    rng = np.random.default_rng(building.seed + 1)
    corners = _room_corners(building.rooms)
    poses = []
    for n in range(count):
        i, level, k = corners[n * 7 % len(corners)]
        place = rng.uniform((1.6, 1.6), (ROOM[0] - 1.6, ROOM[1] - 1.6))
        position = np.array([i * ROOM[0] + place[0], level * STOREY + 0.2, k * ROOM[1] + place[1]])
        poses.append((position, float(rng.integers(24) * math.radians(15))))
    return poses


def write_scan(path: Path, building: Building) -> int:
    """Writes the building as a Z-up GLB with JPEG textures; returns how many triangles it has."""
    rng = np.random.default_rng(building.seed + 2)
    binary = bytearray()
    views: list[dict] = []
    accessors: list[dict] = []
    primitives, images, total = [], [], 0

    def add_view(data: bytes) -> int:
        binary.extend(b"\0" * (-len(binary) % 4))
        views.append({"buffer": 0, "byteOffset": len(binary), "byteLength": len(data)})
        binary.extend(data)
        return len(views) - 1

    def add_accessor(array: np.ndarray, kind: str, component: int) -> int:
        accessors.append(
            {"bufferView": add_view(array.tobytes()), "componentType": component, "count": len(array), "type": kind}
        )
        return len(accessors) - 1

    for number, (vertices, uvs, faces) in enumerate(make_rooms(building)):
        z_up = np.stack([vertices[:, 0], -vertices[:, 2], vertices[:, 1]], axis=1)
        attributes = {"POSITION": add_accessor(z_up, "VEC3", 5126), "TEXCOORD_0": add_accessor(uvs, "VEC2", 5126)}
        indices = add_accessor(faces.ravel(), "SCALAR", 5125)
        primitives.append({"attributes": attributes, "indices": indices, "material": number})
        jpeg = io.BytesIO()
        size = building.texture_sizes[number % len(building.texture_sizes)]
        make_texture(size, rng).save(jpeg, "JPEG", quality=88)
        images.append({"bufferView": add_view(jpeg.getvalue()), "mimeType": "image/jpeg"})
        total += len(faces)
    count = len(primitives)
    tree = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": list(range(count))}],
        "nodes": [{"mesh": n} for n in range(count)],
        "meshes": [{"primitives": [primitive]} for primitive in primitives],
        "materials": [{"pbrMetallicRoughness": {"baseColorTexture": {"index": n}}} for n in range(count)],
        "textures": [{"source": n, "sampler": 0} for n in range(count)],
        "samplers": [{"magFilter": 9729, "minFilter": 9987}],
        "images": images,
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": len(binary)}],
    }
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    binary.extend(b"\0" * (-len(binary) % 4))
    with path.open("wb") as file:
        file.write(struct.pack("<4sII", b"glTF", 2, 28 + len(text) + len(binary)))
        file.write(struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(binary), b"BIN\0"))
        file.write(binary)
    return total
