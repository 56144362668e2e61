"""The navigation mesh builder: Recast's and habitat's files byte for byte, ways over storeys, bad input."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from streamvln_gym.errors import SceneError
from streamvln_gym.simulators.embedded.detour_file import read_navmesh
from streamvln_gym.simulators.embedded.navmesh import NavigationMesh
from streamvln_gym.simulators.embedded.recast.build import build_navmesh, build_tiles
from streamvln_gym.simulators.embedded.recast.settings import NavMeshSettings
from streamvln_gym.simulators.embedded.scene import load_glb
from tests.simulators.recast_scenes import SCENES, box, floor, quad, two_storeys

DATA = Path(__file__).parents[1] / "data"
RECAST, HABITAT = DATA / "golden_recast", DATA / "golden_habitat"


@pytest.fixture(scope="module")
def house() -> NavigationMesh:
    return build_navmesh(two_storeys())


@pytest.mark.parametrize("name", ["flat0", "flat1", "flat3", "flat4"])
def test_flats_are_habitats_byte_for_byte(name):
    scene = load_glb(HABITAT / "render" / f"{name}.glb", up="y")
    assert build_tiles(scene.triangles).to_bytes() == (HABITAT / "navmesh" / f"{name}.navmesh").read_bytes()


@pytest.mark.parametrize("name", list(SCENES))
def test_other_scenes_are_recasts_byte_for_byte(name):
    assert build_tiles(SCENES[name]()).to_bytes() == (RECAST / f"{name}.navmesh").read_bytes()


@cache
def recorded_answers(name: str) -> tuple[NavigationMesh, dict[str, np.ndarray]]:
    """A mesh that Recast built, and what Detour answered on it."""
    with np.load(RECAST / "queries.npz") as archive:
        answers = {key[len(name) + 1 :]: archive[key] for key in archive.files if key.startswith(name)}
    return read_navmesh(RECAST / f"{name}.navmesh"), answers


@pytest.mark.parametrize("name", ["two_storeys", "terrain"])
class TestDetoursAnswers:
    """Answers of Detour 1.6.0 on slopes, stairs and storeys, where heights come from detail meshes."""

    def test_nearest_points(self, name):
        mesh, recorded = recorded_answers(name)
        # Detour rounds its search box outwards, to cells; points found only there are left out.
        gap = np.abs(recorded["nearest"] - recorded["point"])
        near = np.flatnonzero((gap <= [2.0, 4.0, 2.0]).all(axis=1))
        assert len(near) > 250
        own = np.array([mesh.snap_point(recorded["point"][i]) for i in near])
        np.testing.assert_allclose(own, recorded["nearest"][near], rtol=0, atol=1e-4)

    def test_steps(self, name):
        mesh, recorded = recorded_answers(name)
        moved = np.flatnonzero(~np.isnan(recorded["reached"][:, 0]))
        assert len(moved) > 250
        starts, moves = recorded["nearest"][moved].astype(np.float64), recorded["move"][moved]
        ends = starts + np.column_stack([moves[:, 0], np.zeros(len(moved)), moves[:, 1]])
        own = [mesh.move_along_surface(start, end) for start, end in zip(starts, ends, strict=True)]
        np.testing.assert_allclose(own, recorded["reached"][moved], rtol=0, atol=1e-4)

    def test_geodesic_distances(self, name):
        mesh, recorded = recorded_answers(name)
        nearest, lengths = recorded["nearest"], recorded["length"]
        asked = np.flatnonzero(~np.isnan(lengths))
        own = np.array([mesh.geodesic_distance(nearest[i], nearest[(i + 1) % len(nearest)]) for i in asked])
        np.testing.assert_array_equal(np.isinf(own), np.isinf(lengths[asked]))
        reachable = np.isfinite(own)
        off = np.abs(own[reachable] - lengths[asked][reachable])
        # A point on a border belongs to one of two polygons by the last bit, and float32 has others than float64.
        over = (nearest[:, [0, 2]] == recorded["point"][:, [0, 2]]).all(axis=1)
        inside = (over & np.roll(over, -1))[asked][reachable]
        assert inside.sum() > 10 and off[inside].max() < 1e-3
        assert (off < 1e-3).mean() > 0.97


class TestStoreys:
    def test_the_stair_leads_up(self, house):
        path = house.find_path([0.5, 0.2, 2.6], [6.1, 3.2, 1.0])
        assert path is not None
        assert np.diff(path[:, 1]).min() > -0.5 and path[-1, 1] > 3.0
        straight = float(np.linalg.norm([5.6, 3.0, 1.6]))
        assert straight <= house.geodesic_distance([0.5, 0.2, 2.6], [6.1, 3.2, 1.0]) < 1.5 * straight

    def test_one_walks_up(self, house):
        position = house.snap_point([0.5, 0.2, 2.625])
        heights = [position[1]]
        for _ in range(28):
            position, _ = house.try_step(position, position + np.array([0.25, 0.0, 0.0]))
            heights.append(position[1])
        assert heights[0] < 0.3 and max(heights) > 2.9
        assert max(np.diff(heights)) < 0.45  # a step or two at a time, no leap to the floor above

    def test_floors_over_each_other_are_told_apart(self, house):
        below, above = house.snap_point([8.0, 0.2, 2.5]), house.snap_point([8.0, 3.1, 2.5])
        assert below[1] < 0.5 and above[1] > 2.9
        assert house.geodesic_distance(below, above) > 8.0

    def test_too_steep_a_ramp_is_no_way(self, house):
        island = house.island_of([8.0, 1.5, 6.0])
        assert not house.is_navigable([8.0, 1.5, 6.0], max_y_delta=0.2) or house.island_areas[island] < 5.0


class TestSettings:
    def test_defaults_in_voxels(self):
        settings = NavMeshSettings()
        voxels = (settings.height_voxels, settings.climb_voxels, settings.radius_voxels, settings.edge_voxels)
        assert voxels == (8, 1, 2, 240)

    def test_a_wider_agent_has_less_room(self):
        scene = np.concatenate([floor(0, 0, 6, 4), box((2.9, 0, 0), (3.1, 2, 1.7)), box((2.9, 0, 2.3), (3.1, 2, 4))])
        narrow, wide = build_navmesh(scene), build_navmesh(scene, NavMeshSettings(agent_radius=0.4))
        assert len(narrow.island_areas) == 1 and len(wide.island_areas) == 2
        assert wide.island_areas.sum() < narrow.island_areas.sum()

    def test_a_kerb_is_climbed_and_a_wall_is_not(self):
        def walls(height: float) -> NavigationMesh:
            return build_navmesh(np.concatenate([floor(0, 0, 6, 4), box((2.5, 0, 0), (3.5, height, 4))]))

        assert len(walls(0.2).island_areas) == 1
        assert len(walls(0.75).island_areas) == 3  # the wall's top is an island

    def test_without_samples_there_is_no_detail(self):
        mesh = build_navmesh(SCENES["terrain"](), NavMeshSettings(detail_sample_dist=0.0))
        assert mesh.detail is not None and len(mesh.detail.points) == 0

    def test_fewer_corners(self):
        mesh = build_navmesh(two_storeys(), NavMeshSettings(verts_per_poly=3))
        assert (mesh.vertex_counts == 3).all()

    @pytest.mark.parametrize(
        ("field", "value"),
        [("cell_size", 0.0), ("cell_size", float("nan")), ("cell_height", -0.2), ("agent_height", float("inf")),
         ("agent_radius", 10.0), ("agent_max_slope", 91.0), ("verts_per_poly", 2), ("verts_per_poly", 7),
         ("edge_max_error", -1.0)],
    )  # fmt: skip
    def test_nonsense_is_refused(self, field, value):
        with pytest.raises(ValueError, match=field):
            replace(NavMeshSettings(), **{field: value})


def _with_nan() -> np.ndarray:
    triangles = floor(0, 0, 4, 4)
    triangles[1, 2, 1] = np.nan
    return triangles


@pytest.mark.parametrize(
    ("triangles", "words"),
    [
        (np.zeros((0, 3, 3)), "without triangles"),
        (_with_nan(), "triangle 1 of 2 has a coordinate that is not finite"),
        (np.full((1, 3, 3), np.inf), "not finite"),
        (floor(0, 0, 4, 4)[:, ::-1], "nothing of the scene's 2 triangles is walkable"),
        (quad((0, 0, 0), (4, 0, 0), (4, 3, 0), (0, 3, 0)), "less than a cell"),
        (quad((0, 0, 0), (4, 0, 4), (4, 3, 4), (0, 3, 0)), "nothing of"),
        (floor(0, 0, 0.5, 0.5), "nothing of"),  # smaller than the smallest region
        (np.zeros((5, 3, 3)), "less than a cell"),
        (floor(0, 0, 0.004, 0.006), "less than a cell of 0.05 m"),
        (floor(0, 0, 4000, 4000), "unit is the metre"),
        (floor(0, 0, 1e6, 1), "unit is the metre"),
        (np.concatenate([floor(0, 0, 4, 4), floor(0, 0, 4, 4, y=5000)]), "voxels up"),
        (np.concatenate([floor(0, 0, 4, 4), floor(0, 0, 4, 4, y=0.5)])[:, :, [0, 2, 1]], "nothing of"),
    ],
)
def test_scenes_without_a_mesh_say_why(triangles, words):
    with pytest.raises(SceneError, match=words):
        build_navmesh(triangles)


@pytest.mark.parametrize("shape", [(3, 3), (4, 3, 2), (9,)])
def test_triangles_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="shape"):
        build_navmesh(np.zeros(shape))


def test_the_same_triangles_give_the_same_bytes():
    scene = SCENES["soup"]()
    assert build_tiles(scene).to_bytes() == build_tiles(scene.astype(np.float64)).to_bytes()
