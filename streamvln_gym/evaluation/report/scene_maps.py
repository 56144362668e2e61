"""Scenes seen from above, as numbers that the page draws: rooms and furniture of flats, the walkable floor of scans.

The picture in videos (`visualization.TopDownMap`) is made of pixels; here shapes are kept, which are smaller, stay
sharp at any size and follow a dark or light page. Lengths are whole centimetres, x to the right and z down, as seen
from above with north (-Z) up.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamvln_gym.cache import cache_dir
from streamvln_gym.flats.files import scenes_root
from streamvln_gym.scene_graph import Door, SceneGraph

_FLAT = 0.1  # metres: what is lower (rugs) is not drawn
_STOREY = 0.5  # metres: floor is drawn in slices of this height, so that a page can leave out other storeys
_COARSE = 0.04  # metres by which an outline may be simplified


class SceneFolders:
    """Finds scenes on disk.

    Args:
        dataset: the run's; generated flats are also looked for in the cache.
        scenes_dir: the folder that scene ids are relative to, if it is known.
    """

    def __init__(self, dataset: str, scenes_dir: Path | None) -> None:
        self._folders = [scenes_dir] if scenes_dir else [Path("data") / "scene_datasets"]
        if scenes_dir is None and dataset.startswith("flats-"):
            self._folders.insert(0, scenes_root(cache_dir() / dataset))

    def scene(self, scene_id: str) -> Path | None:
        """The scene's file (which may itself be missing) if its folder is there."""
        for folder in self._folders:
            path = folder / scene_id
            if path.parent.is_dir():
                return path
        return None

    def graph(self, scene_id: str) -> SceneGraph | None:
        """The scene's rooms, None where they are not known.

        Raises:
            SceneError: the file is corrupt.
        """
        scene = self.scene(scene_id)
        path = scene and scene.with_name(f"{scene.stem}.scene_graph.json")
        return SceneGraph.load(path) if path and path.exists() else None


def scene_map(scene: Path | None, graph: SceneGraph | None) -> dict[str, Any]:
    """What the page draws of a scene; empty where nothing is known of it.

    Args:
        scene: its file, None if its folder was not found.
        graph: its rooms, None where they are not known.

    Returns:
        For flats `rooms` [x0, z0, x1, z1, type], `doors` [x0, z0, x1, z1] and `things` [x0, z0, x1, z1]; for scans
        `floors` [lowest y, highest y, outline as an SVG path].

    Raises:
        SceneError: the navigation mesh is corrupt.
    """
    if graph is not None:
        return {
            "rooms": [[*_centimetres(room.rect), room.type] for room in graph.rooms],
            "doors": [_opening(door) for door in graph.doors],
            "things": [
                _centimetres(thing.footprint)
                for thing in graph.furnishings
                if thing.mount == "floor" and thing.height[1] > _FLAT
            ],
        }
    polygons = _floor_polygons(scene) if scene else []
    return {"floors": _slices(polygons)} if polygons else {}


def _floor_polygons(scene: Path) -> list[NDArray[np.float64]]:
    """The polygons (N, 3) of a scene's navigation mesh, if it lies on disk; none is built for a picture."""
    from streamvln_gym.simulators.embedded.navmesh_source import stored_navmesh

    mesh = stored_navmesh(scene)
    return [] if mesh is None else mesh.corners


def _slices(polygons: Sequence[NDArray[np.float64]]) -> list[list[Any]]:
    """Outlines of the floor, slice by slice."""
    import shapely

    slices: dict[int, list[NDArray[np.float64]]] = {}
    for polygon in polygons:
        slices.setdefault(int(np.floor(polygon[:, 1].mean() / _STOREY)), []).append(polygon)
    found = []
    for _, members in sorted(slices.items()):
        heights = np.concatenate([member[:, 1] for member in members])
        area = shapely.union_all([shapely.make_valid(shapely.Polygon(member[:, [0, 2]])) for member in members])
        # Closing the hair-thin gaps between neighbours first, so that they do not show as lines.
        outline = area.buffer(_COARSE / 2).buffer(-_COARSE / 2).simplify(_COARSE)
        rings = [
            ring
            for part in shapely.get_parts(outline)
            if isinstance(part, shapely.Polygon)
            for ring in (part.exterior, *part.interiors)
        ]
        path = "".join(f"M{_corners(np.asarray(ring.coords)[:-1])}Z" for ring in rings)
        found.append([_centimetre(heights.min()), _centimetre(heights.max()), path])
    return found


def _corners(points: NDArray[np.float64]) -> str:
    return "L".join(f"{x} {z}" for x, z in np.round(100.0 * points).astype(int))


def _opening(door: Door) -> list[int]:
    """The line of a door's opening."""
    x, z = door.position
    dx, dz = (0.0, door.width / 2.0) if door.axis == "x" else (door.width / 2.0, 0.0)
    return _centimetres((x - dx, z - dz, x + dx, z + dz))


def _centimetre(value: float) -> int:
    return round(100.0 * float(value))


def _centimetres(values: Sequence[float]) -> list[int]:
    return [_centimetre(value) for value in values]
