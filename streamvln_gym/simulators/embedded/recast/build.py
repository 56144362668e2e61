"""From triangles to a navigation mesh: all of Recast's steps in habitat's order."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamvln_gym.errors import SceneError
from streamvln_gym.simulators.embedded.detour_file import TileSet
from streamvln_gym.simulators.embedded.navmesh import NavigationMesh
from streamvln_gym.simulators.embedded.navmesh_surface import SurfaceDetail
from streamvln_gym.simulators.embedded.recast.compact import compact_field
from streamvln_gym.simulators.embedded.recast.contours import trace_contours
from streamvln_gym.simulators.embedded.recast.detail import DetailMesh, build_detail
from streamvln_gym.simulators.embedded.recast.filters import filter_spans
from streamvln_gym.simulators.embedded.recast.heightfield import grid_size, rasterize
from streamvln_gym.simulators.embedded.recast.holes import merge_holes
from streamvln_gym.simulators.embedded.recast.polymesh import PolyMesh, build_polymesh
from streamvln_gym.simulators.embedded.recast.regions import build_regions
from streamvln_gym.simulators.embedded.recast.settings import MAX_VOXELS_UP, NavMeshSettings

MAX_CELLS = 1 << 27  # of the grid seen from above; 0.5 GB for the columns alone
MAX_SIDE = 0xFFFF  # Recast's coordinates have 16 bits


def build_navmesh(triangles: ArrayLike, settings: NavMeshSettings | None = None) -> NavigationMesh:
    """The navigation mesh that habitat builds of a scene.

    Args:
        triangles: (T, 3, 3), metres, Y up, counter-clockwise seen from the front; floors face upwards.
        settings: see `NavMeshSettings`; default: habitat's.

    Raises:
        ValueError: `triangles` has another shape.
        SceneError: there are no triangles, some are not finite, the scene is too large for the voxels, or nothing of
            it is walkable.
    """
    return build_tiles(triangles, settings).mesh()


def build_tiles(triangles: ArrayLike, settings: NavMeshSettings | None = None) -> TileSet:
    """`build_navmesh` as Detour's tiles, which can be written as a `.navmesh` file of habitat's."""
    settings = settings or NavMeshSettings()
    corners = _checked(triangles)
    bounds = np.stack([corners.min(axis=(0, 1)), corners.max(axis=(0, 1))])
    _check_size(bounds, settings)
    field = rasterize(corners, bounds, settings)
    filter_spans(field, settings)
    floor = compact_field(field, settings)
    regions, count = build_regions(floor, settings)
    contours = merge_holes(trace_contours(floor, regions, settings)) if count else []
    mesh = build_polymesh(contours, int(settings.verts_per_poly))
    if len(mesh.polygons) == 0:
        raise SceneError(
            f"nothing of the scene's {len(corners)} triangles is walkable for an agent of {settings.agent_height} m "
            f"height and {settings.agent_radius} m radius. Check that the scene is Y up (a bare .glb is read as Z up; "
            "`<name>.stage_config.json` can say otherwise), in metres, and that its floors face upwards."
        )
    detail = build_detail(mesh, floor, regions, bounds[0], settings)
    scale = np.array([settings.cell_size, settings.cell_height, settings.cell_size], np.float32)
    vertices = bounds[0] + mesh.vertices.astype(np.float32) * scale
    bounds[1, 1] += np.float32(settings.height_voxels) * scale[1]  # Recast's box holds an agent on the highest floor
    return TileSet.from_arrays(vertices, mesh.polygons, mesh.neighbours, _own_points(mesh, detail), bounds, settings)


def _checked(triangles: ArrayLike) -> NDArray[np.float32]:
    """The triangles as contiguous float32 (T, 3, 3)."""
    corners = np.ascontiguousarray(triangles, np.float32)
    if corners.ndim != 3 or corners.shape[1:] != (3, 3):
        raise ValueError(f"triangles must have shape (T, 3, 3), got {corners.shape}")
    if len(corners) == 0:
        raise SceneError("a navigation mesh cannot be built of a scene without triangles; check the scene's file")
    finite = np.isfinite(corners).all(axis=(1, 2))
    if not finite.all():
        raise SceneError(
            f"triangle {int(np.argmin(finite))} of {len(corners)} has a coordinate that is not finite; leave such "
            "triangles out (`load_glb` does)"
        )
    return corners


def _check_size(bounds: NDArray[np.float32], settings: NavMeshSettings) -> None:
    """Raises SceneError if the scene needs more voxels than there can be."""
    width, depth = grid_size(bounds, settings.cell_size)
    up = float(bounds[1, 1] - bounds[0, 1]) / settings.cell_height
    extent = " x ".join(f"{metres:.1f}" for metres in bounds[1] - bounds[0])
    if max(width, depth) > MAX_SIDE or width * depth > MAX_CELLS or up > MAX_VOXELS_UP:
        raise SceneError(
            f"the scene measures {extent} m, which is {width} x {depth} cells of {settings.cell_size} m and "
            f"{up:.0f} voxels up; at most {MAX_SIDE} a side, {MAX_CELLS} cells and {MAX_VOXELS_UP} voxels are "
            "possible. Check that its unit is the metre, remove stray triangles, or raise NavMeshSettings.cell_size."
        )
    if width == 0 or depth == 0:
        raise SceneError(
            f"the scene measures {extent} m, less than a cell of {settings.cell_size} m: nothing can be walkable. "
            "Check that its unit is the metre and that it is Y up."
        )


def _own_points(mesh: PolyMesh, detail: DetailMesh) -> SurfaceDetail:
    """The detail meshes without the polygons' corners, which Detour takes from the polygons."""
    corners = (mesh.polygons >= 0).sum(axis=1)
    sizes = np.diff(detail.point_start)
    position = np.arange(len(detail.points)) - np.repeat(detail.point_start[:-1], sizes)
    own = position >= np.repeat(corners, sizes)
    point_first = np.concatenate([[0], np.cumsum(sizes - corners)]).astype(np.int32)
    return SurfaceDetail(point_first, detail.points[own], detail.triangle_start, detail.triangles)
