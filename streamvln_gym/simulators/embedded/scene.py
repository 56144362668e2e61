"""Scenes as plain arrays of world triangles, and their reader for GLB files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from streamvln_gym.errors import SceneError

_REMEDY = "Copy or download the file again; generated flats are rebuilt by `streamvln-gym build-flats`."
_WHITE = np.full((1, 1, 3), 255, np.uint8)


@dataclass(frozen=True)
class Scene:
    """World triangles with what is needed to draw them (metres, Y up).

    Attributes:
        triangles: float32 (T, 3, 3), corners in world coordinates, counter-clockwise seen from the front.
        uvs: float32 (T, 3, 2), texture coordinates as in glTF: (0, 0) is the image's top left corner; they repeat.
        colours: float32 (T, 3, 3), 0..255, colours of the corners that multiply the texture.
        texture_index: int32 (T,), index in `textures`.
        textures: uint8 (h, w, 3) images; number 0 is one white pixel.
        double_sided: bool (T,), False where the back is not drawn.
        instances: int32 (T,), object ids, or None.
    """

    triangles: NDArray[np.float32]
    uvs: NDArray[np.float32]
    colours: NDArray[np.float32]
    texture_index: NDArray[np.int32]
    textures: tuple[NDArray[np.uint8], ...]
    double_sided: NDArray[np.bool_]
    instances: NDArray[np.int32] | None = None

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

    @property
    def bounds(self) -> NDArray[np.float32]:
        """Corners of the bounding box, float32 (2, 3), metres."""
        return np.stack([self.triangles.min(axis=(0, 1)), self.triangles.max(axis=(0, 1))])


def scene_up_axis(path: Path) -> str:
    """The up axis ("y" or "z") of a GLB file, by habitat's rule.

    Habitat takes a bare .glb as a Matterport scan, which is Z-up; a
    `<name>.stage_config.json` beside it can say otherwise.

    Raises:
        SceneError: the stage configuration cannot be read, or its up vector is neither +Y nor +Z.
    """
    config = path.with_name(f"{path.stem}.stage_config.json")
    if not config.exists():
        return "z"
    try:
        up = [float(value) for value in json.loads(config.read_text(encoding="utf-8")).get("up", (0, 0, 1))]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise SceneError(f"cannot read the stage configuration {config}: {error}. {_REMEDY}") from error
    if up == [0.0, 1.0, 0.0]:
        return "y"
    if up == [0.0, 0.0, 1.0]:
        return "z"
    raise SceneError(f"{config} has up = {up}; only [0, 1, 0] and [0, 0, 1] are supported. Rotate the scene's GLB.")


def load_glb(path: Path | str, up: str = "y", instances: ArrayLike | None = None) -> Scene:
    """Reads a GLB file.

    Triangles come in the file's order: by mesh, then primitive, then face. Points and lines are ignored, and triangles
    with a coordinate that is not finite are dropped.

    Args:
        path: the file.
        up: "y" as glTF says, or "z" for Matterport scans (see `scene_up_axis`), which are turned to Y up.
        instances: int32 (T,), an object id for every triangle of the file, or None.

    Raises:
        SceneError: the file is missing, truncated, corrupt, not a GLB or has no triangles, or `instances` has another
            length than the file has triangles.
    """
    if up not in ("y", "z"):
        raise ValueError(f'up must be "y" or "z", got {up!r}')
    path = Path(path)
    _check_container(path)
    parts = _read_parts(path)
    count = sum(len(part.triangles) for part in parts)
    if count == 0:
        raise SceneError(f"{path} holds no triangles. {_REMEDY}")
    ids = None if instances is None else np.asarray(instances, np.int32)
    if ids is not None and ids.shape != (count,):
        raise SceneError(f"{ids.size} instance ids were given for {path}, which has {count} triangles. {_REMEDY}")

    triangles = np.concatenate([part.triangles for part in parts])
    if up == "z":  # a quarter turn around x: (x, y, z) -> (x, z, -y)
        triangles = triangles[:, :, [0, 2, 1]] * np.array([1.0, 1.0, -1.0])
    triangles = triangles.astype(np.float32)
    keep = np.isfinite(triangles).all(axis=(1, 2))
    textures, texture_of_part = _unique_textures(parts)
    lengths = [len(part.triangles) for part in parts]
    return Scene(
        triangles=triangles[keep],
        uvs=np.concatenate([part.uvs for part in parts])[keep],
        colours=np.concatenate([part.colours for part in parts])[keep],
        texture_index=np.repeat(np.array(texture_of_part, np.int32), lengths)[keep],
        textures=textures,
        double_sided=np.repeat(np.array([part.double_sided for part in parts]), lengths)[keep],
        instances=None if ids is None else ids[keep],
    )


@dataclass(frozen=True)
class _Part:
    """One drawn primitive: arrays as in `Scene`, its texture or None."""

    triangles: NDArray[np.float64]
    uvs: NDArray[np.float32]
    colours: NDArray[np.float32]
    double_sided: bool
    texture: Image.Image | None


def _check_container(path: Path) -> None:
    """Raises a SceneError that says what is wrong with a file that is not a whole GLB."""
    try:
        with path.open("rb") as file:
            head = file.read(12)
        size = path.stat().st_size
    except OSError as error:
        raise SceneError(f"cannot open the scene {path}: {error.strerror or error}. {_REMEDY}") from error
    if size == 0:
        raise SceneError(f"the scene {path} is empty. {_REMEDY}")
    if head[:4] != b"glTF":
        raise SceneError(f"{path} is not a GLB file (it does not begin with 'glTF'). Convert it to binary glTF 2.0.")
    stated = int.from_bytes(head[8:12], "little")
    if len(head) < 12 or size < stated:
        raise SceneError(f"the scene {path} is truncated: {size} bytes of {stated}. {_REMEDY}")


def _read_parts(path: Path) -> list[_Part]:
    """The triangle primitives of a GLB in file order."""
    import trimesh

    try:
        loaded = trimesh.load_scene(path, file_type="glb", process=False)
        # trimesh walks the nodes in an order of its own; its geometries are in the file's
        rank = {name: index for index, name in enumerate(loaded.geometry)}
        placed = [loaded.graph[node] for node in loaded.graph.nodes_geometry]
        placed.sort(key=lambda item: rank[item[1]])
        return [
            _read_part(loaded.geometry[name], matrix)
            for matrix, name in placed
            if isinstance(loaded.geometry[name], trimesh.Trimesh)
        ]
    except Exception as error:  # a corrupt file can fail anywhere inside the reader, with any exception
        raise SceneError(
            f"cannot read the scene {path}: {type(error).__name__}: {error}. The file is corrupt or uses an "
            f"unsupported glTF extension. {_REMEDY}"
        ) from error


def _read_part(mesh: Any, matrix: NDArray[np.float64]) -> _Part:
    """One trimesh.Trimesh, placed by `matrix` (4, 4)."""
    faces = np.asarray(mesh.faces)
    vertices = np.asarray(mesh.vertices, np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        triangles = (vertices @ matrix[:3, :3].T + matrix[:3, 3])[faces]
        triangles[np.abs(triangles) > 1e6] = np.nan  # no place in a scene of metres; float32 would overflow
    if np.linalg.det(matrix[:3, :3]) < 0:  # a mirrored node: its faces turn the other way
        faces, triangles = faces[:, ::-1], triangles[:, ::-1]

    visual = mesh.visual
    material = getattr(visual, "material", None)
    factor = getattr(material, "baseColorFactor", None)
    base = np.full(3, 255.0) if factor is None else _as_levels(np.asarray(factor)[None, :3])[0]
    vertex_colours = _vertex_colours(visual)
    colours = np.broadcast_to(base, (len(vertices), 3)) if vertex_colours is None else vertex_colours * (base / 255.0)
    uv = getattr(visual, "uv", None)
    texture = getattr(material, "baseColorTexture", None)
    if uv is None or len(uv) != len(vertices):
        uv, texture = np.zeros((len(vertices), 2)), None
    else:
        uv = np.column_stack([uv[:, 0], 1.0 - uv[:, 1]])  # trimesh has turned v upwards
    with np.errstate(over="ignore"):
        uvs = np.asarray(uv, np.float32)[faces]
    return _Part(
        triangles=triangles,
        uvs=uvs,
        colours=np.asarray(colours, np.float32)[faces],
        double_sided=bool(getattr(material, "doubleSided", False)),
        texture=texture,
    )


def _vertex_colours(visual: Any) -> NDArray[np.float64] | None:
    """COLOR_0 of a primitive as levels 0..255, (V, 3), or None where it has none."""
    if visual.kind == "vertex":
        return _as_levels(np.asarray(visual.vertex_colors)[:, :3])
    attributes = getattr(visual, "vertex_attributes", None)
    if attributes is not None and "color" in attributes:
        return _as_levels(np.asarray(attributes["color"])[:, :3])
    return None


def _as_levels(values: NDArray[Any]) -> NDArray[np.float64]:
    """Colours of glTF's number types (float 0..1, uint8 or uint16 normalised) as levels 0..255."""
    if values.dtype.kind == "f":
        return np.clip(np.nan_to_num(values.astype(np.float64)), 0.0, 1.0) * 255.0
    return values.astype(np.float64) * (255.0 / np.iinfo(values.dtype).max)


def _unique_textures(parts: list[_Part]) -> tuple[tuple[NDArray[np.uint8], ...], list[int]]:
    """The different images of the parts behind one white pixel, and each part's index among them."""
    textures = [_WHITE]
    known: dict[Any, int] = {}
    indices = []
    for part in parts:
        if part.texture is None:
            indices.append(0)
            continue
        if id(part.texture) not in known:
            pixels = np.array(part.texture.convert("RGB"))
            content = (pixels.shape, pixels.tobytes())
            if content not in known:
                known[content] = len(textures)
                textures.append(pixels)
            known[id(part.texture)] = known[content]
        indices.append(known[id(part.texture)])
    return tuple(textures), indices
