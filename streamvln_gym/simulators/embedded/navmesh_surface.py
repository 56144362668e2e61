"""The surface over a navigation mesh's polygons, which gives their heights: Detour's detail meshes."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_POINTS = 255  # Detour's triangles have 8-bit point numbers
_SIDE_BITS = (1, 4, 16)  # Detour's bits for a triangle's sides that lie on the polygon's edge


class SurfaceDetail(NamedTuple):
    """Detail meshes of P polygons, as `.navmesh` files have them.

    Attributes:
        point_first: int32 (P + 1,), where a polygon's own points begin.
        points: float32 (D, 3), metres, beside the polygons' corners.
        triangle_first: int32 (P + 1,), where a polygon's triangles begin.
        triangles: uint8 (T, 4), numbers of a polygon's corners or, from its number of corners on, its own points; and
            bits 0, 2 and 4 for the sides that lie on the polygon's edge.
    """

    point_first: NDArray[np.int32]
    points: NDArray[np.float32]
    triangle_first: NDArray[np.int32]
    triangles: NDArray[np.uint8]

    def select(self, chosen: NDArray[np.intp]) -> SurfaceDetail:
        """The detail meshes of the polygons `chosen` alone."""
        point_first, point_index = _ranges(self.point_first, chosen)
        triangle_first, triangle_index = _ranges(self.triangle_first, chosen)
        return SurfaceDetail(point_first, self.points[point_index], triangle_first, self.triangles[triangle_index])


def join_details(details: list[SurfaceDetail]) -> SurfaceDetail:
    """The detail meshes of several meshes, one after the other."""

    def first(starts: list[NDArray[np.int32]]) -> NDArray[np.int32]:
        return np.concatenate([[0], np.cumsum(np.concatenate([np.diff(start) for start in starts]))]).astype(np.int32)

    return SurfaceDetail(
        first([detail.point_first for detail in details]),
        np.concatenate([detail.points for detail in details]),
        first([detail.triangle_first for detail in details]),
        np.concatenate([detail.triangles for detail in details]),
    )


def check_detail(detail: SurfaceDetail, counts: NDArray[np.int32]) -> None:
    """Raises ValueError unless every polygon, of which `counts` (P,) are the corners, has triangles of known points."""
    polygons = len(counts)
    for name, first, values in (
        ("point", detail.point_first, detail.points),
        ("triangle", detail.triangle_first, detail.triangles),
    ):
        if first.shape != (polygons + 1,) or first[0] != 0 or first[-1] != len(values) or (np.diff(first) < 0).any():
            raise ValueError(
                f"the detail mesh's {name}_first does not fit {polygons} polygons and {len(values)} {name}s"
            )
    if detail.points.shape[1:] != (3,) or detail.triangles.shape[1:] != (4,):
        raise ValueError(f"detail points and triangles have shapes {detail.points.shape} and {detail.triangles.shape}")
    if not np.isfinite(detail.points).all():
        raise ValueError("a point of the detail mesh is not finite")
    if (np.diff(detail.triangle_first) < 1).any():
        raise ValueError(f"polygon {int(np.argmin(np.diff(detail.triangle_first)))} has no detail triangle")
    limit = np.repeat(counts + np.diff(detail.point_first), np.diff(detail.triangle_first))
    if (detail.triangles[:, :3].max(axis=1, initial=0) >= limit).any():
        wrong = int(np.argmax(detail.triangles[:, :3].max(axis=1, initial=0) >= limit))
        raise ValueError(f"detail triangle {wrong} refers to a point that its polygon does not have")


def flat_detail(corners: NDArray[np.float64], counts: NDArray[np.int32]) -> SurfaceDetail:
    """Detail meshes without points of their own: the polygons' outlines, triangulated; corners are (P, 6, 3)."""
    triangles = []
    for outline, count in zip(corners, counts.tolist(), strict=True):
        for triangle in triangulate_hull(outline[:count][:, [0, 2]]):
            bits = 0
            for side, bit in enumerate(_SIDE_BITS):
                a, b = triangle[side], triangle[(side + 1) % 3]
                bits |= bit if (a - b) % count in (1, count - 1) else 0
            triangles.append((*triangle, bits))
    return SurfaceDetail(
        np.zeros(len(counts) + 1, np.int32),
        np.empty((0, 3), np.float32),
        np.concatenate([[0], np.cumsum(counts - 2)]).astype(np.int32),
        np.array(triangles, np.uint8).reshape(-1, 4),
    )


def surface_triangles(
    corners: NDArray[np.float64], counts: NDArray[np.int32], detail: SurfaceDetail | None
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Where a polygon's triangles begin, int32 (P + 1,), and the triangles, float64 (S, 3, 3).

    Level polygons have none. Without `detail`, the outlines of the others are triangulated as Recast does it.
    """
    first, triangles = [0], [np.empty((0, 3, 3))]
    for p, count in enumerate(counts.tolist()):
        points = corners[p, :count]
        if detail is not None:
            added = detail.points[detail.point_first[p] : detail.point_first[p + 1]]
            points = np.concatenate([points, added.astype(np.float64)])
        if np.ptp(points[:, 1]) > 0.0:
            if detail is None:
                numbers = np.array(triangulate_hull(points[:, [0, 2]]))
            else:
                numbers = detail.triangles[detail.triangle_first[p] : detail.triangle_first[p + 1], :3]
            triangles.append(points[numbers])
        first.append(first[-1] + (len(triangles[-1]) if np.ptp(points[:, 1]) > 0.0 else 0))
    return np.array(first, np.int32), np.concatenate(triangles)


def surface_edges(
    first: NDArray[np.int32], surface: NDArray[np.float64], detail: SurfaceDetail | None
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Where a polygon's boundary begins, int32 (P + 1,), and its segments, float64 (E, 2, 3).

    Only polygons whose detail mesh has points of its own have segments; for the others their edges serve.
    """
    starts, edges = [0], [np.empty((0, 2, 3))]
    for p in range(len(first) - 1):
        own = np.empty((0, 2, 3))
        if detail is not None and first[p] < first[p + 1] and detail.point_first[p] < detail.point_first[p + 1]:
            triangles = surface[first[p] : first[p + 1]]
            bits = detail.triangles[detail.triangle_first[p] : detail.triangle_first[p + 1], 3]
            own = np.array(
                [
                    (triangle[side], triangle[(side + 1) % 3])
                    for triangle, own_bits in zip(triangles, bits.tolist(), strict=True)
                    for side in (2, 0, 1)  # Detour's order
                    if own_bits & _SIDE_BITS[side]
                ]
            ).reshape(-1, 2, 3)
        edges.append(own)
        starts.append(starts[-1] + len(own))
    return np.array(starts, np.int32), np.concatenate(edges)


def _ranges(first: NDArray[np.int32], chosen: NDArray[np.intp]) -> tuple[NDArray[np.int32], NDArray[np.intp]]:
    """New starts, and the members of the chosen ranges one after the other."""
    lengths = np.diff(first)[chosen]
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    index = np.repeat(first[:-1][chosen] - starts[:-1], lengths) + np.arange(starts[-1])
    return starts, index.astype(np.intp)


def triangulate_hull(outline: NDArray[np.float64]) -> list[tuple[int, int, int]]:
    """Recast's triangulation of a convex outline (n, 2): the ear of the shortest perimeter, then on to either side."""
    n = len(outline)

    def length(i: int, j: int) -> float:
        return math.dist(outline[i % n], outline[j % n])

    start = min(range(n), key=lambda i: length(i - 1, i) + length(i, i + 1) + length(i + 1, i - 1))
    left, right = (start + 1) % n, (start - 1) % n
    triangles = [(start, left, right)]
    while (left + 1) % n != right:
        next_left, next_right = (left + 1) % n, (right - 1) % n
        if length(left, next_left) + length(next_left, right) < length(right, next_right) + length(left, next_right):
            triangles.append((left, next_left, right))
            left = next_left
        else:
            triangles.append((left, next_right, right))
            right = next_right
    return triangles
