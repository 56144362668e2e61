"""Where a scene's navigation mesh comes from: our file, habitat's file, or the scene's triangles."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from dataclasses import astuple
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from streamvln_gym.cache import cache_dir, make_writable
from streamvln_gym.errors import DatasetError, SceneError
from streamvln_gym.simulators.embedded.detour_file import read_navmesh, write_navmesh
from streamvln_gym.simulators.embedded.navmesh import NavigationMesh
from streamvln_gym.simulators.embedded.recast.settings import NavMeshSettings
from streamvln_gym.simulators.embedded.scene import load_scene
from streamvln_gym.simulators.embedded.stage import Stage

BUILDER_VERSION = 1  # raised whenever the builder makes other polygons of the same triangles
CACHE_FOLDER = "navmeshes"


def scene_navmesh(scene: Path) -> NavigationMesh:
    """The navigation mesh of a scene.

    `<name>.navmesh.npz` (this package's) is taken if it lies beside the scene, else `<name>.navmesh` (habitat's), else
    the mesh is built from the triangles with habitat's default settings and kept: beside the scene as
    `<name>.navmesh.npz`, or in the cache if that folder cannot be written to. One that was built so is built anew where
    the scene or its `.stage_config.json` has changed since. Generated flats, which have a scene
    graph, belong to the mesh that they were generated with; theirs is never built anew.

    Args:
        scene: the GLB file; its triangles are read only if the mesh has to be built.

    Raises:
        SceneError: a file cannot be read, the mesh of a generated flat is missing, or nothing is walkable.
    """
    mesh = stored_navmesh(scene)
    if mesh is not None:
        return mesh
    own = _own_file(scene)
    if scene.with_name(f"{scene.stem}.scene_graph.json").exists():
        raise SceneError(
            f"the generated flat {scene} has no navigation mesh for the embedded simulator: {own} is missing. Build "
            "the flat again with `streamvln-gym build-flats`."
        )
    settings = NavMeshSettings()
    return _build_and_keep(scene, load_scene(scene).triangles, settings, own, _cached_file(scene, settings))


def stored_navmesh(scene: Path) -> NavigationMesh | None:
    """The navigation mesh of a scene if it is on disk, see `scene_navmesh`; None if it would have to be built.

    Raises:
        SceneError: a file cannot be read.
    """
    own, habitats = _own_file(scene), scene.with_name(f"{scene.stem}.navmesh")
    if own.exists() and not _is_stale(own, scene):
        return NavigationMesh.load(own)
    if habitats.exists():
        return read_navmesh(habitats)
    if not Stage.of(scene).path.exists():
        return None
    cached = _cached_file(scene, NavMeshSettings())
    return NavigationMesh.load(cached) if cached.exists() else None


def _is_stale(own: Path, scene: Path) -> bool:
    """Whether a mesh that was built of a scene no longer belongs to it: the scene, its place or the builder changed."""
    built_of = NavigationMesh.built_of(own)
    if built_of is None:
        return False
    try:
        stage = Stage.of(scene)
    except SceneError:
        return False  # there is nothing to compare with; who wants to draw it will be told
    return stage.path.exists() and built_of != _key(stage.content, NavMeshSettings())


def _own_file(scene: Path) -> Path:
    """This package's file, beside the scene."""
    return scene.with_name(f"{scene.stem}.navmesh.npz")


def _cached_file(scene: Path, settings: NavMeshSettings) -> Path:
    """This package's file in the cache, for scenes in folders that cannot be written to."""
    return cache_dir() / CACHE_FOLDER / f"{scene.stem}.{_key(Stage.of(scene).state, settings)}.npz"


def write_scene_navmesh(scene: Path, folder: Path | None = None, kind: Literal["navmesh", "npz"] = "navmesh") -> Path:
    """Builds the navigation mesh of a GLB scene and writes it; returns the file.

    A scene that has `<name>.navmesh.npz` beside it, as generated flats do, keeps its mesh: habitat's file is made of
    it.

    Args:
        scene: the GLB, placed as habitat places it (see `Stage`).
        folder: where to write; default: beside the scene, where both simulators find it.
        kind: habitat's `.navmesh`, or this package's `.navmesh.npz`.

    Raises:
        SceneError: the scene cannot be read, nothing of it is walkable, or the file exists already.
        DatasetError: the folder cannot be written to.
    """
    from streamvln_gym.simulators.embedded.recast.build import build_tiles

    folder = make_writable(folder or scene.parent)
    path = folder / f"{scene.stem}.navmesh{'.npz' if kind == 'npz' else ''}"
    if path.exists():
        raise SceneError(f"{path} exists already; delete it first, or write into another folder with --out")
    own = _own_file(scene)
    if own.exists() and kind == "navmesh" and not _is_stale(own, scene):
        write_navmesh(path, NavigationMesh.load(own))
        return path
    tiles = build_tiles(load_scene(scene).triangles)
    if kind == "npz":
        tiles.mesh().save(path, _key(Stage.of(scene).content, NavMeshSettings()))
    else:
        tiles.write(path)
    return path


def _key(scene: str, settings: NavMeshSettings) -> str:
    """A name for what the mesh depends on: a digest of the scene, settings and builder."""
    return hashlib.sha256(repr((BUILDER_VERSION, astuple(settings), scene)).encode()).hexdigest()[:24]


def _build_and_keep(
    scene: Path, triangles: NDArray[np.float32], settings: NavMeshSettings, own: Path, cached: Path
) -> NavigationMesh:
    """Builds the mesh, says so on stderr, and keeps it where that is possible."""
    from streamvln_gym.simulators.embedded.recast.build import build_navmesh

    # The line is finished after the work, so that one who waits knows for what.
    print(
        f"streamvln_gym: building the navigation mesh of {scene.name} from {len(triangles)} triangles, once (the very "
        "first time ~30 s more, to compile) ...",
        end=" ",
        file=sys.stderr,
        flush=True,
    )
    started = time.perf_counter()
    try:
        mesh = build_navmesh(triangles, settings)
    except SceneError as error:
        print("failed", file=sys.stderr, flush=True)
        raise SceneError(f"{scene}: {error}") from error
    took = f"{time.perf_counter() - started:.1f} s"
    try:
        if os.access(scene.parent, os.W_OK | os.X_OK):
            path = own
        else:
            make_writable(cached.parent)
            path = cached
        mesh.save(path, _key(Stage.of(scene).content, settings))
    except (OSError, DatasetError) as error:  # the mesh is there all the same
        print(f"{took}; it could not be kept and will be built again: {error}", file=sys.stderr, flush=True)
    else:
        print(f"{took}, kept in {path}", file=sys.stderr, flush=True)
    return mesh
