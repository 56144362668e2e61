"""How habitat places a stage (the scene's mesh) in its world: `.stage_config.json` and the rule for bare files.

The rules are those of habitat-sim 0.3.4 (`StageAttributesManager`, `ResourceManager`, read in its source):
  * A bare .glb is a scan: up is +Z, front is +Y, be it of Matterport3D, HM3D or Gibson.
  * With a `<name>.stage_config.json`, "up" and "front" default to +Y and -Z, and two that are not orthogonal count as
    not given. "render_asset" may name another file; "scale" multiplies along the world's axes, after the rotation.
  * "origin" and "units_to_meters" are read by habitat but have no effect on the drawn mesh; they have none here.
  * A `*.scene_dataset_config.json` counts in habitat only where the user names one; it is not read here.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamvln_gym.errors import SceneError
from streamvln_gym.simulators.embedded.gltf import PLAIN_DOWNLOAD, REMEDY

_BASIS = ".basis.glb"
_EPSILON = 1e-6
_AT_ONCE = 1 << 20  # bytes


@dataclass(frozen=True)
class Stage:
    """A mesh file and how it is placed.

    Attributes:
        path: the GLB.
        matrix: float64 (3, 3), turns (and scales) the file's coordinates into the world's.
        config: the stage configuration that said so, or None.
    """

    path: Path
    matrix: NDArray[np.float64]
    config: Path | None = None

    @classmethod
    def of(cls, scene: Path) -> Stage:
        """The stage of a scene's path.

        Raises:
            SceneError: the stage configuration cannot be read or has values that make no frame; the mesh is a
                `.basis.glb` and the plain one is not beside it.
        """
        config = scene.with_name(f"{scene.stem}.stage_config.json")
        if not config.exists():
            return cls(_plain(scene), frame_matrix((0.0, 0.0, 1.0), (0.0, 1.0, 0.0)))
        values = _read_config(config)
        up = _vector(config, values, "up", (0.0, 1.0, 0.0))
        front = _vector(config, values, "front", (0.0, 0.0, -1.0))
        if abs(float(np.dot(up, front))) > _EPSILON * np.linalg.norm(up) * np.linalg.norm(front):
            up, front = np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, -1.0])
        scale = _vector(config, values, "scale", (1.0, 1.0, 1.0))
        asset = values.get("render_asset") or scene.name
        if not isinstance(asset, str) or not asset.endswith(".glb"):
            raise SceneError(f"{config} names the render_asset {asset!r}; only .glb files are read. Convert it to GLB.")
        path = config.parent / asset
        return cls(_plain(path), scale[:, None] * frame_matrix(up, front), config)

    @property
    def content(self) -> str:
        """A checksum of the file's bytes, and of how it is placed: the same wherever a copy lies."""
        checksum = 0
        with self.path.open("rb") as file:
            while part := file.read(_AT_ONCE):
                checksum = zlib.crc32(part, checksum)
            size = file.tell()
        return hashlib.sha256(f"{checksum} {size}".encode() + self.matrix.tobytes()).hexdigest()

    @property
    def state(self) -> str:
        """A digest of the file's path, size and modification time, and of how it is placed."""
        status = self.path.stat()
        told = f"{self.path.resolve()} {status.st_size} {status.st_mtime_ns}"
        return hashlib.sha256(told.encode() + self.matrix.tobytes()).hexdigest()


def frame_matrix(up: Any, front: Any) -> NDArray[np.float64]:
    """The rotation (3, 3) that turns `up` to +Y and `front` to -Z, two orthogonal directions (3,)."""
    up, front = (np.asarray(axis, np.float64) / np.linalg.norm(axis) for axis in (up, front))
    return np.stack([np.cross(front, up), up, -front]) + 0.0  # no -0.0


def _plain(path: Path) -> Path:
    """`path`, or for HM3D's `<scan>.basis.glb` the plain `<scan>.glb` beside it."""
    if not path.name.endswith(_BASIS):
        return path
    plain = path.with_name(path.name.removesuffix(_BASIS) + ".glb")
    if plain.exists():
        return plain
    raise SceneError(f"{path} has Basis (KTX2) textures, and {plain.name} is not beside it. {PLAIN_DOWNLOAD}")


def _read_config(config: Path) -> dict[str, Any]:
    try:
        values = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SceneError(f"cannot read the stage configuration {config}: {error}. {REMEDY}") from error
    if not isinstance(values, dict):
        raise SceneError(f"cannot read the stage configuration {config}: it is not a JSON object. {REMEDY}")
    return values


def _vector(config: Path, values: dict[str, Any], name: str, default: tuple[float, ...]) -> NDArray[np.float64]:
    """A vector (3,) of the configuration, finite and not all zero."""
    try:
        vector = np.asarray(values.get(name, default), np.float64)
    except (TypeError, ValueError):
        vector = np.empty(0)
    usable = vector.shape == (3,) and bool(np.isfinite(vector).all()) and np.linalg.norm(vector) > _EPSILON
    if not usable or (name == "scale" and not vector.all()):
        raise SceneError(f"{config} has {name} = {values.get(name)!r}; it must be three numbers, like {list(default)}.")
    return vector
