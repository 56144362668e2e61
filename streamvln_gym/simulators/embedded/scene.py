"""Scenes as plain arrays of world triangles, made from GLB files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamvln_gym.errors import SceneError
from streamvln_gym.simulators.embedded.gltf import REMEDY, GlbFile, Primitive
from streamvln_gym.simulators.embedded.stage import Stage, frame_matrix
from streamvln_gym.simulators.embedded.textures import Sampling

_WHITE = np.full((1, 1, 3), 255, np.uint8)
_UP = {"y": np.eye(3), "z": frame_matrix((0, 0, 1), (0, 1, 0))}


@dataclass(frozen=True)
class Scene:
    """World triangles with what is needed to draw them (metres, Y up).

    Attributes:
        triangles: float32 (T, 3, 3), corners in world coordinates, counter-clockwise seen from the front.
        uvs: float32 (T, 3, 2), texture coordinates as in glTF: (0, 0) is the image's top left corner.
        colours: float32 (T, 3, 3), 0..255, colours of the corners that multiply the texture.
        texture_index: int32 (T,), index in `textures`.
        textures: uint8 (h, w, 3) images; number 0 is one white pixel.
        double_sided: bool (T,), False where the back is not drawn.
        instances: int32 (T,), object ids, or None.
        samplings: how each texture is sampled; () means `Sampling()` for all: it repeats, with mip maps.
    """

    triangles: NDArray[np.float32]
    uvs: NDArray[np.float32]
    colours: NDArray[np.float32]
    texture_index: NDArray[np.int32]
    textures: tuple[NDArray[np.uint8], ...]
    double_sided: NDArray[np.bool_]
    instances: NDArray[np.int32] | None = None
    samplings: tuple[Sampling, ...] = field(default=())

    def __post_init__(self) -> None:
        count = len(self.triangles)
        shapes: dict[str, tuple[int, ...]] = {
            "triangles": (count, 3, 3),
            "uvs": (count, 3, 2),
            "colours": (count, 3, 3),
            "texture_index": (count,),
            "double_sided": (count,),
        }
        if self.instances is not None:
            shapes["instances"] = (count,)
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"Scene.{name} must have shape {shape}, got {getattr(self, name).shape}")
        if count and not 0 <= int(self.texture_index.min()) <= int(self.texture_index.max()) < len(self.textures):
            raise ValueError(f"Scene.texture_index must lie in [0, {len(self.textures)})")
        if len(self.samplings) not in (0, len(self.textures)):
            raise ValueError(f"Scene.samplings must be empty or {len(self.textures)}, got {len(self.samplings)}")

    @property
    def bounds(self) -> NDArray[np.float32]:
        """Corners of the bounding box, float32 (2, 3), metres."""
        return np.stack([self.triangles.min(axis=(0, 1)), self.triangles.max(axis=(0, 1))])


def load_scene(path: Path | str, instances: ArrayLike | None = None) -> Scene:
    """Reads the scene of a GLB's path as habitat does: with its `.stage_config.json`, or as a Z-up scan (see `Stage`).

    Args:
        path: the scene's path.
        instances: as in `load_glb`.

    Raises:
        SceneError: as `load_glb` and `Stage.of`.
    """
    stage = Stage.of(Path(path))
    return _load(stage.path, stage.matrix, instances)


def load_glb(path: Path | str, up: str = "y", instances: ArrayLike | None = None) -> Scene:
    """Reads a GLB file.

    Triangles come in the file's order: by mesh, then primitive, then node, then face. Points and lines are ignored, and
    triangles with a coordinate that is not finite are dropped. Backs of faces are never drawn, whatever a material's
    `doubleSided` says: that is how habitat's flat shader draws scans.

    Args:
        path: the file.
        up: "y" as glTF says, or "z" for scans, which are turned to Y up (`load_scene` decides by habitat's rule).
        instances: int32 (T,), an object id for every triangle of the file, or None.

    Raises:
        SceneError: the file is missing, truncated, corrupt, not a GLB, needs an extension that is not read or has no
            triangles, or `instances` has another length than the file has triangles.
    """
    if up not in _UP:
        raise ValueError(f'up must be "y" or "z", got {up!r}')
    return _load(Path(path), _UP[up], instances)


def _load(path: Path, frame: NDArray[np.float64], instances: ArrayLike | None) -> Scene:
    try:
        file = GlbFile(path)
        parts = [_Part.of(primitive, matrix, frame) for matrix, primitive in file.placed_primitives()]
        textures, samplings, texture_of_part = _unique_textures(file, parts)
    except SceneError:
        raise
    except Exception as error:  # a corrupt file can fail anywhere inside the readers, with any exception
        raise SceneError(
            f"cannot read the scene {path}: {type(error).__name__}: {error}. The file is corrupt. {REMEDY}"
        ) from error
    lengths = [len(part.triangles) for part in parts]
    count = sum(lengths)
    if count == 0:
        raise SceneError(f"{path} holds no triangles. {REMEDY}")
    ids = None if instances is None else np.asarray(instances, np.int32)
    if ids is not None and ids.shape != (count,):
        raise SceneError(f"{ids.size} instance ids were given for {path}, which has {count} triangles. {REMEDY}")
    triangles = np.concatenate([part.triangles for part in parts])
    keep: Any = np.isfinite(triangles).all(axis=(1, 2))
    if keep.all():
        keep = slice(None)
    return Scene(
        triangles=triangles[keep],
        uvs=np.concatenate([part.uvs for part in parts])[keep],
        colours=np.concatenate([part.colours for part in parts])[keep],
        texture_index=np.repeat(np.array(texture_of_part, np.int32), lengths)[keep],
        textures=textures,
        double_sided=np.zeros(count, bool)[keep],
        instances=None if ids is None else ids[keep],
        samplings=samplings,
    )


@dataclass(frozen=True)
class _Part:
    """One drawn primitive: arrays as in `Scene`; its picture's number or None."""

    triangles: NDArray[np.float32]
    uvs: NDArray[np.float32]
    colours: NDArray[np.float32]
    image: int | None
    sampling: Sampling

    @classmethod
    def of(cls, primitive: Primitive, matrix: NDArray[np.float64], frame: NDArray[np.float64]) -> _Part:
        """A primitive, placed by its node's matrix (4, 4) and turned by the stage's (3, 3)."""
        faces, material = primitive.faces, primitive.material
        linear, offset = frame @ matrix[:3, :3], frame @ matrix[:3, 3]
        with np.errstate(invalid="ignore", over="ignore"):
            places = primitive.positions @ linear.T + offset
            places[np.abs(places) > 1e6] = np.nan  # no place in a scene of metres; float32 would overflow
        if np.linalg.det(linear) < 0:  # mirrored: its faces turn the other way
            faces = faces[:, ::-1]

        base = np.clip(np.nan_to_num(material.factor), 0.0, 1.0)
        if primitive.colours is None:
            colours = np.broadcast_to((255.0 * base).astype(np.float32), (len(faces), 3, 3))
        else:
            levels = np.clip(np.nan_to_num(primitive.colours), 0.0, 1.0) * 255.0 * base
            colours = levels.astype(np.float32)[faces]
        uv, image = primitive.uvs, material.image
        if uv is None:
            image = None
            uvs = np.zeros((len(faces), 3, 2), np.float32)
        else:
            # the reader that the agent's flats were first drawn with turned v over twice; this rounding keeps their
            # pictures the same to the byte
            uvs = np.column_stack([uv[:, 0], np.float32(1.0) - (np.float32(1.0) - uv[:, 1])])[faces]
        if image is not None and material.uv_matrix is not None:
            with np.errstate(invalid="ignore", over="ignore"):
                uvs = (uvs @ material.uv_matrix[:, :2].T + material.uv_matrix[:, 2]).astype(np.float32)
        return cls(places.astype(np.float32)[faces], uvs, colours, image, material.sampling)


def _unique_textures(
    file: GlbFile, parts: Sequence[_Part]
) -> tuple[tuple[NDArray[np.uint8], ...], tuple[Sampling, ...], list[int]]:
    """The different textures of the parts behind one white pixel, their samplings, and each part's index among them."""
    textures, samplings = [_WHITE], [Sampling()]
    by_number: dict[Any, int] = {}
    by_content: dict[Any, int] = {}
    indices = []
    for part in parts:
        if part.image is None:
            indices.append(0)
            continue
        number = (part.image, part.sampling)
        if number not in by_number:
            pixels = file.image(part.image)
            content = (pixels.shape, hashlib.sha256(np.ascontiguousarray(pixels).data).digest(), part.sampling)
            if content not in by_content:
                by_content[content] = len(textures)
                textures.append(pixels)
                samplings.append(part.sampling)
            by_number[number] = by_content[content]
        indices.append(by_number[number])
    return tuple(textures), tuple(samplings), indices
