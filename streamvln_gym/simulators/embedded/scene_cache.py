"""Large scenes, prepared once: files in the cache folder that every process maps into its memory.

A scan takes many seconds to read and prepare. What the renderer then needs is written as one file of aligned arrays,
`<cache folder>/scans/<scene>-<source>-<state>.mesh`; from then on it is mapped, not read: it is there at once, and the
environments of one machine share it. "source" names the scene's path, "state" the size and modification time of its
files, how it is placed, and the format of the cache. A file that does not fit is not used, and one that is damaged is
built again; building a scene removes what the cache had of its earlier states. Deleting the folder is always safe.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import warnings
import zlib
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamvln_gym.cache import cache_dir, make_writable
from streamvln_gym.errors import DatasetError
from streamvln_gym.simulators.embedded.render_mesh import RenderMesh
from streamvln_gym.simulators.embedded.scene import Scene, load_scene
from streamvln_gym.simulators.embedded.stage import Stage
from streamvln_gym.simulators.embedded.textures import MipMaps
from streamvln_gym.whole_writes import whole_file

CACHED_BYTES = 4 << 20
"""GLB files of at least this size are cached; the generated flats are far smaller."""
FORMAT = 1  # raise it whenever RenderMesh or how it is built changes
_MAGIC = b"svlnmesh"
_PREFIX = 24  # magic, length of the head, its checksum
_ALIGNMENT = 64
# arrays whose numbers are used as places in other arrays: a wrong one could crash the process, so they are checked
_CHECKED = ("texture_index", "cluster_start", "level_start", "size_bits", "wraps", "highest_level", "instances")


def scans_folder() -> Path:
    """Where the prepared scenes are."""
    return cache_dir() / "scans"


def load_drawable(path: Path, instances: NDArray[np.int32] | None = None) -> Scene | RenderMesh:
    """A scene for the renderer: read from its GLB if that is small, else mapped from the cache, built if need be.

    Args:
        path: the scene's path (see `Stage.of`).
        instances: int32 (T,), an object id for every triangle of the file, or None.

    Raises:
        SceneError: as `load_scene`.
    """
    stage = Stage.of(path)
    if not stage.path.exists() or stage.path.stat().st_size < CACHED_BYTES:
        return load_scene(path, instances)
    try:
        folder = make_writable(scans_folder())
    except DatasetError as error:
        warnings.warn(f"{path.name} cannot be kept prepared, so that loading it takes long: {error}", stacklevel=2)
        return RenderMesh.build(load_scene(path, instances))
    return _load_or_build(folder, path, stage, instances)


def _load_or_build(folder: Path, path: Path, stage: Stage, instances: NDArray[np.int32] | None) -> RenderMesh:
    import filelock

    source = f"{stage.path.stem}-{hashlib.sha256(str(stage.path.resolve()).encode()).hexdigest()[:12]}"
    file = folder / f"{source}-{_state(stage, instances)}.mesh"
    found = _open_if_whole(file)
    if found is not None:
        return found
    with filelock.FileLock(folder / f"{source}.lock"):  # one process builds, the others wait for its file
        found = _open_if_whole(file)
        if found is not None:
            return found
        mesh = RenderMesh.build(load_scene(path, instances))
        try:
            _write(file, mesh)
        except OSError as error:
            warnings.warn(f"{path.name} cannot be kept prepared in {folder}: {error}. Free some space.", stacklevel=4)
            return mesh
        for earlier in folder.glob(f"{source}-*.mesh"):
            if earlier != file:
                with contextlib.suppress(OSError):  # still mapped somewhere (Windows); the next build removes it
                    earlier.unlink()
        del mesh
        return open_mesh(file)


def _state(stage: Stage, instances: NDArray[np.int32] | None) -> str:
    """A digest of all that a prepared scene depends on."""
    digest = hashlib.sha256(f"format {FORMAT} {stage.state}".encode())
    if instances is not None:
        digest.update(np.ascontiguousarray(instances).data)
    return digest.hexdigest()[:16]


def _open_if_whole(file: Path) -> RenderMesh | None:
    """The prepared scene in `file`, or None if there is none or it is damaged."""
    if not file.exists():
        return None
    try:
        return open_mesh(file)
    except (OSError, ValueError, KeyError, TypeError) as error:
        warnings.warn(f"the prepared scene {file} is damaged ({error}); it is built again", stacklevel=5)
        return None


def _arrays(mesh: RenderMesh) -> dict[str, NDArray[Any]]:
    """All arrays of a mesh by their names, those of its mip maps among them."""
    named = {item.name: getattr(mesh, item.name) for item in fields(RenderMesh)}
    maps = named.pop("mip_maps")
    named.update((item.name, getattr(maps, item.name)) for item in fields(MipMaps))
    return {name: array for name, array in named.items() if array is not None}


def _write(file: Path, mesh: RenderMesh) -> None:
    """Writes a prepared scene beside its place and then puts it there."""
    arrays = _arrays(mesh)
    table: dict[str, dict[str, Any]] = {}
    end = 0
    for name, array in arrays.items():
        end += -end % _ALIGNMENT
        table[name] = {"dtype": array.dtype.str, "shape": array.shape, "offset": end}
        if name in _CHECKED:
            table[name]["crc32"] = zlib.crc32(np.ascontiguousarray(array).data)
        end += array.nbytes
    head = json.dumps({"arrays": table, "bytes": end}).encode()
    head += b" " * (-(_PREFIX + len(head)) % _ALIGNMENT)
    prefix = _MAGIC + len(head).to_bytes(8, "little") + zlib.crc32(head).to_bytes(8, "little")
    with whole_file(file, shared=True) as partial, partial.open("wb") as out:
        out.write(prefix + head)
        start = _PREFIX + len(head)
        for name, array in arrays.items():
            out.seek(start + table[name]["offset"])
            np.ascontiguousarray(array).tofile(out)
        out.truncate(start + end)


def open_mesh(file: Path) -> RenderMesh:
    """Maps a prepared scene into memory; its pages are shared by all processes that do.

    Raises:
        ValueError: the file is truncated or damaged.
        OSError: it cannot be opened.
    """
    with file.open("rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        prefix = opened.read(_PREFIX)
        if len(prefix) < _PREFIX or not prefix.startswith(_MAGIC):
            raise ValueError("it is no prepared scene")
        start = _PREFIX + int.from_bytes(prefix[8:16], "little")
        text = opened.read(start - _PREFIX) if start <= size else b""
        if zlib.crc32(text) != int.from_bytes(prefix[16:], "little"):
            raise ValueError("its head is damaged")
        head = json.loads(text)
        if start + head["bytes"] != size:
            raise ValueError(f"it has {size} bytes of {start + head['bytes']}")
        # copy on write: the arrays count as writable, as the kernels were compiled for, and nothing ever writes to them
        data = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)
    arrays: dict[str, NDArray[Any]] = {}
    for name, entry in head["arrays"].items():
        dtype, shape = np.dtype(entry["dtype"]), tuple(entry["shape"])
        array = np.ndarray(shape, dtype, data, start + entry["offset"])
        if name in _CHECKED and zlib.crc32(array.data) != entry["crc32"]:
            raise ValueError(f"the checksum of {name} does not fit")
        arrays[name] = array
    maps = MipMaps(**{item.name: arrays.pop(item.name) for item in fields(MipMaps)})
    return RenderMesh(mip_maps=maps, **arrays)
