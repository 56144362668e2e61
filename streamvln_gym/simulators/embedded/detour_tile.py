"""Tiles of Recast's Detour as they lie in memory and in files: layout, reading, writing, and making new ones.

The layout is that of Detour's `DetourNavMesh.h` (M. Mononen, zlib licence) with 32-bit references, little-endian.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamvln_gym.simulators.embedded.navmesh_surface import SurfaceDetail

TILE_MAGIC = int.from_bytes(b"VAND", "little")
TILE_VERSION = 7
NO_LINK = 0xFFFFFFFF
PORTAL = 0x8000  # a neighbour number with this bit leads to another tile
WALK, DISABLED = 1, 4  # habitat's polygon flags
MAX_CORNERS = 6
MAX_VERTICES = 0xFFFE
_MIN_AREA = np.float32(1e-5)  # square metres; habitat disables smaller polygons

HEADER = np.dtype(
    [(name, "<i4") for name in ("magic", "version", "x", "y", "layer", "user_id")]
    + [(name, "<i4") for name in ("polygons", "vertices", "links", "detail_meshes", "detail_points")]
    + [(name, "<i4") for name in ("detail_triangles", "bv_nodes", "connections", "connection_base")]
    + [(name, "<f4") for name in ("walkable_height", "walkable_radius", "walkable_climb")]
    + [("low", "<f4", 3), ("high", "<f4", 3), ("bv_scale", "<f4")]
)
POLYGON = np.dtype(
    [
        ("first_link", "<u4"), ("vertices", "<u2", 6), ("neighbours", "<u2", 6),
        ("flags", "<u2"), ("count", "u1"), ("area_and_type", "u1"),
    ]
)  # fmt: skip
LINK = np.dtype(
    [("polygon", "<u4"), ("next", "<u4"), ("edge", "u1"), ("side", "u1"), ("low", "u1"), ("high", "u1")]
)  # fmt: skip
DETAIL_MESH = np.dtype(
    [
        ("point_base", "<u4"), ("triangle_base", "<u4"), ("points", "u1"), ("triangles", "u1"), ("padding", "<u2"),
    ]
)  # fmt: skip
BV_NODE = np.dtype([("low", "<u2", 3), ("high", "<u2", 3), ("index", "<i4")])
CONNECTION = np.dtype(
    [
        ("ends", "<f4", 6), ("radius", "<f4"), ("polygon", "<u2"), ("flags", "u1"), ("side", "u1"), ("user_id", "<u4"),
    ]
)  # fmt: skip

# The parts of a tile behind its header: attribute, the header's count, layout of an item.
_PARTS: tuple[tuple[str, str, np.dtype[Any]], ...] = (
    ("vertices", "vertices", np.dtype(("<f4", 3))),
    ("polygons", "polygons", POLYGON),
    ("links", "links", LINK),
    ("detail_meshes", "detail_meshes", DETAIL_MESH),
    ("detail_points", "detail_points", np.dtype(("<f4", 3))),
    ("detail_triangles", "detail_triangles", np.dtype(("u1", 4))),
    ("bv_nodes", "bv_nodes", BV_NODE),
    ("connections", "connections", CONNECTION),
)


@dataclass(frozen=True)
class Tile:
    """One tile: arrays of the layouts above.

    Attributes:
        header: HEADER, no dimensions.
        vertices: float32 (V, 3), metres.
        polygons: POLYGON (P,); `neighbours` of an edge are 0 for a wall, k for polygon k - 1, or a PORTAL.
        links: LINK (L,), the graph that Detour builds when it loads the tile.
        detail_meshes: DETAIL_MESH (P,); detail_points: float32 (D, 3); detail_triangles: uint8 (T, 4).
        bv_nodes: BV_NODE, the tree of boxes in which Detour looks polygons up.
        connections: CONNECTION, jumps between far points.
    """

    header: NDArray[Any]
    vertices: NDArray[np.float32]
    polygons: NDArray[Any]
    links: NDArray[Any]
    detail_meshes: NDArray[Any]
    detail_points: NDArray[np.float32]
    detail_triangles: NDArray[np.uint8]
    bv_nodes: NDArray[Any]
    connections: NDArray[Any]

    @classmethod
    def from_bytes(cls, data: bytes) -> Tile:
        """Reads a tile.

        Raises:
            ValueError: it is not a whole tile of this version; the message says why.
        """
        if len(data) < HEADER.itemsize:
            raise ValueError(f"a tile has {len(data)} bytes, its header alone needs {HEADER.itemsize}")
        header = np.frombuffer(data, HEADER, 1)[0]
        if header["magic"] != TILE_MAGIC:
            raise ValueError("a tile does not begin with Detour's mark 'DNAV'")
        if header["version"] != TILE_VERSION:
            raise ValueError(f"a tile has Detour's format {int(header['version'])}, only {TILE_VERSION} is known")
        counts = {count: int(header[count]) for _, count, _ in _PARTS}
        negative = [count for count in counts if counts[count] < 0]
        if negative:
            raise ValueError(f"a tile's header says {counts[negative[0]]} {negative[0]}")
        stated = HEADER.itemsize + sum(counts[count] * layout.itemsize for _, count, layout in _PARTS)
        if stated != len(data):
            raise ValueError(f"a tile's header describes {stated} bytes, the tile has {len(data)}")
        parts: dict[str, NDArray[Any]] = {}
        offset = HEADER.itemsize
        for name, count, layout in _PARTS:
            size = counts[count] * layout.itemsize
            base, shape = layout.subdtype or (layout, ())
            parts[name] = np.frombuffer(data[offset : offset + size], base).reshape(counts[count], *shape)
            offset += size
        return cls(header=np.array(header), **parts)

    def to_bytes(self) -> bytes:
        """The tile as a file holds it."""
        return b"".join([self.header.tobytes(), *(getattr(self, name).tobytes() for name, _, _ in _PARTS)])

    @property
    def surface(self) -> SurfaceDetail:
        """The detail meshes, polygon by polygon.

        Raises:
            ValueError: they refer to points or triangles that the tile does not have.
        """
        meshes = self.detail_meshes
        point_first, points = _gather(meshes["point_base"], meshes["points"], self.detail_points, "points")
        triangle_first, triangles = _gather(
            meshes["triangle_base"], meshes["triangles"], self.detail_triangles, "triangles"
        )
        return SurfaceDetail(point_first, points, triangle_first, triangles)


def _gather(
    base: NDArray[Any], counts: NDArray[Any], values: NDArray[Any], name: str
) -> tuple[NDArray[np.int32], NDArray[Any]]:
    """Ranges of `values`, given by their first members and lengths, one after the other."""
    base, counts = base.astype(np.int64), counts.astype(np.int64)
    if len(base) and int((base + counts).max()) > len(values):
        raise ValueError(f"a detail mesh reaches beyond the tile's {len(values)} detail {name}")
    first = np.concatenate([[0], np.cumsum(counts)])
    index = np.repeat(base - first[:-1], counts) + np.arange(first[-1])
    return first.astype(np.int32), values[index]


def make_tile(
    vertices: NDArray[np.float32],
    polygons: NDArray[np.int32],
    neighbours: NDArray[np.int32],
    detail: SurfaceDetail,
    bounds: NDArray[np.float32],
    agent: tuple[float, float, float],
    cell_size: float,
    cell_height: float,
) -> Tile:
    """The tile that Detour's dtCreateNavMeshData makes, linked as after loading.

    Args:
        vertices: (V, 3), metres.
        polygons, neighbours: (P, 6), padded with -1; -1 is a wall.
        detail: detail meshes of the polygons.
        bounds: (2, 3), metres, of the scene.
        agent: height, radius and maximal climb, metres.
        cell_size, cell_height: metres; the boxes' scale, and how far over the corners the boxes begin.

    Raises:
        ValueError: there are more vertices than a tile can hold.
    """
    if len(vertices) > MAX_VERTICES:
        raise ValueError(f"a tile holds {MAX_VERTICES} vertices, this mesh has {len(vertices)}")
    counts = (polygons >= 0).sum(axis=1)
    header = np.zeros((), HEADER)
    header["magic"], header["version"] = TILE_MAGIC, TILE_VERSION
    header["polygons"] = header["detail_meshes"] = header["connection_base"] = len(polygons)
    header["vertices"], header["links"], header["bv_nodes"] = len(vertices), counts.sum(), 2 * len(polygons)
    header["detail_points"], header["detail_triangles"] = len(detail.points), len(detail.triangles)
    header["walkable_height"], header["walkable_radius"], header["walkable_climb"] = agent
    header["low"], header["high"] = bounds
    header["bv_scale"] = np.float32(1.0) / np.float32(cell_size)
    records = np.zeros(len(polygons), POLYGON)
    records["vertices"] = np.maximum(polygons, 0)
    records["neighbours"] = np.maximum(neighbours + 1, 0)
    records["count"] = counts
    records["flags"] = np.where(_areas(vertices, polygons, counts, detail) < _MIN_AREA, DISABLED, WALK)
    meshes = np.zeros(len(polygons), DETAIL_MESH)
    meshes["point_base"], meshes["points"] = detail.point_first[:-1], np.diff(detail.point_first)
    meshes["triangle_base"], meshes["triangles"] = detail.triangle_first[:-1], np.diff(detail.triangle_first)
    links = _links(records, int(counts.sum()))
    boxes = _boxes(vertices, polygons, detail, bounds[0], np.float32(cell_size), np.float32(cell_height))
    return Tile(
        header, np.ascontiguousarray(vertices, "<f4"), records, links, meshes,
        np.ascontiguousarray(detail.points, "<f4"), np.ascontiguousarray(detail.triangles, np.uint8),
        _bv_tree(boxes), np.zeros(0, CONNECTION),
    )  # fmt: skip


def polygon_base(polygon_count: int) -> int:
    """Detour's reference to polygon 0 of the only tile of a mesh, which is also the tile's reference."""
    return 1 << max(polygon_count - 1, 0).bit_length()


def _areas(
    vertices: NDArray[np.float32], polygons: NDArray[np.int32], counts: NDArray[np.intp], detail: SurfaceDetail
) -> NDArray[np.float32]:
    """Areas (P,) of the detail triangles, square metres, as habitat adds them up."""
    areas = np.zeros(len(polygons), np.float32)
    for p, count in enumerate(counts.tolist()):
        points = np.concatenate(
            [vertices[polygons[p, :count]], detail.points[detail.point_first[p] : detail.point_first[p + 1]]]
        )
        corners = points[detail.triangles[detail.triangle_first[p] : detail.triangle_first[p + 1], :3]]
        cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 1])
        areas[p] = np.sqrt((cross * cross).sum(axis=1)).sum() * np.float32(0.5)
    return areas


def _links(records: NDArray[Any], capacity: int) -> NDArray[Any]:
    """Detour's linked lists of neighbours (connectIntLinks); sets `first_link` of the polygons."""
    links = np.zeros(capacity, LINK)
    links["next"] = np.arange(1, capacity + 1)
    links["next"][-1:] = NO_LINK
    base = polygon_base(len(records))
    used = 0
    for record in records:
        record["first_link"] = NO_LINK
        for edge in range(int(record["count"]) - 1, -1, -1):
            neighbour = int(record["neighbours"][edge])
            if neighbour:
                links[used] = (base | (neighbour - 1), record["first_link"], edge, 0xFF, 0, 0)
                record["first_link"] = used
                used += 1
    return links


def _boxes(
    vertices: NDArray[np.float32],
    polygons: NDArray[np.int32],
    detail: SurfaceDetail,
    origin: NDArray[np.float32],
    cell_size: np.float32,
    cell_height: np.float32,
) -> NDArray[np.int64]:
    """Boxes (P, 6) of the detail meshes in cells, low then high; there, corners lie one cell height higher."""
    lifted = vertices.copy()
    lifted[:, 1] += cell_height
    # Recast adds voxels and origin in another order, and the last bit can decide about a cell.
    voxels = np.rint((vertices[:, 1] - origin[1]) / cell_height)
    on_grid = origin[1] + voxels * cell_height == vertices[:, 1]
    lifted[on_grid, 1] = voxels[on_grid] * cell_height + (origin[1] + cell_height)
    boxes = np.empty((len(polygons), 2, 3), np.float32)
    for p, polygon in enumerate(polygons):
        points = np.concatenate(
            [lifted[polygon[polygon >= 0]], detail.points[detail.point_first[p] : detail.point_first[p + 1]]]
        )
        boxes[p] = points.min(axis=0), points.max(axis=0)
    cells = (boxes - origin) * (np.float32(1.0) / cell_size)
    return np.clip(cells.astype(np.int64), 0, 0xFFFF).reshape(-1, 6)


def _bv_tree(boxes: NDArray[np.int64]) -> NDArray[Any]:
    """Detour's tree: halves along the longest axis, a node before its children, with the number of nodes to skip."""
    nodes = np.zeros(2 * len(boxes), BV_NODE)
    order = np.arange(len(boxes))
    used = 0
    waiting: list[tuple[int, int, int]] = [(0, len(boxes), -1)]  # a node to close has a third number >= 0
    while waiting:
        begin, end, node = waiting.pop()
        if node >= 0:
            nodes[node]["index"] = node - used
            continue
        node, used = used, used + 1
        members = boxes[order[begin:end]]
        low, high = members[:, :3].min(axis=0), members[:, 3:].max(axis=0)
        nodes[node]["low"], nodes[node]["high"] = low, high
        if end - begin == 1:
            nodes[node]["index"] = order[begin]
            continue
        axis = int(np.argmax(high - low))
        order[begin:end] = order[begin:end][np.argsort(members[:, axis], kind="stable")]
        middle = begin + (end - begin) // 2
        waiting += [(begin, end, node), (middle, end, -1), (begin, middle, -1)]
    return nodes
