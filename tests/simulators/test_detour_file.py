"""`.navmesh` files: habitat's own read and written, new ones made as Detour wants them, damaged ones refused."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from streamvln_gym.errors import SceneError
from streamvln_gym.simulators.embedded.detour_file import FILE_HEADER, TileSet, read_navmesh, write_navmesh
from streamvln_gym.simulators.embedded.detour_tile import CONNECTION, DISABLED, HEADER, NO_LINK, PORTAL, Tile
from streamvln_gym.simulators.embedded.navmesh import NavigationMesh
from streamvln_gym.simulators.embedded.navmesh_builder import build_navigation_mesh, walkable_area
from streamvln_gym.simulators.embedded.recast.settings import NavMeshSettings

DATA = Path(__file__).parents[1] / "data"
FILES = DATA / "golden_habitat" / "navmesh"
FLATS = ("flat0", "flat1", "flat3", "flat4")
HILLS = DATA / "golden_recast" / "terrain.navmesh"
SETTINGS_SIZE = 56
FIRST_TILE = FILE_HEADER.itemsize + SETTINGS_SIZE + 8


@pytest.fixture(scope="module")
def plain() -> NavigationMesh:
    """A level mesh that was not made by Recast."""
    return build_navigation_mesh(walkable_area([(0, 0, 6, 4), (7, 0, 9, 4)], [(6, 1, 7, 2)], [(2, 1, 3, 2)]))


@pytest.mark.parametrize("name", FLATS)
class TestHabitatsFiles:
    def test_give_habitats_polygons(self, name):
        tiles = TileSet.read(FILES / f"{name}.navmesh")
        mesh = read_navmesh(FILES / f"{name}.navmesh")
        with np.load(DATA / "golden_habitat" / "navigation" / f"{name}.npz") as golden:
            np.testing.assert_array_equal(mesh.vertices, golden["poly_vertices"])
            np.testing.assert_array_equal(mesh.polygons, golden["poly_index"])
            np.testing.assert_array_equal(mesh.neighbours + 1, golden["poly_neighbour"])
            np.testing.assert_array_equal(mesh.islands, golden["poly_island"])
        assert tiles.settings == NavMeshSettings(**_defaults_in_float32())
        assert (tiles.tiles[0].polygons["flags"] == 1).all()

    def test_are_written_byte_for_byte(self, name, tmp_path):
        TileSet.read(FILES / f"{name}.navmesh").write(tmp_path / "copy.navmesh")
        assert (tmp_path / "copy.navmesh").read_bytes() == (FILES / f"{name}.navmesh").read_bytes()

    def test_come_back_from_the_mesh_byte_for_byte(self, name):
        tiles = TileSet.read(FILES / f"{name}.navmesh")
        again = TileSet.from_mesh(tiles.mesh(), tiles.settings, tiles.bounds)
        assert again.to_bytes() == (FILES / f"{name}.navmesh").read_bytes()


def _defaults_in_float32() -> dict[str, float | bool]:
    """Habitat's default settings as a file keeps them."""
    defaults = vars(NavMeshSettings())
    return {key: value if isinstance(value, bool) else float(np.float32(value)) for key, value in defaults.items()}


def test_hills_come_back_from_the_mesh_byte_for_byte():
    tiles = TileSet.read(HILLS)
    assert len(tiles.tiles[0].detail_points) > 0
    assert TileSet.from_mesh(tiles.mesh(), tiles.settings, tiles.bounds).to_bytes() == HILLS.read_bytes()


def test_detail_survives_our_own_format(tmp_path):
    mesh = read_navmesh(HILLS)
    mesh.save(tmp_path / "hills.npz")
    again = NavigationMesh.load(tmp_path / "hills.npz")
    assert again.detail is not None and mesh.detail is not None
    for own, theirs in zip(again.detail, mesh.detail, strict=True):
        np.testing.assert_array_equal(own, theirs)
    rng = np.random.default_rng(0)
    for point in (mesh.random_point(rng) for _ in range(50)):
        np.testing.assert_array_equal(again.snap_point(point), mesh.snap_point(point))


def test_format_1_has_no_settings(tmp_path):
    data = (FILES / "flat0.navmesh").read_bytes()
    old = struct.pack("<4si", b"TESM", 1) + data[8 : FILE_HEADER.itemsize]
    old += data[FILE_HEADER.itemsize + SETTINGS_SIZE :]
    (tmp_path / "old.navmesh").write_bytes(old)
    tiles = TileSet.read(tmp_path / "old.navmesh")
    assert tiles.settings is None
    assert tiles.to_bytes() == old
    np.testing.assert_array_equal(tiles.mesh().polygons, read_navmesh(FILES / "flat0.navmesh").polygons)


class TestNewFiles:
    def test_read_back_equal(self, plain, tmp_path):
        write_navmesh(tmp_path / "plain.navmesh", plain)
        again = read_navmesh(tmp_path / "plain.navmesh")
        np.testing.assert_array_equal(again.vertices, plain.vertices)
        np.testing.assert_array_equal(again.polygons, plain.polygons)
        np.testing.assert_array_equal(again.neighbours, plain.neighbours)
        assert TileSet.from_mesh(again).to_bytes() == (tmp_path / "plain.navmesh").read_bytes()
        assert [path.name for path in tmp_path.iterdir()] == ["plain.navmesh"]

    def test_link_every_neighbour_once(self, plain):
        tile = TileSet.from_mesh(plain).tiles[0]
        base = TileSet.from_mesh(plain).references[0]
        for p, polygon in enumerate(tile.polygons):
            linked, number = {}, int(polygon["first_link"])
            while number != NO_LINK:
                linked[int(tile.links[number]["edge"])] = int(tile.links[number]["polygon"]) - base
                number = int(tile.links[number]["next"])
            assert linked == {edge: other for edge, other in enumerate(plain.neighbours[p].tolist()) if other >= 0}

    @pytest.mark.parametrize("name", ["plain", "hills"])
    def test_the_tree_finds_every_polygon_of_a_box(self, plain, name):
        mesh = plain if name == "plain" else read_navmesh(HILLS)
        tile = TileSet.from_mesh(mesh).tiles[0]
        rng = np.random.default_rng(3)
        low, high = tile.header["low"], tile.header["high"]
        for _ in range(100):
            begin = rng.uniform(low, high)
            end = begin + rng.uniform(0.05, 2.0, 3)
            found = set(_look_up(tile, begin, end))
            corners = [mesh.vertices[row[row >= 0]] for row in mesh.polygons]
            meeting = {
                p for p, own in enumerate(corners)
                if (own[:, [0, 2]].min(0) <= end[[0, 2]]).all() and (own[:, [0, 2]].max(0) >= begin[[0, 2]]).all()
                and own[:, 1].min() + 0.2 <= end[1] and own[:, 1].max() >= begin[1]
            }  # fmt: skip
            assert meeting <= found

    def test_detail_triangles_cover_the_polygons(self, plain):
        tile = TileSet.from_mesh(plain).tiles[0]
        for p, detail in enumerate(tile.detail_meshes):
            own = tile.detail_triangles[detail["triangle_base"] :][: detail["triangles"]]
            count = int(plain.vertex_counts[p])
            corners = plain.vertices[plain.polygons[p, :count]].astype(float)
            a, b, c = (corners[own[:, k]] for k in range(3))
            areas = ((c - a)[:, 0] * (b - a)[:, 2] - (c - a)[:, 2] * (b - a)[:, 0]) / 2
            assert (areas > 0).all()
            np.testing.assert_allclose(areas.sum(), plain._areas[p], rtol=1e-9)
            sides = sum(int(bits) >> shift & 1 for bits in own[:, 3] for shift in (0, 2, 4))
            assert sides == count  # each edge of the polygon is marked once


def _look_up(tile: Tile, begin: np.ndarray, end: np.ndarray) -> list[int]:
    """Detour's queryPolygonsInTile."""
    scale, low, high = tile.header["bv_scale"], tile.header["low"], tile.header["high"]
    first = ((np.clip(begin, low, high) - low) * scale).astype(int) & 0xFFFE
    last = ((np.clip(end, low, high) - low) * scale + 1).astype(int) | 1
    found, node = [], 0
    while node < int(tile.header["bv_nodes"]):
        box, index = tile.bv_nodes[node], int(tile.bv_nodes[node]["index"])
        overlaps = bool((first <= box["high"]).all() and (last >= box["low"]).all())
        if index >= 0 and overlaps:
            found.append(index)
        node += 1 if overlaps or index >= 0 else -index
    return found


class TestSeveralTiles:
    def test_apart_they_are_one_mesh(self, plain):
        one = TileSet.from_mesh(plain)
        header = one.header.copy()
        header["tiles"] = 2
        mesh = TileSet.from_bytes(TileSet(header, one.settings, one.references * 2, one.tiles * 2).to_bytes()).mesh()
        assert len(mesh.polygons) == 2 * len(plain.polygons)
        assert len(mesh.island_areas) == 2 * len(plain.island_areas)

    def test_joined_by_portals_they_are_refused(self, plain):
        tiles = TileSet.from_mesh(plain)
        wall = np.argwhere(tiles.tiles[0].polygons["neighbours"][:, :3] == 0)[0]
        tiles.tiles[0].polygons["neighbours"][tuple(wall)] = PORTAL | 4
        with pytest.raises(SceneError, match="joined by portals"):
            tiles.mesh()

    def test_jumps_are_refused(self, plain):
        tiles = TileSet.from_mesh(plain)
        tile = replace(tiles.tiles[0], connections=np.zeros(1, CONNECTION))
        with pytest.raises(SceneError, match="off-mesh connections"):
            replace(tiles, tiles=(tile,)).mesh()


def test_disabled_polygons_become_walls(plain):
    tiles = TileSet.from_mesh(plain)
    tiles.tiles[0].polygons["flags"][1] = DISABLED
    mesh = tiles.mesh()
    assert len(mesh.polygons) == len(plain.polygons) - 1
    kept = np.delete(np.arange(len(plain.polygons)), 1)
    expected = np.array([-1, *(np.where(kept == p)[0][0] if p != 1 else -1 for p in range(len(plain.polygons)))])
    np.testing.assert_array_equal(mesh.neighbours, expected[plain.neighbours[kept] + 1])


def test_a_mesh_of_too_many_vertices_is_refused():
    size = 0xFFFF // 4 + 1
    corners = np.array([[0, 0, 0], [0, 0, 1], [1, 0, 1], [1, 0, 0]], np.float32)
    vertices = (corners + 2 * np.arange(size)[:, None, None] * np.array([1, 0, 0])).reshape(-1, 3)
    polygons = np.arange(4 * size).reshape(-1, 4)
    mesh = NavigationMesh.from_polygons(vertices, polygons, np.full_like(polygons, -1))
    with pytest.raises(SceneError, match="a tile holds"):
        TileSet.from_mesh(mesh)


def _with(data: bytes, offset: int, layout: str, *values) -> bytes:
    changed = bytearray(data)
    struct.pack_into(layout, changed, offset, *values)
    return bytes(changed)


def _at(field: str) -> int:
    fields = HEADER.fields
    assert fields is not None
    return FIRST_TILE + fields[field][1]


VERTICES = FIRST_TILE + HEADER.itemsize
POLYGONS = VERTICES + 201 * 12  # flat0's first polygon: link, six vertices, six neighbours, flags, count, area
DETAIL = POLYGONS + 101 * 32 + 409 * 12


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: b"", "truncated: the header"),
        (lambda data: data[:30], "truncated: the header"),
        (lambda data: data[:80], "truncated: the settings"),
        (lambda data: data[:100], "truncated: the entry of tile 0"),
        (lambda data: data[:5000], "truncated: tile 0"),
        (lambda data: data[:-1], "truncated: tile 0"),
        (lambda data: data + b"\0", "1 bytes follow"),
        (lambda data: b"glTF" + data[4:], "no.*'MSET'|'MSET'"),
        (lambda data: _with(data, 4, "<i", 3), "format is 3"),
        (lambda data: _with(data, 4, "<i", 0), "format is 0"),
        (lambda data: _with(data, 8, "<i", 0), "0 tiles"),
        (lambda data: _with(data, 8, "<i", 2_000_000_000), "2000000000 tiles"),
        (lambda data: _with(data, 8, "<i", 2), "entry of tile 1"),
        (lambda data: _with(data, 40, "<f", float("nan")), "cell_size"),
        (lambda data: _with(data, 96, "<I", 0), "tile 0 is empty"),
        (lambda data: _with(data, 100, "<i", -5), "tile 0 is empty"),
        (lambda data: _with(data, _at("magic"), "<i", 7), "'DNAV'"),
        (lambda data: _with(data, _at("version"), "<i", 6), "Detour's format 6"),
        (lambda data: _with(data, _at("polygons"), "<i", 2_000_000_000), "describes .* bytes"),
        (lambda data: _with(data, _at("vertices"), "<i", -1), "-1 vertices"),
        (lambda data: _with(data, _at("links"), "<i", 0), "describes .* bytes"),
        (lambda data: _with(data, VERTICES, "<f", float("nan")), "not finite"),
        (lambda data: _with(data, VERTICES, "<f", 1e30), "1000 km"),
        (lambda data: _with(data, POLYGONS + 4, "<H", 60_000), "refers to vertex 60000"),
        (lambda data: _with(data, POLYGONS + 16, "<H", 102), "neighbour 101 of 101"),
        (lambda data: _with(data, POLYGONS + 30, "<B", 2), "3 to 6 corners"),
        (lambda data: _with(data, DETAIL + 4, "<I", 10_000), "beyond the tile's"),
        (lambda data: _with(data, DETAIL + 101 * 12, "<B", 77), "detail triangle 0"),
    ],
)  # fmt: skip
def test_damaged_files_are_refused(damage, words, tmp_path):
    path = tmp_path / "damaged.navmesh"
    path.write_bytes(damage((FILES / "flat0.navmesh").read_bytes()))
    with pytest.raises(SceneError, match=words) as caught:
        read_navmesh(path)
    assert "damaged.navmesh" in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SceneError, match=r"cannot open .*none\.navmesh"):
        read_navmesh(tmp_path / "none.navmesh")
