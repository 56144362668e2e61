"""A navigation mesh's arrays: checks of polygons and neighbours, islands, and the layout that the kernels read."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamvln_gym.simulators.embedded import detour
from streamvln_gym.simulators.embedded.navmesh_surface import SurfaceDetail, surface_edges, surface_triangles

MAX_CORNERS = 6
GRID_CELL = 0.25  # metres; a cell of the look-up grid
MAX_GRID_CELLS = 1 << 20
CONVEXITY_TOLERANCE = 1e-3  # metres that a corner may lie inside the line of its neighbours


def padded_rows(name: str, rows: ArrayLike) -> NDArray[np.int32]:
    """Rows of numbers as int32 (P, 6), padded with -1."""
    array = np.asarray(rows)
    if array.ndim != 2 or array.shape[1] > MAX_CORNERS or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"{name} must be integers of shape (P, n) with n <= {MAX_CORNERS}, got {array.dtype} {array.shape}"
        )
    padded = np.full((len(array), MAX_CORNERS), -1, dtype=np.int32)
    padded[:, : array.shape[1]] = array
    return padded


def signed_areas(corners: NDArray[np.float64], counts: NDArray[np.int32]) -> NDArray[np.float64]:
    """Signed areas (P,) in the (x, z) plane, counter-clockwise positive; corners are (P, 6, 3)."""
    number = np.arange(corners.shape[1])
    following = np.where(number + 1 < counts[:, np.newaxis], number + 1, 0)
    x, z = corners[..., 0] - corners[:, :1, 0], corners[..., 2] - corners[:, :1, 2]
    next_x, next_z = np.take_along_axis(x, following, axis=1), np.take_along_axis(z, following, axis=1)
    return np.where(number < counts[:, np.newaxis], x * next_z - z * next_x, 0.0).sum(axis=1) / 2.0


def check_polygons(vertices: NDArray[np.float32], polygons: NDArray[np.int32]) -> None:
    """Raises ValueError unless every polygon is a convex one that runs clockwise in (x, z)."""
    used = polygons >= 0
    counts = used.sum(axis=1)
    if not (used == (np.arange(MAX_CORNERS) < counts[:, np.newaxis])).all() or (polygons < -1).any():
        raise ValueError("polygons must be vertex numbers followed by -1 only")
    if counts.min() < 3:
        raise ValueError(f"polygon {int(counts.argmin())} has {int(counts.min())} corners, needs 3 to {MAX_CORNERS}")
    if polygons.max() >= len(vertices):
        raise ValueError(
            f"polygon {int(polygons.max(axis=1).argmax())} refers to vertex {int(polygons.max())}, but there are only "
            f"{len(vertices)} vertices"
        )
    repeats = has_repeats(polygons)
    if repeats.any():
        raise ValueError(f"polygon {int(repeats.argmax())} has a vertex twice")
    corners = vertices.astype(np.float64)[polygons]
    areas = signed_areas(corners, counts)
    if (areas >= 0.0).any():
        wrong = int(areas.argmax())
        raise ValueError(
            f"polygon {wrong} has area {-areas[wrong]:.6f} m2 for corners that run clockwise in (x, z); reverse its "
            "corners, or leave it out if it has no area"
        )
    depth = dents(corners, counts)
    if (depth > CONVEXITY_TOLERANCE).any():
        wrong = int(depth.argmax())
        raise ValueError(f"polygon {wrong} is not convex (dented by {depth[wrong]:.4f} m); cut it into convex ones")


def has_repeats(polygons: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Whether each polygon, int32 (P, 6), has a vertex twice."""
    numbers = np.where(polygons >= 0, polygons, -1 - np.arange(MAX_CORNERS))
    return (np.diff(np.sort(numbers, axis=1), axis=1) == 0).any(axis=1)


def dents(corners: NDArray[np.float64], counts: NDArray[np.int32]) -> NDArray[np.float64]:
    """How far each polygon is from being convex, metres (P,); corners are (P, 6, 3)."""
    number = np.arange(MAX_CORNERS)
    used = number < counts[:, np.newaxis]
    following = np.where(number + 1 < counts[:, np.newaxis], number + 1, 0)[..., np.newaxis]
    edges = np.take_along_axis(corners, following, axis=1) - corners
    after = np.take_along_axis(edges, following, axis=1)
    bend = edges[..., 0] * after[..., 2] - edges[..., 2] * after[..., 0]
    reach = np.maximum(np.hypot(edges[..., 0], edges[..., 2]), np.hypot(after[..., 0], after[..., 2]))
    return np.where(used, bend / np.maximum(reach, 1e-12), -1.0).max(axis=1)


def check_neighbours(neighbours: NDArray[np.int32], polygons: NDArray[np.int32]) -> None:
    """Raises ValueError unless neighbours exist, and two neighbours share the edge between them."""
    if neighbours.shape != polygons.shape:
        raise ValueError(f"neighbours has {len(neighbours)} rows, polygons has {len(polygons)}")
    if neighbours.min() < -1 or neighbours.max() >= len(polygons):
        raise ValueError(f"neighbours must lie in -1..{len(polygons) - 1}")
    rows, edges = np.nonzero(neighbours >= 0)
    if (polygons[rows, edges] < 0).any():
        raise ValueError(f"polygon {int(rows[polygons[rows, edges] < 0][0])} has a neighbour across an edge it lacks")
    following = np.where(polygons[rows, (edges + 1) % MAX_CORNERS] >= 0, (edges + 1) % MAX_CORNERS, 0)
    links = list(
        zip(
            rows.tolist(),
            neighbours[rows, edges].tolist(),
            polygons[rows, edges].tolist(),
            polygons[rows, following].tolist(),
            strict=True,
        )
    )
    known = set(links)
    for p, other, a, b in links:
        if (other, p, b, a) not in known:
            raise ValueError(f"polygon {p} has neighbour {other} across the edge of vertices {a} and {b}, but not back")


def derive_neighbours(polygons: NDArray[np.int32]) -> NDArray[np.int32]:
    """Neighbours (P, 6) from edges that two polygons share, each running it the other way."""
    owners: dict[tuple[int, int], int] = {}
    rows = [row[row >= 0].tolist() for row in polygons]
    for p, row in enumerate(rows):
        for edge in zip(row, row[1:] + row[:1], strict=True):
            if edge in owners:
                raise ValueError(f"polygons {owners[edge]} and {p} both have the edge of vertices {edge}: they overlap")
            owners[edge] = p
    neighbours = np.full(polygons.shape, -1, dtype=np.int32)
    for p, row in enumerate(rows):
        for j, (a, b) in enumerate(zip(row, row[1:] + row[:1], strict=True)):
            neighbours[p, j] = owners.get((b, a), -1)
    return neighbours


def label_islands(neighbours: NDArray[np.int32]) -> NDArray[np.int32]:
    """Island of each polygon, numbered in the order of their first polygons as in habitat."""
    islands = np.full(len(neighbours), -1, dtype=np.int32)
    rows = neighbours.tolist()
    island = 0
    for first in range(len(rows)):
        if islands[first] >= 0:
            continue
        islands[first] = island
        waiting = [first]
        while waiting:
            for other in rows[waiting.pop()]:
                if other >= 0 and islands[other] < 0:
                    islands[other] = island
                    waiting.append(other)
        island += 1
    return islands


def kernel_arrays(
    corners: NDArray[np.float64],
    counts: NDArray[np.int32],
    neighbours: NDArray[np.int32],
    islands: NDArray[np.int32],
    detail: SurfaceDetail | None = None,
    climb: float = detour.CLIMB,
) -> detour.MeshArrays:
    """Lays a mesh out for the kernels; corners are (P, 6, 3) with anything in the padding."""
    used = np.arange(MAX_CORNERS) < counts[:, np.newaxis]
    corners = np.where(used[..., np.newaxis], corners, corners[:, :1])
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    surface_first, surface = surface_triangles(corners, counts, detail)
    edge_first, edges = surface_edges(surface_first, surface, detail)
    for p in np.flatnonzero(np.diff(surface_first)):
        heights = surface[surface_first[p] : surface_first[p + 1], :, 1]
        boxes[p, 1], boxes[p, 4] = min(boxes[p, 1], heights.min()), max(boxes[p, 4], heights.max())
    grid, first, members = _look_up_grid(boxes)
    return detour.MeshArrays(
        corners=np.ascontiguousarray(corners),
        counts=counts,
        neighbours=neighbours,
        islands=islands,
        boxes=boxes,
        surface_first=surface_first,
        surface=surface,
        edge_first=edge_first,
        edges=edges,
        climb=climb,
        grid=grid,
        grid_first=first,
        grid_polygons=members,
    )


def _look_up_grid(
    boxes: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.int32], NDArray[np.int32]]:
    """Which polygons' boxes meet which cell of a uniform grid: `grid`, `grid_first`, `grid_polygons`."""
    low, high = boxes[:, [0, 2]].min(axis=0), boxes[:, [3, 5]].max(axis=0)
    cell = GRID_CELL
    while np.prod(np.floor((high - low) / cell) + 1.0) > MAX_GRID_CELLS:
        cell *= 2.0
    columns, rows = (np.floor((high - low) / cell) + 1.0).astype(int)
    spans = np.floor((boxes[:, [0, 2, 3, 5]] - np.tile(low, 2)) / cell).astype(int)
    cells, members = [], []
    for p, (left, near, right, far) in enumerate(spans):
        block = np.arange(near, far + 1)[:, np.newaxis] * columns + np.arange(left, right + 1)
        cells.append(block.ravel())
        members.append(np.full(block.size, p, dtype=np.int32))
    flat_cells, flat_members = np.concatenate(cells), np.concatenate(members)
    first = np.concatenate([[0], np.cumsum(np.bincount(flat_cells, minlength=columns * rows))]).astype(np.int32)
    grid = np.array([low[0], low[1], 1.0 / cell, columns, rows])
    return grid, first, flat_members[np.argsort(flat_cells, kind="stable")]
