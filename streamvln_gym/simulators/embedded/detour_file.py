"""Habitat's `.navmesh` files: a header, the settings (since format 2), and tiles of Recast's Detour.

The layout is that of habitat-sim's PathFinder (`saveNavMesh`). Format 1 is habitat-sim 0.1's, format 2 that of 0.2
and 0.3.
"""

from __future__ import annotations

import os
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamvln_gym.errors import SceneError
from streamvln_gym.simulators.embedded.detour_tile import MAX_CORNERS, PORTAL, WALK, Tile, make_tile, polygon_base
from streamvln_gym.simulators.embedded.navmesh import NavigationMesh
from streamvln_gym.simulators.embedded.navmesh_arrays import CONVEXITY_TOLERANCE, dents, has_repeats, signed_areas
from streamvln_gym.simulators.embedded.navmesh_surface import SurfaceDetail, check_detail, flat_detail, join_details
from streamvln_gym.simulators.embedded.recast.settings import NavMeshSettings
from streamvln_gym.whole_writes import write_whole

FILE_MAGIC = int.from_bytes(b"TESM", "little")
FILE_VERSION = 2
MAX_TILES = 1 << 20
MAX_COORDINATE = 1e6  # metres
FILE_HEADER = np.dtype(
    [
        ("magic", "<i4"), ("version", "<i4"), ("tiles", "<i4"), ("origin", "<f4", 3),
        ("tile_width", "<f4"), ("tile_depth", "<f4"), ("max_tiles", "<i4"), ("max_polygons", "<i4"),
    ]
)  # fmt: skip
TILE_ENTRY = np.dtype([("reference", "<u4"), ("size", "<i4")])
SETTINGS = np.dtype([(item.name, "?" if isinstance(item.default, bool) else "<f4") for item in fields(NavMeshSettings)])


@dataclass(frozen=True)
class TileSet:
    """The content of a `.navmesh` file.

    Attributes:
        header: FILE_HEADER, no dimensions.
        settings: how the mesh was built, None in files of format 1.
        references: Detour's references to the tiles.
        tiles: the tiles.
    """

    header: NDArray[Any]
    settings: NavMeshSettings | None
    references: tuple[int, ...]
    tiles: tuple[Tile, ...]

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> TileSet:
        """Reads a file.

        Raises:
            SceneError: the file is missing, truncated, corrupt, of another format or no navmesh.
        """
        path = Path(path)
        try:
            return cls.from_bytes(path.read_bytes())
        except OSError as error:
            raise SceneError(f"cannot open the navigation mesh {path}: {error.strerror or error}") from error
        except ValueError as error:
            raise SceneError(
                f"the navigation mesh {path} cannot be read: {error}. Copy or download the file again, or delete it: "
                "the embedded simulator then builds the mesh from the scene."
            ) from error

    @classmethod
    def from_bytes(cls, data: bytes) -> TileSet:
        """Reads the content of a file.

        Raises:
            ValueError: it is not a whole file of a known format; the message says why.
        """
        reader = _Reader(data)
        header = reader.take(FILE_HEADER, "the header")
        if header["magic"] != FILE_MAGIC:
            raise ValueError("it is not a navmesh of habitat's (it does not begin with 'MSET')")
        version = int(header["version"])
        if not 1 <= version <= FILE_VERSION:
            raise ValueError(f"its format is {version}, formats 1 to {FILE_VERSION} are known")
        if not 0 < int(header["tiles"]) <= MAX_TILES:
            raise ValueError(f"it claims to hold {int(header['tiles'])} tiles")
        settings = None
        if version >= 2:
            # Anything but 0 is true: older files have padding in the place of the last flag.
            settings = NavMeshSettings(*reader.take(SETTINGS, "the settings").item())
        references, tiles = [], []
        for number in range(int(header["tiles"])):
            entry = reader.take(TILE_ENTRY, f"the entry of tile {number}")
            if entry["reference"] == 0 or entry["size"] <= 0:
                raise ValueError(f"tile {number} is empty")
            references.append(int(entry["reference"]))
            tiles.append(Tile.from_bytes(reader.take_bytes(int(entry["size"]), f"tile {number}")))
        if reader.left:
            raise ValueError(f"{reader.left} bytes follow its last tile")
        return cls(header, settings, tuple(references), tuple(tiles))

    def to_bytes(self) -> bytes:
        """The content of the file."""
        parts = [self.header.tobytes()]
        if self.settings is not None:
            parts.append(np.array(astuple(self.settings), SETTINGS).tobytes())
        for reference, tile in zip(self.references, self.tiles, strict=True):
            data = tile.to_bytes()
            parts += [np.array((reference, len(data)), TILE_ENTRY).tobytes(), data]
        return b"".join(parts)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes the file, which appears whole or not at all."""
        write_whole(Path(path), self.to_bytes(), shared=True)

    @classmethod
    def from_arrays(
        cls,
        vertices: NDArray[np.float32],
        polygons: NDArray[np.int32],
        neighbours: NDArray[np.int32],
        detail: SurfaceDetail,
        bounds: NDArray[np.float32],
        settings: NavMeshSettings,
    ) -> TileSet:
        """One tile of a mesh, as habitat builds it; see `detour_tile.make_tile`."""
        agent = (settings.agent_height, settings.agent_radius, settings.agent_max_climb)
        bounds = np.asarray(bounds, np.float32)
        tile = make_tile(
            vertices, polygons, neighbours, detail, bounds, agent, settings.cell_size, settings.cell_height
        )
        header = np.zeros((), FILE_HEADER)
        header["magic"], header["version"], header["tiles"] = FILE_MAGIC, FILE_VERSION, 1
        header["origin"] = bounds[0]
        header["tile_width"], header["tile_depth"] = bounds[1, 0] - bounds[0, 0], bounds[1, 2] - bounds[0, 2]
        header["max_tiles"], header["max_polygons"] = 1, len(polygons)
        return cls(header, settings, (polygon_base(len(polygons)),), (tile,))

    @classmethod
    def from_mesh(
        cls,
        mesh: NavigationMesh,
        settings: NavMeshSettings | None = None,
        bounds: NDArray[np.float32] | None = None,
    ) -> TileSet:
        """The file of a mesh.

        Args:
            mesh: any navigation mesh.
            settings: how it was built, kept for the reader; default: habitat's with the mesh's climb.
            bounds: (2, 3), metres, of the scene; default: those of the mesh, its highest point one cell height higher.

        Raises:
            SceneError: the mesh has more vertices than one tile can hold.
        """
        settings = settings or replace(NavMeshSettings(), agent_max_climb=mesh.climb)
        detail = mesh.detail
        if detail is None:
            detail = flat_detail(mesh.vertices.astype(np.float64)[mesh.polygons], mesh.vertex_counts)
        if bounds is None:
            points = np.concatenate([mesh.vertices, detail.points])
            bounds = np.stack([points.min(axis=0), points.max(axis=0)])
            bounds[1, 1] += np.float32(settings.cell_height)
        try:
            return cls.from_arrays(mesh.vertices, mesh.polygons, mesh.neighbours, detail, bounds, settings)
        except ValueError as error:
            raise SceneError(f"the navigation mesh cannot be written: {error}") from error

    @property
    def bounds(self) -> NDArray[np.float32]:
        """The box of the tiles, float32 (2, 3), metres: the scene's."""
        lows = np.array([tile.header["low"] for tile in self.tiles])
        highs = np.array([tile.header["high"] for tile in self.tiles])
        return np.stack([lows.min(axis=0), highs.max(axis=0)])

    def mesh(self) -> NavigationMesh:
        """The navigation mesh of all walkable polygons, in the file's order.

        Polygons that habitat disables, and the rare ones that Recast makes where outlines overlap, without area seen
        from above, backwards or not convex, are left out; their neighbours have walls there.

        Raises:
            SceneError: polygons are malformed, or tiles are joined by portals or jumps.
        """
        try:
            return _mesh_of(self.tiles)
        except ValueError as error:
            raise SceneError(f"the navigation mesh's tiles cannot be used: {error}") from error


def read_navmesh(path: str | os.PathLike[str]) -> NavigationMesh:
    """Reads habitat's `.navmesh` file.

    Raises:
        SceneError: the file is missing, truncated, corrupt, of another format, or has parts that are not supported
            (tiles joined by portals, jumps).
    """
    tiles = TileSet.read(path)
    try:
        return tiles.mesh()
    except SceneError as error:
        raise SceneError(
            f"{path}: {error}. Delete the file (the embedded simulator then builds the mesh from the scene), or build "
            "it again with habitat or `streamvln-gym build-navmesh`."
        ) from error


def write_navmesh(
    path: str | os.PathLike[str],
    mesh: NavigationMesh,
    settings: NavMeshSettings | None = None,
    bounds: NDArray[np.float32] | None = None,
) -> None:
    """Writes a mesh as habitat's `.navmesh` file; see `TileSet.from_mesh`."""
    TileSet.from_mesh(mesh, settings, bounds).write(path)


class _Reader:
    """Takes parts off the front of some bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._offset = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._offset

    def take_bytes(self, size: int, name: str) -> bytes:
        if size > self.left:
            raise ValueError(f"it is truncated: {name} needs {size} bytes, {self.left} are left")
        self._offset += size
        return self._data[self._offset - size : self._offset]

    def take(self, layout: np.dtype[Any], name: str) -> NDArray[Any]:
        return np.frombuffer(self.take_bytes(layout.itemsize, name), layout)[0].copy()


def _mesh_of(tiles: tuple[Tile, ...]) -> NavigationMesh:
    """One mesh of the tiles' walkable polygons."""
    vertices, polygons, neighbours, walkable, details = [], [], [], [], []
    vertex_base = polygon_count = 0
    for tile in tiles:
        own_polygons, own_neighbours = _polygons_of(tile)
        vertices.append(tile.vertices)
        polygons.append(np.where(own_polygons >= 0, own_polygons + vertex_base, -1))
        neighbours.append(np.where(own_neighbours >= 0, own_neighbours + polygon_count, -1))
        walkable.append((tile.polygons["flags"] & WALK) != 0)
        details.append(tile.surface)
        vertex_base += len(tile.vertices)
        polygon_count += len(own_polygons)
    all_vertices, all_polygons = np.concatenate(vertices), np.concatenate(polygons).astype(np.int32)
    detail = join_details(details)
    if not (np.abs(all_vertices) < MAX_COORDINATE).all():
        raise ValueError("a vertex is not finite, or 1000 km away")
    counts = (all_polygons >= 0).sum(axis=1).astype(np.int32)
    check_detail(detail, counts)
    corners = all_vertices.astype(np.float64)[all_polygons]
    proper = (signed_areas(corners, counts) < 0.0) & ~has_repeats(all_polygons)
    proper &= dents(corners, counts) <= CONVEXITY_TOLERANCE
    chosen = np.flatnonzero(np.concatenate(walkable) & proper)
    if len(chosen) == 0:
        raise ValueError("none of its polygons is walkable")
    numbers = np.full(polygon_count + 1, -1, np.int32)  # the last one is for "no neighbour"
    numbers[chosen] = np.arange(len(chosen), dtype=np.int32)
    climbs = {float(tile.header["walkable_climb"]) for tile in tiles}
    if len(climbs) > 1:
        raise ValueError(f"its tiles are for agents of different climbs, {sorted(climbs)}")
    return NavigationMesh.from_polygons(
        all_vertices, all_polygons[chosen], numbers[np.concatenate(neighbours)][chosen], detail.select(chosen),
        climbs.pop(),
    )  # fmt: skip


def _polygons_of(tile: Tile) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Polygons and neighbours, int32 (P, 6), of one tile, padded with -1."""
    records = tile.polygons
    if len(tile.connections) or (records["area_and_type"] >> 6).any():
        raise ValueError("it has jumps between far points (off-mesh connections), which are not supported")
    if len(tile.detail_meshes) != len(records):
        raise ValueError(f"it has {len(records)} polygons but {len(tile.detail_meshes)} detail meshes")
    counts = records["count"].astype(np.int32)
    if len(counts) == 0 or counts.min() < 3 or counts.max() > MAX_CORNERS:
        raise ValueError(f"a polygon has other than 3 to {MAX_CORNERS} corners, or there are none")
    used = np.arange(MAX_CORNERS) < counts[:, np.newaxis]
    polygons = np.where(used, records["vertices"].astype(np.int32), -1)
    if polygons.max() >= len(tile.vertices):
        raise ValueError(f"a polygon refers to vertex {int(polygons.max())} of {len(tile.vertices)}")
    neighbours = np.where(used, records["neighbours"].astype(np.int32), 0)
    if (neighbours & PORTAL).any():
        raise ValueError("its tiles are joined by portals, and only meshes of one tile are supported")
    if neighbours.max() > len(records):
        raise ValueError(f"a polygon has the neighbour {int(neighbours.max()) - 1} of {len(records)}")
    return polygons, neighbours - 1
